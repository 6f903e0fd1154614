//! Anthropic's messages, into the form that alchemy-llm reads without loss; as [`crate::chat`], and simpler.

use serde_json::{json, Map, Value};

use crate::chat::{loose, reported, shown, Step};
use crate::exchange::{Call, Facts, Failure, KEPT};
use crate::sse::Event;

#[derive(Default)]
pub struct Reader {
    /// The input of the tool call that is open, if it came whole at the beginning.
    whole: Option<Value>,
    /// The block that is open and that alchemy-llm has no form for, and its input as text.
    kept: Option<(Value, String)>,
    /// Of the thought that is open: whether it has text, and its signature.
    thought: Option<(bool, String)>,
}

impl Reader {
    /// Takes in an event; lines for alchemy-llm go to `out`.
    pub fn event(&mut self, event: &Event, facts: &mut Facts, out: &mut String) -> Step {
        facts.seen += 1;
        if event.name == b"error" || !event.error.is_empty() {
            let said = if event.error.is_empty() { &event.data } else { &event.error };
            return Step::Failed(reported(loose(said)));
        }
        let data = event.data.trim_ascii();
        if data.is_empty() {
            facts.seen -= 1;
            return Step::More;
        }
        let Ok(Value::Object(data)) = serde_json::from_slice(data) else {
            let words = format!("an event of the reply is not a JSON object: {}", shown(data));
            return Step::Failed(Failure::new("not_json", words));
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

    fn keep(&mut self, delta: Value) -> Step {
        if let (Some((Value::Object(block), _)), Value::Object(delta)) = (&mut self.kept, delta) {
            block.extend(delta.into_iter().filter(|(key, _)| key != "type"));
        }
        Step::More
    }

    /// The block that is open ends; one that alchemy-llm has no form for leaves a marker in its place.
    fn close(&mut self, facts: &mut Facts, out: &mut String) {
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

/// The later count wins, field by field.
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
    fn a_reply_with_a_call_is_handed_on_and_its_facts_kept() {
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
    fn blocks_without_a_form_are_kept_in_their_place() {
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
    fn an_error_event_fails() {
        let (_, _, step) =
            read(&[r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#]);
        assert!(matches!(step, Step::Failed(Failure { kind: "reported", .. })));
    }
}
