//! Converts chat/completions, as real servers send it, to the form that alchemy-llm reads without loss.
//!
//! alchemy-llm skips events that it cannot decode, reads only the first choice, identifies a tool call by its id and
//! not by its index, and does not report errors, usage or the end. So this module splits each event: text,
//! reasoning and calls become one plain delta per line, with the place in `Facts::calls` as the id of a call; the
//! rest becomes facts. The rules are those of `tinyagent.openai_wire`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use serde::de::IgnoredAny;
use serde::Deserialize;
use serde_json::{json, Map, Value};

use crate::exchange::{Call, Facts, Failure};
use crate::sse::Event;
use crate::step::{error_event, excerpt, reported, truthy, Step};

/// The limit of chunks that are stored from the finish reason on. They may have usage and sources anywhere.
const MAX_LAST_CHUNKS: usize = 4;
/// Finish reasons that do not end a reply. Some servers fill the field in every chunk.
const NOT_FINAL: [&str; 5] = ["", "null", "none", "not_finished", "in_progress"];
const DELTA_FIELDS: [&str; 7] =
    ["role", "channel", "reasoning_content", "reasoning", "reasoning_text", "tool_calls", "function_call"];

#[derive(Default)]
pub struct Reader {
    by_index: HashMap<i64, usize>,
    /// The first half of a surrogate pair at the end of a delta, as its four digits.
    half: String,
}

impl Reader {
    /// Reads an event, and appends lines for alchemy-llm to `out`.
    pub fn event(&mut self, event: &Event, facts: &mut Facts, out: &mut String) -> Step {
        facts.seen += 1;
        if let Some(failure) = error_event(event) {
            return Step::Failed(failure);
        }
        let data = event.data.trim_ascii();
        if data.is_empty() {
            facts.seen -= 1;
            return Step::More;
        }
        if data == b"[DONE]" {
            facts.done = true;
            if facts.finish_reason.is_none() && !facts.shown && facts.reasoning_details.is_empty() {
                return Step::Failed(Failure::new(
                    "invalid",
                    "the reply is empty: its end marker came first",
                ));
            }
            return Step::End;
        }
        if let Some(text) = plain_text(data).filter(|_| self.half.is_empty()) {
            facts.shown = true;
            say("content", &Value::String(text), out);
            return Step::More;
        }
        match self.parse(data) {
            Some(Value::Object(chunk)) => {
                let step = self.chunk(chunk, facts, out);
                if facts.finish_reason.is_some() && facts.last.len() < MAX_LAST_CHUNKS {
                    facts.last.push(String::from_utf8_lossy(data).into_owned());
                }
                step
            }
            Some(_) => Step::Failed(Failure::new(
                "invalid",
                format!("an event of the reply is not an object: {}", excerpt(data)),
            )),
            None => Step::Failed(Failure::new(
                "not_json",
                format!("an event of the reply is not JSON: {}", excerpt(data)),
            )),
        }
    }

    /// Reads a reply that is one JSON document instead of a stream.
    pub fn document(&mut self, body: &[u8], facts: &mut Facts, out: &mut String) -> Step {
        let mut value = self.parse(body.trim_ascii());
        if let Some(Value::Array(items)) = &mut value {
            if items.len() == 1 {
                value = items.pop();
            }
        }
        let Some(Value::Object(whole)) = value else {
            return Step::Failed(Failure::new(
                "invalid",
                format!("the reply is neither an event stream nor JSON: {}", excerpt(body)),
            ));
        };
        facts.seen += 1;
        let choices = whole.get("choices").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !choices || whole.get("error").is_some_and(truthy) {
            return Step::Failed(reported(Value::Object(whole)));
        }
        facts.last.push(String::from_utf8_lossy(body).into_owned());
        match self.chunk(whole, facts, out) {
            Step::More => {
                facts.finish_reason.get_or_insert_with(|| "stop".into());
                Step::End
            }
            other => other,
        }
    }

