"""Converts a history to the items of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinyagent import _json
from tinyagent._json import as_list
from tinyagent.agent_types import AssistantBlock, ImageContent, Message, ModelIdentity, TextContent, Tool

from .history import IMAGE_NOTE, NO_RESULT, UsedIds, adapt_history
from .signatures import stored_fields

__all__ = ["IMAGE_CALL", "convert_messages"]

IDS = r"[a-zA-Z0-9_-]{1,64}"
"""Ids of tool calls that the API accepts."""
IMAGE_CALL = "image_generation_call"
"""The type of an item with an image. The image itself is a block of the message."""


def convert_messages(
    model: ModelIdentity,
    tools: Iterable[Tool] | None,
    stored: bool,
    messages: Sequence[Message],
    used: UsedIds,
) -> list[dict[str, object]]:
    """Convert messages to items.

    Args:
        model: The requested model.
        tools: The offered tools.
        stored: Whether OpenAI stores the replies, so that an item may refer to a stored one.
        messages: The messages; a conversation or its continuation.
        used: The ids of earlier calls. The ids of `messages` are added.
    """
    items: list[dict[str, object]] = []
    for message in adapt_history(messages, model, ids=IDS, tools=tools, images=True, used=used):
        if message["role"] == "assistant":
            items += _output_items(message["content"], stored)
        elif message["role"] == "tool_result":
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": _output(message["content"]),
                }
            )
        elif message["role"] == "user":
            content = _parts(message["content"])
            if content:
                items.append({"type": "message", "role": "user", "content": content})
    return items


def _output(content: str | Sequence[TextContent | ImageContent]) -> object:
    """Convert the result of a tool, if possible to plain text."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part["type"] == "text"]
    return _parts(content) if len(texts) < len(content) else "\n".join(texts) or "(no output)"


def _parts(content: str | Sequence[TextContent | ImageContent]) -> list[dict[str, object]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [
        {"type": "input_image", "image_url": part["url"], "detail": "auto"}
        if part["type"] == "image"
        else {"type": "input_text", "text": part["text"]}
        for part in content
        if part["type"] == "image" or part["text"]
    ]


def _output_items(content: Sequence[AssistantBlock], stored: bool) -> list[dict[str, object]]:
    """Convert a reply back to its items."""
    items: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    for part in content:
        if part["type"] == "thinking":
            item = stored_fields(part.get("thinking_signature"))
            # Without its encrypted content, an item only refers to data that was not stored.
            if item.get("type") and (stored or item["type"] != "reasoning" or _is_whole(item)):
                items.append(item)
                if item["type"] == IMAGE_CALL:
                    images.append(item)
        elif part["type"] == "tool_call":
            call = {
                "type": "function_call",
                "call_id": part["id"],
                "name": part["name"],
                "arguments": _json.encode(part["arguments"]).decode(),
            }
            items.append({**call, **stored_fields(part.get("tool_call_signature"))})
        elif part["type"] == "image" and images:
            # The image is a block of the message. Its item is stored in another block, without the image.
            images.pop(0)["result"] = part["url"].partition(",")[2]
        elif part["type"] == "image":
            _add_text(items, IMAGE_NOTE)
        elif part["text"]:
            _add_text(items, part)
    # The API requires another item after each reasoning item, which a truncated reply may not have.
    while items and items[-1]["type"] == "reasoning":
        items.pop()
    return items + _missing_outputs(items)


_OUTPUTS: dict[str, dict[str, object]] = {
    "custom_tool_call": {"type": "custom_tool_call_output"},
    "apply_patch_call": {"type": "apply_patch_call_output", "status": "failed"},
}
"""Types of calls, other than function calls, that need an output, and the fixed fields of that output."""


def _missing_outputs(items: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return outputs for calls that cannot be run here. Without them, the API refuses the next request."""
    answered = {item.get("call_id") for item in items if str(item["type"]).endswith("_output")}
    return [
        {**_OUTPUTS[item["type"]], "call_id": item["call_id"], "output": NO_RESULT}
        for item in items
        if item["type"] in _OUTPUTS and item.get("call_id") and item["call_id"] not in answered
    ]


def _add_text(items: list[dict[str, object]], part: TextContent) -> None:
    stored = stored_fields(part.get("text_signature"))
    annotations = stored.pop("annotations", [])
    piece: dict[str, object] = {"type": "output_text", "text": part["text"], "annotations": annotations}
    if stored.pop("refusal", False):
        piece = {"type": "refusal", "refusal": part["text"]}
    last = items[-1] if items else {}
    if stored.get("id") and last.get("id") == stored["id"]:
        as_list(last["content"]).append(piece)
        return
    items.append(
        {"type": "message", "role": "assistant", "status": "completed", "content": [piece], **stored}
    )


def _is_whole(item: Mapping[str, object]) -> bool:
    return bool(item.get("encrypted_content") or item.get("content"))
