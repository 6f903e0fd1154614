"""Events as JSON Lines: the format of `--jsonl`, session files, pipes, replays and test snapshots.

The encoding is UTF-8, with one JSON object per line, LF line ends and `type` as the first key. The reader
also accepts what other programs write: a byte order mark, UTF-16 and UTF-32 (see `text_files`), and CR LF.
A stream is a `session` line, `history` lines for the messages before the run, the events, and a
`result` line. Each body is written only once:

    message_start         role; an assistant's also timestamp, api, provider, model
    message_update        assistant_message_event; text_end and the like without their body
                          blocks: fields of a block that its events do not contain (a call's id and name)
    message_end           message; of a tool result only tool_call_id and timestamp, since its body is in
    tool_execution_end    result
    turn_end, agent_end   nothing

Writer and reader have the same state, so the writer knows which bodies the reader can restore. Other bodies,
for example of events that are not a well-formed run, are written on the line itself: `message`, `messages`,
`tool_results`, and `envelope` with the fields of `partial` other than its content. If the event itself has a
`partial`, these fields are in `snapshot`. So `read(write(events))` returns equal events for any input, and
the size of a run is linear in its text.

A user's `message_start` is restored from its `message_end`, which is the next line. If another line follows,
the `message_start` is written again, with its `message` and the same `seq`.
"""

from __future__ import annotations

import codecs
import copy
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import IO, Any, TypeAlias, TypedDict, TypeGuard, cast, get_args, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from . import _json
from ._stream.builder import BuilderEvent, MessageBuilder, now_ms
from .agent_types import (
    STREAM_UPDATE_EVENTS,
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentStartEvent,
    AgentToolResult,
    AssistantMessage,
    AssistantMessageEvent,
    ImageContent,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    RunLimit,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
    Usage,
    UserMessage,
    _given_message,
)
from .errors import RecordError
from .text_files import detect_encoding

__all__ = [
    "VERSION",
    "Decoder",
    "Encoder",
    "ErrorRecord",
    "HistoryRecord",
    "Record",
    "ResultRecord",
    "SessionRecord",
    "messages",
    "read",
    "read_records",
    "schema",
    "write",
]

VERSION = 1
"""The version of the format, in the `session` line."""

JsonDict: TypeAlias = dict[str, Any]
"""A message, block, event or schema as JSON. The reader does not check the fields, so that it can also read
what newer versions and other programs write."""

# ---- records ------------------------------------------------------------------------------------


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """The first line of a stream, with the settings of the run. `created` is an RFC 3339 time.

    `empty_stdin` is present, and true, if standard input was an empty pipe or file. The command before it in
    a pipeline may have failed.
    """

    version: int
    id: str
    created: str
    model: JsonDict | None
    system_prompt: str
    thinking_level: str
    tools: list[str]
    tinyagent: str
    empty_stdin: bool | UnsetType = UNSET
    time: int | UnsetType = UNSET


class HistoryRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="history"):
    """A message of the history that the run continues."""

    message: JsonDict
    time: int | UnsetType = UNSET


class ErrorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An error, with `kind`, message and hint as `tinyagent.errors` defines them.

    `status` (HTTP), `retryable` and `retry_after` (seconds) are present if they are known.
    """

    kind: str
    message: str
    hint: str | None = None
    status: int | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """The last line of a run, whether it succeeded or failed."""

    ok: bool
    exit_code: int
    stop_reason: str | None
    text: str
    usage: JsonDict | None
    turns: int
    duration_ms: int
    error: ErrorRecord | None
    time: int | UnsetType = UNSET


Record: TypeAlias = SessionRecord | HistoryRecord | AgentEvent | ResultRecord

# ---- lines --------------------------------------------------------------------------------------


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    seq: int = 0
    time: int = 0


class _AgentStart(_Line, frozen=True, kw_only=True, tag="agent_start"):
    pass


class _AgentEnd(_Line, frozen=True, kw_only=True, tag="agent_end"):
    limit: str | None = None
    usage: JsonDict | UnsetType = UNSET
    messages: list[JsonDict] | UnsetType = UNSET


class _TurnStart(_Line, frozen=True, kw_only=True, tag="turn_start"):
    pass


class _TurnEnd(_Line, frozen=True, kw_only=True, tag="turn_end"):
    message: JsonDict | UnsetType = UNSET
    tool_results: list[JsonDict] | UnsetType = UNSET


class _MessageStart(_Line, frozen=True, kw_only=True, tag="message_start"):
    role: str
    tool_call_id: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    api: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    message: JsonDict | UnsetType = UNSET


class _MessageUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_update"):
    seq: int = 0
    time: int | UnsetType = UNSET
    assistant_message_event: JsonDict
    blocks: dict[str, JsonDict] | UnsetType = UNSET
    envelope: JsonDict | UnsetType = UNSET
    snapshot: bool | JsonDict | UnsetType = UNSET
    message: JsonDict | UnsetType | None = UNSET


class _Delta(msgspec.Struct, frozen=True, tag_field="type", tag="message_update", gc=False):
    """The short form of `_MessageUpdate`, for speed: nearly every line is one."""

    seq: int
    assistant_message_event: JsonDict


class _MessageEnd(_Line, frozen=True, kw_only=True, tag="message_end"):
    role: str = ""
    tool_call_id: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    message: JsonDict | UnsetType = UNSET


class _ToolStart(_Line, frozen=True, kw_only=True, tag="tool_execution_start"):
    tool_call_id: str
    tool_name: str
    args: JsonDict


class _ToolUpdate(_Line, frozen=True, kw_only=True, tag="tool_execution_update"):
    tool_call_id: str
    tool_name: str
    args: JsonDict | UnsetType = UNSET
    partial_result: JsonDict


class _ToolEnd(_Line, frozen=True, kw_only=True, tag="tool_execution_end"):
    tool_call_id: str
    tool_name: str
    result: JsonDict
    is_error: bool


_EVENT_LINES: tuple[type[msgspec.Struct], ...] = (
    _AgentStart,
    _TurnStart,
    _MessageStart,
    _MessageUpdate,
    _MessageEnd,
    _ToolStart,
    _ToolUpdate,
    _ToolEnd,
    _TurnEnd,
    _AgentEnd,
)
_ALL_LINES: tuple[type[msgspec.Struct], ...] = (SessionRecord, HistoryRecord, *_EVENT_LINES, ResultRecord)
_LINES = {str(line.__struct_config__.tag): line for line in _ALL_LINES}

# ---- the state of writer and reader ---------------------------------------------------------------

_BODY = {"text_end": "content", "thinking_end": "content", "tool_call_end": "tool_call"}
_DELTAS = frozenset({"text_delta", "thinking_delta", "tool_call_delta"})
_TEXTS = frozenset({"text", "thinking", "partial_json", "arguments"})
_NOTHING: Any = object()


class _State:
    """The content of the lines so far, which later lines do not repeat."""

    def __init__(self) -> None:
        self.run: list[AgentMessage] = []
        self.turn_message: AgentMessage | None = None
        self.turn_results: list[AgentMessage] = []
        self.args: JsonDict = {}
        self.results: dict[str, JsonDict] = {}
        self.builder: MessageBuilder | None = None
        self.envelope: JsonDict | None = None

    # ---- restoring bodies -------------------------------------------------------------------------

    def result_message(self, call_id: object, timestamp: int) -> JsonDict | None:
        """Return the tool result message that follows from the call's `tool_execution_end`."""
        known = self.results.get(call_id) if isinstance(call_id, str) else None
        return None if known is None else {**known, "timestamp": timestamp}

    def expected_body(self, event: JsonDict) -> Any:
        """Return the body that an event such as `text_end` has by default."""
        kind, index = event["type"].removesuffix("_end"), event.get("content_index")
        if self.builder is None or not self._holds(index, kind):
            return _NOTHING
        block = self.builder.block(index)
        if kind != "tool_call":
            return block[kind]
        raw = block.pop("partial_json", None)
        if raw is None:
            return block
        arguments = _json.decode_object(raw) if raw.strip() else {}
        if arguments is None:
            return {**block, "arguments": {}, "partial_json": raw}
        return {**block, "arguments": arguments}

    # ---- applying lines -----------------------------------------------------------------------------

    def feed(self, event: JsonDict) -> BuilderEvent | None:
        """Apply an event to the unfinished message; None if the event does not extend it."""
        builder, name = self.builder, event.get("type")
        if builder is None or not isinstance(name, str):
            return None
        kind, _, step = name.rpartition("_")
        index = event.get("content_index")
        if step == "start" and kind in ("text", "thinking", "tool_call"):
            if type(index) is not int or index != len(builder):
                return None
            if kind == "tool_call":
                call = event.get("tool_call")
                named = {key: call.get(key, "") if isinstance(call, dict) else "" for key in ("id", "name")}
                empty = {"type": kind, **named, "arguments": None, "partial_json": ""}
            else:
                empty = {"type": kind, kind: ""}
            builder._open(empty)
        elif not self._holds(index, kind):
            return None
        elif step == "delta" and isinstance(event.get("delta"), str):
            grown = builder.delta(index, event["delta"])
            if len(event) == 3:
                return grown
        elif step == "end":
            self._close(builder, index, kind, event)
        else:
            return None
        return builder._event(dict(event))

    def _close(self, builder: MessageBuilder, index: int, kind: str, event: JsonDict) -> None:
        body = event.get(_BODY[event["type"]], _NOTHING)
        if body is _NOTHING:
            body = self.expected_body(event)
        if kind != "tool_call":
            if isinstance(body, str) and body != builder.block(index)[kind]:
                builder.update(index, **{kind: body})
        elif isinstance(body, dict) and isinstance(body.get("arguments"), dict):
            fields = {key: value for key, value in body.items() if key != "type"}
            builder.update(index, **{"partial_json": None, **fields})

    def set_fields(self, blocks: dict[str, JsonDict]) -> None:
        """Set fields of blocks that the events do not contain."""
        for key, fields in blocks.items():
            if self.builder is not None and key.isdecimal() and int(key) < len(self.builder):
                self.builder.update(int(key), **fields)

    def set_envelope(self, envelope: JsonDict) -> None:
        """Replace the fields of the unfinished message other than its content.

        Events that were restored before refer to the old builder, which has the old fields.
        """
        # Both builders share their pieces. Each event reads only the pieces that existed at its time.
        assert self.builder is not None
        self.builder = copy.copy(self.builder)
        self.builder._head = {**envelope, "content": []}

    def apply(self, event: AgentEvent) -> None:
        """Record an event that was written or read."""
        match event:
            case MessageUpdateEvent():
                pass
            case MessageStartEvent():
                self._begin(event.message)
            case MessageEndEvent():
                self.builder = None
                self.run.append(event.message)
                role = event.message.get("role")
                if role == "assistant":
                    self.turn_message = event.message
                elif role == "tool_result":
                    self.turn_results.append(event.message)
            case ToolExecutionStartEvent():
                self.args[event.tool_call_id] = event.args
            case ToolExecutionEndEvent():
                self.args.pop(event.tool_call_id, None)
                self.results[event.tool_call_id] = {
                    "role": "tool_result",
                    "tool_call_id": event.tool_call_id,
                    "tool_name": event.tool_name,
                    "content": event.result.content,
                    "details": event.result.details,
                    "is_error": event.is_error,
                }
            case TurnStartEvent():
                self.turn_message, self.turn_results = None, []
                self.args, self.results = {}, {}
            case AgentStartEvent():
                self.run = []

    def _begin(self, message: AgentMessage) -> None:
        self.builder = self.envelope = None
        if message.get("role") == "assistant" and message.get("content") == []:
            self.builder = MessageBuilder(None, timestamp=0)
            self.builder._head = dict(message)

    def _holds(self, index: object, kind: str) -> TypeGuard[int]:
        builder = self.builder
        return (
            builder is not None
            and type(index) is int
            and 0 <= index < len(builder)
            and builder._blocks[index]["type"] == kind
        )


