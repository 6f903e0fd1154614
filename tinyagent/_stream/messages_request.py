"""Converts a history to the messages of Anthropic's Messages API."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

from tinyagent import _json
from tinyagent._json import as_list
from tinyagent.agent_types import (
    AssistantBlock,
    ImageContent,
    Message,
    TextContent,
    ToolResultMessage,
)

__all__ = ["assistant_blocks", "messages_of"]


def messages_of(history: Sequence[Message]) -> list[dict[str, object]]:
    """Convert the conversation to alternating messages, with tool results first, as the API requires."""
    messages: list[dict[str, object]] = []
    for message in history:
        if message["role"] == "assistant":
            role, blocks = "assistant", assistant_blocks(message["content"])
            while blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
                blocks.pop()  # The API refuses a reply that ends with thinking, as a truncated one may.
        elif message["role"] == "tool_result":
            role, blocks = "user", [_result_block(message)]
        elif message["role"] == "user":
            role, blocks = "user", _blocks(message["content"])
        else:
            continue
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            as_list(messages[-1]["content"]).extend(blocks)
        else:
            messages.append({"role": role, "content": blocks})
    for entry in messages:
        if entry["role"] == "user":
            as_list(entry["content"]).sort(key=lambda block: block["type"] != "tool_result")
    return messages


def assistant_blocks(content: Sequence[AssistantBlock]) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = []
    for part in content:
        if part["type"] == "text":
            if part["text"].strip():
                block = {"type": "text", "text": part["text"], **_kept(part.get("text_signature"))}
                blocks.append(_marked(block, part))
        elif part["type"] == "tool_call":
            call = {"type": "tool_use", "id": part["id"], "name": part["name"], "input": part["arguments"]}
            blocks.append({**call, **_kept(part.get("tool_call_signature"))})
        elif part["type"] == "thinking":
            signature = part.get("thinking_signature") or ""
            if signature.startswith("{"):
                raw = _json.decode_object(signature)
                if raw is not None:
                    blocks.append(raw)
            elif signature:
                blocks.append({"type": "thinking", "thinking": part["thinking"], "signature": signature})
    return blocks


def _kept(signature: object) -> dict[str, object]:
    """Return the further fields of a block, as the API sent them."""
    return (_json.decode_object(signature) if isinstance(signature, str) and signature else None) or {}


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
