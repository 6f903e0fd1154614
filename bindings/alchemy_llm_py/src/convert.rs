//! A request as Python writes it, into alchemy-llm's types.

use std::collections::HashMap;

use alchemy_llm::types::{
    AnthropicMessages, Api, ApiType, AssistantMessage, AssistantMessageEvent, Content, Context, ImageContent,
    InputType, Message, MinimaxCompletions, Model, ModelCost, OpenAICompletions, Provider, StopReason,
    TextContent, ThinkingContent, Tool, ToolCall, ToolResultContent, ToolResultMessage, Usage, UserContent,
    UserContentBlock, UserMessage, ZaiCompletions,
};
use alchemy_llm::{AssistantMessageEventStream, OpenAICompletionsOptions};
use reqwest::exchange::{Exchange, Settings, HEADER, NO_KEY};
use serde::Deserialize;
use serde_json::Value;

/// Everything that a request is made of.
#[derive(Deserialize)]
pub struct Request {
    api: Option<String>,
    model: GivenModel,
    #[serde(default)]
    context: GivenContext,
    #[serde(default)]
    options: GivenOptions,
    #[serde(default)]
    pub exchange: Settings,
}

#[derive(Deserialize)]
struct GivenModel {
    id: String,
    base_url: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    reasoning: bool,
    context_window: Option<u32>,
    max_tokens: Option<u32>,
}

#[derive(Default, Deserialize)]
struct GivenContext {
    system_prompt: Option<String>,
    #[serde(default)]
    messages: Vec<GivenMessage>,
    tools: Option<Vec<Tool>>,
}

