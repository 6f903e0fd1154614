"""What a server answers, as what tinyagent's models read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tinyagent import AgentToolResult

__all__ = ["as_result", "resource_parts", "text_of"]

MAX_TEXT = 100_000
"""Characters of one result."""

MAX_IMAGES = 20_000_000
"""Characters of all pictures of one result, in base64."""


def as_result(answer: Any) -> AgentToolResult:
    """The result of `tools/call`."""
    parts = [part for block in answer.content for part in _parts(block)]
    structured = answer.structured_content
    if not parts and structured is not None:
        parts = [_text(msgspec.json.encode(structured).decode())]
    details = {} if structured is None else {"structured_content": structured}
    return AgentToolResult(content=_bounded(parts), details=details)


def resource_parts(contents: Iterable[Any]) -> list[Any]:
    """What `resources/read` gave."""
    return _bounded([part for content in contents for part in _resource(content)])


def text_of(result: AgentToolResult) -> str:
    """Its texts, for an error message."""
    return "\n".join(part["text"] for part in result.content if part["type"] == "text")


def _parts(block: Any) -> list[Any]:
    match block.type:
        case "text":
            return [_text(block.text)]
        case "image":
            return [_image(block.data, block.mime_type)]
        case "resource":
            return _resource(block.resource)
        case "resource_link":
            told = [block.title or block.name, block.uri, block.mime_type, block.description]
            return [_text(f"[Resource: {', '.join(filter(None, told))}]")]
        case "audio":
            return [_text(f"[Audio, {block.mime_type}, {len(block.data) * 3 // 4} bytes: cannot be shown]")]
        case other:
            return [_text(f"[Content of the type {other!r} cannot be shown]")]


def _resource(content: Any) -> list[Any]:
    if (text := getattr(content, "text", None)) is not None:
        return [_text(text)]
    kind = content.mime_type or "an unknown type"
    if kind.startswith("image/"):
        return [_text(f"[{content.uri}]"), _image(content.blob, kind)]
    return [_text(f"[{content.uri} is {kind}, {len(content.blob) * 3 // 4} bytes: cannot be shown]")]


def _text(text: str) -> Any:
    return {"type": "text", "text": text}


def _image(data: str, mime_type: str) -> Any:
    return {"type": "image", "url": f"data:{mime_type};base64,{data}", "mime_type": mime_type}


def _bounded(parts: list[Any]) -> list[Any]:
    """No more than a model can use: what is beyond is left out, and that is said."""
    kept: list[Any] = []
    text, images = MAX_TEXT, MAX_IMAGES
    for part in parts:
        if part["type"] == "image":
            images -= len(part["url"])
            kept.append(part if images >= 0 else _text("[A picture was left out: too large]"))
            continue
        length = len(part["text"])
        if length > text:
            part = _text(f"{part['text'][:text]}\n[… {length - text} more characters were left out]")
        kept.append(part)
        text = max(0, text - length)
        if text == 0 and length:
            break
    return kept
