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

__all__ = ["Call", "tool_calls"]


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
    run = turn = 0
    running: dict[str, Call] = {}
    for _, time, records in entries:
        for record in records:
            match record:
                case SessionRecord() | AgentStartEvent():
                    yield from running.values()
                    running.clear()
                    if isinstance(record, AgentStartEvent):
                        run, turn = run + 1, 0
                case TurnStartEvent():
                    turn += 1
                case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                    running[call_id] = Call(
                        run=run, turn=turn, id=call_id, name=name, arguments=args, started=time
                    )
                case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name):
                    call = running.pop(call_id, None)
                    call = call or Call(run=run, turn=turn, id=call_id, name=name, arguments={})
                    call.result, call.is_error = _fields(record.result), record.is_error
                    if time is not None and call.started is not None:
                        call.duration_ms = max(time - call.started, 0)
                    yield call
    yield from running.values()


def _fields(result: AgentToolResult) -> dict[str, JsonValue]:
    fields: dict[str, JsonValue] = msgspec.to_builtins({"content": result.content, "details": result.details})
    return fields