def _empty_message(line: _MessageStart) -> JsonDict:
    """Return the empty assistant message that a builder starts with."""
    return {
        "role": "assistant",
        "content": [],
        "stop_reason": "stop",
        "timestamp": line.timestamp,
        "api": line.api,
        "provider": line.provider,
        "model": line.model,
        "usage": None,
    }


def _differences(pairs: Iterable[tuple[int, tuple[JsonDict, object]]]) -> dict[str, JsonDict] | None:
    """Return the fields that turn the predicted blocks into the actual ones; None if this is impossible.

    Args:
        pairs: The index and the predicted and actual block of each pair to compare.
    """
    changes: dict[str, JsonDict] = {}
    for index, (old, new) in pairs:
        if old == new:
            continue
        fields = _difference(old, new)
        if fields is None:
            return None
        changes[str(index)] = fields
    return changes


def _difference(old: JsonDict, new: object) -> JsonDict | None:
    if not isinstance(new, dict) or new.get("type") != old["type"]:
        return None
    gone = old.keys() - new.keys()
    fields = {key: value for key, value in new.items() if key not in old or old[key] != value}
    if old["type"] != "tool_call":
        return None if gone else fields
    if gone or fields.keys() & {"partial_json", "arguments"}:
        # For a builder, None removes the text, and makes it parse the arguments from the text.
        arguments, raw = new.get("arguments"), new.get("partial_json", "")
        if gone - {"partial_json"} or not isinstance(arguments, dict) or not isinstance(raw, str):
            return None
        fields |= {"arguments": arguments, **dict.fromkeys(gone)}
    return fields


# ---- writing ------------------------------------------------------------------------------------


