"""The tool calls of recorded runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from tinyagent.agent_types import (
    AgentStartEvent,
    AgentToolResult,
    JsonDict,
    JsonValue,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    TurnStartEvent,
)
from tinyagent.jsonl import SessionRecord

from .source import Entry

__all__ = ["Call", "CallReader", "tool_calls"]


class Call(msgspec.Struct, kw_only=True):
    """A tool call.

    Attributes:
        run: The number of its run, from 1.
        turn: The number of its turn in the run, from 1.
        result: Its content and details; None if the call has not ended.
        is_error: Whether it failed; None if it has not ended.
        started: When it started, in Unix milliseconds.
        duration_ms: How long it took; None if it has not ended.
    """

    run: int
    turn: int
    id: str
    name: str
    arguments: JsonDict
    result: dict[str, JsonValue] | None = None
    is_error: bool | None = None
    started: int | None = None
    duration_ms: int | None = None

    @property
    def text(self) -> str:
        """The text of the result."""
        content = self.result["content"] if self.result is not None else []
        blocks = content if isinstance(content, list) else []
        return "\n".join(
            str(block["text"]) for block in blocks if isinstance(block, dict) and block.get("type") == "text"
        )


def tool_calls(entries: Iterable[Entry]) -> Iterator[Call]:
    """Yield each call when it ends. Calls that have not ended come at the end of their run."""
    reader = CallReader()
    for entry in entries:
        yield from reader.read(entry)
    yield from reader.close()


class CallReader:
    """Finds the tool calls in lines that arrive one by one."""

    def __init__(self) -> None:
        self._run = self._turn = 0
        self._running: dict[str, Call] = {}

    def read(self, entry: Entry) -> Iterator[Call]:
        """Yield the calls that end with this line."""
        time = entry.time
        for record in entry.records:
            match record:
                case SessionRecord() | AgentStartEvent():
                    yield from self.close()
                    if isinstance(record, AgentStartEvent):
                        self._run, self._turn = self._run + 1, 0
                case TurnStartEvent():
                    self._turn += 1
                case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                    self._running[call_id] = self._call(call_id, name, args, time)
                case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name):
                    call = self._running.pop(call_id, None) or self._call(call_id, name, {}, None)
                    call.result, call.is_error = _fields(record.result), record.is_error
                    if time is not None and call.started is not None:
                        call.duration_ms = max(time - call.started, 0)
                    yield call

    def close(self) -> Iterator[Call]:
        """Yield the calls that have not ended."""
        yield from self._running.values()
        self._running.clear()

    def _call(self, call_id: str, name: str, args: JsonDict, started: int | None) -> Call:
        return Call(run=self._run, turn=self._turn, id=call_id, name=name, arguments=args, started=started)


def _fields(result: AgentToolResult) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = msgspec.to_builtins({"content": result.content, "details": result.details})
    return fields
