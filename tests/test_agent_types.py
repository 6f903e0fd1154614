"""The types: events are frozen values with the specified names and fields."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest

import tinyagent
from tinyagent import Agent, AgentOptions, agent_types, jsonl
from tinyagent._stream.builder import MessageBuilder
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentLoopConfig,
    AgentTool,
    AgentToolResult,
    Context,
    MessageUpdateEvent,
    Model,
    ThinkingLevel,
    ToolCallDecision,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnEndEvent,
)
from tinyagent.testing import (
    Reply,
    ScriptedProvider,
    assistant,
    call,
    check_grammar,
    collect,
    text,
    thinking,
    user,
)

EVENTS: dict[str, tuple[type, dict[str, Any]]] = {
    "agent_start": (agent_types.AgentStartEvent, {}),
    "agent_end": (AgentEndEvent, {"messages": [], "limit": None, "usage": None}),
    "turn_start": (agent_types.TurnStartEvent, {}),
    "turn_end": (TurnEndEvent, {"message": assistant("x"), "tool_results": []}),
    "message_start": (agent_types.MessageStartEvent, {"message": assistant()}),
    "message_update": (
        MessageUpdateEvent,
        {"assistant_message_event": {"type": "text_delta", "delta": "x"}, "message": assistant("x")},
    ),
    "message_end": (agent_types.MessageEndEvent, {"message": assistant("x")}),
    "tool_execution_start": (
        ToolExecutionStartEvent,
        {"tool_call_id": "1", "tool_name": "t", "args": {}},
    ),
    "tool_execution_update": (
        ToolExecutionUpdateEvent,
        {"tool_call_id": "1", "tool_name": "t", "args": {}, "partial_result": AgentToolResult()},
    ),
    "tool_execution_end": (
        ToolExecutionEndEvent,
        {"tool_call_id": "1", "tool_name": "t", "result": AgentToolResult(), "is_error": False},
    ),
    "compaction_start": (
        agent_types.CompactionStartEvent,
        {"reason": "limit", "tokens": 9, "context_window": 10},
    ),
    "compaction_end": (
        agent_types.CompactionEndEvent,
        {
            "summary": user("x"),
            "kept": [-1],
            "replaced": 2,
            "tokens": 3,
            "usage": None,
            "error_message": None,
        },
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_has_its_name_and_fields(name: str) -> None:
    """`event.type` is the snake_case name; the fields are exactly the specified ones."""
    cls, fields = EVENTS[name]
    event = cls(**fields)
    assert name == event.type
    assert set(fields) == {field.name for field in msgspec.structs.fields(cls)}
    assert fields == {key: getattr(event, key) for key in fields}
    assert event == cls(**fields)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_frozen(name: str) -> None:
    """Fields cannot be set or added."""
    cls, fields = EVENTS[name]
    event = cls(**fields)
    for field in [*fields, "type", "anything"]:
        with pytest.raises(AttributeError):
            setattr(event, field, None)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_takes_no_other_fields(name: str) -> None:
    """An unknown field is an error, and fields are keyword-only."""
    cls, fields = EVENTS[name]
    with pytest.raises(TypeError):
        cls(**fields, wrong=1)
    if fields:
        with pytest.raises(TypeError):
            cls(*fields.values())


def test_the_union_has_all_of_them() -> None:
    """`AgentEvent` is the union of exactly these."""
    assert {cls for cls, _ in EVENTS.values()} == set(tinyagent.AgentEvent.__args__)


def test_the_message_of_an_update_is_its_partial() -> None:
    """It shows the message at the event's own time, and is built when it is read."""
    builder = MessageBuilder(Model())
    index, _ = builder.open_text()
    event = MessageUpdateEvent(assistant_message_event=builder.delta(index, "Hel"))
    builder.delta(index, "lo")
    assert [{"type": "text", "text": "Hel"}] == event.message["content"]
    assert event.message == event.assistant_message_event["partial"]
    assert event == MessageUpdateEvent(assistant_message_event=event.assistant_message_event)
    assert "Hel" in repr(event)
    assert "content_index" in repr(event)


