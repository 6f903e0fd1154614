"""Checks of the order of events: of a run (`check_grammar`), and of one reply (`check_reply`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentToolResult,
    AssistantMessage,
    CompactionEndEvent,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    RunLimit,
    ToolCallContent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
)

from .messages import is_assistant, is_tool_result

__all__ = ["GrammarError", "RunChecker", "check_grammar", "check_reply"]

# ---- a run ----------------------------------------------------------------------------------------

# state -> event -> next state. `user` stands for each role but `assistant` and `tool_result`.
_GRAMMAR: dict[str, dict[str, str]] = {
    "before": {"agent_start": "run"},
    "run": {"turn_start": "turn"},
    "turn": {
        "message_start:user": "in user",
        "compaction_start": "in compaction",
        "message_start:assistant": "in assistant",
    },
    "in compaction": {"compaction_end": "turn"},
    "in user": {"message_end:user": "turn"},
    "in assistant": {"message_update": "in assistant", "message_end:assistant": "tools"},
    "tools": {
        "tool_execution_start": "tools",
        "tool_execution_update": "tools",
        "tool_execution_end": "tools",
        "message_start:tool_result": "in result",
        "turn_end": "after turn",
    },
    "in result": {
        "tool_execution_start": "in result",
        "tool_execution_update": "in result",
        "tool_execution_end": "in result",
        "message_end:tool_result": "tools",
    },
    "after turn": {"turn_start": "turn", "agent_end": "after"},
    "after": {},
}


class GrammarError(AssertionError):
    """An event that the grammar does not allow at its place.

    Attributes:
        index: Its position in the run, from 0.
        name: Its type, and for messages the role.
        expected: What the grammar allows there.
    """

    def __init__(self, index: int, name: str, expected: str, event: AgentEvent) -> None:
        super().__init__(f"event {index} ({name}): {expected}; got {event!r}")
        self.index = index
        self.name = name
        self.expected = expected


def check_grammar(events: Iterable[AgentEvent]) -> None:
    """Check that these are the events of one complete run, in an order that the grammar allows.

    Each execution must have its call, its end and its result. The results must be in the order of the calls.
    `turn_end` and `agent_end` must contain the messages that ended before them.

    Raises:
        AssertionError: The message names the event, its position and what was expected there.
    """
    checker = RunChecker()
    for event in events:
        checker.check(event)
    checker.finish()


class RunChecker:
    """Checks the events of one run one by one, as `check_grammar` does for all of them."""

    def __init__(self) -> None:
        self._index = -1
        self._event: AgentEvent | None = None
        self._state = "before"
        self._started: AgentMessage | None = None
        self._calls: list[ToolCallContent] = []
        self._executing: dict[str, ToolExecutionStartEvent] = {}
        self._executed: dict[str, ToolExecutionEndEvent] = {}
        self._reply: AssistantMessage | None = None
        self._results: list[ToolResultMessage] = []
        self._new: list[AgentMessage] = []

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended."""
        return self._state == "after"

    def check(self, event: AgentEvent) -> None:
        """Check the next event.

        Raises:
            GrammarError: The message names the event, its position and what was expected there.
        """
        self._index += 1
        self._event = event
        following = _GRAMMAR[self._state].get(self._name(event))
        self._expect(following is not None, self._allowed())
        self._check_fields(event)
        self._state = following or self._state

    def finish(self) -> None:
        """Check that the run is complete.

        Raises:
            AssertionError: The message names what is missing.
        """
        if not self.is_complete:
            raise AssertionError(f"after the last event ({self._index + 1} in all): {self._allowed()}")

    def _name(self, event: AgentEvent) -> str:
        if not isinstance(event, MessageStartEvent | MessageEndEvent):
            return str(getattr(event, "type", None))
        role = event.message.get("role")
        return f"{event.type}:{role if role in ('assistant', 'tool_result') else 'user'}"

    def _allowed(self) -> str:
        names = ", ".join(_GRAMMAR[self._state]) or "nothing more"
        return f"in the state {self._state!r} expected {names}"

    def _expect(self, holds: bool, expected: str) -> None:
        if not holds:
            event = self._event
            assert event is not None
            raise GrammarError(self._index, self._name(event), expected, event)

    # ---- the fields of an event -----------------------------------------------------------------------

    def _check_fields(self, event: AgentEvent) -> None:
        match event:
            case TurnStartEvent():
                self._calls, self._results, self._reply = [], [], None
                self._executing, self._executed = {}, {}
            case MessageStartEvent(message=message):
                self._message_start(message)
            case MessageUpdateEvent(assistant_message_event=step):
                kind = step.get("type")
                self._expect(kind not in ("start", "done", "error"), "an update is a step of a block")
            case MessageEndEvent(message=message):
                self._message_end(message)
            case ToolExecutionStartEvent():
                self._execution_start(event)
            case ToolExecutionUpdateEvent():
                started = event.tool_call_id in self._executing
                self._expect(started, "an update of an execution that has started and not ended")
                self._expect(isinstance(event.partial_result, AgentToolResult), "an AgentToolResult")
            case ToolExecutionEndEvent():
                self._execution_end(event)
            case TurnEndEvent():
                self._turn_end(event)
            case CompactionEndEvent(summary=summary, error_message=reason):
                self._expect((summary is None) == bool(reason), "a summary, or else the reason")
                in_order = event.kept == sorted(set(event.kept)) and all(place < 0 for place in event.kept)
                self._expect(in_order, "positions from the end, in order")
            case AgentEndEvent():
                new = self._new
                self._expect(event.messages == new, f"the {len(new)} message(s) that ended, in order")
                self._expect(event.limit in (None, *get_args(RunLimit)), "a limit, or None")

    def _message_start(self, message: AgentMessage) -> None:
        self._started = message
        if is_assistant(message):
            self._expect(message["content"] == [], "an assistant's message starts empty")
        elif is_tool_result(message):
            call_id = message.get("tool_call_id")  # missing in a line that was read out of order
            self._expect(call_id in self._executed, "a result comes after its tool_execution_end")
            due = self._calls[len(self._results)]["id"] if len(self._results) < len(self._calls) else None
            self._expect(call_id == due, f"results are in the order of the calls; the next is {due!r}")

    def _message_end(self, message: AgentMessage) -> None:
        if is_assistant(message):
            self._reply = message
            self._calls = [block for block in message["content"] if block["type"] == "tool_call"]
        else:
            self._expect(message == self._started, "a message is the same at its start and its end")
        if is_tool_result(message):
            end = self._executed[message["tool_call_id"]]
            for key, actual, expected in (
                ("tool_name", message["tool_name"], end.tool_name),
                ("content", message["content"], end.result.content),
                ("details", message["details"], end.result.details),
                ("is_error", message["is_error"], end.is_error),
            ):
                self._expect(actual == expected, f"{key} is that of tool_execution_end, {expected!r}")
            self._results.append(message)
        self._new.append(message)

    def _execution_start(self, event: ToolExecutionStartEvent) -> None:
        call_id = event.tool_call_id
        named = [block["name"] for block in self._calls if block["id"] == call_id]
        self._expect(named == [event.tool_name], "a call of the turn's message, by id and name")
        is_first = call_id not in self._executing and call_id not in self._executed
        self._expect(is_first, "a call is executed once")
        reason = None if self._reply is None else self._reply["stop_reason"]
        self._expect(reason not in ("error", "aborted"), f"no tool runs after stop_reason {reason!r}")
        self._executing[call_id] = event

    def _execution_end(self, event: ToolExecutionEndEvent) -> None:
        started = event.tool_call_id in self._executing
        self._expect(started, "the end of an execution that has started and not ended")
        self._expect(isinstance(event.result, AgentToolResult), "an AgentToolResult")
        start = self._executing.pop(event.tool_call_id)
        self._expect(event.tool_name == start.tool_name, f"the name {start.tool_name!r}, as at its start")
        self._executed[event.tool_call_id] = event

    def _turn_end(self, event: TurnEndEvent) -> None:
        self._expect(not self._executing, f"the ends of {sorted(self._executing)}")
        missing = sorted(set(self._executed) - {result["tool_call_id"] for result in self._results})
        self._expect(not missing, f"the results of {missing}")
        if self._reply is not None and self._reply["stop_reason"] not in ("error", "aborted"):
            count = len(self._calls)
            self._expect(count == len(self._results), f"{count} result(s), one for each call")
        self._expect(event.message == self._reply, "the turn's assistant message")
        self._expect(event.tool_results == self._results, "the turn's results, in order")


