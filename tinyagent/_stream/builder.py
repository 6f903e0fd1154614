"""Build an assistant message from deltas.

A provider calls one method for each delta and yields the event that it returns. The method adds the delta to
a log, the `Trace`. The event stores the trace and the number of pieces at its time; `event["partial"]` is
built from them when it is read. So a delta has constant cost, and an event always shows the message at its
own time. `trace.py` explains the log.

    builder = MessageBuilder(model)
    yield builder.start()
    index, event = builder.open_text()
    yield event
    yield builder.delta(index, "Hel")
    yield builder.close(index)
    yield builder.done("stop")

`absorb` converts events of other implementations (with full `partial` dicts, or deltas only) to events of the
builder. The loop uses it for every custom provider.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from tinyagent import _json
from tinyagent.agent_types import (
    AssistantMessage,
    AssistantMessageEvent,
    ModelIdentity,
    StopReason,
    ToolCallContent,
)
from tinyagent.errors import InvalidReplyError

from .trace import TEXT_KEYS, Fields, Trace

__all__ = [
    "BuilderEvent",
    "MessageBuilder",
    "StreamEvent",
    "event_at",
    "finished_arguments",
    "now_ms",
    "read_arguments",
    "unique_id",
]


def now_ms() -> int:
    """Return the current time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class BuilderEvent(dict[str, object]):
    """An assistant message event whose `partial` is built when it is read.

    Its fields are those of `AssistantMessageEvent`.

    Attributes:
        trace: The log of the message.
        count: The number of pieces at the time of the event.
    """

    __slots__ = ("count", "trace")

    trace: Trace
    count: int

    if TYPE_CHECKING:  # the types of the fields, without a slower `__getitem__`

        @overload
        def __getitem__(self, key: Literal["partial", "message", "error"], /) -> AssistantMessage: ...
        @overload
        def __getitem__(self, key: Literal["type", "delta", "content", "reason"], /) -> str: ...
        @overload
        def __getitem__(self, key: Literal["content_index"], /) -> int: ...
        @overload
        def __getitem__(self, key: Literal["tool_call"], /) -> ToolCallContent: ...
        @overload
        def __getitem__(self, key: str, /) -> object: ...
        def __getitem__(self, key: str, /) -> object: ...

    def __missing__(self, key: str) -> AssistantMessage:
        if key == "partial":
            return self.trace.message_at(self.count)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key == "partial" or dict.__contains__(self, key)

    def get(self, key: str, default: object = None) -> object:
        """Do the same as `dict.get`. `partial` always has a value."""
        if key == "partial" and not dict.__contains__(self, key):
            return self.trace.message_at(self.count)
        return dict.get(self, key, default)

    def __reduce__(self) -> tuple[object, ...]:
        # A copy or a pickle contains the message of this event, not the trace, which may still grow.
        return (_restore_event, (dict(self), self.trace.message_at(self.count)))


StreamEvent: TypeAlias = AssistantMessageEvent | BuilderEvent
"""An event of a provider's stream: a plain dict, or an event of the builder."""


def event_at(trace: Trace, fields: Fields) -> BuilderEvent:
    """Return an assistant message event whose `partial` is the current message of the trace."""
    event = BuilderEvent(fields)
    event.trace = trace
    event.count = len(trace.pieces)
    return event


def _restore_event(fields: Fields, message: AssistantMessage) -> BuilderEvent:
    return event_at(Trace.holding(message), fields)