def test_an_update_without_a_partial_has_no_message() -> None:
    """An event of another implementation may have no partial."""
    assert None is MessageUpdateEvent(assistant_message_event={"type": "text_delta"}).message


def test_the_updates_of_a_stream_are_the_steps_of_blocks() -> None:
    """They are three steps of three block types, without `start`, `done` and `error`."""
    names = {
        f"{block}_{step}" for block in ("text", "thinking", "tool_call") for step in ("start", "delta", "end")
    }
    assert names == agent_types.STREAM_UPDATE_EVENTS


def test_thinking_levels_are_strings() -> None:
    """A level equals its name, so it can be used in configuration and JSON."""
    assert ["off", "minimal", "low", "medium", "high", "xhigh"] == [str(level) for level in ThinkingLevel]
    assert ThinkingLevel("high") is ThinkingLevel.HIGH
    assert ["OFF", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"] == [level.name for level in ThinkingLevel]


def test_defaults_are_not_shared() -> None:
    """Objects that are made without arguments share no mutable values."""
    assert Context().messages is not Context().messages
    assert AgentTool(name="a").parameters is not AgentTool(name="a").parameters
    assert AgentToolResult().content is not AgentToolResult().content
    assert AgentToolResult().details is not AgentToolResult().details


def test_the_specified_constructors() -> None:
    """Arguments have the order and the defaults of section 9 of the contract."""
    tool = AgentTool("name", "description", {"type": "object"}, "label", None)
    assert (tool.read_only, tool.timeout) == (False, None)
    model = Model("provider", "id", "api", ThinkingLevel.LOW)
    assert Model() == Model("", "", "", ThinkingLevel.OFF)
    config = AgentLoopConfig(model, list)
    for name in [
        "transform_context",
        "get_api_key",
        "get_steering_messages",
        "get_follow_up_messages",
        "api_key",
    ]:
        assert getattr(config, name) is None
    assert "auto" == config.tool_execution
    assert None is config.max_turns
    assert ToolCallDecision() == ToolCallDecision(block=None, arguments=None, is_error=None, terminate=False)


COPIES: dict[str, Any] = {
    "pickle": lambda event: pickle.loads(pickle.dumps(event)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
async def test_a_copied_event_equals_the_original(how: str) -> None:
    """Copied and pickled events have the same type, fields and message."""

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> AgentToolResult:
        on_update(AgentToolResult(details={"n": 1}))
        return AgentToolResult(content=[{"type": "text", "text": "ok"}], details={"n": 2})

    replies = [
        Reply(thinking("h", "m", signature="s"), text("a", "b"), call("t", '{"n"', ": 1}")),
        Reply("done"),
    ]
    options = AgentOptions(
        initial_state={"model": Model(), "tools": [AgentTool(name="t", execute=execute)]},
        stream_fn=ScriptedProvider(*replies),
    )
    events = await collect(Agent(options).stream("Hi"))
    check_grammar(events)
    for name in ("compaction_start", "compaction_end"):  # a short conversation has none
        cls, fields = EVENTS[name]
        events.append(cls(**fields))
    assert set(EVENTS) == {event.type for event in events}
    copies = [COPIES[how](event) for event in events]
    assert events == copies
    assert [type(event) for event in events] == [type(event) for event in copies]
    for event, other in zip(events, copies, strict=True):
        if isinstance(event, MessageUpdateEvent):
            step, other_step = event.assistant_message_event, other.assistant_message_event
            assert (list(step), type(step)) == (list(other_step), type(other_step))
            assert (step["partial"], event.message) == (other_step["partial"], other.message)
    builder = MessageBuilder(Model(), timestamp=1)
    builder.add_image("data:image/png;base64,AA==")
    event = builder.done("stop")
    assert event["partial"] == COPIES[how](event)["partial"]
    clock = lambda: 1  # noqa: E731
    assert list(jsonl.write(events, clock=clock)) == list(jsonl.write(copies, clock=clock))
