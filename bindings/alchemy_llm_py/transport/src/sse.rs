//! Decodes bytes to server-sent events, without I/O.
//!
//! Lines end only at CRLF, LF or CR. The last event counts even without a final blank line: some servers omit it,
//! and text would be lost.

const MAX_EVENT: usize = 64 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event; `error` is the value of the field of that name, which llama.cpp has.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: Vec<u8>,
    pub data: Vec<u8>,
    pub error: Vec<u8>,
}

/// The event is larger than `MAX_EVENT`.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

#[derive(Default)]
pub struct Decoder {
    started: bool,
    after_cr: bool,
    line: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Decoder {
    /// Decodes the next bytes, and appends the completed events to `out`.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<Event>) -> Result<(), TooLarge> {
        let mut rest = chunk;
        if !self.started {
            self.line.extend_from_slice(rest);
            if self.line.len() < BOM.len() && BOM.starts_with(&self.line) {
                return Ok(());
            }
            self.started = true;
            let first = std::mem::take(&mut self.line);
            return self.feed(first.strip_prefix(BOM).unwrap_or(&first), out);
        }
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(rest);
                break;
            };
            if self.line.is_empty() {
                self.take_line(&rest[..end], out);
            } else {
                self.line.extend_from_slice(&rest[..end]);
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, out);
            }
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.check()?;
        }
        self.check()
    }

    /// Handles the end of the stream. An event without a final blank line counts, too.
    pub fn close(&mut self, out: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        self.take_line(&line, out);
        self.take_line(b"", out);
    }

    fn check(&self) -> Result<(), TooLarge> {
        let size = self.line.len() + self.event.data.len() + self.event.error.len();
        if size > MAX_EVENT {
            return Err(TooLarge);
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], out: &mut Vec<Event>) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) || !event.error.is_empty() {
                out.push(event);
            }
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            Some(0) => return, // a comment
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.event.data.push(b'\n');
                }
                self.has_data = true;
                self.event.data.extend_from_slice(value);
            }
            b"event" => self.event.name = value.to_vec(),
            b"error" => self.event.error = value.to_vec(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.feed(chunk, &mut out).unwrap();
        }
        decoder.close(&mut out);
        out.into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn a_stream_is_the_same_whichever_way_it_is_cut() {
        let whole =
            "\u{feff}data: a\u{2028}\u{85}\n\ndata:b\r\ndata: c\r\n\r\n: no\r\rdata: é😀\r\rdata: end"
                .as_bytes();
        let expected: Vec<Vec<u8>> =
            ["a\u{2028}\u{85}", "b\nc", "é😀", "end"].map(|s| s.as_bytes().to_vec()).to_vec();
        assert_eq!(expected, decode(&[whole]));
        assert_eq!(expected, decode(&whole.chunks(1).collect::<Vec<_>>()));
        for cut in 0..whole.len() {
            assert_eq!(expected, decode(&[&whole[..cut], &whole[cut..]]), "cut at {cut}");
        }
    }

    #[test]
    fn names_and_error_fields_are_kept_and_other_fields_dropped() {
        let mut out = Vec::new();
        let mut decoder = Decoder::default();
        decoder
            .feed(b"event: error\nid: 7\nfoo: bar\ndata: x\n\nerror: y\n\nevent: ping\n\n", &mut out)
            .unwrap();
        assert_eq!((b"error".to_vec(), b"x".to_vec()), (out[0].name.clone(), out[0].data.clone()));
        assert_eq!(b"y".to_vec(), out[1].error);
        assert_eq!(2, out.len());
    }

    #[test]
    fn a_space_before_the_field_name_makes_it_another_field() {
        assert_eq!(Vec::<Vec<u8>>::new(), decode(&[b" data: no\n\n"]));
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut decoder = Decoder::default();
        let chunk = vec![b'x'; 1 << 20];
        let refused = (0..100).any(|_| decoder.feed(&chunk, &mut Vec::new()).is_err());
        assert!(refused);
    }
}
