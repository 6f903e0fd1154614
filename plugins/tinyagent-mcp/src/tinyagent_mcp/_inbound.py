"""Repair and limit the messages of a server before the SDK reads them.

The SDK validates an answer as a whole, so one malformed tool or content item would lose all of them. Here
each malformed item is omitted and reported. Content is converted to the text and images that a model can
read, and cut to its limits. Notifications that are not needed are dropped before they cost a task.

Format: https://modelcontextprotocol.io/specification/2025-11-25/schema
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    URL_ELICITATION_REQUIRED,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from tinyagent.agent_types import JsonObject

from ._parser import CUT
from ._repair import (
    MAX_ERROR,
    MalformedError,
    Repaired,
    as_json,
    call_result,
    has_links,
    initialize_result,
    label,
    prompt_item,
    prompt_result,
    read_result,
    resource_item,
    shortened,
    tool_item,
)

__all__ = ["Inbound"]

_NEEDED = frozenset(
    ("notifications/progress", "notifications/cancelled", "notifications/subscriptions/acknowledged")
)
_CHANGES = frozenset(f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts"))


class Inbound:
    """Repairs the messages of one connection.

    Args:
        changed: Called when the server announces that its tools, resources or prompts have changed.
        answered: The requests of the server that the SDK answers; all others are refused.

    Attributes:
        problems: Descriptions of the items that were omitted of lists.
        has_links: Whether a result had a link to a resource.
    """

    def __init__(self, changed: Callable[[], None], answered: frozenset[str] = frozenset()) -> None:
        self.problems: list[str] = []
        self.has_links = False
        self._answered = answered | {"ping"}
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
                if message.method in self._answered:
                    return message, None
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

    def _result(self, method: str, result: JsonObject) -> Repaired | JsonObject:
        if not isinstance(result.get("_meta", {}), dict):
            result = {key: value for key, value in result.items() if key != "_meta"}
        cut = result.pop(CUT, None)
        size = cut if isinstance(cut, int) else None
        match method:
            case "initialize":
                return initialize_result(result)
            case "tools/list":
                return self._list(result, "tools", "tool", tool_item)
            case "resources/list":
                return self._list(result, "resources", "resource", resource_item("uri"))
            case "resources/templates/list":
                key = "resourceTemplates"
                return self._list(result, key, "resource template", resource_item("uriTemplate"))
            case "prompts/list":
                return self._list(result, "prompts", "prompt", prompt_item)
            case "tools/call" if result.get("resultType", "complete") == "complete":
                self.has_links |= has_links(result.get("content"))
                return call_result(result, size)
            case "prompts/get" if result.get("resultType", "complete") == "complete":
                return prompt_result(result, size)
            case "resources/read" if result.get("resultType", "complete") == "complete":
                return read_result(result, size)
        return result

    def _list(
        self, result: JsonObject, key: str, what: str, repair: Callable[[object], JsonObject]
    ) -> Repaired:
        raw = result.get(key)
        items: list[JsonObject] = []
        for item in raw if isinstance(raw, list) else []:
            try:
                items.append(repair(item))
            except MalformedError as error:
                self.problems.append(f"{label(item, what)} was omitted: {error}")
        if not isinstance(raw, list) and raw is not None:
            self.problems.append(f"the list of {what}s was omitted: it is not a list")
        cursor = result.get("nextCursor")
        repaired: Repaired = {**result, key: items}
        if not isinstance(cursor, str):
            repaired.pop("nextCursor", None)
        return repaired


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
    if error.data not in (None, "", {}, []) and error.code != URL_ELICITATION_REQUIRED:
        data = error.data if isinstance(error.data, str) else as_json(error.data)
        if data not in text:
            text = f"{text}: {data}" if text else data
    code = INTERNAL_ERROR if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT) else error.code
    return ErrorData(code=code, message=shortened(text, MAX_ERROR), data=error.data)