# ---- a reply ----------------------------------------------------------------------------------------


def check_reply(events: Iterable[Mapping[str, object]]) -> None:
    """Check that these are the events of one complete reply, as the contract of `StreamFn` requires.

    The first event is `start`. Blocks are opened in the order of their index, their deltas are inside, and
    each block is closed once in a reply that succeeds. The last event is `done` or `error`; its message
    contains exactly the content of the deltas. If an event has a `partial`, it is the message at that time.

    Raises:
        AssertionError: The message names the event and its position.
    """
    _ReplyChecker(list(events)).check()


class _ReplyChecker:
    MAX_PARTIALS = 64
    """The `partial` is checked for this many deltas, because each check costs the length of the message."""

    def __init__(self, events: list[Mapping[str, object]]) -> None:
        self._events = events
        self._kinds: list[str] = []
        self._deltas: list[list[str]] = []
        self._ends: dict[int, Mapping[str, object]] = {}
        self._partials = 0
        self._index = 0

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(f"event {self._index} ({self._events[self._index]['type']}): {what}")

    def _mapping(self, value: object) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            raise AssertionError(f"event {self._index}: expected a mapping, got {value!r}")
        return value

    def check(self) -> None:
        events = self._events
        if not events:
            raise AssertionError("the reply has no events")
        self._expect(events[0]["type"] == "start", "a reply starts with `start`")
        for self._index, event in enumerate(events[1:-1], 1):
            self._check_step(event)
            if self._partials < self.MAX_PARTIALS and "partial" in event:
                self._check_partial(self._mapping(event["partial"]), event["content_index"])
        self._index = len(events) - 1
        last = events[-1]
        self._expect(last["type"] in ("done", "error"), "a reply ends with `done` or `error`")
        message = self._mapping(last["message" if last["type"] == "done" else "error"])
        reason = message["stop_reason"]
        self._expect(last["reason"] == reason, "its reason is the message's stop_reason")
        failed = reason in ("error", "aborted")
        self._expect(failed == (last["type"] == "error"), "`error` is for failed and aborted replies")
        self._expect(not failed or bool(message.get("error_message")), "a failed message has its reason")
        self._expect(failed or len(self._ends) == len(self._kinds), "every block is closed")
        self._check_message(message)

    def _check_step(self, event: Mapping[str, object]) -> None:
        kind, _, step = str(event["type"]).rpartition("_")
        is_step = kind in ("text", "thinking", "tool_call") and step in ("start", "delta", "end")
        self._expect(is_step, "between `start` and the end there are only steps of blocks")
        index = event["content_index"]
        if step == "start":
            self._expect(index == len(self._kinds), f"the next block has the index {len(self._kinds)}")
            self._kinds.append(kind)
            self._deltas.append([])
            return
        if not isinstance(index, int) or not self._is_open(index, kind):
            self._expect(False, f"block {index} is not an open {kind} block")
            return
        if step == "delta":
            delta = event["delta"]
            self._expect(isinstance(delta, str), "a delta is text")
            self._deltas[index].append(str(delta))
        elif kind == "tool_call":
            self._ends[index] = self._mapping(event["tool_call"])
        else:
            streamed = self._streamed(index)
            self._expect(
                event["content"] == streamed, f"its content is the text of its deltas, {streamed[:200]!r}"
            )
            self._ends[index] = event

    def _is_open(self, index: int, kind: str) -> bool:
        return 0 <= index < len(self._kinds) and self._kinds[index] == kind and index not in self._ends

    def _streamed(self, index: int) -> str:
        return "".join(self._deltas[index])

    def _check_partial(self, partial: Mapping[str, object], index: object) -> None:
        self._partials += 1
        content = partial["content"]
        blocks = content if isinstance(content, list) else []
        self._expect(len(blocks) == len(self._kinds), "`partial` has the blocks so far")
        if isinstance(index, int) and self._kinds[index] != "tool_call":
            streamed = self._streamed(index)
            self._expect(blocks[index][self._kinds[index]] == streamed, "`partial` has the text so far")

    def _check_message(self, message: Mapping[str, object]) -> None:
        for key in ("api", "provider", "model"):
            self._expect(isinstance(message.get(key), str), f"the message has its {key}")
        content = message["content"]
        blocks = content if isinstance(content, list) else []
        self._expect([block["type"] for block in blocks] == self._kinds, "the message has these blocks")
        for index, block in enumerate(blocks):
            kind = self._kinds[index]
            if kind != "tool_call":
                streamed = self._streamed(index)
                self._expect(
                    block[kind] == streamed, f"block {index} is the text of its deltas, {streamed[:200]!r}"
                )
            elif index in self._ends:
                for key in ("id", "name", "arguments"):
                    self._expect(
                        block[key] == self._ends[index][key], f"{key} of call {index} is that of its end"
                    )