class MessageBuilder:
    """Builds one assistant message.

    Args:
        model: The model that replies; None for a message without one.
        timestamp: Unix milliseconds; now if None.

    Attributes:
        trace: The log of the message, for reading.
    """

    __slots__ = ("_absorbed", "_ids", "_original_ids", "_pieces", "_sized", "_templates", "trace")

    def __init__(self, model: ModelIdentity | None, *, timestamp: int | None = None) -> None:
        self.trace: Trace = Trace(
            {
                "role": "assistant",
                "content": [],
                "stop_reason": "stop",
                "timestamp": now_ms() if timestamp is None else timestamp,
                "api": getattr(model, "api", "") or "",
                "provider": getattr(model, "provider", "") or "",
                "model": getattr(model, "id", "") or "",
                "usage": None,
            }
        )
        self._pieces = self.trace.pieces
        self._templates: list[Fields] = []
        """The common fields of the delta events of each block."""
        self._ids: dict[str, int] = {}
        self._absorbed: dict[tuple[str, int | None], int] = {}
        """For `absorb`: our index for each type and index of a block from the provider."""
        self._original_ids: dict[int, str] = {}
        """For `absorb`: the id from the provider for each tool call."""
        self._sized = (0, 0)

    # ---- growing --------------------------------------------------------------------------------

    def start(self) -> BuilderEvent:
        """Return the `start` event."""
        return self._event({"type": "start"})

    def open_text(self, **fields: object) -> tuple[int, BuilderEvent]:
        """Open a text block. Return its index and the event."""
        return self._open({"type": "text", "text": "", **fields})

    def open_thinking(self, **fields: object) -> tuple[int, BuilderEvent]:
        """Open a thinking block. Return its index and the event."""
        return self._open({"type": "thinking", "thinking": "", **fields})

    def open_tool_call(self, call_id: str = "", name: str = "") -> tuple[int, BuilderEvent]:
        """Open a tool call. A missing or repeated id is replaced by a new one."""
        call_id = self.unique_id(call_id)
        # None as arguments means that they are still streamed.
        index, event = self._open(
            {"type": "tool_call", "id": call_id, "name": name, "arguments": None, "partial_json": ""}
        )
        event["tool_call"] = {"type": "tool_call", "id": call_id, "name": name, "arguments": {}}
        return index, event

    def unique_id(self, call_id: str) -> str:
        """Return `call_id`, or a new id if it is empty or in use."""
        return unique_id(call_id, self._ids)

    def add_image(self, url: str) -> None:
        """Add an image block. There is no event for it, so it must follow all other blocks."""
        image: Fields = {"type": "image", "url": url}
        if url.startswith("data:"):
            image["mime_type"] = url[5:].partition(",")[0].partition(";")[0]
        self._open(image)

    def delta(self, index: int, piece: str) -> BuilderEvent:
        """Add `piece` to a block: text or, for a tool call, JSON text of the arguments."""
        trace, pieces = self.trace, self._pieces
        if index != trace.last:
            trace.mark(index)
        pieces.append(piece)
        event = BuilderEvent(self._templates[index])  # Copying a dict is faster than creating one.
        event["delta"] = piece
        event.trace = trace
        event.count = len(pieces)
        return event

    def update(self, index: int, /, **fields: object) -> None:
        """Set other fields of a block, such as a signature or a late name."""
        self.trace.change(index, fields)

    def close(self, index: int, arguments: object = None, **fields: object) -> BuilderEvent:
        """Close a block, and set `fields` of it.

        The arguments of a tool call are parsed here: no text means `{}`; if the text is not a JSON object,
        `arguments` is empty and `partial_json` contains the text, which marks the call as invalid.

        Args:
            index: The block.
            arguments: The arguments of a tool call as an object or as text, instead of its pieces.
            fields: Fields to set.
        """
        kind = self.trace.type_of(index)
        if kind != "tool_call":
            if fields:
                self.trace.change(index, fields)
            text = self.block(index)[kind]
            return self._event({"type": f"{kind}_end", "content_index": index, "content": text})
        parsed, raw = read_arguments(self.text(index) if arguments is None else arguments)
        self.trace.change(index, {**fields, "arguments": parsed, "partial_json": raw})
        return self._event({"type": "tool_call_end", "content_index": index, "tool_call": self.block(index)})

    def done(self, reason: StopReason, **fields: object) -> BuilderEvent:
        """Finish the message, and set `fields` (`usage`, `finish_reason`)."""
        return self._done(reason, fields)

    def fail(self, reason: StopReason, error_message: str, **fields: object) -> BuilderEvent:
        """End the message as failed (`error`) or `aborted`, with the content so far."""
        self.trace.finish({**fields, "stop_reason": reason, "error_message": error_message})
        return self._event({"type": "error", "reason": reason, "error": self.message()})

    # ---- reading --------------------------------------------------------------------------------

    def message(self) -> AssistantMessage:
        """Return the current message as a new dict."""
        return self.trace.message_at(len(self._pieces))

    def block(self, index: int) -> Fields:
        """Return a current block as a new dict."""
        return self.trace.block_at(index, len(self._pieces))

    def text(self, index: int) -> str:
        """Return the text of a block so far; for a tool call, the JSON text of its arguments."""
        return self.trace.text_at(index, len(self._pieces))

    def __len__(self) -> int:
        return len(self.trace)

    def text_length(self) -> int:
        """Return the number of characters of all pieces. Only the pieces since the last call are counted."""
        done, length = self._sized
        length += sum(map(len, self._pieces[done:]))
        self._sized = len(self._pieces), length
        return length

    # ---- events of other implementations ----------------------------------------------------------

    def absorb(self, event: object) -> BuilderEvent:
        """Convert an event of another implementation to an event of the builder.

        Its `partial`, `message` or `error` is copied, so that later changes by the provider have no effect.

        Raises:
            InvalidReplyError: `event` is not a mapping with a `type`.
        """
        kind = event.get("type") if isinstance(event, Mapping) else None
        if not isinstance(event, Mapping) or not isinstance(kind, str):
            raise InvalidReplyError(
                f"The provider yielded a {type(event).__name__}, which is not an assistant message event "
                "(a mapping with a `type`)."
            )
        block, _, step = kind.rpartition("_")
        if step in ("start", "delta", "end") and block in TEXT_KEYS:
            own = self._absorb_step(block, step, event)
        elif kind in ("done", "error"):
            own = self._absorb_end(kind, event)
        else:
            own = self._event({key: value for key, value in event.items() if key != "partial"})
        partial = event.get("partial")
        if isinstance(partial, Mapping):
            own["partial"] = copy.deepcopy({**self.trace.head, **partial, "role": "assistant"})
        return own

    def _absorb_step(self, kind: str, step: str, event: Mapping[str, object]) -> BuilderEvent:
        call = event.get("tool_call")
        if not isinstance(call, Mapping):
            call = {}
        call_id, name = str(call.get("id") or ""), str(call.get("name") or "")
        foreign_index = event.get("content_index")
        key = (kind, foreign_index if isinstance(foreign_index, int) else None)
        index = self._absorbed.get(key)
        if step == "start" or index is None:
            # The indices of the provider may have gaps; ours count the blocks.
            if kind == "tool_call":
                index, opened = self.open_tool_call(call_id, name)
                self._original_ids[index] = call_id
            else:
                index, opened = self._open({"type": kind, kind: ""})
            self._absorbed[key] = self._absorbed[kind, None] = index
            if step == "start":
                return opened
        if step == "delta":
            return self.delta(index, str(event.get("delta") or ""))
        if kind == "tool_call":
            known = {"name": name} if name else {}
            if call_id and call_id != self._original_ids[index]:
                known["id"] = self.unique_id(call_id)
            arguments, raw = finished_arguments(
                call.get("arguments"), call.get("partial_json"), self.text(index)
            )
            return self.close(index, arguments if raw is None else raw, **known)
        content = event.get("content")
        changed = isinstance(content, str) and content != self.text(index)
        return self.close(index, **({kind: content} if changed else {}))

    def _absorb_end(self, kind: str, event: Mapping[str, object]) -> BuilderEvent:
        key = "message" if kind == "done" else "error"
        whole, reason = event.get(key), event.get("reason")
        if isinstance(whole, Mapping):
            message: Fields = copy.deepcopy({**self.message(), **whole})
            # The reasons of a failure take precedence over the `stop_reason` of the message.
            is_failure = reason in ("length", "max_tokens", "error", "aborted")
            if reason is not None and (is_failure or "stop_reason" not in whole):
                message["stop_reason"] = reason
            if kind == "error" and message["stop_reason"] not in ("error", "aborted"):
                message["stop_reason"] = "error"
            return self._event({"type": kind, "reason": reason or message["stop_reason"], key: message})
        if kind == "done":
            return self._done(str(reason or "stop"), {})
        failed: StopReason = "aborted" if reason == "aborted" else "error"
        return self.fail(failed, str(whole or "The provider gave no reason."))

    # ---- internals ------------------------------------------------------------------------------

    def _done(self, reason: str, fields: Fields) -> BuilderEvent:
        self.trace.finish({**fields, "stop_reason": reason})
        return self._event({"type": "done", "reason": reason, "message": self.message()})

    def _event(self, fields: Fields) -> BuilderEvent:
        return event_at(self.trace, fields)

    def _open(self, block: Fields) -> tuple[int, BuilderEvent]:
        index, kind = self.trace.open(block), block["type"]
        self._templates.append({"type": self.trace.delta_types[index], "content_index": index, "delta": ""})
        return index, self._event({"type": f"{kind}_start", "content_index": index})


