"""Repair the results of a server: each malformed item is omitted, and each text and list has a limit.

Content becomes the texts and images that a model can read.

Format: https://modelcontextprotocol.io/specification/2025-11-25/schema
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, TypedDict

import msgspec

from tinyagent import Tool, ToolSchemaError
from tinyagent.agent_types import JsonObject
from tinyagent.tools import tool_schema

__all__ = [
    "MalformedError",
    "Repaired",
    "as_json",
    "call_result",
    "has_links",
    "initialize_result",
    "label",
    "prompt_item",
    "prompt_result",
    "read_result",
    "resource_item",
    "shortened",
    "tool_item",
]

MAX_TEXT = 100_000
"""Characters of all texts of one result."""

MAX_IMAGES = 20_000_000
"""Characters of all images of one result, in base64."""

IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
"""The image types that models accept. Providers refuse requests with other types."""

MAX_ITEMS = 1_000
"""Items of content of one result."""

MAX_STRUCTURED = 1_000_000
"""Bytes of JSON of the structured content that is stored in the details of a result."""

MAX_ERROR = 10_000
"""Characters of an error."""

MAX_DESCRIPTION = 20_000
"""Characters of a tool's description."""

MAX_SCHEMA = 262_144
"""Bytes of JSON of a tool's input schema."""


class _Text(TypedDict):
    type: Literal["text"]
    text: str


class _Image(TypedDict):
    type: Literal["image"]
    data: str
    mimeType: str


_Part: TypeAlias = _Text | _Image
Repaired: TypeAlias = dict[str, object]
"""A result, as the SDK reads it."""


class MalformedError(Exception):
    """An item does not follow the protocol."""


def as_json(value: object) -> str:
    """Return a value as JSON, or a note if it has none."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "[structured data that cannot be shown]"


def shortened(text: str, limit: int) -> str:
    """Return a text with at most `limit` characters and a note on the rest, without unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[… {len(text) - limit} more characters were omitted]"


def initialize_result(result: JsonObject) -> JsonObject:
    """Return the result of `initialize`."""
    repaired = dict(result)
    capabilities = result.get("capabilities")
    repaired["capabilities"] = {
        key: value
        for key, value in (capabilities if isinstance(capabilities, dict) else {}).items()
        if isinstance(value, dict)
    }
    info = result.get("serverInfo")
    info = info if isinstance(info, dict) else {}
    repaired["serverInfo"] = {key: _text_of(info.get(key), 200) for key in ("name", "version")}
    if not isinstance(result.get("instructions", ""), str):
        repaired.pop("instructions")
    return repaired


def _text_of(value: object, limit: int) -> str:
    return shortened(value, limit) if isinstance(value, str) else ""


# ---- lists ------------------------------------------------------------------------------------------


def label(item: object, what: str) -> str:
    """Return what to call an item of a list in a message."""
    for key in ("name", "uri", "uriTemplate"):
        if isinstance(item, dict) and isinstance(item.get(key), str):
            return f"the {what} {shortened(item[key], 100)!r}"
    return f"a {what} without a name"


def tool_item(item: object) -> JsonObject:
    """Return an item of `tools/list`.

    Raises:
        MalformedError: It cannot be used.
    """
    if not isinstance(item, dict):
        raise MalformedError("it is not an object")
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise MalformedError("it has no name")
    schema = item.get("inputSchema")
    if not isinstance(schema, dict):
        problem = "it has no inputSchema" if schema is None else "its inputSchema is not an object"
        raise MalformedError(problem)
    if len(as_json(schema)) > MAX_SCHEMA:
        raise MalformedError("its inputSchema is too large")
    name = shortened(item["name"], 1_000)
    try:
        # Repaired before the SDK reads it, because the SDK accepts only schemas of its own draft.
        schema = tool_schema(Tool(name, parameters=schema)).rules
    except ToolSchemaError as error:
        raise MalformedError(str(error)) from None
    repaired: JsonObject = {"name": name, "inputSchema": schema}
    for key, limit in (("title", 200), ("description", MAX_DESCRIPTION)):
        if isinstance(item.get(key), str):
            repaired[key] = shortened(item[key], limit)
    notes = item.get("annotations")
    if isinstance(notes, dict):
        repaired["annotations"] = {
            **{
                key: notes[key]
                for key in ("readOnlyHint", "openWorldHint")
                if isinstance(notes.get(key), bool)
            },
            **{key: shortened(notes[key], 200) for key in ("title",) if isinstance(notes.get(key), str)},
        }
    return repaired


