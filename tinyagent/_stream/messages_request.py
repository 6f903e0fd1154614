"""Converts a history to the messages of Anthropic's Messages API, in one go or in parts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict
from urllib.parse import unquote_to_bytes

from tinyagent import _json
from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    ImageContent,
    Message,
    ModelIdentity,
    TextContent,
    Tool,
    ToolResultMessage,
)

from .history import UsedIds, adapt_history
from .signatures import stored_fields

__all__ = ["Conversation", "SentMessage", "assistant_blocks", "convert_messages"]

IDS = r"[a-zA-Z0-9_-]{1,64}"
"""Ids of tool calls that the API accepts."""
CACHED_QUESTIONS = 2
"""User messages at the end of a request that are marked for caching."""
UNFINISHED_MESSAGES = 2 * CACHED_QUESTIONS
"""Messages at the end of a request that contain these user messages. The roles alternate."""
_THINKING = ("thinking", "redacted_thinking")


class SentMessage(TypedDict):
    """A message as the API receives it."""

    role: str
    content: list[dict[str, object]]


@dataclass
class Conversation:
    """The converted messages so far: the unfinished ones, and what a request needs to know of the others.

    Attributes:
        used: The ids of the tool calls.
        unfinished: The last messages. Later messages may add blocks to the very last one, and each request
            marks other blocks for caching.
        has_thinking: Whether a message has a thinking block.
        is_marked: Whether the user has marked blocks for caching.
    """

    used: UsedIds = field(default_factory=dict)
    unfinished: list[SentMessage] = field(default_factory=list)
    has_thinking: bool = False
    is_marked: bool = False
    _first_reply: AssistantMessage | None = None
    _has_results: bool = False
    """Whether the last reply of the turn has tool results."""

    def copy(self) -> Conversation:
        """Return a copy that can be continued and marked without a change of this conversation."""
        unfinished: list[SentMessage] = [
            {"role": message["role"], "content": [*message["content"]]} for message in self.unfinished
        ]
        return replace(self, used=self.used.copy(), unfinished=unfinished)

    def first_reply_of_turn(self) -> AssistantMessage | None:
        """Return the first reply of a turn that continues after tool calls; None if a new turn starts."""
        return self._first_reply if self._has_results else None

    def mark_for_caching(self, point: Mapping[str, str]) -> None:
        """Mark the last block of the last two user messages."""
        questions = [message for message in self.unfinished if message["role"] == "user"]
        for message in questions[-CACHED_QUESTIONS:]:
            message["content"][-1] = {**message["content"][-1], "cache_control": point}

    def follow_turn(self, message: Message) -> None:
        """Note whether a message starts or continues a turn."""
        if message["role"] == "assistant":
            self._first_reply, self._has_results = self._first_reply or message, False
        elif message["role"] == "tool_result":
            self._has_results = True
        elif not self._has_results:  # A user's message among the results is part of the turn.
            self._first_reply = None

    def add(self, role: str, blocks: list[dict[str, object]]) -> None:
        """Add blocks to the last message, or a new message if its role is another one."""
        for block in blocks:
            kind = block.get("type")
            inner = block.get("content") if kind == "tool_result" else None
            nested = inner if isinstance(inner, list) else []
            self.has_thinking = self.has_thinking or kind in _THINKING
            self.is_marked = self.is_marked or any("cache_control" in each for each in (block, *nested))
        if self.unfinished and self.unfinished[-1]["role"] == role:
            self.unfinished[-1]["content"].extend(blocks)
        else:
            self.unfinished.append({"role": role, "content": blocks})

    def take_finished(self) -> list[SentMessage]:
        """Remove and return the messages that do not change any more."""
        for message in self.unfinished:
            if message["role"] == "user":  # The API requires tool results first.
                message["content"].sort(key=lambda block: block["type"] != "tool_result")
        finished = self.unfinished[:-UNFINISHED_MESSAGES]
        del self.unfinished[:-UNFINISHED_MESSAGES]
        return finished


def convert_messages(
    model: ModelIdentity,
    tools: Iterable[Tool] | None,
    messages: Sequence[Message],
    conversation: Conversation,
) -> list[SentMessage]:
    """Convert messages that continue a conversation, which may be empty, to alternating ones.

    The conversation is updated. Its unfinished messages follow the returned ones.
    """
    for message in adapt_history(messages, model, ids=IDS, tools=tools, used=conversation.used):
        conversation.follow_turn(message)
        blocks = _blocks_of(message)
        if blocks:
            role = "assistant" if message["role"] == "assistant" else "user"
            conversation.add(role, blocks)
    return conversation.take_finished()


def _blocks_of(message: Message) -> list[dict[str, object]]:
    if message["role"] == "tool_result":
        return [_result_block(message)]
    if message["role"] == "user":
        return _blocks(message["content"])
    blocks = assistant_blocks(message["content"])
    while blocks and blocks[-1].get("type") in _THINKING:
        blocks.pop()  # The API refuses a reply that ends with thinking, as a truncated one may.
    return blocks


def assistant_blocks(content: Sequence[AssistantBlock]) -> list[dict[str, object]]:
    """Convert a reply back to the blocks of the API."""
    blocks: list[dict[str, object]] = []
    for part in content:
        if part["type"] == "text":
            if part["text"].strip():
                block = {"type": "text", "text": part["text"], **stored_fields(part.get("text_signature"))}
                blocks.append(_marked(block, part))
        elif part["type"] == "tool_call":
            call = {"type": "tool_use", "id": part["id"], "name": part["name"], "input": part["arguments"]}
            blocks.append({**call, **stored_fields(part.get("tool_call_signature"))})
        elif part["type"] == "thinking":
            signature = part.get("thinking_signature") or ""
            if signature.startswith("{"):
                raw = _json.decode_object(signature)
                if raw is not None:
                    blocks.append(raw)
            elif signature:
                blocks.append({"type": "thinking", "thinking": part["thinking"], "signature": signature})
    return blocks


def _marked(block: dict[str, object], part: Mapping[str, object]) -> dict[str, object]:
    """Return the block with the user's own mark for caching."""
    return {**block, "cache_control": part["cache_control"]} if part.get("cache_control") else block


def _result_block(message: ToolResultMessage) -> dict[str, object]:
    block: dict[str, object] = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
    content = _blocks(message["content"])
    if content:
        block["content"] = content
    if message["is_error"]:
        block["is_error"] = True
    return block


def _blocks(content: str | Sequence[TextContent | ImageContent]) -> list[dict[str, object]]:
    """Convert text and images. Blank texts are left out, because the API refuses them."""
    blocks: list[dict[str, object]] = []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content:
        if part["type"] == "image":
            blocks.append(_marked({"type": "image", "source": _image_source(part)}, part))
        elif part["text"].strip():
            blocks.append(_marked({"type": "text", "text": part["text"]}, part))
    return blocks


def _image_source(image: ImageContent) -> dict[str, str]:
    url = image["url"]
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    head, _, data = url[5:].partition(",")
    kind, *parameters = head.split(";")
    if "base64" not in (parameter.strip().lower() for parameter in parameters):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {
        "type": "base64",
        "media_type": kind.strip().lower() or image.get("mime_type") or "image/png",
        "data": data,
    }
