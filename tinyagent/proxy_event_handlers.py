"""The proxy protocol: its events in, assistant message events out; no I/O.

A proxy holds the provider's key and passes the model's reply on as server-sent events, one JSON object
each, camelCase and without `partial`, so that a long reply stays short on the wire:

    start
    text_start|text_delta|text_end, thinking_start|_delta|_end     contentIndex, delta, contentSignature
    toolcall_start|toolcall_delta|toolcall_end                     contentIndex, id, toolName, delta
    done      reason (stop|length|toolUse), usage
    error     reason (aborted|error), errorMessage, usage

What is not known is skipped, so that a proxy may say more one day. A block that was not opened is opened
by its first delta. Nothing is complete without `done`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ._message_builder import BuilderEvent
from ._wire import ReplyDecoder
from .openai_wire import normal_usage

__all__ = ["ProxyDecoder", "proxy_usage"]


class _ProxyEvent(msgspec.Struct, gc=False, rename="camel"):
    """Any event; only the fields that are read."""

    type: str
    content_index: int = 0
    delta: str | None = None
    content_signature: str | None = None
    id: str | None = None
    tool_name: str | None = None
    reason: str | None = None
    error_message: Any = None
    usage: Any = None


_decode = msgspec.json.Decoder(_ProxyEvent).decode

_KINDS = {"text": "text", "thinking": "thinking", "toolcall": "tool_call"}
_SIGNATURES = {"text": "text_signature", "thinking": "thinking_signature"}


class ProxyDecoder(ReplyDecoder):
    """Bytes of a proxy's reply in, events out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open: dict[int, int] = {}
        """The proxy's index of each open block -> ours."""
        self._kinds: dict[int, str] = {}
        """The kind of each of the proxy's blocks."""
        self._names: dict[int, str] = {}
        """The tool that each call names, by our index."""
        self._usage: Any = None

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if data.strip() == b"[DONE]":
                return  # a habit of other protocols; the end of this one is `done`
            loose = self._loose_event(data)
            if loose is None:
                return
            event = loose
        self._handle(event, out)

    def _loose_event(self, data: bytes) -> _ProxyEvent | None:
        """An event with odd types; None if it is no event at all, over which the reply has ended."""
        value = self._object(data)
        if value is None:
            return None
        if "type" not in value and value.get("error"):
            self._stop(self._reported(value))
            return None
        try:
            return msgspec.convert(value, _ProxyEvent, strict=False)
        except msgspec.ValidationError as error:
            shown = self._clean(data[:200].decode("utf-8", "replace"))
            self._stop(self._invalid(f"an event of the reply cannot be read ({error}): {shown}"))
            return None

    def _take_document(self, value: dict[str, Any], out: list[BuilderEvent]) -> bool:
        """A document is never a reply here, whatever it says."""
        if any(isinstance(value.get(key), str) for key in ("message", "detail")):
            return False  # the words of an error
        self._stop(self._invalid("the reply is JSON and no event stream"))
        return True

    # ---- events -------------------------------------------------------------------------------------

    def _handle(self, event: _ProxyEvent, out: list[BuilderEvent]) -> None:
        block, _, step = event.type.rpartition("_")
        kind = _KINDS.get(block)
        if kind is not None:
            known = self._kinds.setdefault(event.content_index, kind)
            if known != kind:
                self._stop(self._invalid(f"block {event.content_index} of the reply is {known} and {kind}"))
            elif step == "delta":
                index = self._index(kind, event, out)
                if event.delta:
                    out.append(self.builder.delta(index, event.delta))
            elif step == "start":
                self._index(kind, event, out)
            elif step == "end":
                self._end_block(kind, event, out)
        elif event.type == "done":
            self._usage = event.usage
            self.finish_reason = event.reason or "stop"
            self._finish(out)
        elif event.type == "error":
            self._usage = event.usage
            self._failed(event, out)

    def _index(self, kind: str, event: _ProxyEvent, out: list[BuilderEvent]) -> int:
        """Our index of the event's block, which is opened if need be."""
        index = self._open.get(event.content_index)
        if index is not None:
            if kind == "tool_call":
                self._name_late(index, event)
            return index
        if kind == "tool_call":
            index, opened = self.builder.open_tool_call(event.id or "", event.tool_name or "")
            self._names[index] = event.tool_name or ""
        elif kind == "thinking":
            index, opened = self.builder.open_thinking()
        else:
            index, opened = self.builder.open_text()
        self._open[event.content_index] = index
        out.append(opened)
        return index

    def _name_late(self, index: int, event: _ProxyEvent) -> None:
        """A name that came late; one that is there already stays."""
        if event.tool_name and not self._names[index]:
            self._names[index] = event.tool_name
            self.builder.update(index, name=event.tool_name)

    def _end_block(self, kind: str, event: _ProxyEvent, out: list[BuilderEvent]) -> None:
        if event.content_index not in self._open:
            return  # ended twice, or never begun: there is nothing in it
        index = self._index(kind, event, out)
        del self._open[event.content_index]
        fields = {}
        if event.content_signature and kind in _SIGNATURES:
            fields[_SIGNATURES[kind]] = event.content_signature
        out.append(self._closed(index, **fields))

    def _closed(self, index: int, **fields: Any) -> BuilderEvent:
        close = self._close_call if index in self._names else self.builder.close
        return close(index, **fields)

    # ---- ends ---------------------------------------------------------------------------------------

    def _finish(self, out: list[BuilderEvent]) -> None:
        out.extend(self._closed(index) for index in self._open.values())
        self._open.clear()
        self._done("length" if self.finish_reason == "length" else "stop", out)

    def _failed(self, event: _ProxyEvent, out: list[BuilderEvent]) -> None:
        if event.reason == "aborted":
            words = self._clean(str(event.error_message or "")) or "the proxy aborted the reply"
            out.append(self.builder.fail("aborted", words, usage=self._spent()))
            self.ended = True
        else:
            self._stop(self._reported(event.error_message or ""))

    def _spent(self) -> dict[str, Any] | None:
        return proxy_usage(self._usage)


def proxy_usage(usage: Any) -> dict[str, Any] | None:
    """Usage in our words; a proxy counts cached tokens beside `input` and says the cost in parts."""
    if not isinstance(usage, Mapping) or not usage:
        return None
    if "prompt_tokens" in usage:
        return normal_usage(dict(usage))

    def count(*names: str) -> int:
        value = next((usage[name] for name in names if name in usage), 0)
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0

    given, made = count("input"), count("output")
    read, write = count("cacheRead", "cache_read"), count("cacheWrite", "cache_write")
    total = count("totalTokens", "total")
    if total and total == given + made + read + write:
        given += read + write
    cost = usage.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total")
    return {
        "input": given,
        "output": made,
        "cache_read": read,
        "cache_write": write,
        "reasoning": count("reasoning"),
        "total": given + made,
        "cost": float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    }