class Encoder:
    """Converts records and events to lines. Each run has its own encoder.

    Args:
        deltas: Whether `message_update` events are written. A session file has none.
        clock: Returns Unix milliseconds.
    """

    def __init__(self, *, deltas: bool = True, clock: Callable[[], int] = now_ms) -> None:
        self._deltas = deltas
        self._clock = clock
        self._seq = 0
        self._state = _State()
        self._held: tuple[_MessageStart, JsonDict] | None = None
        # While a builder of this process creates the message, the state's builder has the content that
        # `_source` had at `_count` pieces. Only later changes are then compared.
        self._source: MessageBuilder | None = None
        self._count = 0
        self._changes = 0

    def encode(self, record: Record) -> bytes:
        """Return the line of a record with its LF; empty if the event is left out or its line must wait.

        Values that JSON cannot represent, for example in a tool's details, are written as strings.
        """
        if type(record) is MessageUpdateEvent:
            return self._update(record) if self._deltas else b""
        before = b"" if self._held is None else self._flush_pending(record)
        if isinstance(record, SessionRecord | HistoryRecord | ResultRecord):
            if record.time is UNSET:
                record = msgspec.structs.replace(record, time=self._clock())
            return before + _encode(record)
        line = self._line(record)
        self._state.apply(record)
        return before + _encode(line)

    def close(self) -> bytes:
        """Return the line that is left if the events ended inside a user's message."""
        return b"" if self._held is None else self._flush_pending(None)

    def _flush_pending(self, following: Record | None) -> bytes:
        """Finish a `message_start` whose body the next line should have. Otherwise, write it again."""
        assert self._held is not None
        (line, message), self._held = self._held, None
        if isinstance(following, MessageEndEvent) and following.message == message:
            return b""
        return _encode(msgspec.structs.replace(line, message=message))

    def _next(self) -> JsonDict:
        self._seq += 1
        return {"seq": self._seq, "time": self._clock()}

    def _line(self, event: AgentEvent) -> msgspec.Struct:
        state, head = self._state, self._next()
        match event:
            case MessageStartEvent():
                return self._start(_as_json(event.message), head)
            case MessageEndEvent():
                return self._end(_as_json(event.message), head)
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                return _ToolStart(**head, tool_call_id=call_id, tool_name=name, args=args)
            case ToolExecutionUpdateEvent(tool_call_id=call_id, tool_name=name, args=args):
                known = state.args.get(call_id, _NOTHING)
                return _ToolUpdate(
                    **head,
                    tool_call_id=call_id,
                    tool_name=name,
                    args=UNSET if known is args or known == args else args,
                    partial_result=_as_json(event.partial_result),
                )
            case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, is_error=is_error):
                result = _as_json(event.result)
                return _ToolEnd(
                    **head, tool_call_id=call_id, tool_name=name, result=result, is_error=is_error
                )
            case TurnEndEvent(message=message, tool_results=results):
                return _TurnEnd(
                    **head,
                    message=UNSET if message == state.turn_message else _as_json(message),
                    tool_results=UNSET if results == state.turn_results else [*map(_as_json, results)],
                )
            case AgentEndEvent(messages=new, limit=limit, usage=usage):
                return _AgentEnd(
                    **head,
                    limit=limit,
                    usage=UNSET if usage is None else _as_json(usage),
                    messages=UNSET if new == state.run else [*map(_as_json, new)],
                )
            case AgentStartEvent():
                return _AgentStart(**head)
            case TurnStartEvent():
                return _TurnStart(**head)
        raise TypeError(f"not an event or a record: {event!r}")

    def _start(self, message: JsonDict, head: JsonDict) -> _MessageStart:
        role = str(message.get("role", ""))
        timestamp = message.get("timestamp")
        if role == "assistant":
            fields: JsonDict = {key: message.get(key) for key in ("api", "provider", "model")}
            if type(timestamp) is int and all(isinstance(value, str) for value in fields.values()):
                line = _MessageStart(**head, role=role, timestamp=timestamp, **fields)
                if message == _empty_message(line):
                    return line
            return _MessageStart(**head, role=role, message=message)
        call_id = message.get("tool_call_id") if role == "tool_result" else None
        named = call_id if isinstance(call_id, str) else UNSET
        if type(timestamp) is int and message == self._state.result_message(call_id, timestamp):
            return _MessageStart(**head, role=role, tool_call_id=named, timestamp=timestamp)
        line = _MessageStart(**head, role=role, tool_call_id=named)
        self._held = line, message
        return line

    def _end(self, message: JsonDict, head: JsonDict) -> _MessageEnd:
        self._source = None
        role, timestamp = str(message.get("role", "")), message.get("timestamp")
        if role == "tool_result" and type(timestamp) is int:
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str) and message == self._state.result_message(call_id, timestamp):
                return _MessageEnd(**head, role=role, tool_call_id=call_id, timestamp=timestamp)
        return _MessageEnd(**head, role=role, message=message)

    # ---- message_update: nearly every line is one -----------------------------------------------------

    def _update(self, event: MessageUpdateEvent) -> bytes:
        step = event.assistant_message_event
        if type(step) is BuilderEvent and step._builder is self._source and self._follows(step, event):
            self._seq += 1
            return _json.encode(_Delta(self._seq, step)) + b"\n"
        before = b"" if self._held is None else self._flush_pending(event)
        line = self._whole_update(event)
        return before + _encode(line)

    def _follows(self, step: BuilderEvent, event: MessageUpdateEvent) -> bool:
        """Whether the event is the next delta of the builder whose last event was written.

        If it is, the state is updated, and no comparison is necessary.
        """
        source = step._builder
        count, pieces, changes = step._count, source._pieces, source._changes
        grown = count - self._count
        if not (
            (grown == 1 or (grown == 2 and not pieces[count - 2]))
            and len(step) == 3
            and step["type"] in _DELTAS
            and step["delta"] is pieces[count - 1]
            and (len(changes) == self._changes or changes[self._changes][0] >= count)
            and _given_message(event) is None
        ):
            return False
        index, mirror = step["content_index"], self._state.builder
        if mirror is None or index >= len(mirror):
            return False
        if index == mirror._last:
            mirror._pieces.append(step["delta"])
        else:
            mirror.delta(index, step["delta"])
        self._count = count
        return True

    def _whole_update(self, event: MessageUpdateEvent) -> _MessageUpdate:
        step, given, state = event.assistant_message_event, _given_message(event), self._state
        self._seq += 1
        source, self._source = self._source, None
        head: JsonDict = {"seq": self._seq}
        if step.get("type") not in _DELTAS:
            head["time"] = self._clock()
        own: JsonDict = {**step}
        carried = own.pop("partial", _NOTHING)
        lazy = carried is _NOTHING and isinstance(step, BuilderEvent)
        body = _BODY.get(str(own.get("type")))
        short = given is None and (lazy or isinstance(carried, dict)) and (body is None or body in own)
        if short and body is not None and state.expected_body(own) == own[body]:
            del own[body]
        if state.feed(own) is not None and short:
            made = cast(BuilderEvent, step)
            followed = lazy and made._builder is source and made._count >= self._count
            if followed:
                rest = self._changed(cast(BuilderEvent, step))
            else:
                rest = self._rest(made["partial"] if lazy else cast(Any, carried), lazy)
            if rest is not None:
                if lazy:
                    self._track(cast(BuilderEvent, step), followed=followed)
                return _MessageUpdate(**head, assistant_message_event=own, **rest)
        message = cast(BuilderEvent, step)["partial"] if lazy and given is None else given
        return _MessageUpdate(**head, assistant_message_event={**step}, message=_as_json(message))

    def _rest(self, partial: Mapping[str, Any], lazy: bool) -> JsonDict | None:
        """Return the changes to the message that are not in the event; None if it cannot be restored."""
        state = self._state
        assert state.builder is not None
        predicted: JsonDict = {**state.builder.message()}
        actual = partial.get("content")
        if not isinstance(actual, list) or len(actual) != len(predicted["content"]):
            return None
        blocks = _differences(enumerate(zip(predicted["content"], actual, strict=True)))
        if blocks is None:
            return None
        state.set_fields(blocks)
        rest: JsonDict = {"blocks": blocks} if blocks else {}
        envelope = {key: value for key, value in partial.items() if key != "content"}
        if not lazy:
            rest["snapshot"] = True if envelope == state.envelope else envelope
            state.envelope = envelope
        elif envelope != {key: value for key, value in predicted.items() if key != "content"}:
            rest["envelope"] = envelope
            state.set_envelope(envelope)
        return rest

    def _changed(self, step: BuilderEvent) -> JsonDict | None:
        """Do the same as `_rest` for the next event of the same builder: compare only what has changed."""
        source, mirror = step._builder, cast(MessageBuilder, self._state.builder)
        if source.length_at(step._count) != len(mirror):
            return None
        blocks = _differences(
            (index, (mirror.block(index), source.block_at(index, step._count)))
            for index in self._between(step)
        )
        if blocks is None:
            return None
        self._state.set_fields(blocks)
        return {"blocks": blocks} if blocks else {}

    def _between(self, step: BuilderEvent) -> set[int]:
        """Return the blocks that changed since the last event, in the source or in the mirror."""
        return step._builder.changed_between(self._count, step._count) | {step["content_index"]}

    def _track(self, step: BuilderEvent, *, followed: bool) -> None:
        """Start to follow the builder of an event, if both builders have the same content.

        Args:
            step: The event that was written.
            followed: Whether the builders had the same content at the last event.
        """
        source, mirror = step._builder, cast(MessageBuilder, self._state.builder)
        count = step._count
        indices = self._between(step) if followed else range(len(mirror))
        if all(
            _growth(source, index, count) == _growth(mirror, index, len(mirror._pieces)) for index in indices
        ):
            self._source, self._count = source, count
            self._changes = bisect_left(source._changes, count, key=itemgetter(0))


