"""Decodes the proxy protocol, without I/O.

A proxy has the provider's key, and forwards the model's reply as server-sent events. Each is one JSON object
in camelCase, without `partial`, which would repeat the reply so far:

    start
    text_start|text_delta|text_end, thinking_start|_delta|_end     contentIndex, delta, contentSignature
    toolcall_start|toolcall_delta|toolcall_end                     contentIndex, id, toolName, delta
    done      reason (stop|length|toolUse), usage
    error     reason (aborted|error), errorMessage, usage

Unknown events and fields are ignored, so that the protocol can be extended. The first delta of a block opens
it if it has no start. A reply without `done` is incomplete.

Our own server (`plugins/tinyagent-proxy-server`) adds these fields, which are optional:

    toolcall_end   id and toolName, in their final form; contentSignature; arguments as JSON text, if they are
                   not the deltas joined
    done, error    finishReason, of the provider; normalUsage, a `Usage`; images, the URLs of generated images
    done           signatures, {contentIndex: signature}, of blocks that were signed after their end;
                   citations, {contentIndex: [Citation]}, of texts; thinkingLevel, the level of the request,
                   if the rest of the turn needs it; refusal, true if the text is the model's refusal
    error          errorKind, errorCategory, errorHint, errorStatus, retryable, retryAfter: the attributes of
                   the error in `tinyagent.errors`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Unpack, cast

import msgspec

from ._json import as_dict, count, dollars
from ._stream.builder import BuilderEvent
from ._stream.chat_decoder import normal_usage
from ._stream.citations import read_citations
from ._stream.decoder import DecoderOptions, ReplyDecoder
from ._stream.finish_reasons import finish_kind
from .agent_types import ModelIdentity, Usage
from .errors import ProviderError, TinyAgentError, error_from_message

__all__ = ["ProxyDecoder", "proxy_usage"]


class _ProxyEvent(msgspec.Struct, gc=False, rename="camel"):
    """An event of any type, with the fields that are used."""

    type: str
    content_index: int = 0
    delta: str | None = None
    content_signature: str | None = None
    id: str | None = None
    tool_name: str | None = None
    reason: str | None = None
    error_message: object = None
    usage: object = None
    arguments: str | None = None
    finish_reason: str | None = None
    normal_usage: object = None
    images: object = None
    signatures: object = None
    citations: object = None
    thinking_level: object = None
    refusal: object = None
    error_kind: str | None = None
    error_category: str | None = None
    error_status: int | None = None
    error_hint: str | None = None
    retryable: bool | None = None
    retry_after: float | None = None


_decode = msgspec.json.Decoder(_ProxyEvent).decode

_KINDS = {"text": "text", "thinking": "thinking", "toolcall": "tool_call"}
_SIGNATURES = {
    "text": "text_signature",
    "thinking": "thinking_signature",
    "tool_call": "tool_call_signature",
}
_COUNTS = ("input", "output", "cache_read", "cache_write", "reasoning", "total")


class ProxyDecoder(ReplyDecoder):
    """Decodes the bytes of a proxy's reply to events."""

    def __init__(self, model: ModelIdentity, **options: Unpack[DecoderOptions]) -> None:
        super().__init__(model, **options)
        self._open: dict[int, int] = {}
        """Our index of each open block, by the proxy's index."""
        self._kinds: dict[int, str] = {}
        """The kind of each of the proxy's blocks."""
        self._names: dict[int, str] = {}
        """The tool name of each call, by our index."""
        self._ids: dict[int, str] = {}
        """The proxy's id of each call, by our index."""
        self._places: dict[int, int] = {}
        """Our index of each block, also of ended ones, by the proxy's index."""
        self._reason = "stop"
        self._raw_usage: object = None
        self._normal_usage: object = None

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if data.strip() == b"[DONE]":
                return  # an end marker of other protocols; this one ends with `done`
            loose = self._loose_event(data)
            if loose is None:
                return
            event = loose
        self._handle(event, out)

    def _loose_event(self, data: bytes) -> _ProxyEvent | None:
        """Decode an event with unexpected types. If it is not an event, end the reply and return None."""
        value = self._object(data)
        if value is None:
            return None
        if "type" not in value and value.get("error"):
            self._stop(self._reported(value))
            return None
        try:
            return msgspec.convert(value, _ProxyEvent, strict=False)
        except msgspec.ValidationError as error:
            self._stop(self._invalid(f"an event of the reply cannot be read ({error}): {self._shown(data)}"))
            return None

    def _take_document(self, value: dict[str, object], out: list[BuilderEvent]) -> bool:
        """A document is never a reply in this protocol."""
        if any(isinstance(value.get(key), str) for key in ("message", "detail")):
            return False  # the text of an error
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
        elif event.type in ("done", "error"):
            self._raw_usage, self._normal_usage = event.usage, event.normal_usage
            images = event.images if isinstance(event.images, list) else []
            self._images = [url for url in images if isinstance(url, str) and url]
            if event.type == "error":
                self._failed(event, out)
            else:
                self._reason = event.reason or "stop"
                self.finish_reason: str | None = event.finish_reason or self._reason
                self._sign(event.signatures)
                self._cite(event.citations)
                if isinstance(event.thinking_level, str):
                    self._fields["thinking_level"] = event.thinking_level
                if event.refusal is True:
                    self._fields["refusal"] = True
                self._finish(out)

    def _index(self, kind: str, event: _ProxyEvent, out: list[BuilderEvent]) -> int:
        """Return our index of the event's block, which is opened if necessary."""
        index = self._open.get(event.content_index)
        if index is not None:
            if kind == "tool_call":
                self._name_late(index, event)
            return index
        if kind == "tool_call":
            index, opened = self.builder.open_tool_call(event.id or "", event.tool_name or "")
            self._names[index] = event.tool_name or ""
            self._ids[index] = event.id or ""
        elif kind == "thinking":
            index, opened = self.builder.open_thinking()
        else:
            index, opened = self.builder.open_text()
        self._open[event.content_index] = self._places[event.content_index] = index
        out.append(opened)
        return index

    def _name_late(self, index: int, event: _ProxyEvent) -> None:
        """Set a late name or id. An existing one is not replaced, but a name may grow."""
        name = self._names[index]
        if event.tool_name and event.tool_name != name and event.tool_name.startswith(name):
            self._names[index] = event.tool_name
            self.builder.update(index, name=event.tool_name)
        if event.id and not self._ids[index]:
            self._ids[index] = event.id
            self.builder.update(index, id=self.builder.unique_id(event.id))

    def _end_block(self, kind: str, event: _ProxyEvent, out: list[BuilderEvent]) -> None:
        if event.content_index not in self._open:
            return  # it was ended before, or has not started
        index = self._index(kind, event, out)
        del self._open[event.content_index]
        fields = {}
        if event.content_signature:
            fields[_SIGNATURES[kind]] = event.content_signature
        out.append(self._closed(index, event.arguments, **fields))

    def _closed(self, index: int, arguments: str | None = None, **fields: object) -> BuilderEvent:
        if index in self._names:
            return self._close_call(index, arguments, **fields)
        return self.builder.close(index, **fields)

    def _sign(self, signatures: object) -> None:
        """Set the fields of blocks that some protocols send only at the end of the reply."""
        for index, signature in self._by_block(signatures):
            if isinstance(signature, str):
                self.builder.update(index, **{_SIGNATURES[self.builder.trace.type_of(index)]: signature})

    def _cite(self, citations: object) -> None:
        """Set the sources of texts."""
        for index, cited in self._by_block(citations):
            known = read_citations(cited)
            if known and self.builder.block(index)["type"] == "text":
                self.builder.update(index, citations=known)

    def _by_block(self, values: object) -> Iterator[tuple[int, object]]:
        """Read an object whose keys are the proxy's indices of blocks. Yield our indices with the values."""
        for place, value in as_dict(values).items():
            index = self._places.get(int(place)) if place.isdecimal() else None
            if index is not None:
                yield index, value

    # ---- ends ---------------------------------------------------------------------------------------

    def _finish(self, out: list[BuilderEvent]) -> None:
        out.extend(self._closed(index) for index in self._open.values())
        self._open.clear()
        self._add_images()
        # `reason` is the decision of the proxy. If it is complete, only a known finish reason of the provider
        # can contradict it.
        complete = finish_kind(self._reason, has_content=False) == "complete"
        self._conclude(
            out, reason=self.finish_reason if complete else self._reason, has_content=complete or None
        )

    def _failed(self, event: _ProxyEvent, out: list[BuilderEvent]) -> None:
        self._add_images()
        if event.reason == "aborted":
            out.append(
                self.abort(self._redact(str(event.error_message or "")) or "the proxy aborted the reply")
            )
            return
        if event.finish_reason:
            self.finish_reason = event.finish_reason
        error = self._reported(event.error_message or "")
        if event.error_kind is not None:
            error = self._as_classed(error, event)
        self._stop(error)

    def _as_classed(self, error: TinyAgentError, event: _ProxyEvent) -> TinyAgentError:
        """Return the error, of the class that the proxy names if it is a provider error."""
        named = error_from_message(
            {
                "error_message": str(error),
                "error_kind": event.error_kind,
                "error_category": event.error_category,
                "error_hint": self._redact(event.error_hint) if event.error_hint else None,
                "error_status": event.error_status,
                "error_retryable": bool(event.retryable),
                "error_retry_after": event.retry_after,
                "provider": self._provider,
            }
        )
        if isinstance(named, ProviderError):
            return named
        return ProviderError(
            str(named),
            status=named.status,
            retryable=bool(named.retryable),
            provider=self._provider,
            retry_after=named.retry_after,
            hint=named.hint,
        )

    def _usage(self) -> Usage | None:
        usage = self._normal_usage
        if isinstance(usage, Mapping) and all(isinstance(usage.get(name, 0), int) for name in _COUNTS):
            return cast(Usage, dict(usage))
        return proxy_usage(self._raw_usage)


def proxy_usage(usage: object) -> Usage | None:
    """Convert a proxy's usage. Its `input` does not include cached tokens, and its `cost` has parts."""
    if not isinstance(usage, Mapping) or not usage:
        return None
    if "prompt_tokens" in usage:
        return normal_usage(dict(usage))

    def number(*names: str) -> int:
        return count(next((usage[name] for name in names if name in usage), 0))

    input_tokens, output_tokens = number("input"), number("output")
    read, write = number("cacheRead", "cache_read"), number("cacheWrite", "cache_write")
    total = number("totalTokens", "total")
    if total and total == input_tokens + output_tokens + read + write:
        input_tokens += read + write
    cost = usage.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total")
    return {
        "input": input_tokens,
        "output": output_tokens,
        "cache_read": read,
        "cache_write": write,
        "reasoning": number("reasoning"),
        "total": input_tokens + output_tokens,
        "cost": dollars(cost),
    }
