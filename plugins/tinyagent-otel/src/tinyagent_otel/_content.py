"""Messages and tools in the JSON of the conventions. Used only if the user asks for content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tinyagent.agent_types import (
    AgentMessage,
    AgentTool,
    AssistantBlock,
    AssistantMessage,
    ImageContent,
    JsonObject,
    JsonValue,
    TextContent,
)

__all__ = [
    "arguments_json",
    "captures_content",
    "messages_json",
    "output_json",
    "result_json",
    "system_json",
    "tools_json",
]

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_ON_SPANS = ("true", "1", "span_only", "span_and_event")
"""The values for content on spans. Events (`event_only`) are not written."""

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def captures_content(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the user asks for content on spans by the variable of the conventions."""
    return environment.get(VARIABLE, "").strip().lower() in _ON_SPANS


def messages_json(messages: Iterable[AgentMessage]) -> str:
    """Return messages as `gen_ai.input.messages`."""
    return _encode([_message(message) for message in messages]).decode()


def output_json(message: AssistantMessage, finish_reason: str) -> str:
    """Return a reply as `gen_ai.output.messages`."""
    return _encode([{**_message(message), "finish_reason": finish_reason}]).decode()


def system_json(system_prompt: str) -> str:
    """Return a system prompt as `gen_ai.system_instructions`."""
    return _encode([{"type": "text", "content": system_prompt}]).decode()


def tools_json(tools: Iterable[AgentTool]) -> str:
    """Return tools as `gen_ai.tool.definitions`, without descriptions and schemas, which are large."""
    return _encode([{"type": "function", "name": tool.name} for tool in tools]).decode()


def arguments_json(arguments: JsonObject) -> str:
    """Return the arguments of a tool call."""
    return _encode(arguments).decode()


def result_json(content: Sequence[TextContent | ImageContent]) -> str:
    """Return the result of a tool as the model gets it."""
    return _encode(_result(content)).decode()


def _message(message: AgentMessage) -> JsonObject:
    if message["role"] == "tool_result":
        response: JsonObject = {
            "type": "tool_call_response",
            "id": message["tool_call_id"],
            "response": _result(message["content"]),
        }
        return {"role": "tool", "parts": [response]}
    if message["role"] not in ("user", "assistant"):  # of another role, which the model may not get
        return {"role": str(message["role"]), "parts": []}
    return {"role": message["role"], "parts": [_part(block) for block in message["content"]]}


def _part(block: AssistantBlock) -> JsonObject:
    if block["type"] == "text":
        return {"type": "text", "content": block["text"]}
    if block["type"] == "thinking":
        return {"type": "reasoning", "content": block["thinking"]}
    if block["type"] == "tool_call":
        arguments = block.get("partial_json") or block["arguments"]
        return {"type": "tool_call", "id": block["id"], "name": block["name"], "arguments": arguments}
    url, kind = block["url"], block.get("mime_type")
    image: JsonObject = {"type": "uri", "modality": "image", "mime_type": kind, "uri": url}
    if url.startswith("data:"):  # too large for an attribute
        image = {"type": "image", "mime_type": kind or url[5:].partition(";")[0], "characters": len(url)}
    return image


def _result(content: Sequence[TextContent | ImageContent]) -> JsonValue:
    if all(part["type"] == "text" for part in content):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return [_part(part) for part in content]