    /// Replaces half of a surrogate pair that has no other half.
    pub fn close(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.half).is_empty() {
            say("content", &"\u{fffd}".into(), out);
        }
    }

    /// Parses JSON. Lone surrogates, which serde_json refuses, are joined across events or replaced.
    fn parse(&mut self, data: &[u8]) -> Option<Value> {
        if self.half.is_empty() {
            if let Ok(value) = serde_json::from_slice(data) {
                return Some(value);
            }
        }
        let text = String::from_utf8_lossy(data);
        let text = self.mend(&text);
        serde_json::from_str(&text).ok()
    }

    /// Replaces lone `\uD8xx` and `\uDCxx`. A first half at the end of a `content` is held back for the event that
    /// starts with the second half.
    fn mend<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        const CONTENT: &str = "\"content\":\"";
        let mut text = Cow::Borrowed(text);
        if !self.half.is_empty() {
            let Some(at) = text.find(CONTENT).map(|at| at + CONTENT.len()) else { return text };
            if !text[at..].starts_with('"') {
                let half = std::mem::take(&mut self.half);
                let whole = if low_surrogate(&text[at..]) { format!("\\u{half}") } else { "\\ufffd".into() };
                text.to_mut().insert_str(at, &whole);
            }
        }
        if !text.contains("\\ud") && !text.contains("\\uD") {
            return text;
        }
        let mut fixed = String::with_capacity(text.len());
        let mut rest: &str = &text;
        while let Some(at) = rest.find('\\') {
            fixed.push_str(&rest[..at]);
            rest = &rest[at..];
            if high_surrogate(rest) && low_surrogate(rest.get(6..).unwrap_or("")) {
                fixed.push_str(&rest[..12]);
                rest = &rest[12..];
            } else if high_surrogate(rest) || low_surrogate(rest) {
                let ends = rest.get(6..7) == Some("\"");
                let in_content =
                    fixed.rfind(CONTENT).is_some_and(|start| !fixed[start + CONTENT.len()..].contains('"'));
                if high_surrogate(rest) && ends && in_content {
                    self.half = rest[2..6].into();
                } else {
                    fixed.push_str("\\ufffd");
                }
                rest = &rest[6..];
            } else {
                // A backslash and what it escapes.
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                fixed.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
        fixed.push_str(rest);
        Cow::Owned(fixed)
    }

    fn chunk(&mut self, mut chunk: Map<String, Value>, facts: &mut Facts, out: &mut String) -> Step {
        let error = chunk.remove("error").filter(truthy);
        let usage = match chunk.remove("usage") {
            None | Some(Value::Null) => {
                chunk.get_mut("x_groq").and_then(|groq| groq.get_mut("usage")).map(Value::take)
            }
            usage => usage,
        };
        let has_usage = usage.is_some();
        if let Some(Value::Object(counts)) = usage {
            if !counts.is_empty() {
                facts.usage = Value::Object(counts);
            }
        }
        let choices = match chunk.remove("choices") {
            Some(Value::Array(choices)) => choices,
            other => {
                let an_error = chunk.get("object").and_then(Value::as_str) == Some("error")
                    || (other.is_none()
                        && ["message", "detail"]
                            .iter()
                            .any(|key| chunk.get(*key).is_some_and(Value::is_string)));
                if error.is_none() && !has_usage && an_error {
                    return Step::Failed(reported(Value::Object(chunk)));
                }
                Vec::new()
            }
        };
        for choice in choices {
            let Value::Object(mut choice) = choice else { continue };
            if integer(choice.get("index")).unwrap_or(0) != 0 {
                continue;
            }
            let delta = match choice.remove("delta") {
                Some(Value::Object(delta)) => Some(delta),
                _ => match choice.remove("message") {
                    Some(Value::Object(message)) => Some(message),
                    _ => None,
                },
            };
            if let Some(delta) = delta {
                self.delta(delta, facts, out);
            }
            let reason = choice.get("finish_reason").and_then(Value::as_str).unwrap_or("").to_owned();
            if !NOT_FINAL.contains(&reason.to_ascii_lowercase().as_str()) {
                if facts.finish_reason.as_ref() != Some(&reason) && facts.reasons.len() < MAX_LAST_CHUNKS {
                    facts.reasons.push(reason.clone());
                }
                facts.finish_reason = Some(reason.clone());
            }
            let failed = choice.remove("error").filter(truthy);
            if failed.is_some() || (error.is_none() && reason == "error") {
                let failure = failed.unwrap_or_else(|| "the provider ended the reply with an error".into());
                return Step::Failed(reported(failure));
            }
        }
        match error {
            Some(error) => Step::Failed(reported(error)),
            None => Step::More,
        }
    }

    fn delta(&mut self, mut delta: Map<String, Value>, facts: &mut Facts, out: &mut String) {
        let details = match delta.remove("reasoning_details") {
            Some(Value::Array(details)) => details,
            _ => Vec::new(),
        };
        let field = ["reasoning_content", "reasoning", "reasoning_text"]
            .into_iter()
            .find(|field| delta.get(*field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()));
        if let Some(field) = field {
            think(delta[field].take(), field, facts, out);
        } else {
            for detail in &details {
                let text = ["text", "summary"]
                    .iter()
                    .find_map(|key| detail.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()));
                if let Some(text) = text {
                    think(text.into(), "", facts, out);
                }
            }
        }
        facts.reasoning_details.extend(details);
        let is_thought = delta
            .get("extra_content")
            .and_then(|extra| extra.get("google")?.get("thought"))
            .is_some_and(|thought| thought == &Value::Bool(true));
        match delta.remove("content") {
            Some(text) if is_thought && text.is_string() => think(text, "", facts, out),
            Some(Value::Array(parts)) => parts.into_iter().for_each(|part| content_part(part, facts, out)),
            Some(text) => content(text, facts, out),
            None => {}
        }
        if let Some(refusal) = delta.remove("refusal") {
            content(refusal, facts, out);
        }
        match delta.remove("tool_calls") {
            Some(Value::Array(calls)) => calls.into_iter().for_each(|call| self.call(call, facts, out)),
            Some(call @ Value::Object(_)) => self.call(call, facts, out),
            _ => {
                // The protocol before tools: one call without an id.
                if let Some(function @ Value::Object(_)) = delta.remove("function_call") {
                    self.call(json!({"index": 0, "function": function}), facts, out);
                }
            }
        }
        facts.extra.extend(unknown(delta, &DELTA_FIELDS).map(Value::Object));
    }

    fn call(&mut self, call: Value, facts: &mut Facts, out: &mut String) {
        let Value::Object(mut call) = call else { return };
        let index = integer(call.get("index"));
        let id = call.get("id").and_then(Value::as_str).unwrap_or("").to_owned();
        let mut function = match call.remove("function") {
            Some(Value::Object(function)) => function,
            _ => Map::new(),
        };
        let name = function.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
        let place = match self.find(index, &id, &name, &facts.calls) {
            Some(place) => {
                let known = &mut facts.calls[place];
                if known.id.is_empty() {
                    known.id = id;
                }
                // A name in fragments, or in growing prefixes; once there are arguments it is complete.
                if known.text.is_empty() && name != known.name {
                    known.name =
                        if name.starts_with(&known.name) { name } else { format!("{}{name}", known.name) };
                }
                place
            }
            None => {
                facts.calls.push(Call { id, name, ..Call::default() });
                facts.calls.len() - 1
            }
        };
        if let Some(index) = index {
            self.by_index.insert(index, place);
        }
        let known = &mut facts.calls[place];
        let arguments = match function.remove("arguments") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
            Some(whole) => {
                let text = whole.to_string();
                known.whole = Some(whole);
                Some(text)
            }
        };
        known.text.push_str(arguments.as_deref().unwrap_or(""));
        known.extra.extend(unknown(call, &["index", "id", "type"]).map(|fields| json!({"call": fields})));
        known.extra.extend(unknown(function, &["name"]).map(|fields| json!({"function": fields})));
        // The place, because ids repeat, change and may be missing.
        facts.shown = true;
        let function = json!({"name": known.name, "arguments": arguments});
        say("tool_calls", &json!([{"id": place.to_string(), "function": function}]), out);
    }

    /// The place of the call that a delta continues; None if it starts a call.
    fn find(&self, index: Option<i64>, id: &str, name: &str, calls: &[Call]) -> Option<usize> {
        if let Some(index) = index {
            let place = *self.by_index.get(&index)?;
            let known = &calls[place].id;
            return (id.is_empty() || known.is_empty() || known == id).then_some(place);
        }
        if !id.is_empty() {
            return calls.iter().rposition(|call| call.id == id);
        }
        let latest = calls.len().checked_sub(1)?;
        let starts = !name.is_empty()
            && (name != calls[latest].name
                || serde_json::from_str::<Map<String, Value>>(&calls[latest].text).is_ok());
        (!starts).then_some(latest)
    }
}

