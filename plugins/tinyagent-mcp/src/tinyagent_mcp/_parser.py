"""From a line of a server to JSON-RPC messages. What cannot be read fails the request that it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, jsonrpc_message_adapter
from pydantic import ValidationError

from tinyagent import parse_streaming_json
from tinyagent.agent_types import JsonObject

__all__ = ["CUT", "LongLine", "MessageParser"]

CUT = "tinyagent/cut"
"""The field of a truncated result with the original size of the message, in bytes."""

_ENDS = 4096
"""Bytes at both ends of a line in which the marks of a message are searched."""

_ID = re.compile(rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,200}")\s*[,}]')


class LongLine(NamedTuple):
    """The beginning, the end and the length of a line that was too long."""

    head: bytes
    tail: bytes
    length: int


class MessageParser:
    """Parses the lines of a server.

    Args:
        waiting: The ids of the requests that the server has not answered.
    """

    def __init__(self, waiting: set[str | int]) -> None:
        self._waiting = waiting

    def parse(self, line: bytes | LongLine) -> Iterator[SessionMessage]:
        """Yield the messages of a line. An unreadable answer becomes an error of its request."""
        found = self._of_long(line) if isinstance(line, LongLine) else self._decoded(line)
        for one in found if isinstance(found, list) else [found]:  # the protocol of 2025-03-26 has batches
            if not isinstance(one, dict):
                continue
            if one.get("id") is None and "error" in one and len(self._waiting) == 1:
                one = {**one, "id": next(iter(self._waiting))}
            try:
                message = jsonrpc_message_adapter.validate_python(_envelope(one), by_name=False)
            except (ValidationError, RecursionError):
                answer = None
                if "result" in one or "error" in one:
                    answer = self._failure(one.get("id"), "the server's answer is not a JSON-RPC message")
                if answer is not None:
                    yield answer
                continue
            if "result" in one or "error" in one:
                self._waiting.discard(self._awaited(one.get("id")) or "")
            yield SessionMessage(message)

    def _decoded(self, line: bytes) -> object:
        try:
            return msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: not UTF-8
            pass
        try:
            # Slower, but it accepts lone surrogates, NaN and integers of any length.
            return json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return self._unreadable(line)

    def _unreadable(self, line: bytes) -> JsonObject | None:
        """Return an error answer if the line looks like a message. Other output is ignored."""
        if b'"jsonrpc"' not in line[:_ENDS] and b'"jsonrpc"' not in line[-_ENDS:]:
            return None
        return self._error(
            _ids(line[:_ENDS], line[-_ENDS:]), "the server's answer is not JSON, or nested too deep"
        )

    def _of_long(self, line: LongLine) -> JsonObject | None:
        read = parse_streaming_json(line.head.decode("utf-8", "replace")) or {}
        result = read.get("result")
        ids = [read["id"]] if "id" in read else _ids(b"", line.tail)
        known = next((found for one in ids if (found := self._awaited(one)) is not None), None)
        if isinstance(result, dict) and known is not None:
            return {"id": known, "result": {**result, CUT: line.length}}
        return self._error(ids, f"the server's answer is too large ({line.length:,} bytes)")

    def _awaited(self, identifier: object) -> str | int | None:
        """Return the id of the request. Some servers return a number as text, or as a float."""
        if isinstance(identifier, float) and identifier.is_integer():
            identifier = int(identifier)
        if isinstance(identifier, str) and identifier not in self._waiting and identifier.isdecimal():
            identifier = int(identifier) if len(identifier) < 20 else None
        return identifier if isinstance(identifier, str | int) and identifier in self._waiting else None

    def _error(self, ids: Sequence[object], text: str) -> JsonObject | None:
        known = next((found for one in ids if (found := self._awaited(one)) is not None), None)
        if known is None and not ids and len(self._waiting) == 1:
            known = next(iter(self._waiting))
        if known is None:
            return None
        return {"id": known, "error": {"code": INTERNAL_ERROR, "message": text}}

    def _failure(self, request: object, text: str) -> SessionMessage | None:
        error = self._error([] if request is None else [request], text)
        if error is None:
            return None
        self._waiting.discard(error["id"])
        return SessionMessage(jsonrpc_message_adapter.validate_python(_envelope(error), by_name=False))


def _ids(head: bytes, tail: bytes) -> list[str | int]:
    """Return possible ids of a message that cannot be parsed."""
    found = _ID.findall(head)[:1] + _ID.findall(tail)[-1:]
    return [one[1:-1].decode("utf-8", "replace") if one[:1] == b'"' else int(one) for one in found]


def _envelope(message: JsonObject) -> JsonObject:
    """Repair what careless servers omit or write in another way."""
    repaired = {**message, "jsonrpc": "2.0"}
    identifier = repaired.get("id")
    if isinstance(identifier, float) and identifier.is_integer():
        repaired["id"] = int(identifier)
    if repaired.get("result") is None and repaired.get("error") is not None:
        repaired.pop("result", None)
        error = repaired["error"]
        if not isinstance(error, dict):
            error = {"message": error if isinstance(error, str) else json.dumps(error)[:2_000]}
        code, text = error.get("code"), error.get("message")
        repaired["error"] = {
            **error,
            "code": code if isinstance(code, int) and not isinstance(code, bool) else INTERNAL_ERROR,
            "message": text if isinstance(text, str) else json.dumps(error)[:2_000],
        }
    else:
        repaired.pop("error", None)
        if "params" in repaired and not isinstance(repaired["params"], dict):
            repaired.pop("params")
    return repaired
