"""Short forms for the messages of a test."""

from __future__ import annotations

from typing import TypedDict, Unpack

from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    StopReason,
    ToolResultMessage,
    Usage,
    UserMessage,
)

__all__ = [
    "AssistantBlock",
    "AssistantFields",
    "ToolResultFields",
    "assistant",
    "is_assistant",
    "is_tool_result",
    "tool_result",
    "user",
]


class AssistantFields(TypedDict, total=False):
    """Fields of an assistant message other than `role` and `content`."""

    stop_reason: StopReason
    timestamp: int
    api: str
    provider: str
    model: str
    usage: Usage | None
    finish_reason: str
    thinking_level: str
    error_message: str
    error_kind: str
    error_category: str
    error_hint: str
    error_status: int
    error_retryable: bool
    error_retry_after: float


class ToolResultFields(TypedDict, total=False):
    """Fields of a tool result message that `tool_result` sets to a default."""

    details: dict[str, object]
    is_error: bool
    timestamp: int


def user(content: str, *, timestamp: int = 1) -> UserMessage:
    """Return a user message with one text block.

    Args:
        content: The text.
        timestamp: Unix milliseconds.
    """
    return {"role": "user", "content": [{"type": "text", "text": content}], "timestamp": timestamp}


def assistant(*content: str | AssistantBlock, **fields: Unpack[AssistantFields]) -> AssistantMessage:
    """Return an assistant message.

    Args:
        content: The blocks; a string becomes a text block.
        fields: Replace the default fields. `stop_reason` is `tool_use` if there is a tool call, else `stop`.
    """
    blocks: list[AssistantBlock] = [
        {"type": "text", "text": part} if isinstance(part, str) else part for part in content
    ]
    has_calls = any(block["type"] == "tool_call" for block in blocks)
    message: AssistantMessage = {
        "role": "assistant",
        "content": blocks,
        "stop_reason": "tool_use" if has_calls else "stop",
        "timestamp": 1,
        "api": "scripted",
        "provider": "scripted",
        "model": "scripted",
        "usage": None,
    }
    return {**message, **fields}


def tool_result(
    call_id: str, name: str, content: str, **fields: Unpack[ToolResultFields]
) -> ToolResultMessage:
    """Return a tool result message with one text block.

    Args:
        call_id: The id of the tool call.
        name: The name of the tool.
        content: The text.
        fields: Replace the default fields.
    """
    message: ToolResultMessage = {
        "role": "tool_result",
        "tool_call_id": call_id,
        "tool_name": name,
        "content": [{"type": "text", "text": content}],
        "details": {},
        "is_error": False,
        "timestamp": 1,
    }
    return {**message, **fields}
