"""The state that the writer and the reader of a stream share.

The format writes each body once. A later line with the same body omits it, and the reader takes the body from
its state. Therefore both sides keep the same state: the writer applies each event after it has written the
line, and the reader applies each event after it has restored it. Before the writer omits a body, it compares
the body with `expected_body` and the like, which are exactly what the reader will use. So the writer omits
only what the reader can restore, whatever the events are.

The largest part of the state is the message that is streamed: a `Trace`, which `feed` extends by the deltas
of `message_update` events. See `tinyagent._stream.trace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from msgspec import UNSET

from tinyagent import _json
from tinyagent._stream.builder import BuilderEvent, event_at
from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent._stream.trace import Fields, Trace
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    AgentStartEvent,
    AssistantMessage,
    MessageEndEvent,
    MessageStartEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolResultMessage,
    TurnStartEvent,
)

from .records import MessageStartLine

__all__ = ["ABSENT", "BODY_KEYS", "DELTA_TYPES", "State", "empty_message"]

BODY_KEYS = {"text_end": "content", "thinking_end": "content", "tool_call_end": "tool_call"}
"""The field of each assistant message event that contains the body of its block."""

DELTA_TYPES = frozenset({"text_delta", "thinking_delta", "tool_call_delta"})

ABSENT = object()
"""Stands for a body that does not exist; None is a valid body."""


class State:
    """The content of the lines so far, as far as later lines refer to it.

    Attributes:
        run: The messages that have ended in this run: the default of `agent_end`.
        turn_message: The assistant message of this turn: the default of `turn_end`.
        turn_results: The tool results of this turn: the default of `turn_end`.
        args: The arguments of each active tool call: the default of `tool_execution_update`.
        trace: The assistant message that is streamed, or None.
        envelope: The last `partial` of a provider that sends whole messages, without its content.
    """

    def __init__(self) -> None:
        self.run: list[AgentMessage] = []
        self.turn_message: AssistantMessage | None = None
        self.turn_results: list[ToolResultMessage] = []
        self.args: dict[str, Fields] = {}
        self.trace: Trace | None = None
        self.envelope: Fields | None = None
        self._results: dict[str, ToolResultMessage] = {}
        """The tool result message of each call that has ended, with 0 as its timestamp."""

    # ---- restoring bodies -------------------------------------------------------------------------

    def result_message(self, call_id: object, timestamp: int) -> ToolResultMessage | None:
        """Return the tool result message that follows from the call's `tool_execution_end`."""
        known = self._results.get(call_id) if isinstance(call_id, str) else None
        return None if known is None else {**known, "timestamp": timestamp}

    def expected_body(self, event: Fields) -> object:
        """Return the body that an event such as `text_end` has by default, or `ABSENT`.

        It is the text of the deltas; for a tool call, the call with the arguments of its deltas.
        """
        kind, index = str(event["type"]).removesuffix("_end"), event.get("content_index")
        if self.trace is None or not _is_block(index, self.trace, kind):
            return ABSENT
        block = self.trace.block_at(index, self.trace.count)
        if kind != "tool_call":
            return block[kind]
        raw = block.pop("partial_json", None)
        if not isinstance(raw, str):
            return block
        arguments = _json.decode_object(raw) if raw.strip() else {}
        if arguments is None:
            return {**block, "arguments": {}, "partial_json": raw}
        return {**block, "arguments": arguments}

    # ---- applying lines -----------------------------------------------------------------------------

    def feed(self, event: Fields) -> BuilderEvent | None:
        """Extend the streamed message by an event.

        Returns:
            The event with the message at its time; None if the event does not extend the message.
        """
        trace, name = self.trace, event.get("type")
        if trace is None or not isinstance(name, str):
            return None
        kind, _, step = name.rpartition("_")
        index = event.get("content_index")
        if step == "start" and kind in ("text", "thinking", "tool_call"):
            if type(index) is not int or index != len(trace):
                return None
            trace.open(_empty_block(kind, event.get("tool_call")))
        elif not _is_block(index, trace, kind):
            return None
        elif step == "delta" and isinstance(delta := event.get("delta"), str):
            trace.append(index, delta)
        elif step == "end":
            self._close_block(trace, index, kind, event)
        else:
            return None
        return event_at(trace, event)

    def _close_block(self, trace: Trace, index: int, kind: str, event: Fields) -> None:
        """Set the fields of a block for which the body of its end differs from its deltas."""
        body = event.get(BODY_KEYS[f"{kind}_end"], ABSENT)
        if body is ABSENT:
            body = self.expected_body(event)
        if kind != "tool_call":
            if isinstance(body, str) and body != trace.block_at(index, trace.count)[kind]:
                trace.change(index, {kind: body})
        elif isinstance(body, dict) and isinstance(body.get("arguments"), dict):
            fields = {key: value for key, value in body.items() if key != "type"}
            trace.change(index, {"partial_json": None, **fields})

    def set_fields(self, blocks: Mapping[str, Fields]) -> None:
        """Set fields of blocks that the events do not contain."""
        for key, fields in blocks.items():
            if self.trace is not None and key.isdecimal() and int(key) < len(self.trace):
                self.trace.change(int(key), fields)

    def set_envelope(self, envelope: Fields) -> None:
        """Replace the fields of the streamed message other than its content, for later events."""
        assert self.trace is not None
        self.trace = self.trace.with_head({**envelope, "content": []})

    def start_run(self) -> None:
        """Apply `agent_start`."""
        self.run = []

    def start_turn(self) -> None:
        """Apply `turn_start`."""
        self.turn_message, self.turn_results = None, []
        self.args, self._results = {}, {}

    def start_message(self, message: AgentMessage) -> None:
        """Apply `message_start`."""
        self.trace = self.envelope = None
        if message.get("role") == "assistant" and message.get("content") == []:
            self.trace = Trace(dict(message))

    def end_message(self, message: AgentMessage) -> None:
        """Apply `message_end`."""
        self.trace = None
        self.run.append(message)
        if is_assistant(message):
            self.turn_message = message
        elif is_tool_result(message):
            self.turn_results.append(message)

    def end_tool(self, event: ToolExecutionEndEvent) -> None:
        """Apply `tool_execution_end`."""
        self.args.pop(event.tool_call_id, None)
        self._results[event.tool_call_id] = {
            "role": "tool_result",
            "tool_call_id": event.tool_call_id,
            "tool_name": event.tool_name,
            "content": event.result.content,
            "details": event.result.details,
            "is_error": event.is_error,
            "timestamp": 0,
        }

    def apply(self, event: AgentEvent) -> None:
        """Apply an event other than `message_update`."""
        match event:
            case MessageStartEvent(message=message):
                self.start_message(message)
            case MessageEndEvent(message=message):
                self.end_message(message)
            case ToolExecutionStartEvent(tool_call_id=call_id, args=args):
                self.args[call_id] = args
            case ToolExecutionEndEvent():
                self.end_tool(event)
            case TurnStartEvent():
                self.start_turn()
            case AgentStartEvent():
                self.start_run()


def empty_message(line: MessageStartLine) -> AssistantMessage:
    """Return the empty assistant message that a `message_start` line without `message` stands for."""
    return {
        "role": "assistant",
        "content": [],
        "stop_reason": "stop",
        "timestamp": 0 if line.timestamp is UNSET else line.timestamp,
        "api": line.api or "",
        "provider": line.provider or "",
        "model": line.model or "",
        "usage": None,
    }


def _empty_block(kind: str, call: object) -> Fields:
    if kind != "tool_call":
        return {"type": kind, kind: ""}
    named = call if isinstance(call, Mapping) else {}
    return {
        "type": kind,
        "id": named.get("id", ""),
        "name": named.get("name", ""),
        "arguments": None,
        "partial_json": "",
    }


def _is_block(index: object, trace: Trace, kind: str) -> TypeGuard[int]:
    """Whether the trace has a block of this type at this index."""
    return type(index) is int and 0 <= index < len(trace) and trace.type_of(index) == kind