def resource_item(where: str) -> Callable[[object], JsonObject]:
    """Return a function for the items of a list of resources, whose address is in the field `where`."""

    def repair(item: object) -> JsonObject:
        if not isinstance(item, dict):
            raise MalformedError("it is not an object")
        if not isinstance(item.get(where), str) or not item[where]:
            raise MalformedError(f"it has no {where}")
        repaired: JsonObject = {where: shortened(item[where], 2_000)}
        for key in ("name", "title", "description", "mimeType"):
            if isinstance(item.get(key), str):
                repaired[key] = shortened(item[key], 2_000)
        if type(item.get("size")) is int:
            repaired["size"] = item["size"]
        repaired.setdefault("name", repaired[where])
        return repaired

    return repair


def prompt_item(item: object) -> JsonObject:
    """Return an item of `prompts/list`. See `tool_item`."""
    if not isinstance(item, dict):
        raise MalformedError("it is not an object")
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise MalformedError("it has no name")
    repaired: JsonObject = {"name": shortened(item["name"], 1_000)}
    for key in ("title", "description"):
        if isinstance(item.get(key), str):
            repaired[key] = shortened(item[key], 2_000)
    raw = item.get("arguments")
    repaired["arguments"] = [
        {
            "name": shortened(argument["name"], 200),
            "description": _text_of(argument.get("description"), 2_000),
            "required": argument.get("required") is True,
        }
        for argument in (raw if isinstance(raw, list) else [])[:MAX_ITEMS]
        if isinstance(argument, dict) and isinstance(argument.get("name"), str) and argument["name"]
    ]
    return repaired


# ---- content ----------------------------------------------------------------------------------------


def call_result(result: JsonObject, size: int | None) -> Repaired:
    """Return the result of `tools/call` with its content as texts and images."""
    raw = result.get("content")
    if isinstance(raw, str):
        raw = [{"type": "text", "text": raw}]
    elif isinstance(raw, dict):
        raw = [raw]
    items = _as_items(raw)
    if size is not None and items and items[-1].get("type") != "text":
        items.pop()  # its end is missing
    parts: list[_Part] = [part for item in items[:MAX_ITEMS] for part in _content(item)]
    structured = result.get("structuredContent") if size is None else None
    repaired = {
        key: value for key, value in result.items() if key not in ("content", "structuredContent", "isError")
    }
    if structured is not None:
        text = as_json(structured)
        if not parts:
            parts = [_text(text)]
        if isinstance(structured, dict) and len(text) <= MAX_STRUCTURED:
            repaired["structuredContent"] = structured
    if len(items) > MAX_ITEMS:
        parts.append(_text(f"[… {len(items) - MAX_ITEMS} more items were omitted]"))
    if size is not None:
        parts.insert(0, _text(f"[The server's answer was too large, {size:,} bytes; this is its beginning]"))
    return {**repaired, "content": _bounded(parts), "isError": result.get("isError") is True}


def has_links(content: object) -> bool:
    """Return whether the content of a result has a link to a resource."""
    return any(item.get("type") == "resource_link" for item in _as_items(content))


def _as_items(value: object) -> list[JsonObject]:
    return [
        item if isinstance(item, dict) else {"type": None, "value": item}
        for item in (value if isinstance(value, list) else [])
    ]


def _content(item: JsonObject) -> list[_Part]:
    match item:
        case {"type": "text", "text": str(text)}:
            return [_text(text)]
        case {"type": "image", "data": str(data)}:
            return [_image(data, item.get("mimeType"))]
        case {"type": "audio", "data": str(data)}:
            return [_text(f"[Audio, {_kind(item)}, {_bytes(data)} bytes: cannot be shown]")]
        case {"type": "resource", "resource": dict(resource)}:
            return _resource_parts(resource)
        case {"type": "resource_link", "uri": str(uri)}:
            facts = [item.get("title") or item.get("name"), uri, item.get("mimeType")]
            facts.append(item.get("description"))
            about = ", ".join(fact for fact in facts if isinstance(fact, str) and fact)
            return [_text(f"[Resource, to read with read_resource: {about}]")]
        case {"type": "text" | "image" | "audio" | "resource" | "resource_link" as kind}:
            return [_text(f"[An item of the type {kind!r} was malformed and is omitted]")]
        case {"type": str(kind)}:
            return [_text(f"[Content of the type {kind[:100]!r} cannot be shown]")]
    return [_text("[An item without a type was malformed and is omitted]")]