def _growth(builder: MessageBuilder, index: int, count: int) -> tuple[str, JsonDict]:
    """Return the text of a block from its deltas, and the fields that were set instead of it."""
    fixed: JsonDict = {}
    for begin, _, fields in builder._changes_of[index]:
        if begin < count:
            fixed.update((key, fields[key]) for key in fields.keys() & _TEXTS)
    return builder.text_at(index, count), fixed


def _as_json(value: object) -> JsonDict:
    """Return a message, a tool result or usage as the JSON object that msgspec writes."""
    return cast(JsonDict, value)


def _encode(line: msgspec.Struct) -> bytes:
    try:
        return _json.encode(line) + b"\n"
    except TypeError:
        return _json.encode(_json_safe(msgspec.to_builtins(line, enc_hook=str, str_keys=False))) + b"\n"


def _json_safe(value: object) -> object:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_safe(item) for item in value]
    return value


def write(
    events: Iterable[Record], *, deltas: bool = True, clock: Callable[[], int] = now_ms
) -> Iterator[bytes]:
    """Encode records and events as lines."""
    encoder = Encoder(deltas=deltas, clock=clock)
    for event in events:
        if line := encoder.encode(event):
            yield line
    if line := encoder.close():
        yield line


# ---- reading ------------------------------------------------------------------------------------

Lines: TypeAlias = bytes | str | Iterable[bytes] | Iterable[str] | IO[bytes]
Warn: TypeAlias = Callable[[str], None]

_decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(
    SessionRecord
    | HistoryRecord
    | _AgentStart
    | _AgentEnd
    | _TurnStart
    | _TurnEnd
    | _MessageStart
    | _MessageUpdate
    | _MessageEnd
    | _ToolStart
    | _ToolUpdate
    | _ToolEnd
    | ResultRecord
)


