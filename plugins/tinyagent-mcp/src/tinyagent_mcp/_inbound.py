"""Repair and limit the messages of a server before the SDK reads them.

The SDK validates an answer as a whole, so one malformed tool or content item would lose all of them. Here
each malformed item is omitted and reported. Content is converted to the text and images that a model can
read, and cut to its limits. Notifications that are not needed are dropped before they cost a task.

Format: https://modelcontextprotocol.io/specification/2025-11-25/schema
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, TypedDict

import msgspec
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from tinyagent import Tool, ToolSchemaError
from tinyagent.agent_types import JsonObject
from tinyagent.tools import tool_schema

from ._stdio import CUT

__all__ = ["Inbound"]

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

_NEEDED = frozenset(
    ("notifications/progress", "notifications/cancelled", "notifications/subscriptions/acknowledged")
)
_CHANGES = frozenset(("notifications/tools/list_changed", "notifications/resources/list_changed"))


class _Text(TypedDict):
    type: Literal["text"]
    text: str


class _Image(TypedDict):
    type: Literal["image"]
    data: str
    mimeType: str


_Part: TypeAlias = _Text | _Image
_Repaired: TypeAlias = dict[str, object]
"""A result, as the SDK reads it."""


class Inbound:
    """Repairs the messages of one connection.

    Args:
        changed: Called when the server announces that its tools or resources have changed.

    Attributes:
        problems: Descriptions of the items that were omitted of lists.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.problems: list[str] = []
        self._changed = changed
        self._methods: dict[str | int, str] = {}
        self._progress = _Allowance(burst=100, per_second=20)
        self._requests = _Allowance(burst=100, per_second=20)

    def sent(self, message: JSONRPCMessage) -> None:
        """Record the method of a request, which determines how its answer is read."""
        if isinstance(message, JSONRPCRequest):
            self._methods[message.id] = message.method
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._methods.pop((message.params or {}).get("requestId", ""), None)

    def received(self, message: JSONRPCMessage) -> tuple[JSONRPCMessage | None, JSONRPCError | None]:
        """Return the message for the SDK, and an answer to send at once; None for neither."""
        match message:
            case JSONRPCNotification():
                return (message if self._is_needed(message) else None), None
            case JSONRPCRequest():
                if not self._requests.take():
                    return None, None
                if message.method == "ping":
                    return message, None
                # Sampling, elicitation and roots are not offered to servers.
                refusal = ErrorData(code=METHOD_NOT_FOUND, message=f"{message.method} is not supported")
                return None, JSONRPCError(jsonrpc="2.0", id=message.id, error=refusal)
            case JSONRPCResponse():
                method = self._methods.pop(_key(self._methods, message.id), None)
                if method is None:
                    return None, None  # no such request, or already answered
                message.result = self._result(method, message.result)
                return message, None
            case JSONRPCError():
                if message.id is None:
                    return None, None
                self._methods.pop(_key(self._methods, message.id), None)
                message.error = _error(message.error)
                return message, None

    def _is_needed(self, message: JSONRPCNotification) -> bool:
        if message.method in _CHANGES:
            self._changed()
            return False
        return message.method in _NEEDED and (
            message.method != "notifications/progress" or self._progress.take()
        )

    def _result(self, method: str, result: JsonObject) -> _Repaired | JsonObject:
        if not isinstance(result.get("_meta", {}), dict):
            result = {key: value for key, value in result.items() if key != "_meta"}
        cut = result.pop(CUT, None)
        size = cut if isinstance(cut, int) else None
        match method:
            case "initialize":
                return _initialized(result)
            case "tools/list":
                return self._list(result, "tools", "tool", _tool)
            case "resources/list":
                return self._list(result, "resources", "resource", _resource("uri"))
            case "resources/templates/list":
                key = "resourceTemplates"
                return self._list(result, key, "resource template", _resource("uriTemplate"))
            case "tools/call" if result.get("resultType", "complete") == "complete":
                return _called(result, size)
            case "resources/read" if result.get("resultType", "complete") == "complete":
                return _read(result, size)
        return result

    def _list(
        self, result: JsonObject, key: str, what: str, repair: Callable[[object], JsonObject]
    ) -> _Repaired:
        raw = result.get(key)
        items: list[JsonObject] = []
        for item in raw if isinstance(raw, list) else []:
            try:
                items.append(repair(item))
            except _MalformedError as error:
                self.problems.append(f"{_label(item, what)} was omitted: {error}")
        if not isinstance(raw, list) and raw is not None:
            self.problems.append(f"the list of {what}s was omitted: it is not a list")
        cursor = result.get("nextCursor")
        repaired: _Repaired = {**result, key: items}
        if not isinstance(cursor, str):
            repaired.pop("nextCursor", None)
        return repaired


class _MalformedError(Exception):
    """An item does not follow the protocol."""


