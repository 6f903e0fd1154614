"""Estimate the tokens of messages and of requests, for limits and for the compaction."""

from __future__ import annotations

from collections.abc import Iterable

from tinyagent import _json
from tinyagent.agent_types import AgentMessage, Tool

__all__ = ["BYTES_PER_TOKEN", "fixed_tokens", "message_tokens", "text_size"]

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8, so that texts in Chinese and Japanese are estimated well, too."""
IMAGE_TOKENS = 1500
_MESSAGE_TOKENS = 4
"""What the role and the borders of a message take."""


def text_size(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def message_tokens(message: AgentMessage) -> int:
    """Return an estimate of the tokens of a message."""
    size = images = 0
    for block in message.get("content") or ():
        match block["type"]:
            case "text":
                size += text_size(block["text"])
            case "thinking":
                size += text_size(block["thinking"])
            case "tool_call":
                size += len(_json.encode_lossy(block))
            case "image":
                images += 1
    return size // BYTES_PER_TOKEN + images * IMAGE_TOKENS + _MESSAGE_TOKENS


def fixed_tokens(system_prompt: str, tools: Iterable[Tool] | None) -> int:
    """Return an estimate of the tokens that each request of a conversation has: system prompt and tools."""
    size = text_size(system_prompt)
    for tool in tools or ():
        size += text_size(tool.name) + text_size(tool.description) + len(_json.encode_lossy(tool.parameters))
    return size // BYTES_PER_TOKEN