class Decoder:
    """Converts lines to records and events with their bodies, for one stream or several in sequence."""

    def __init__(self) -> None:
        self._state = _State()
        self._held: _MessageStart | None = None
        self._number = 0

    def decode(self, line: bytes | str) -> list[Record]:
        """Return the records that the line completes: none, one, or a `message_start` and the next record.

        Raises:
            RecordError: The line is not in this format. The message names the line and the fault.
        """
        self._number += 1
        parsed = self._parse(line)
        if parsed is None:
            return []
        if self._held is not None:
            return self._flush_pending(parsed)
        return self._records(parsed)

    def close(self) -> list[Record]:
        """Return the `message_start` whose `message_end` is missing, if there is one."""
        held, self._held = self._held, None
        return [] if held is None else [self._started(held, {"role": held.role, "content": []})]

    def _parse(self, line: bytes | str) -> msgspec.Struct | None:
        """Return the line's Struct; None for a blank line or an unknown type."""
        try:
            return _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            pass  # the steps below are slower and find the fault
        line = line.removeprefix(codecs.BOM_UTF8) if isinstance(line, bytes) else line.removeprefix("\ufeff")
        if not line.strip():
            return None
        try:
            value = _json.decode(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"line {self._number} is not JSON: {error}", hint=_HINT) from None
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise RecordError(f"line {self._number} is not an object with a `type`", hint=_HINT)
        if kind not in _LINES:
            return None
        try:
            return msgspec.convert(value, _LINES[kind])
        except msgspec.ValidationError as error:
            raise RecordError(f"line {self._number} ({kind}): {error}") from None

    def _flush_pending(self, line: msgspec.Struct) -> list[Record]:
        held, self._held = self._held, None
        assert held is not None
        if isinstance(line, _MessageStart) and line.seq == held.seq and isinstance(line.message, dict):
            return [self._started(held, line.message)]
        if isinstance(line, _MessageEnd) and isinstance(line.message, dict):
            return [self._started(held, line.message), *self._records(line)]
        return [self._started(held, {"role": held.role, "content": []}), *self._records(line)]

    def _started(self, line: _MessageStart, message: JsonDict) -> MessageStartEvent:
        event = MessageStartEvent(message=cast(AgentMessage, message))
        self._state.apply(event)
        return event

    def _records(self, line: msgspec.Struct) -> list[Record]:
        if isinstance(line, _MessageUpdate):
            return [self._update(line)]
        if isinstance(line, _MessageStart):
            message = self._start_message(line)
            if message is None:
                self._held = line
                return []
            return [self._started(line, message)]
        if isinstance(line, HistoryRecord | ResultRecord):
            return [line]
        if isinstance(line, SessionRecord):
            if line.version > VERSION:
                raise RecordError(
                    f"line {self._number}: this is version {line.version} of the format, "
                    f"and version {VERSION} is the newest that this tinyagent reads",
                    hint="Update tinyagent.",
                )
            self._state = _State()
            return [line]
        event = self._event(line)
        self._state.apply(event)
        return [event]

    def _start_message(self, line: _MessageStart) -> JsonDict | None:
        if line.message is not UNSET:
            return line.message
        if line.timestamp is UNSET:
            return None
        if line.role == "assistant":
            return _empty_message(line)
        return self._state.result_message(line.tool_call_id, line.timestamp)

    def _event(self, line: msgspec.Struct) -> AgentEvent:
        state = self._state
        match line:
            case _MessageEnd():
                return MessageEndEvent(message=cast(AgentMessage, self._end_message(line)))
            case _ToolStart(tool_call_id=call_id, tool_name=name, args=args):
                return ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args)
            case _ToolUpdate(tool_call_id=call_id, tool_name=name):
                args = state.args.get(call_id, {}) if line.args is UNSET else line.args
                partial = _result(line.partial_result)
                return ToolExecutionUpdateEvent(
                    tool_call_id=call_id, tool_name=name, args=args, partial_result=partial
                )
            case _ToolEnd(tool_call_id=call_id, tool_name=name):
                result = _result(line.result)
                return ToolExecutionEndEvent(
                    tool_call_id=call_id, tool_name=name, result=result, is_error=line.is_error
                )
            case _TurnEnd():
                message = state.turn_message if line.message is UNSET else line.message
                results = state.turn_results if line.tool_results is UNSET else line.tool_results
                if message is None:
                    raise RecordError(
                        f"line {self._number} (turn_end): the turn's assistant message is missing"
                    )
                return TurnEndEvent(
                    message=cast(AssistantMessage, message),
                    tool_results=cast("list[ToolResultMessage]", list(results)),
                )
            case _AgentEnd():
                new = list(state.run) if line.messages is UNSET else line.messages
                usage = None if line.usage is UNSET else line.usage
                return AgentEndEvent(
                    messages=cast("list[AgentMessage]", new),
                    limit=cast("RunLimit | None", line.limit),
                    usage=cast("Usage | None", usage),
                )
            case _AgentStart():
                return AgentStartEvent()
        return TurnStartEvent()

    def _end_message(self, line: _MessageEnd) -> JsonDict:
        if line.message is not UNSET:
            return line.message
        timestamp = 0 if line.timestamp is UNSET else line.timestamp
        message = self._state.result_message(line.tool_call_id, timestamp)
        if message is None:
            raise RecordError(
                f"line {self._number} (message_end): no `message`, and no tool_execution_end before it "
                f"for tool_call_id {None if line.tool_call_id is UNSET else line.tool_call_id!r}"
            )
        return message

    def _update(self, line: _MessageUpdate) -> MessageUpdateEvent:
        state, own = self._state, line.assistant_message_event
        if line.message is not UNSET:
            state.feed(own)
            return MessageUpdateEvent(
                assistant_message_event=cast(AssistantMessageEvent, own),
                message=cast("AssistantMessage | None", line.message),
            )
        key = _BODY.get(str(own.get("type")))
        body = state.expected_body(own) if key is not None and key not in own else _NOTHING
        step = state.feed(own)
        if step is None or state.builder is None:
            return MessageUpdateEvent(assistant_message_event=cast(AssistantMessageEvent, own))
        if key is not None and body is not _NOTHING:
            step[key] = body
        if line.blocks is not UNSET:
            state.set_fields(line.blocks)
        if line.envelope is not UNSET:
            state.set_envelope(line.envelope)
        step._builder, step._count = state.builder, len(state.builder._pieces)
        if line.snapshot is not UNSET:
            if isinstance(line.snapshot, dict):
                state.envelope = line.snapshot
            step["partial"] = {**(state.envelope or {}), "content": state.builder.message()["content"]}
        return MessageUpdateEvent(assistant_message_event=cast(AssistantMessageEvent, step))


