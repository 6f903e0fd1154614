"""Write records and events as lines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TypedDict

import msgspec
from msgspec import UNSET

from tinyagent import _json
from tinyagent._stream.builder import BuilderEvent, now_ms
from tinyagent._stream.trace import Fields, Trace
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentStartEvent,
    CompactionEndEvent,
    CompactionStartEvent,
    JsonDict,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnEndEvent,
    TurnStartEvent,
    _given_message,
)

from .records import (
    AgentEndLine,
    AgentStartLine,
    CompactionEndLine,
    CompactionStartLine,
    DeltaLine,
    HistoryRecord,
    MessageEndLine,
    MessageStartLine,
    MessageUpdateLine,
    Record,
    ResultRecord,
    SessionRecord,
    ToolEndLine,
    ToolStartLine,
    ToolUpdateLine,
    TurnEndLine,
    TurnStartLine,
)
from .state import ABSENT, BODY_KEYS, DELTA_TYPES, State, empty_message

__all__ = ["Encoder", "write"]


class _Head(TypedDict):
    """The fields that nearly every line has."""

    seq: int
    time: int


_TEXT_FIELDS = frozenset({"text", "thinking", "partial_json", "arguments"})


class Encoder:
    """Converts records and events to lines. Each run has its own encoder.

    Nearly every line is a delta, so deltas have a short path. As long as the events come from one builder of
    this process, one after the other, the encoder *follows* the trace of the builder (`_source`): its own
    trace, the *mirror* in the state, had the same content at the last event. Then the next delta extends both
    by the same piece, and no comparison is necessary. For any other event the encoder compares the message
    that a reader would restore with the actual message, and writes the differences.

    Args:
        deltas: Whether `message_update` events are written. A session file has none.
        clock: Returns Unix milliseconds.
    """

    def __init__(self, *, deltas: bool = True, clock: Callable[[], int] = now_ms) -> None:
        self._deltas = deltas
        self._clock = clock
        self._seq = 0
        self._state = State()
        self._pending: tuple[MessageStartLine, AgentMessage] | None = None
        """A user's `message_start` without its message, which the next line should have."""
        self._source: Trace | None = None
        self._count = 0
        """The count of the source at the last event. The mirror has the content that the source had then."""
        self._changes = 0
        """The number of changes of the source at the last event."""

    def encode(self, record: Record) -> bytes:
        """Return the line of a record with its LF; empty if the event is left out or its line must wait.

        Values that JSON cannot represent, for example in a tool's details, are written as strings.
        """
        if type(record) is MessageUpdateEvent:
            return self._update(record) if self._deltas else b""
        before = b"" if self._pending is None else self._flush_pending(record)
        if isinstance(record, SessionRecord | HistoryRecord | ResultRecord):
            if record.time is UNSET:
                record = msgspec.structs.replace(record, time=self._clock())
            return before + _encode_line(record)
        line = self._line_of(record)
        self._state.apply(record)
        return before + _encode_line(line)

    def close(self) -> bytes:
        """Return the line that is left if the events ended inside a user's message."""
        return b"" if self._pending is None else self._flush_pending(None)

    def _flush_pending(self, following: Record | None) -> bytes:
        """Complete a `message_start` by its `message_end`. For any other record, write it again."""
        assert self._pending is not None
        (line, message), self._pending = self._pending, None
        if isinstance(following, MessageEndEvent) and following.message == message:
            return b""
        return _encode_line(msgspec.structs.replace(line, message=message))

    def _next_head(self) -> _Head:
        self._seq += 1
        return {"seq": self._seq, "time": self._clock()}

    def _line_of(self, event: AgentEvent) -> msgspec.Struct:
        state, head = self._state, self._next_head()
        match event:
            case MessageStartEvent(message=message):
                return self._start_line(message.copy(), head)
            case MessageEndEvent(message=message):
                return self._end_line(message, head)
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                return ToolStartLine(**head, tool_call_id=call_id, tool_name=name, args=args)
            case ToolExecutionUpdateEvent(tool_call_id=call_id, tool_name=name, args=args):
                known = state.args.get(call_id)
                return ToolUpdateLine(
                    **head,
                    tool_call_id=call_id,
                    tool_name=name,
                    args=UNSET if known is not None and (known is args or known == args) else args,
                    partial_result=vars(event.partial_result),
                )
            case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, is_error=is_error):
                result = vars(event.result)
                return ToolEndLine(
                    **head, tool_call_id=call_id, tool_name=name, result=result, is_error=is_error
                )
            case TurnEndEvent(message=message, tool_results=results):
                return TurnEndLine(
                    **head,
                    message=UNSET if message == state.turn_message else message,
                    tool_results=UNSET if results == state.turn_results else results,
                )
            case AgentEndEvent(messages=new, limit=limit, usage=usage):
                return AgentEndLine(
                    **head,
                    limit=limit,
                    usage=UNSET if usage is None else usage,
                    messages=UNSET if new == state.run else new,
                )
            case AgentStartEvent():
                return AgentStartLine(**head)
            case TurnStartEvent():
                return TurnStartLine(**head)
            case CompactionStartEvent():
                return CompactionStartLine(**head, **msgspec.structs.asdict(event))
            case CompactionEndEvent():
                return CompactionEndLine(**head, **msgspec.structs.asdict(event))
        raise TypeError(f"not an event or a record: {event!r}")

    def _start_line(self, message: AgentMessage, head: _Head) -> MessageStartLine:
        role = str(message.get("role", ""))
        timestamp = message.get("timestamp")
        if role == "assistant":
            api, provider, model = message.get("api"), message.get("provider"), message.get("model")
            if (
                type(timestamp) is int
                and isinstance(api, str)
                and isinstance(provider, str)
                and isinstance(model, str)
            ):
                line = MessageStartLine(
                    **head, role=role, timestamp=timestamp, api=api, provider=provider, model=model
                )
                if message == empty_message(line):
                    return line
            return MessageStartLine(**head, role=role, message=message)
        call_id = message.get("tool_call_id") if role == "tool_result" else None
        named = call_id if isinstance(call_id, str) else UNSET
        if type(timestamp) is int and message == self._state.result_message(call_id, timestamp):
            return MessageStartLine(**head, role=role, tool_call_id=named, timestamp=timestamp)
        line = MessageStartLine(**head, role=role, tool_call_id=named)
        self._pending = line, message
        return line

    def _end_line(self, message: AgentMessage, head: _Head) -> MessageEndLine:
        self._source = None
        role, timestamp = str(message.get("role", "")), message.get("timestamp")
        if role == "tool_result" and type(timestamp) is int:
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str) and message == self._state.result_message(call_id, timestamp):
                return MessageEndLine(**head, role=role, tool_call_id=call_id, timestamp=timestamp)
        return MessageEndLine(**head, role=role, message=message)

    # ---- message_update ---------------------------------------------------------------------------

    def _update(self, event: MessageUpdateEvent) -> bytes:
        step = event.assistant_message_event
        if type(step) is BuilderEvent and step.trace is self._source and self._follows(step, event):
            self._seq += 1
            return _json.encode(DeltaLine(self._seq, step)) + b"\n"
        before = b"" if self._pending is None else self._flush_pending(event)
        return before + _encode_line(self._compared_line(event))

    def _follows(self, step: BuilderEvent, event: MessageUpdateEvent) -> bool:
        """Whether the event is the next delta of the source, and nothing else has changed.

        If it is, the mirror is extended by the delta.
        """
        source, count = step.trace, step.count
        pieces, changes = source.pieces, source.changes
        grown = count - self._count
        if not (
            # One piece, or an empty piece before it: a mark.
            (grown == 1 or (grown == 2 and not pieces[count - 2]))
            and len(step) == 3
            and step["type"] in DELTA_TYPES
            and step["delta"] is pieces[count - 1]
            and (len(changes) == self._changes or changes[self._changes][0] >= count)
            and _given_message(event) is None
        ):
            return False
        index, mirror = step["content_index"], self._state.trace
        if mirror is None or index >= len(mirror):
            return False
        if index != mirror.last:
            mirror.mark(index)
        mirror.pieces.append(step["delta"])
        self._count = count
        return True

    def _compared_line(self, event: MessageUpdateEvent) -> MessageUpdateLine:
        """Return a line with the differences between the restored and the actual message.

        If they cannot be expressed, the line contains the actual message.
        """
        step, given, state = event.assistant_message_event, _given_message(event), self._state
        self._seq += 1
        source, self._source = self._source, None
        seq, time = self._seq, UNSET if step.get("type") in DELTA_TYPES else self._clock()
        own: Fields = {**step}
        carried = own.pop("partial", ABSENT)
        lazy = step if carried is ABSENT and isinstance(step, BuilderEvent) else None
        body_key = BODY_KEYS.get(str(own.get("type")))
        short = (
            given is None
            and (lazy is not None or isinstance(carried, dict))
            and (body_key is None or body_key in own)
        )
        if short and body_key is not None and state.expected_body(own) == own[body_key]:
            del own[body_key]
        if state.feed(own) is not None and short:
            if lazy is None:
                rest = self._differences(carried if isinstance(carried, dict) else {}, is_snapshot=True)
            elif lazy.trace is source and lazy.count >= self._count:
                rest = self._changed_blocks(lazy)
                if rest is not None:
                    self._follow(lazy, self._touched_blocks(lazy))
            else:
                rest = self._differences(lazy["partial"], is_snapshot=False)
                if rest is not None and state.trace is not None:
                    self._follow(lazy, range(len(state.trace)))
            if rest is not None:
                return MessageUpdateLine(seq=seq, time=time, assistant_message_event=own, **rest)
        message = lazy["partial"] if lazy is not None and given is None else given
        return MessageUpdateLine(seq=seq, time=time, assistant_message_event={**step}, message=message)

    def _differences(self, partial: Mapping[str, object], *, is_snapshot: bool) -> JsonDict | None:
        """Compare the whole message with the mirror, and correct the mirror.

        Returns:
            The fields of the line for the differences; None if a reader cannot restore the message.
        """
        state = self._state
        assert state.trace is not None
        predicted: Fields = {**state.trace.message_at(state.trace.count)}
        old, new = predicted.pop("content"), partial.get("content")
        if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
            return None
        blocks = _changed_fields(enumerate(zip(old, new, strict=True)))
        if blocks is None:
            return None
        state.set_fields(blocks)
        rest: JsonDict = {"blocks": blocks} if blocks else {}
        envelope = {key: value for key, value in partial.items() if key != "content"}
        if is_snapshot:
            rest["snapshot"] = True if envelope == state.envelope else envelope
            state.envelope = envelope
        elif envelope != predicted:
            rest["envelope"] = envelope
            state.set_envelope(envelope)
        return rest

    def _changed_blocks(self, step: BuilderEvent) -> JsonDict | None:
        """Do the same as `_differences` for the source, but compare only the blocks that have changed."""
        source, mirror = step.trace, self._state.trace
        if mirror is None or source.length_at(step.count) != len(mirror):
            return None
        blocks = _changed_fields(
            (index, (mirror.block_at(index, mirror.count), source.block_at(index, step.count)))
            for index in self._touched_blocks(step)
        )
        if blocks is None:
            return None
        self._state.set_fields(blocks)
        return {"blocks": blocks} if blocks else {}

    def _touched_blocks(self, step: BuilderEvent) -> set[int]:
        """Return the blocks that have changed since the last event, in the source or in the mirror."""
        return step.trace.changed_between(self._count, step.count) | {step["content_index"]}

    def _follow(self, step: BuilderEvent, indices: Iterable[int]) -> None:
        """Follow the trace of an event from now on, if these blocks grow from the same text in both traces.

        Equal blocks are not enough: if a change has replaced the text of one, later deltas have no effect.
        """
        source, mirror = step.trace, self._state.trace
        assert mirror is not None
        if all(
            _growing_text(source, index, step.count) == _growing_text(mirror, index, mirror.count)
            for index in indices
        ):
            self._source, self._count = source, step.count
            self._changes = bisect_left(source.changes, step.count, key=itemgetter(0))