/// The fields that are unknown and not empty. The server may require them in the next request.
fn unknown(mut fields: Map<String, Value>, known: &[&str]) -> Option<Map<String, Value>> {
    fields.retain(|key, value| {
        let says = match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => false,
        };
        says && !known.contains(&key.as_str())
    });
    Some(fields).filter(|fields| !fields.is_empty())
}

/// The text of an event that contains nothing else, as most do; None for other events.
fn plain_text(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Chunk {
        choices: (Choice,),
        usage: Option<IgnoredAny>,
        error: Option<IgnoredAny>,
        x_groq: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Choice {
        index: Option<u8>,
        delta: Delta,
        finish_reason: Option<IgnoredAny>,
        error: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Delta {
        #[serde(rename = "role")]
        _role: Option<IgnoredAny>,
        content: String,
    }
    let Chunk { choices: (choice,), usage: None, error: None, x_groq: None } =
        serde_json::from_slice(data).ok()?
    else {
        return None;
    };
    let plain = choice.finish_reason.is_none() && choice.error.is_none() && choice.index.unwrap_or(0) == 0;
    Some(choice.delta.content).filter(|text| plain && !text.is_empty())
}

fn content_part(part: Value, facts: &mut Facts, out: &mut String) {
    match part {
        Value::String(_) => content(part, facts, out),
        Value::Object(mut part) if part.get("type").and_then(Value::as_str) == Some("thinking") => {
            let pieces = match part.remove("thinking") {
                Some(Value::Array(pieces)) => pieces,
                other => other.into_iter().collect(),
            };
            for mut piece in pieces {
                let text = if piece.is_object() { piece["text"].take() } else { piece };
                think(text, "content.thinking", facts, out);
            }
        }
        Value::Object(mut part) => {
            if let Some(text) = part.remove("text") {
                content(text, facts, out);
            }
        }
        _ => {}
    }
}

fn content(text: Value, facts: &mut Facts, out: &mut String) {
    if text.as_str().is_some_and(|text| !text.is_empty()) {
        facts.shown = true;
        say("content", &text, out);
    }
}

fn think(text: Value, field: &str, facts: &mut Facts, out: &mut String) {
    if text.as_str().is_some_and(|text| !text.is_empty()) {
        facts.shown = true;
        if facts.reasoning_field.is_empty() {
            facts.reasoning_field = field.into();
        }
        say("reasoning_content", &text, out);
    }
}

/// Writes a line for alchemy-llm.
fn say(field: &str, value: &Value, out: &mut String) {
    // A Value is shown as JSON. Writing to a String cannot fail.
    let _ = write!(out, "data: {{\"choices\":[{{\"delta\":{{\"{field}\":{value}}}}}]}}\n\n");
}

fn integer(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn high_surrogate(text: &str) -> bool {
    surrogate(text, *b"89aAbB")
}

fn low_surrogate(text: &str) -> bool {
    surrogate(text, *b"cCdDeE") || surrogate(text, *b"fFfFfF")
}

/// Whether the text begins with `\uD` and one of these digits, then two more.
fn surrogate(text: &str, second: [u8; 6]) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 6
        && bytes.starts_with(b"\\u")
        && matches!(bytes[2], b'd' | b'D')
        && second.contains(&bytes[3])
        && bytes[4..6].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> (Facts, Vec<Value>, Step) {
        let (mut reader, mut facts, mut out) = (Reader::default(), Facts::default(), String::new());
        let mut step = Step::More;
        for data in events {
            let event = Event { data: data.as_bytes().to_vec(), ..Event::default() };
            step = reader.event(&event, &mut facts, &mut out);
            if step != Step::More {
                break;
            }
        }
        reader.close(&mut out);
        let deltas = out.lines().filter_map(|line| line.strip_prefix("data: "));
        let deltas =
            deltas.map(|line| serde_json::from_str::<Value>(line).unwrap()["choices"][0]["delta"].take());
        (facts, deltas.collect(), step)
    }

    fn text(deltas: &[Value]) -> String {
        deltas.iter().filter_map(|delta| delta["content"].as_str()).collect()
    }

    #[test]
    fn odd_usage_and_other_choices_lose_no_text() {
        let (facts, deltas, _) = read(&[
            r#"{"choices":[{"index":0,"delta":{"content":"H"}}],"usage":{"prompt_tokens":3,"completion_tokens":null}}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"NO"}},{"delta":{"content":[{"type":"text","text":"i"}]},"finish_reason":"eos"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3.0,"cost":{"usd":1}}}"#,
        ]);
        assert_eq!("Hi", text(&deltas));
        assert_eq!(Some("eos"), facts.finish_reason.as_deref());
        assert_eq!(json!({"prompt_tokens": 3.0, "cost": {"usd": 1}}), facts.usage);
    }

    #[test]
    fn reasoning_comes_before_text_and_once() {
        let (facts, deltas, _) = read(&[
            r#"{"choices":[{"delta":{"content":"Hi","reasoning_content":"","reasoning":"hm","reasoning_details":[{"text":"hm"}]}}]}"#,
        ]);
        assert_eq!(vec![json!({"reasoning_content": "hm"}), json!({"content": "Hi"})], deltas);
        assert_eq!(("reasoning", 1), (facts.reasoning_field.as_str(), facts.reasoning_details.len()));
    }

    #[test]
    fn interleaved_calls_keep_their_places() {
        let call = |index: u8, rest: &str| {
            format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":{index},{rest}}}]}}}}]}}"#)
        };
        let (facts, deltas, _) = read(&[
            &call(0, r#""id":"a","function":{"name":"w","arguments":"{\"x\""}"#),
            &call(1, r#""id":"b","function":{"name":"t","arguments":"{"}"#),
            &call(0, r#""id":"","function":{"name":"","arguments":":1}"}"#),
            &call(1, r#""function":{"arguments":"}"}"#),
        ]);
        let ids: Vec<&str> =
            deltas.iter().map(|delta| delta["tool_calls"][0]["id"].as_str().unwrap()).collect();
        assert_eq!(vec!["0", "1", "0", "1"], ids);
        let calls: Vec<_> = facts
            .calls
            .iter()
            .map(|call| (call.id.as_str(), call.name.as_str(), call.text.as_str()))
            .collect();
        assert_eq!(vec![("a", "w", "{\"x\":1}"), ("b", "t", "{}")], calls);
    }

    #[test]
    fn calls_without_an_index_begin_with_a_new_id_or_name() {
        let (facts, _, _) = read(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"w","arguments":"{}"}},{"function":{"name":"t","arguments":{"z":1}}}]}}]}"#,
        ]);
        let names: Vec<&str> = facts.calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(vec!["w", "t"], names);
        assert_eq!(Some(json!({"z": 1})), facts.calls[1].whole);
    }

    #[test]
    fn surrogates_are_joined_over_events_or_replaced() {
        let (_, deltas, _) = read(&[
            r#"{"choices":[{"delta":{"content":"a\ud83d"}}]}"#,
            r#"{"choices":[{"delta":{"content":"\ude00b \uDC00 \\ud83d \ud83d\ude00"}}]}"#,
            r#"{"choices":[{"delta":{"content":"\ud83d"}}]}"#,
        ]);
        assert_eq!("a😀b \u{fffd} \\ud83d 😀\u{fffd}", text(&deltas));
    }

    #[test]
    fn what_is_not_known_is_kept_to_go_back() {
        let (facts, deltas, _) = read(&[
            r#"{"choices":[{"delta":{"content":"hm","extra_content":{"google":{"thought":true}}}}]}"#,
            r#"{"choices":[{"delta":{"role":"assistant","reasoning_opaque":"op","token_id":5}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","extra_content":{"x":"y"},"function":{"name":"w","arguments":"{}","sig":"s"}}]}}]}"#,
        ]);
        assert_eq!(json!({"reasoning_content": "hm"}), deltas[0]);
        assert_eq!(json!({"reasoning_opaque": "op"}), facts.extra[1]);
        let extra = json!([{"call": {"extra_content": {"x": "y"}}}, {"function": {"sig": "s"}}]);
        assert_eq!(extra, json!(facts.calls[0].extra));
    }

    #[test]
    fn finish_reasons_and_what_comes_behind_them_are_kept() {
        let (facts, _, _) = read(&[
            r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":"not_finished"}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"citations":["c"]}"#,
        ]);
        assert_eq!(vec!["length", "stop"], facts.reasons);
        assert_eq!((Some("stop"), 2), (facts.finish_reason.as_deref(), facts.last.len()));
        assert!(facts.last[1].contains("citations"));
    }

    #[test]
    fn errors_are_reported_in_every_shape() {
        for event in [
            r#"{"error":{"message":"boom"}}"#,
            r#"{"error":"boom"}"#,
            r#"{"object":"error","message":"boom"}"#,
            r#"{"detail":"boom"}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"message":"boom"}}]}"#,
            r#"{"choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"message":"boom"}}"#,
        ] {
            let (_, _, step) = read(&[event]);
            let Step::Failed(failure) = step else { panic!("{event}: {step:?}") };
            assert!(failure.kind == "reported" && failure.value.to_string().contains("boom"), "{event}");
        }
    }

    #[test]
    fn what_is_not_json_fails_and_an_end_without_a_reply_too() {
        for events in [&["{\"choices\":["][..], &["[DONE]"], &["7"]] {
            assert!(
                matches!(read(events).2, Step::Failed(Failure { kind: "invalid" | "not_json", .. })),
                "{events:?}"
            );
        }
        assert_eq!(Step::More, read(&["", "  "]).2);
    }
}
