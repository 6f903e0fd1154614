//! Converts events of Anthropic's Messages API to the form that alchemy-llm reads without loss, as
//! [`crate::chat`] does for chat/completions.
//!
//! Source: <https://docs.claude.com/en/docs/build-with-claude/streaming>

use serde_json::{json, Map, Value};

use crate::exchange::{Call, Facts, Failure, KEPT};
use crate::sse::Event;
use crate::step::{error_event, excerpt, reported, truthy, Step};

/// Fields of text blocks that alchemy-llm represents.
const TEXT_FIELDS: [&str; 2] = ["type", "text"];

/// Reads the events of one reply.
#[derive(Default)]
pub struct Reader {
    /// The input of the open tool call, if it arrived complete in the first event.
    whole: Option<Value>,
    /// The open block, if alchemy-llm has no form for it, and its input as text.
    kept: Option<(Value, String)>,
    /// Of the open thinking block: whether it has text, and its signature.
    thought: Option<(bool, String)>,
    /// Whether the open block is text. Its other fields are the last of `Facts::texts`.
    in_text: bool,
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
        let Ok(Value::Object(data)) = serde_json::from_slice(data) else {
            let text = format!("an event of the reply is not a JSON object: {}", excerpt(data));
            return Step::Failed(Failure::new("not_json", text));
        };
        let name = data.get("type").and_then(Value::as_str).map(str::to_owned);
        let name = name.unwrap_or_else(|| String::from_utf8_lossy(&event.name).into_owned());
        self.step(&name, data, facts, out)
    }

    fn step(
        &mut self,
        name: &str,
        mut data: Map<String, Value>,
        facts: &mut Facts,
        out: &mut String,
    ) -> Step {
        match name {
            "error" => return Step::Failed(reported(Value::Object(data))),
            "message_start" => count(data.get("message").and_then(|message| message.get("usage")), facts),
            "content_block_start" => self.open(data.remove("content_block").unwrap_or_default(), facts, out),
            "content_block_delta" => {
                let delta = data.remove("delta").unwrap_or_default();
                let field = match delta["type"].as_str() {
                    Some("text_delta") => "text",
                    Some("thinking_delta") => "thinking",
                    Some("signature_delta") => "signature",
                    Some("input_json_delta") => "partial_json",
                    Some("compaction_delta") => return self.keep(delta),
                    Some("citations_delta") => return self.cite(delta, facts),
                    _ => return Step::More,
                };
                self.delta(field, &delta[field], facts, out);
            }
            "content_block_stop" => {
                if let Some(whole) = self.whole.take() {
                    self.delta("partial_json", &whole.to_string().into(), facts, out);
                }
                self.close(facts, out);
                say("content_block_stop", &json!({}), out);
            }
            "message_delta" => {
                if let Some(reason) = data.get("delta").and_then(|delta| delta["stop_reason"].as_str()) {
                    facts.finish_reason = Some(reason.into());
                }
                count(data.get("usage"), facts);
            }
            "message_stop" => {
                facts.done = true;
                return Step::End;
            }
            _ => {}
        }
        Step::More
    }

    fn open(&mut self, mut block: Value, facts: &mut Facts, out: &mut String) {
        self.whole = None;
        self.close(facts, out);
        match block["type"].as_str() {
            Some("tool_use") => {
                let field = |name: &str| block[name].as_str().unwrap_or("").to_owned();
                let (id, name) = (field("id"), field("name"));
                let place = facts.calls.len().to_string();
                let start = json!({"content_block": {"type": "tool_use", "id": place, "name": name}});
                say("content_block_start", &start, out);
                facts.shown = true;
                facts.calls.push(Call { id, name, ..Call::default() });
                self.whole = Some(block["input"].take())
                    .filter(|input| input.as_object().is_some_and(|map| !map.is_empty()));
            }
            Some("text" | "thinking") => {
                if block["type"] == "thinking" {
                    self.thought = Some((false, String::new()));
                } else {
                    self.in_text = true;
                    facts.texts.push(other_fields(&block, &TEXT_FIELDS));
                }
                let start = json!({"content_block": {"type": block["type"]}});
                say("content_block_start", &start, out);
                for field in ["text", "thinking", "signature"] {
                    self.delta(field, &block[field].take(), facts, out);
                }
            }
            _ => self.kept = Some((block, String::new())),
        }
    }

    /// Adds a citation to the open text.
    fn cite(&self, mut delta: Value, facts: &mut Facts) -> Step {
        let citation = delta["citation"].take();
        if let Some(fields) = facts.texts.last_mut().filter(|_| self.in_text && citation.is_object()) {
            match fields.get_mut("citations") {
                Some(Value::Array(citations)) => citations.push(citation),
                _ => drop(fields.insert("citations".into(), json!([citation]))),
            }
        }
        Step::More
    }

    /// Adds the fields of a delta to the open block, if alchemy-llm has no form for it.
    fn keep(&mut self, delta: Value) -> Step {
        if let (Some((Value::Object(block), _)), Value::Object(delta)) = (&mut self.kept, delta) {
            block.extend(delta.into_iter().filter(|(key, _)| key != "type"));
        }
        Step::More
    }

    /// Closes the open block. A block that alchemy-llm has no form for is replaced by a marker.
    fn close(&mut self, facts: &mut Facts, out: &mut String) {
        self.in_text = false;
        let kept = match (self.kept.take(), self.thought.take()) {
            (Some((mut block, input)), _) => {
                if !input.is_empty() {
                    block["input"] = serde_json::from_str(&input).unwrap_or_else(|_| json!({}));
                }
                block.to_string()
            }
            (None, Some((false, signature))) if !signature.is_empty() => signature,
            _ => return,
        };
        let id = format!("{KEPT}{}", facts.kept.len());
        facts.shown = true;
        facts.kept.push(kept);
        say(
            "content_block_start",
            &json!({"content_block": {"type": "tool_use", "id": id, "name": ""}}),
            out,
        );
    }

    fn delta(&mut self, field: &str, value: &Value, facts: &mut Facts, out: &mut String) {
        if value.as_str().is_none_or(str::is_empty) {
            return;
        }
        match (field, &mut self.kept, &mut self.thought) {
            ("partial_json", Some((_, input)), _) => return input.push_str(value.as_str().unwrap_or("")),
            (_, Some(_), _) => return,
            ("thinking", _, Some((has_text, _))) => *has_text = true,
            ("signature", _, Some((_, signature))) => *signature = value.as_str().unwrap_or("").into(),
            _ => {}
        }
        let kind = match field {
            "partial_json" => {
                self.whole = None;
                "input_json_delta".to_owned()
            }
            _ => format!("{field}_delta"),
        };
        facts.shown |= field != "signature";
        say("content_block_delta", &json!({"delta": {"type": kind, field: value}}), out);
    }
}