def _growing_text(trace: Trace, index: int, count: int) -> tuple[str, Fields]:
    """Return the text of a block from its deltas, and the fields that were set instead of it."""
    changed = trace.fields_at(index, count)
    return trace.text_at(index, count), {key: changed[key] for key in changed.keys() & _TEXT_FIELDS}


def _changed_fields(pairs: Iterable[tuple[int, tuple[Fields, object]]]) -> dict[str, Fields] | None:
    """Return the fields that turn the predicted blocks into the actual ones; None if this is impossible.

    Args:
        pairs: The index and the predicted and actual block of each pair to compare.
    """
    changes: dict[str, Fields] = {}
    for index, (old, new) in pairs:
        if old == new:
            continue
        fields = _difference(old, new)
        if fields is None:
            return None
        changes[str(index)] = fields
    return changes


def _difference(old: Fields, new: object) -> Fields | None:
    if not isinstance(new, dict) or new.get("type") != old["type"]:
        return None
    gone = old.keys() - new.keys()
    fields: Fields = {key: value for key, value in new.items() if key not in old or old[key] != value}
    if old["type"] != "tool_call":
        return None if gone else fields
    if gone or fields.keys() & {"partial_json", "arguments"}:
        # In a trace, None removes the text, and means that the arguments are parsed from the text.
        arguments, raw = new.get("arguments"), new.get("partial_json", "")
        if gone - {"partial_json"} or not isinstance(arguments, dict) or not isinstance(raw, str):
            return None
        fields |= {"arguments": arguments, **dict.fromkeys(gone)}
    return fields


def _encode_line(line: msgspec.Struct) -> bytes:
    return _json.encode_lossy(line) + b"\n"


def write(
    events: Iterable[Record], *, deltas: bool = True, clock: Callable[[], int] = now_ms
) -> Iterator[bytes]:
    """Encode records and events as lines.

    Args:
        events: The records and events of one run, in order.
        deltas: Whether `message_update` events are written. A session file has none.
        clock: Returns Unix milliseconds.
    """
    encoder = Encoder(deltas=deltas, clock=clock)
    for event in events:
        if line := encoder.encode(event):
            yield line
    if line := encoder.close():
        yield line