#[derive(Default, Deserialize)]
struct GivenOptions {
    api_key: Option<String>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum GivenMessage {
    User {
        content: Vec<GivenContent>,
    },
    Assistant {
        content: Vec<GivenContent>,
        #[serde(default)]
        model: String,
    },
    ToolResult {
        tool_call_id: String,
        tool_name: String,
        content: Vec<GivenContent>,
        #[serde(default)]
        is_error: bool,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum GivenContent {
    Text { text: String },
    Image { url: String, mime_type: Option<String> },
    Thinking { thinking: String, thinking_signature: Option<String> },
    ToolCall { id: String, name: String, arguments: Value },
}

/// Begins the request; runs in the runtime that is entered. The error names what the crate cannot take.
pub fn begin(request: Request, exchange: &Exchange) -> Result<AssistantMessageEventStream, String> {
    let api: Api = match request.api.as_deref() {
        None => Api::OpenAICompletions,
        Some(name) => name.parse().map_err(|_| format!("alchemy-llm has no api {name:?}"))?,
    };
    match api {
        Api::OpenAICompletions => run(OpenAICompletions, request, exchange),
        Api::AnthropicMessages => run(AnthropicMessages, request, exchange),
        Api::MinimaxCompletions => run(MinimaxCompletions, request, exchange),
        Api::ZaiCompletions => run(ZaiCompletions, request, exchange),
        other => Err(format!("alchemy-llm does not implement {:?} yet", other.as_str())),
    }
}

fn run<A: ApiType>(
    api: A,
    request: Request,
    exchange: &Exchange,
) -> Result<AssistantMessageEventStream, String> {
    let Request { model, context, options, .. } = request;
    let provider = model.provider.parse().unwrap_or(Provider::Custom(model.provider));
    let context = Context {
        system_prompt: context.system_prompt.filter(|text| !text.is_empty()),
        messages: context
            .messages
            .into_iter()
            .map(|given| message(given, &api, &provider))
            .collect::<Result<_, _>>()?,
        tools: context.tools.filter(|tools| !tools.is_empty()),
    };
    let model = Model {
        name: if model.name.is_empty() { model.id.clone() } else { model.name },
        id: model.id,
        api,
        provider,
        base_url: model.base_url,
        reasoning: model.reasoning,
        input: vec![InputType::Text, InputType::Image],
        cost: ModelCost { input: 0.0, output: 0.0, cache_read: 0.0, cache_write: 0.0 },
        context_window: model.context_window.unwrap_or(128_000),
        max_tokens: model.max_tokens.unwrap_or(4096),
        headers: None,
        compat: None,
    };
    let options = OpenAICompletionsOptions {
        // The crate looks for a key in the environment if it is given none.
        api_key: Some(options.api_key.unwrap_or_else(|| NO_KEY.into())),
        temperature: options.temperature,
        max_tokens: options.max_tokens,
        headers: Some(HashMap::from([(HEADER.into(), exchange.id.to_string())])),
        ..OpenAICompletionsOptions::default()
    };
    alchemy_llm::stream(&model, &context, Some(options)).map_err(|error| error.to_string())
}

fn message<A: ApiType>(given: GivenMessage, api: &A, provider: &Provider) -> Result<Message, String> {
    Ok(match given {
        GivenMessage::User { content } => {
            let blocks = content.into_iter().map(|block| match block {
                GivenContent::Text { text } => {
                    Ok(UserContentBlock::Text(TextContent { text, text_signature: None }))
                }
                GivenContent::Image { url, mime_type } => {
                    Ok(UserContentBlock::Image(image(&url, mime_type)?))
                }
                _ => Err("a user message holds text and images only".to_owned()),
            });
            Message::User(UserMessage {
                content: UserContent::Multi(blocks.collect::<Result<_, _>>()?),
                timestamp: 0,
            })
        }
        GivenMessage::Assistant { content, model } => {
            let blocks = content.into_iter().map(|block| match block {
                GivenContent::Text { text } => Ok(Content::text(text)),
                GivenContent::Thinking { thinking, thinking_signature } => {
                    Ok(Content::Thinking { inner: ThinkingContent { thinking, thinking_signature } })
                }
                GivenContent::ToolCall { id, name, arguments } => Ok(Content::ToolCall {
                    inner: ToolCall { id: id.into(), name, arguments, thought_signature: None },
                }),
                GivenContent::Image { .. } => Err("an assistant message holds no images".to_owned()),
            });
            Message::Assistant(AssistantMessage {
                content: blocks.collect::<Result<_, _>>()?,
                api: api.api(),
                provider: provider.clone(),
                model,
                usage: Usage::default(),
                stop_reason: StopReason::Stop,
                error_message: None,
                timestamp: 0,
            })
        }
        GivenMessage::ToolResult { tool_call_id, tool_name, content, is_error } => {
            let blocks = content.into_iter().map(|block| match block {
                GivenContent::Text { text } => {
                    Ok(ToolResultContent::Text(TextContent { text, text_signature: None }))
                }
                GivenContent::Image { url, mime_type } => {
                    Ok(ToolResultContent::Image(image(&url, mime_type)?))
                }
                _ => Err("a tool result holds text and images only".to_owned()),
            });
            Message::ToolResult(ToolResultMessage {
                tool_call_id: tool_call_id.into(),
                tool_name,
                content: blocks.collect::<Result<_, _>>()?,
                details: None,
                is_error,
                timestamp: 0,
            })
        }
    })
}

/// The image of a `data:` URL; alchemy-llm sends bytes and has no place for an address.
fn image(url: &str, mime_type: Option<String>) -> Result<ImageContent, String> {
    let (head, data) = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','))
        .ok_or("alchemy-llm sends images by their bytes: give a data: URL, not an address")?;
    let named = head.strip_suffix(";base64").ok_or("the data: URL of an image must be in base64")?;
    let mime_type = mime_type.unwrap_or_else(|| if named.is_empty() { "image/png" } else { named }.into());
    ImageContent::from_base64(data, mime_type)
        .map_err(|error| format!("the data: URL of an image cannot be read: {error}"))
}

/// The id that the transport gave a tool call that begins, and its name so far.
pub fn call_of(event: &AssistantMessageEvent) -> Option<(&str, &str)> {
    let AssistantMessageEvent::ToolCallStart { content_index, partial } = event else { return None };
    match partial.content.get(*content_index)? {
        Content::ToolCall { inner } => Some((inner.id.as_str(), &inner.name)),
        _ => None,
    }
}

/// What has to go back with a thought that is complete.
pub fn signature_of(event: &AssistantMessageEvent) -> Option<&str> {
    let AssistantMessageEvent::ThinkingEnd { content_index, partial, .. } = event else { return None };
    match partial.content.get(*content_index)? {
        Content::Thinking { inner } => inner.thinking_signature.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_taken_by_their_bytes() {
        let taken = image("data:image/gif;base64,QUJD", None).unwrap();
        assert_eq!(("image/gif", &b"ABC"[..]), (taken.mime_type.as_str(), &taken.data[..]));
        for wrong in ["https://example.com/x.png", "data:image/png,abc", "data:image/png;base64,!"] {
            assert!(image(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_whole_conversation_is_read() {
        let request: Request = serde_json::from_str(
            r#"{"model": {"id": "m", "base_url": "http://x"}, "context": {"messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}], "timestamp": 1},
                {"role": "assistant", "model": "m", "usage": null, "content": [
                    {"type": "thinking", "thinking": "t", "thinking_signature": "s"},
                    {"type": "tool_call", "id": "c", "name": "w", "arguments": {"z": 1, "a": 2}}]},
                {"role": "tool_result", "tool_call_id": "c", "tool_name": "w", "details": {}, "is_error": true,
                 "content": [{"type": "image", "url": "data:image/png;base64,QQ=="}]}]}}"#,
        )
        .unwrap();
        let provider = Provider::Custom("x".into());
        let messages: Vec<Message> = request
            .context
            .messages
            .into_iter()
            .map(|given| message(given, &AnthropicMessages, &provider).unwrap())
            .collect();
        assert_eq!(3, messages.len());
        let Message::Assistant(assistant) = &messages[1] else { panic!() };
        let Content::ToolCall { inner } = &assistant.content[1] else { panic!() };
        assert_eq!(r#"{"z":1,"a":2}"#, inner.arguments.to_string());
    }
}
