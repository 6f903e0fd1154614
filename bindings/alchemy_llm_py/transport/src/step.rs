//! What the readers of both protocols share: the outcome of an event, and failures from the server's text.

use serde_json::Value;

use crate::exchange::Failure;
use crate::sse::Event;

/// The outcome of an event.
#[derive(Debug, PartialEq)]
pub enum Step {
    More,
    /// The reply is complete.
    End,
    Failed(Failure),
}

/// The failure of an event that is an error: its name is `error`, or it has a field `error`.
pub(crate) fn error_event(event: &Event) -> Option<Failure> {
    if event.error.is_empty() && event.name != b"error" {
        return None;
    }
    let body = if event.error.is_empty() { &event.data } else { &event.error };
    Some(reported(decode_lenient(body)))
}

/// The failure that the server reports with this value.
pub(crate) fn reported(value: Value) -> Failure {
    Failure { value, ..Failure::new("reported", "") }
}

/// Decodes JSON; what is not JSON becomes a string.
fn decode_lenient(data: &[u8]) -> Value {
    serde_json::from_slice(data).unwrap_or_else(|_| String::from_utf8_lossy(data).trim().into())
}

/// The beginning of unreadable data, on one line, for an error message.
pub(crate) fn excerpt(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(&data[..data.len().min(400)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// Python's truth of a value: not null, false, zero or empty.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