def read_result(result: JsonObject, size: int | None) -> Repaired:
    """Return the result of `resources/read` with its contents as texts and images."""
    items = _as_items(result.get("contents"))
    if size is not None and items and "blob" in items[-1]:
        items.pop()
    parts: list[_Part] = [part for item in items[:MAX_ITEMS] for part in _resource_parts(item)]
    if len(items) > MAX_ITEMS:
        parts.append(_text(f"[… {len(items) - MAX_ITEMS} more items were omitted]"))
    if size is not None:
        parts.insert(0, _text(f"[The server's answer was too large, {size:,} bytes; this is its beginning]"))
    contents = [
        {"uri": "tinyagent:text", "text": part["text"]}
        if part["type"] == "text"
        else {"uri": "tinyagent:image", "blob": part["data"], "mimeType": part["mimeType"]}
        for part in _bounded(parts)
    ]
    return {**result, "contents": contents}


def prompt_result(result: JsonObject, size: int | None) -> Repaired:
    """Return the result of `prompts/get`. Each message has one text, or a note in place of an image."""
    roles: list[str] = []
    texts: list[_Part] = []
    for item in _as_items(result.get("messages"))[:MAX_ITEMS]:
        content = item.get("content")
        for block in _as_items(content if isinstance(content, list) else [content]):
            for part in _content(block):
                roles.append("assistant" if item.get("role") == "assistant" else "user")
                texts.append(part if part["type"] == "text" else _text("[An image is left out]"))
    if size is not None:
        roles.append("user")
        texts.append(_text(f"[The prompt was too large, {size:,} bytes; its end is missing]"))
    bounded = _bounded(texts)
    roles += ["user"] * (len(bounded) - len(roles))
    messages = [{"role": role, "content": part} for role, part in zip(roles, bounded, strict=False)]
    return {**result, "messages": messages}


def _resource_parts(item: JsonObject) -> list[_Part]:
    raw = item.get("uri")
    uri = raw if isinstance(raw, str) else "a resource"
    match item:
        case {"text": str(text)}:
            return [_text(text)]
        case {"blob": str(blob)} if _kind(item).startswith("image/"):
            return [_text(f"[{uri}]"), _image(blob, item.get("mimeType"))]
        case {"blob": str(blob)}:
            return [_text(f"[{uri} is {_kind(item)}, {_bytes(blob)} bytes: cannot be shown]")]
    return [_text(f"[{uri} was malformed and is omitted]")]


def _kind(item: JsonObject) -> str:
    kind = item.get("mimeType")
    return kind[:100] if isinstance(kind, str) and kind else "an unknown type"


def _bytes(data: str) -> int:
    return len(data) * 3 // 4


def _text(text: str) -> _Text:
    return {"type": "text", "text": text}


def _image(data: str, mime_type: object) -> _Part:
    kind = mime_type.lower() if isinstance(mime_type, str) else ""
    if kind not in IMAGES:
        return _text(f"[An image of the type {kind[:100]!r}, {_bytes(data)} bytes: cannot be shown]")
    if len(data) <= MAX_IMAGES:
        try:
            base64.b64decode(data := "".join(data.split()), validate=True)
        except ValueError:
            return _text("[An image was malformed and is omitted: it is not base64]")
    return {"type": "image", "data": data, "mimeType": kind}


def _bounded(parts: Iterable[_Part]) -> list[_Part]:
    """Truncate the parts to the limits, and append a note on omitted content."""
    result: list[_Part] = []
    left, images = MAX_TEXT, MAX_IMAGES
    omitted = 0
    for part in parts:
        if part["type"] == "image":
            images -= len(part["data"])
            result.append(part if images >= 0 else _text("[An image was omitted: too large]"))
            continue
        text = part["text"]
        if left <= 0 and text:
            omitted += len(text)
            continue
        omitted += max(0, len(text) - left)
        result.append(_text(shortened(text[:left], MAX_TEXT)))
        left -= len(text)
    if omitted:
        result.append(_text(f"[… {omitted} more characters were omitted]"))
    return result