/// The fields of a block that are not in `known` and are not empty.
fn other_fields(block: &Value, known: &[&str]) -> Map<String, Value> {
    let fields = block.as_object().into_iter().flatten();
    let others = fields.filter(|(name, value)| !known.contains(&name.as_str()) && truthy(value));
    others.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Updates the token counts, field by field.
fn count(usage: Option<&Value>, facts: &mut Facts) {
    let Some(Value::Object(usage)) = usage else { return };
    if !facts.usage.is_object() {
        facts.usage = json!({});
    }
    for (key, value) in usage {
        if !value.is_null() {
            facts.usage[key] = value.clone();
        }
    }
}

fn say(name: &str, data: &Value, out: &mut String) {
    out.push_str(&format!("event: {name}\ndata: {data}\n\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> (Facts, String, Step) {
        let (mut reader, mut facts, mut out) = (Reader::default(), Facts::default(), String::new());
        let mut step = Step::More;
        for data in events {
            let event = Event { data: data.as_bytes().to_vec(), ..Event::default() };
            step = reader.event(&event, &mut facts, &mut out);
        }
        (facts, out, step)
    }

    #[test]
    fn a_reply_with_a_call_becomes_events_and_facts() {
        let (facts, out, step) = read(&[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"H"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"i"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"x","name":"w","input":{"a":1}}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9,"input_tokens":null}}"#,
            r#"{"type":"message_stop"}"#,
        ]);
        assert_eq!(Step::End, step);
        assert_eq!(Some("tool_use"), facts.finish_reason.as_deref());
        assert_eq!(json!({"input_tokens": 3, "output_tokens": 9}), facts.usage);
        assert_eq!(("x", "w"), (facts.calls[0].id.as_str(), facts.calls[0].name.as_str()));
        assert!(out.contains(r#""partial_json":"{\"a\":1}""#), "{out}");
    }

    #[test]
    fn blocks_without_a_form_become_markers() {
        let (facts, out, _) = read(&[
            r#"{"type":"content_block_start","content_block":{"type":"redacted_thinking","data":"QUJD"}}"#,
            r#"{"type":"content_block_stop"}"#,
            r#"{"type":"content_block_start","content_block":{"type":"thinking","thinking":""}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"sig"}}"#,
            r#"{"type":"content_block_stop"}"#,
            r#"{"type":"content_block_start","content_block":{"type":"server_tool_use","id":"s","input":{}}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"q\":1}"}}"#,
            r#"{"type":"content_block_stop"}"#,
        ]);
        let kept = [
            r#"{"type":"redacted_thinking","data":"QUJD"}"#,
            "sig",
            r#"{"type":"server_tool_use","id":"s","input":{"q":1}}"#,
        ];
        assert_eq!(kept.to_vec(), facts.kept);
        assert_eq!(3, out.matches(KEPT).count());
    }

    #[test]
    fn citations_and_unknown_fields_of_a_text_are_facts() {
        let (facts, out, _) = read(&[
            r#"{"type":"content_block_start","content_block":{"type":"text","text":"","citations":[],"x":{"y":1}}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Rain."}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"citations_delta","citation":{"title":"A"}}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"citations_delta","citation":"?"}}"#,
            r#"{"type":"content_block_stop"}"#,
            r#"{"type":"content_block_delta","delta":{"type":"citations_delta","citation":{"title":"late"}}}"#,
            r#"{"type":"content_block_start","content_block":{"type":"text","text":"","citations":null}}"#,
        ]);
        assert_eq!(json!([{"x": {"y": 1}, "citations": [{"title": "A"}]}, {}]), json!(facts.texts));
        assert!(out.contains("Rain.") && !out.contains("title"), "{out}");
    }

    #[test]
    fn an_error_event_fails() {
        let (_, _, step) =
            read(&[r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#]);
        assert!(matches!(step, Step::Failed(Failure { kind: "reported", .. })));
    }
}