class _Allowance:
    """A token bucket."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._left = self._burst = burst
        self._per_second = per_second
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _key(known: dict[str | int, str], identifier: str | int) -> str | int:
    """Return the id of a request. Some servers return a number as text."""
    if identifier not in known and isinstance(identifier, str) and identifier.isdigit():
        return int(identifier)
    return identifier


def _error(error: ErrorData) -> ErrorData:
    """Return the server's error with its own text. Codes of the SDK's own errors are replaced."""
    text = error.message
    if error.data not in (None, "", {}, []):
        data = error.data if isinstance(error.data, str) else _json(error.data)
        if data not in text:
            text = f"{text}: {data}" if text else data
    code = INTERNAL_ERROR if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT) else error.code
    return ErrorData(code=code, message=_text_cut(text, MAX_ERROR), data=error.data)


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "[structured data that cannot be shown]"


def _text_cut(text: str, limit: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # unpaired surrogates
        text = text.encode("utf-8", "replace").decode()
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[… {len(text) - limit} more characters were omitted]"


def _initialized(result: JsonObject) -> JsonObject:
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
    return _text_cut(value, limit) if isinstance(value, str) else ""


# ---- lists ------------------------------------------------------------------------------------------


def _label(item: object, what: str) -> str:
    for key in ("name", "uri", "uriTemplate"):
        if isinstance(item, dict) and isinstance(item.get(key), str):
            return f"the {what} {_text_cut(item[key], 100)!r}"
    return f"a {what} without a name"


def _tool(item: object) -> JsonObject:
    if not isinstance(item, dict):
        raise _MalformedError("it is not an object")
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise _MalformedError("it has no name")
    schema = item.get("inputSchema")
    if not isinstance(schema, dict):
        problem = "it has no inputSchema" if schema is None else "its inputSchema is not an object"
        raise _MalformedError(problem)
    if len(_json(schema)) > MAX_SCHEMA:
        raise _MalformedError("its inputSchema is too large")
    name = _text_cut(item["name"], 1_000)
    try:
        # Repaired before the SDK reads it, because the SDK accepts only schemas of its own draft.
        schema = tool_schema(Tool(name, parameters=schema)).rules
    except ToolSchemaError as error:
        raise _MalformedError(str(error)) from None
    repaired: JsonObject = {"name": name, "inputSchema": schema}
    for key, limit in (("title", 200), ("description", MAX_DESCRIPTION)):
        if isinstance(item.get(key), str):
            repaired[key] = _text_cut(item[key], limit)
    notes = item.get("annotations")
    if isinstance(notes, dict):
        repaired["annotations"] = {
            **{
                key: notes[key]
                for key in ("readOnlyHint", "openWorldHint")
                if isinstance(notes.get(key), bool)
            },
            **{key: _text_cut(notes[key], 200) for key in ("title",) if isinstance(notes.get(key), str)},
        }
    return repaired


def _resource(where: str) -> Callable[[object], JsonObject]:
    def repair(item: object) -> JsonObject:
        if not isinstance(item, dict):
            raise _MalformedError("it is not an object")
        if not isinstance(item.get(where), str) or not item[where]:
            raise _MalformedError(f"it has no {where}")
        repaired: JsonObject = {where: _text_cut(item[where], 2_000)}
        for key in ("name", "title", "description", "mimeType"):
            if isinstance(item.get(key), str):
                repaired[key] = _text_cut(item[key], 2_000)
        if type(item.get("size")) is int:
            repaired["size"] = item["size"]
        repaired.setdefault("name", repaired[where])
        return repaired

    return repair


# ---- content ----------------------------------------------------------------------------------------


def _called(result: JsonObject, size: int | None) -> _Repaired:
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
        text = _json(structured)
        if not parts:
            parts = [_text(text)]
        if isinstance(structured, dict) and len(text) <= MAX_STRUCTURED:
            repaired["structuredContent"] = structured
    if len(items) > MAX_ITEMS:
        parts.append(_text(f"[… {len(items) - MAX_ITEMS} more items were omitted]"))
    if size is not None:
        parts.insert(0, _text(f"[The server's answer was too large, {size:,} bytes; this is its beginning]"))
    return {**repaired, "content": _bounded(parts), "isError": result.get("isError") is True}


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
            return [_text(f"[Resource: {', '.join(one for one in facts if isinstance(one, str) and one)}]")]
        case {"type": "text" | "image" | "audio" | "resource" | "resource_link" as kind}:
            return [_text(f"[An item of the type {kind!r} was malformed and is omitted]")]
        case {"type": str(kind)}:
            return [_text(f"[Content of the type {kind[:100]!r} cannot be shown]")]
    return [_text("[An item without a type was malformed and is omitted]")]


def _read(result: JsonObject, size: int | None) -> _Repaired:
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
        result.append(_text(_text_cut(text[:left], MAX_TEXT)))
        left -= len(text)
    if omitted:
        result.append(_text(f"[… {omitted} more characters were omitted]"))
    return result