def read_arguments(value: object) -> tuple[dict[str, object], str | None]:
    """Parse arguments: `(arguments, None)`, or `({}, raw_text)` if they are not a JSON object."""
    if isinstance(value, dict):
        return value, None
    if isinstance(value, str):
        arguments = _json.decode_object(value) if value.strip() else {}
        return (arguments, None) if arguments is not None else ({}, value)
    return {}, _json.encode(value).decode()


def finished_arguments(
    arguments: object, text: object, streamed: str = ""
) -> tuple[dict[str, object], str | None]:
    """Parse the arguments of a finished call of another implementation; see `read_arguments`.

    Args:
        arguments: The `arguments` of the call.
        text: The `partial_json` of the call, which is the text from the model.
        streamed: The pieces that were streamed, for a call without arguments.
    """
    if isinstance(text, str) and text.strip():
        parsed, raw = read_arguments(text)
        return (
            (arguments, None) if raw is None and isinstance(arguments, dict) and arguments else (parsed, raw)
        )
    return read_arguments(streamed if arguments in (None, {}, "") and streamed else arguments)


def unique_id(call_id: str, taken: dict[str, int]) -> str:
    """Return `call_id`, or a new id if it is empty or in use.

    Args:
        call_id: The id from the provider.
        taken: The ids in use, each with the last suffix that was tried for it. The new id is added.
    """
    candidate, suffix = call_id or "call_1", taken.get(call_id, 1)
    while candidate in taken:
        suffix += 1
        candidate = f"{call_id or 'call'}_{suffix}"
    taken[call_id] = suffix
    taken.setdefault(candidate, 1)
    return candidate