_HINT = "Use the output of `tinyagent run --jsonl`: it has one JSON object per line."


def _result(fields: JsonDict) -> AgentToolResult:
    return AgentToolResult(
        content=fields.get("content") or [],
        details=fields.get("details", {}),
        terminate=fields.get("terminate") is True,
    )


def read_records(lines: Lines, *, on_warning: Warn | None = None) -> Iterator[Record]:
    """Read the records and events of one stream, or of several in sequence.

    Args:
        lines: A binary file, or whole lines with or without their LF.
        on_warning: Called with a warning if the last line is incomplete; it is then left out.
            `warnings.warn` if None.

    Raises:
        RecordError: A line is not in this format.
    """
    decoder = Decoder()
    waiting: bytes | str | None = None
    for line in _split(lines):
        if waiting is not None:
            yield from decoder.decode(waiting)
        waiting = line
    if waiting is not None:
        try:
            last = decoder.decode(waiting)
        except RecordError:
            if not _is_torn(waiting):
                raise
            warn = on_warning or _warn
            warn(f"line {decoder._number} is incomplete and was left out; all lines before it were read")
            last = []
        yield from last
    yield from decoder.close()


def read(lines: Lines, *, on_warning: Warn | None = None) -> Iterator[AgentEvent]:
    """Read only the events; see `read_records`."""
    for record in read_records(lines, on_warning=on_warning):
        if not isinstance(record, SessionRecord | HistoryRecord | ResultRecord):
            yield record


def messages(lines: Lines, *, on_warning: Warn | None = None) -> list[AgentMessage]:
    """Read the conversation: the history and every complete message.

    Several streams in sequence are one conversation. If the history of a stream starts with the conversation
    so far, those messages are not repeated.
    """
    conversation: list[AgentMessage] = []
    history: list[AgentMessage] = []
    new: list[AgentMessage] = []

    def add() -> None:
        continues = history[: len(conversation)] == conversation
        conversation[:] = [*([] if continues else conversation), *history, *new]
        history.clear()
        new.clear()

    for record in read_records(lines, on_warning=on_warning):
        if isinstance(record, SessionRecord):
            add()
        elif isinstance(record, HistoryRecord):
            history.append(cast(AgentMessage, record.message))
        elif isinstance(record, MessageEndEvent):
            new.append(record.message)
    add()
    return conversation


def _split(lines: Lines) -> Iterator[bytes | str]:
    """Split text into lines, each with its LF. Other line separators do not end a line."""
    for chunk in _decoded((lines,) if isinstance(lines, bytes | str) else lines):
        parts: Any = chunk.split(b"\n") if isinstance(chunk, bytes) else chunk.split("\n")
        last = parts.pop()
        for part in parts:
            yield part + (b"\n" if isinstance(part, bytes) else "\n")
        if last:
            yield last


