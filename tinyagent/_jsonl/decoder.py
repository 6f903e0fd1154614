"""Convert lines to records and events."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import msgspec
from msgspec import UNSET

from tinyagent import _json
from tinyagent._stream.builder import BuilderEvent
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentMessage,
    AgentStartEvent,
    AgentToolResult,
    AssistantMessage,
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
)
from tinyagent.errors import RecordError

from .lines import split_lines
from .records import (
    LINES,
    VERSION,
    AgentEndLine,
    AgentStartLine,
    CompactionEndLine,
    CompactionStartLine,
    HistoryRecord,
    LineStruct,
    MessageEndLine,
    MessageStartLine,
    MessageUpdateLine,
    Record,
    ResultRecord,
    SessionRecord,
    SkippedUpdateLine,
    ToolEndLine,
    ToolStartLine,
    ToolUpdateLine,
    TurnEndLine,
    TurnStartLine,
)
from .state import ABSENT, BODY_KEYS, State, empty_message

__all__ = ["Decoder", "decode_tool_result"]

_HINT = "Use the output of `tinyagent run --jsonl`: it has one JSON object per line."
_LINE_START = b'{"type":'
_LINE_END = b"}\n"

_LineWithoutUpdate: TypeAlias = (
    SessionRecord
    | HistoryRecord
    | AgentStartLine
    | TurnStartLine
    | MessageStartLine
    | SkippedUpdateLine
    | MessageEndLine
    | ToolStartLine
    | ToolUpdateLine
    | ToolEndLine
    | TurnEndLine
    | AgentEndLine
    | CompactionStartLine
    | CompactionEndLine
    | ResultRecord
)
_ParsedLine: TypeAlias = LineStruct | SkippedUpdateLine

_parser: msgspec.json.Decoder[_ParsedLine] = msgspec.json.Decoder(LineStruct)
_parser_without_updates: msgspec.json.Decoder[_ParsedLine] = msgspec.json.Decoder(_LineWithoutUpdate)


class _NewUpdate(Protocol):
    """`MessageUpdateEvent` for an assistant message event from JSON, whose fields are not checked."""

    def __call__(
        self, *, assistant_message_event: Any, message: AssistantMessage | None = None
    ) -> MessageUpdateEvent: ...


_new_update: _NewUpdate = MessageUpdateEvent


class Decoder:
    """Converts lines to records and events with their bodies, for one stream or several in sequence.

    Nearly every line is a delta. So `decode_chunk` parses many lines by one call of msgspec, and has a short
    path for a delta that extends the streamed message and has no other fields.

    Args:
        updates: Whether `message_update` events are needed. Without them reading is faster.
    """

    def __init__(self, *, updates: bool = True) -> None:
        self._parser = _parser if updates else _parser_without_updates
        self._state = State()
        self._pending: MessageStartLine | None = None
        """A `message_start` without its message, which the next line should have."""
        self.line_number: int = 0
        """The number of lines so far."""

    def decode(self, line: bytes | str) -> list[Record]:
        """Return the records that the line completes: none, one, or a `message_start` and the next record.

        Raises:
            RecordError: The line is not in this format. The message names the line and the fault.
        """
        self.line_number += 1
        parsed = self._parse(line)
        return [] if parsed is None else list(self._restore((parsed,), self.line_number))

    def decode_chunk(self, chunk: bytes | str) -> Iterator[Record]:
        """Yield the records of whole lines. Each line ends with LF.

        Raises:
            RecordError: A line is not in this format. The records before it are yielded first.
        """
        parsed = self._parse_chunk(chunk)
        if parsed is None:
            for text in split_lines(chunk):
                yield from self.decode(text)
            return
        yield from self._restore(parsed, self.line_number + 1)

    def _restore(self, lines: Sequence[_ParsedLine], first_number: int) -> Iterator[Record]:
        """Yield the records of lines. Deltas have a short path; see the class."""
        state, is_pending = self._state, self._pending is not None
        for number, line in enumerate(lines, first_number):
            if type(line) is MessageUpdateLine:
                own, trace = line.assistant_message_event, state.trace
                if (
                    len(own) == 3
                    and trace is not None
                    and line.blocks is UNSET
                    and line.envelope is UNSET
                    and line.snapshot is UNSET
                    and line.message is UNSET
                    and type(index := own.get("content_index")) is int
                    and type(delta := own.get("delta")) is str
                    and 0 <= index < len(trace.delta_types)
                    and own.get("type") == trace.delta_types[index]
                    and not is_pending
                ):
                    if index != trace.last:
                        trace.mark(index)
                    pieces = trace.pieces
                    pieces.append(delta)
                    step = BuilderEvent(own)
                    step.trace = trace
                    step.count = len(pieces)
                    yield _new_update(assistant_message_event=step)
                    continue
            self.line_number = number
            yield from self._records_of(line)
            state, is_pending = self._state, self._pending is not None
        self.line_number = first_number + len(lines) - 1

    def close(self) -> list[Record]:
        """Return the `message_start` whose `message_end` is missing, if there is one."""
        pending, self._pending = self._pending, None
        return [] if pending is None else [self._started(_without_content(pending))]

    # ---- parsing ------------------------------------------------------------------------------------

    def _parse_chunk(self, chunk: bytes | str) -> list[_ParsedLine] | None:
        """Return the structs of all lines; None if the lines must be parsed one by one.

        msgspec accepts a value that continues on the next line, and several values on one line. Inside a
        value, `}` and LF are never followed by `{`. So if each LF is at such a place, and there are as many
        values as lines, then each line is one value.
        """
        if isinstance(chunk, str) or not (chunk.startswith(_LINE_START) and chunk.endswith(_LINE_END)):
            return None
        count = chunk.count(b"\n")
        if chunk.count(_LINE_END + _LINE_START) != count - 1:
            return None
        try:
            parsed = self._parser.decode_lines(chunk)
        except (msgspec.DecodeError, UnicodeError):
            return None
        return parsed if len(parsed) == count else None

    def _parse(self, line: bytes | str) -> _ParsedLine | None:
        """Return the line's struct; None for a blank line or an unknown type."""
        try:
            return self._parser.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            pass  # The steps below are slower. They accept more, and find the fault.
        line = line.removeprefix(codecs.BOM_UTF8) if isinstance(line, bytes) else line.removeprefix("\ufeff")
        if not line.strip():
            return None
        try:
            value = _json.decode(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"line {self.line_number} is not JSON: {error}", hint=_HINT) from None
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            raise RecordError(f"line {self.line_number} is not an object with a `type`", hint=_HINT)
        if kind not in LINES:
            return None
        try:
            return msgspec.convert(value, LINES[kind])
        except msgspec.ValidationError as error:
            raise RecordError(f"line {self.line_number} ({kind}): {error}") from None

    # ---- restoring ----------------------------------------------------------------------------------

    def _records_of(self, line: _ParsedLine) -> list[Record]:
        if self._pending is not None:
            return self._flush_pending(self._pending, line)
        # A chain of type checks would take longer than the rest.
        record = _HANDLERS[type(line)](self, line)
        return [] if record is None else [record]

    def _flush_pending(self, pending: MessageStartLine, line: _ParsedLine) -> list[Record]:
        """Complete the `message_start` by its `message_end`, or by the same line with its message."""
        self._pending = None
        if isinstance(line, MessageStartLine) and line.seq == pending.seq and line.message is not UNSET:
            return [self._started(line.message)]
        if isinstance(line, MessageEndLine) and line.message is not UNSET:
            return [self._started(line.message), *self._records_of(line)]
        return [self._started(_without_content(pending)), *self._records_of(line)]

    def _session(self, line: SessionRecord) -> SessionRecord:
        if line.version > VERSION:
            raise RecordError(
                f"line {self.line_number}: this is version {line.version} of the format, "
                f"and version {VERSION} is the newest that this tinyagent reads",
                hint="Update tinyagent.",
            )
        self._state = State()
        return line

    def _history(self, line: HistoryRecord) -> HistoryRecord:
        return line

    def _result(self, line: ResultRecord) -> ResultRecord:
        return line

    def _skipped_update(self, line: SkippedUpdateLine) -> None:
        return None

    def _agent_start(self, line: AgentStartLine) -> AgentStartEvent:
        self._state.start_run()
        return AgentStartEvent()

    def _agent_end(self, line: AgentEndLine) -> AgentEndEvent:
        new = list(self._state.run) if line.messages is UNSET else line.messages
        usage = None if line.usage is UNSET else line.usage
        return AgentEndEvent(messages=new, limit=line.limit, usage=usage)

    def _turn_start(self, line: TurnStartLine) -> TurnStartEvent:
        self._state.start_turn()
        return TurnStartEvent()

    def _turn_end(self, line: TurnEndLine) -> TurnEndEvent:
        state = self._state
        message = state.turn_message if line.message is UNSET else line.message
        results = state.turn_results if line.tool_results is UNSET else line.tool_results
        if message is None:
            raise RecordError(f"line {self.line_number} (turn_end): the turn's assistant message is missing")
        return TurnEndEvent(message=message, tool_results=list(results))

    def _message_start(self, line: MessageStartLine) -> MessageStartEvent | None:
        if line.message is not UNSET:
            return self._started(line.message)
        message: AgentMessage | None = None
        if line.timestamp is not UNSET:
            if line.role == "assistant":
                message = empty_message(line)
            else:
                message = self._state.result_message(line.tool_call_id, line.timestamp)
        if message is None:
            self._pending = line
            return None
        return self._started(message)

    def _started(self, message: AgentMessage) -> MessageStartEvent:
        self._state.start_message(message)
        return MessageStartEvent(message=message)

    def _message_end(self, line: MessageEndLine) -> MessageEndEvent:
        message: AgentMessage | None
        if line.message is not UNSET:
            message = line.message
        else:
            timestamp = 0 if line.timestamp is UNSET else line.timestamp
            message = self._state.result_message(line.tool_call_id, timestamp)
        if message is None:
            raise RecordError(
                f"line {self.line_number} (message_end): no `message`, and no tool_execution_end before it "
                f"for tool_call_id {None if line.tool_call_id is UNSET else line.tool_call_id!r}"
            )
        self._state.end_message(message)
        return MessageEndEvent(message=message)

    def _tool_start(self, line: ToolStartLine) -> ToolExecutionStartEvent:
        self._state.args[line.tool_call_id] = line.args
        return ToolExecutionStartEvent(
            tool_call_id=line.tool_call_id, tool_name=line.tool_name, args=line.args
        )

    def _tool_update(self, line: ToolUpdateLine) -> ToolExecutionUpdateEvent:
        return ToolExecutionUpdateEvent(
            tool_call_id=line.tool_call_id,
            tool_name=line.tool_name,
            args=self._state.args.get(line.tool_call_id, {}) if line.args is UNSET else line.args,
            partial_result=decode_tool_result(line.partial_result),
        )

    def _tool_end(self, line: ToolEndLine) -> ToolExecutionEndEvent:
        event = ToolExecutionEndEvent(
            tool_call_id=line.tool_call_id,
            tool_name=line.tool_name,
            result=decode_tool_result(line.result),
            is_error=line.is_error,
        )
        self._state.end_tool(event)
        return event

    def _compaction_start(self, line: CompactionStartLine) -> CompactionStartEvent:
        return CompactionStartEvent(
            reason=line.reason, tokens=line.tokens, context_window=line.context_window
        )

    def _compaction_end(self, line: CompactionEndLine) -> CompactionEndEvent:
        return CompactionEndEvent(
            summary=line.summary,
            kept=line.kept,
            replaced=line.replaced,
            tokens=line.tokens,
            usage=line.usage,
            error_message=line.error_message,
        )

    def _update_event(self, line: MessageUpdateLine) -> MessageUpdateEvent:
        state, own = self._state, line.assistant_message_event
        if line.message is not UNSET:
            state.feed(own)
            return _new_update(assistant_message_event=own, message=line.message)
        body_key = BODY_KEYS.get(str(own.get("type")))
        body = state.expected_body(own) if body_key is not None and body_key not in own else ABSENT
        step = state.feed(own)
        if step is None or state.trace is None:
            return _new_update(assistant_message_event=own)
        if body_key is not None and body is not ABSENT:
            step[body_key] = body
        if line.blocks is not UNSET:
            state.set_fields(line.blocks)
        if line.envelope is not UNSET:
            state.set_envelope(line.envelope)
        step.trace, step.count = state.trace, state.trace.count
        if line.snapshot is not UNSET:
            if isinstance(line.snapshot, dict):
                state.envelope = line.snapshot
            content = state.trace.message_at(state.trace.count)["content"]
            step["partial"] = {**(state.envelope or {}), "content": content}
        return _new_update(assistant_message_event=step)


_HANDLERS: Mapping[type[object], Callable[..., Record | None]] = {
    SessionRecord: Decoder._session,
    HistoryRecord: Decoder._history,
    ResultRecord: Decoder._result,
    AgentStartLine: Decoder._agent_start,
    AgentEndLine: Decoder._agent_end,
    TurnStartLine: Decoder._turn_start,
    TurnEndLine: Decoder._turn_end,
    MessageStartLine: Decoder._message_start,
    MessageUpdateLine: Decoder._update_event,
    SkippedUpdateLine: Decoder._skipped_update,
    MessageEndLine: Decoder._message_end,
    ToolStartLine: Decoder._tool_start,
    ToolUpdateLine: Decoder._tool_update,
    ToolEndLine: Decoder._tool_end,
    CompactionStartLine: Decoder._compaction_start,
    CompactionEndLine: Decoder._compaction_end,
}


def _without_content(line: MessageStartLine) -> AgentMessage:
    return cast(AgentMessage, {"role": line.role, "content": []})


def decode_tool_result(fields: JsonDict) -> AgentToolResult:
    """Return the result of a tool from its fields."""
    return AgentToolResult(
        content=fields.get("content") or [],
        details=fields.get("details", {}),
        terminate=fields.get("terminate") is True,
    )