def _decoded(chunks: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Remove a byte order mark. Decode UTF-16 and UTF-32 to text, in whole lines."""
    rest = iter(chunks)
    first = next(rest, None)
    if first is None:
        return
    codec, mark = detect_encoding(first) if isinstance(first, bytes) else ("utf-8", 0)
    if codec == "utf-8":
        yield first[mark:] if mark else first
        yield from rest
        return
    # Chunks of a file end at a byte 0x0A, which may be a part of a UTF-16 or UTF-32 character.
    decoder = codecs.getincrementaldecoder(codec)("replace")
    line = decoder.decode(cast(bytes, first)[mark:])
    for chunk in rest:
        complete, end, line = (line + decoder.decode(cast(bytes, chunk))).rpartition("\n")
        yield complete + end
    yield line + decoder.decode(b"", final=True)


def _is_torn(line: bytes | str) -> bool:
    """Whether the last line is incomplete because the writer was interrupted."""
    head = line if isinstance(line, bytes) else line.encode("utf-8", "replace")
    begins = head.startswith(b'{"type":"'[: len(head)])
    return not head.endswith(b"\n") and (begins or not head.strip(b"\0"))


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


# ---- the schema -----------------------------------------------------------------------------------

_DICT_LIST = list[JsonDict]


def schema() -> JsonDict:
    """Return the JSON Schema of a line. `$defs` has one component for each type."""
    lines = list(_LINES.values())
    parts = [ErrorRecord, Usage, TextContent, ImageContent, ThinkingContent, ToolCallContent]
    roles = [UserMessage, AssistantMessage, ToolResultMessage]
    plain = [_without_unions(kind) for kind in roles]
    _, components = msgspec.json.schema_components([*lines, *parts, *plain], ref_template="#/$defs/{name}")
    components = {name.lstrip("_"): part for name, part in components.items()}
    for kind in roles:
        hint = get_type_hints(kind)["content"]
        components[kind.__name__]["properties"]["content"]["items"] = _one_of(
            option.__name__ for option in get_args(get_args(hint)[0])
        )
    # Other values are accepted when reading, and are written again in `history` lines.
    components["AssistantMessage"]["properties"]["stop_reason"] = {
        "type": "string",
        "description": "stop, length, tool_use, error or aborted",
    }
    components["CustomAgentMessage"] = {
        "title": "CustomAgentMessage",
        "description": "Any other role: kept in the history, not sent to a model.",
        "type": "object",
        "properties": {
            "role": {"type": "string", "not": {"enum": ["user", "assistant", "tool_result"]}},
            "timestamp": {"type": "integer"},
        },
        "required": ["role"],
    }
    components["Message"] = _one_of([*(kind.__name__ for kind in roles), "CustomAgentMessage"])
    components["AgentToolResult"] = {
        "title": "AgentToolResult",
        "description": "What a tool gives back: `content` for the model, `details` for programs and people.",
        "type": "object",
        "properties": {
            "content": {"type": "array", "items": _one_of(["TextContent", "ImageContent"])},
            "details": {"type": "object"},
            "terminate": {"type": "boolean"},
        },
        "required": ["content", "details", "terminate"],
    }
    components["AssistantMessageEvent"] = {
        "title": "AssistantMessageEvent",
        "description": "One step of an assistant message, without `partial` and without bodies.",
        "type": "object",
        "properties": {
            "type": {"enum": [*sorted(STREAM_UPDATE_EVENTS), "done", "error", "start"]},
            "content_index": {"type": "integer", "minimum": 0},
            "delta": {"type": "string"},
        },
        "required": ["type"],
        "allOf": [
            {
                "if": {"properties": {"type": {"enum": sorted(names)}}},
                "then": {"required": required},
            }
            for names, required in (
                (_DELTAS, ["delta"]),
                (STREAM_UPDATE_EVENTS, ["content_index"]),
            )
        ],
    }
    for (name, field), part in _REFERENCES.items():
        components[name]["properties"][field] = part
    for line in _EVENT_LINES:
        component = components[line.__name__.lstrip("_")]
        always = ["type", "seq"] if line is _MessageUpdate else ["type", "seq", "time"]
        component["required"] = [*always, *(key for key in component["required"] if key not in always)]
    components["MessageEnd"]["required"].append("role")
    components["MessageEnd"]["anyOf"] = [{"required": ["message"]}, {"required": ["tool_call_id"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of a tinyagent stream, version {VERSION}",
        **_one_of(line.__name__.lstrip("_") for line in lines),
        "$defs": components,
    }


def _ref(name: str) -> JsonDict:
    return {"$ref": f"#/$defs/{name}"}


def _one_of(names: Iterable[str]) -> JsonDict:
    return {"oneOf": [_ref(name) for name in names]}


_REFERENCES: dict[tuple[str, str], JsonDict] = {
    ("HistoryRecord", "message"): _ref("Message"),
    ("MessageStart", "message"): _ref("Message"),
    ("MessageEnd", "message"): _ref("Message"),
    ("MessageUpdate", "assistant_message_event"): _ref("AssistantMessageEvent"),
    ("MessageUpdate", "message"): {"anyOf": [_ref("AssistantMessage"), {"type": "null"}]},
    ("ToolUpdate", "partial_result"): _ref("AgentToolResult"),
    ("ToolEnd", "result"): _ref("AgentToolResult"),
    ("TurnEnd", "message"): _ref("AssistantMessage"),
    ("TurnEnd", "tool_results"): {"type": "array", "items": _ref("ToolResultMessage")},
    ("AgentEnd", "messages"): {"type": "array", "items": _ref("Message")},
    ("AgentEnd", "usage"): _ref("Usage"),
    ("ResultRecord", "usage"): {"anyOf": [_ref("Usage"), {"type": "null"}]},
}


def _without_unions(kind: Any) -> Any:
    """The typed dictionary with its `content` as plain objects: msgspec refuses a union of dictionaries."""
    hints = {**get_type_hints(kind, include_extras=True), "content": _DICT_LIST}
    flat = TypedDict(kind.__name__, hints)  # type: ignore[misc]
    flat.__doc__ = kind.__doc__
    return flat
