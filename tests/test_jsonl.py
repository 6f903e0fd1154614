"""The JSON Lines format: events are read back, each body is written once, and errors name the line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests._jsonl_snapshot import snapshot_jsonl
from tinyagent import jsonl
from tinyagent._stream.builder import MessageBuilder
from tinyagent._stream.trace import Trace
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentStartEvent,
    AgentTool,
    AgentToolResult,
    CompactionEndEvent,
    CompactionStartEvent,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    Model,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnEndEvent,
    TurnStartEvent,
)
from tinyagent.errors import RecordError
from tinyagent.testing import (
    Reply,
    ScriptedProvider,
    assistant,
    call,
    check_grammar,
    collect,
    thinking,
    tool_result,
    user,
)

__all__ = ["snapshot_jsonl"]

MODEL = Model(provider="p", id="m", api="a")
pytestmark = pytest.mark.timeout(300)  # the properties need many examples

SNAPSHOTS = Path(__file__).parent / "__snapshots__"


def update(event: Any) -> MessageUpdateEvent:
    return MessageUpdateEvent(assistant_message_event=event)


def written(events: Any, **options: Any) -> list[bytes]:
    return list(jsonl.write(events, clock=lambda: 7, **options))


def parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def session(**fields: Any) -> jsonl.SessionRecord:
    given = {
        "version": 1,
        "id": "s1",
        "created": "2025-01-01T00:00:00Z",
        "model": {"provider": "p", "id": "m"},
        "system_prompt": "",
        "thinking_level": "off",
        "tools": ["calc"],
        "tinyagent": "0.1.0",
    }
    return jsonl.SessionRecord(**{**given, **fields})


def result(**fields: Any) -> jsonl.ResultRecord:
    given = {
        "ok": True,
        "exit_code": 0,
        "stop_reason": "stop",
        "text": "hi",
        "usage": {"input": 1, "output": 2, "total": 3, "cost": None},
        "turns": 1,
        "duration_ms": 5,
        "error": None,
    }
    return jsonl.ResultRecord(**{**given, **fields})


async def run(*steps: Any, prompt: str = "hi", tools: list[AgentTool] | None = None) -> list[Any]:
    async with ScriptedProvider(*steps) as provider:
        state = {"model": provider.model, "tools": tools or []}
        agent = Agent(AgentOptions(initial_state=state, stream_fn=provider))
        events = await collect(agent.stream(prompt))
    check_grammar(events)
    return events


async def _double(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
    on_update(AgentToolResult(content=[{"type": "text", "text": "working"}]))
    return AgentToolResult(content=[{"type": "text", "text": str(2 * args["n"])}], details={"n": args["n"]})


DOUBLE = AgentTool(
    name="double",
    parameters={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    execute=_double,
    read_only=True,
)

# ---- all events are read back --------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
TEXT = st.text(max_size=8)
IDS = st.sampled_from(["c1", "c2", "c3", ""])
RESULTS = st.builds(
    AgentToolResult,
    content=st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2),
    details=OBJECT,
    terminate=st.booleans(),
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any]]:
    """The events of a message from a builder, and the message."""
    builder = MessageBuilder(MODEL, timestamp=draw(st.integers()))
    events: list[Any] = [MessageStartEvent(message=builder.message())]
    opened: list[int] = []
    for _ in range(draw(st.integers(0, 12))):
        what = draw(st.sampled_from(["text", "thinking", "call", "delta", "delta", "delta", "close", "set"]))
        if what == "text":
            index, event = builder.open_text(**draw(st.sampled_from([{}, {"text_signature": "s"}])))
        elif what == "thinking":
            index, event = builder.open_thinking()
        elif what == "call":
            index, event = builder.open_tool_call(draw(IDS), draw(TEXT))
        elif not opened:
            continue
        else:
            index = draw(st.sampled_from(opened))
            if what == "set":
                builder.update(index, **{f"{builder.block(index)['type']}_signature": draw(TEXT)})
                continue
            piece = draw(TEXT | st.sampled_from(['{"a":', "1}", "[]", " "]))
            event = builder.delta(index, piece) if what == "delta" else builder.close(index)
        if index not in opened:
            opened.append(index)
        events.append(update(event))
    if draw(st.booleans()):
        builder.done("stop", usage=draw(st.none() | st.just({"input": 3})))
    else:
        builder.fail("error", draw(TEXT))
    message = builder.message()
    return [*events, MessageEndEvent(message=message)], dict(message)


@st.composite
def foreign_replies(draw: st.DrawFn) -> list[Any]:
    """The events of a provider of plain dicts, with or without `partial`, absorbed or not."""
    source, _ = draw(replies())
    builder = MessageBuilder(MODEL, timestamp=1)
    absorb, whole = draw(st.booleans()), draw(st.booleans())
    events: list[Any] = []
    for event in source:
        if isinstance(event, MessageUpdateEvent):
            step = dict(event.assistant_message_event)
            if whole:
                step["partial"] = {**event.message, **draw(st.sampled_from([{}, {"model": "other"}]))}
                if draw(st.integers(0, 9)) == 0:
                    step["partial"]["content"] = draw(st.sampled_from([[], None, [{"type": "text"}]]))
            given = draw(st.sampled_from([None, None, None, {"role": "assistant", "content": []}]))
            events.append(
                update(builder.absorb(step))
                if absorb
                else MessageUpdateEvent(assistant_message_event=step, message=given)
            )
        else:
            events.append(event)
    return events


COMPACTION_START = st.builds(
    CompactionStartEvent,
    reason=st.sampled_from(["limit", "overflow", "request"]),
    tokens=st.integers(0, 1000),
    context_window=st.none() | st.integers(1, 1000),
)
COMPACTION_END = st.builds(
    CompactionEndEvent,
    summary=st.builds(user, TEXT),
    kept=st.sets(st.integers(-9, -1)).map(sorted),
    replaced=st.integers(0, 9),
    tokens=st.integers(0, 1000),
    usage=st.none() | st.just({"input": 1, "cost": None}),
) | st.builds(CompactionEndEvent, error_message=TEXT.filter(bool))


@st.composite
def turns(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """The events of a complete turn, and the messages that ended in it."""
    events: list[Any] = [TurnStartEvent()]
    new: list[Any] = []
    for number in range(draw(st.integers(0, 2))):
        role = draw(st.sampled_from(["user", "note"]))
        message = {"role": role, "content": [{"type": "text", "text": draw(TEXT)}], "timestamp": number}
        events += [MessageStartEvent(message=message), MessageEndEvent(message=message)]
        new.append(message)
    events += draw(st.just([]) | st.tuples(COMPACTION_START, COMPACTION_END))
    reply, message = draw(replies())
    events += reply
    new.append(message)
    results = []
    calls = [block for block in message["content"] if block["type"] == "tool_call"]
    for block in calls:
        call_id, name, args = block["id"], block["name"], block["arguments"]
        events.append(ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args))
        for partial in draw(st.lists(RESULTS, max_size=2)):
            events.append(
                ToolExecutionUpdateEvent(
                    tool_call_id=call_id, tool_name=name, args=args, partial_result=partial
                )
            )
        given, is_error = draw(RESULTS), draw(st.booleans())
        events.append(
            ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, result=given, is_error=is_error)
        )
        answer = {
            "role": "tool_result",
            "tool_call_id": call_id,
            "tool_name": name,
            "content": given.content,
            "details": given.details,
            "is_error": is_error,
            "timestamp": draw(st.integers()),
        }
        events += [MessageStartEvent(message=answer), MessageEndEvent(message=answer)]
        results.append(answer)
    events.append(TurnEndEvent(message=message, tool_results=results))
    return events, [*new, *results]


@st.composite
def runs(draw: st.DrawFn) -> list[Any]:
    """A well-formed run."""
    events: list[Any] = [AgentStartEvent()]
    new: list[Any] = []
    for turn, ended in draw(st.lists(turns(), min_size=1, max_size=3)):
        events += turn
        new += ended
    return [*events, AgentEndEvent(messages=new, limit=draw(st.sampled_from([None, "max_turns"])))]


MESSAGES = (
    st.builds(user, TEXT)
    | st.builds(assistant, TEXT, model=TEXT)
    | st.builds(tool_result, IDS, TEXT, TEXT)
    | st.builds(lambda role, more: {**more, "role": role}, TEXT, OBJECT)
)
STEPS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [f"{kind}_{step}" for kind in ("text", "tool_call", "what") for step in ("start", "delta", "end")]
            + ["start", "done", "error", ""]
        )
    },
    optional={
        "content_index": JSON | st.integers(-1, 2),
        "delta": TEXT,
        "content": JSON,
        "tool_call": JSON | OBJECT,
        "message": MESSAGES,
        "partial": MESSAGES | JSON,
        "index": JSON,
    },
)
ANY_EVENT = st.one_of(
    st.builds(AgentStartEvent),
    st.builds(TurnStartEvent),
    st.builds(
        AgentEndEvent, messages=st.lists(MESSAGES, max_size=2), limit=st.sampled_from([None, "budget"])
    ),
    st.builds(TurnEndEvent, message=MESSAGES, tool_results=st.lists(MESSAGES, max_size=2)),
    COMPACTION_START,
    COMPACTION_END,
    st.builds(MessageStartEvent, message=MESSAGES),
    st.builds(MessageEndEvent, message=MESSAGES),
    st.builds(MessageUpdateEvent, assistant_message_event=STEPS, message=st.none() | MESSAGES),
    st.builds(ToolExecutionStartEvent, tool_call_id=IDS, tool_name=TEXT, args=OBJECT),
    st.builds(
        ToolExecutionUpdateEvent, tool_call_id=IDS, tool_name=TEXT, args=OBJECT, partial_result=RESULTS
    ),
    st.builds(
        ToolExecutionEndEvent, tool_call_id=IDS, tool_name=TEXT, result=RESULTS, is_error=st.booleans()
    ),
)
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", min(40, settings.default.max_examples)))
PROPERTY = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def assert_restored(events: list[Any]) -> None:
    lines = written(events)
    assert events == list(jsonl.read(lines))
    assert events == list(jsonl.read(io.BytesIO(b"".join(lines))))


@PROPERTY
@given(runs())
def test_a_run_comes_back(events: list[Any]) -> None:
    """Reading what was written gives equal events, bodies and snapshots restored."""
    assert_restored(events)


@PROPERTY
def _many_calls(count: int) -> list[Any]:
    builder = MessageBuilder(MODEL)
    steps: list[Any] = []
    for number in range(count):
        index, opened = builder.open_tool_call("", "w")
        steps += [opened, builder.delta(index, f'{{"n":{number}}}')]
    steps += [builder.close(index) for index in range(count)]
    final = builder.done("tool_use")["message"]
    start: Any = {**builder.trace.message_at(0)}
    return [MessageStartEvent(message=start), *map(update, steps), MessageEndEvent(message=final)]


def test_many_tool_calls_stay_linear() -> None:
    """Twice the tool calls of a reply take twice the work to write and to read, and come back equal."""
    reads: dict[int, int] = {}
    for count in (100, 200):
        events = _many_calls(count)
        block_at, read = Trace.block_at, 0

        def counting(self: MessageBuilder, index: int, moment: int, block_at: Any = block_at) -> Any:
            nonlocal read
            read += 1
            return block_at(self, index, moment)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trace, "block_at", counting)
            lines = list(jsonl.write(events))
            back = list(jsonl.read(lines))
            reads[count] = read
        assert events == back
    assert reads[200] <= 2.2 * reads[100]


@given(st.lists(ANY_EVENT, max_size=12))
def test_any_events_come_back(events: list[Any]) -> None:
    """Events in any order are read back unchanged."""
    assert_restored(events)


@PROPERTY
@given(st.data())
def test_parts_of_runs_come_back(data: st.DataObject) -> None:
    """Runs with missing, repeated, moved or additional events are read back unchanged."""
    events = data.draw(runs())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(events) - 1))
        match data.draw(st.sampled_from(["drop", "double", "move", "insert"])):
            case "drop" if len(events) > 1:
                del events[at]
            case "double":
                events.insert(at, events[at])
            case "move":
                events.insert(data.draw(st.integers(0, len(events) - 1)), events.pop(at))
            case _:
                events.insert(at, data.draw(ANY_EVENT))
    assert_restored(events)


@PROPERTY
@given(st.lists(foreign_replies(), max_size=2))
def test_events_of_other_providers_come_back(replies: list[list[Any]]) -> None:
    """Events of providers with correct, wrong or no `partial` dicts are read back unchanged."""
    assert_restored([event for reply in replies for event in reply])


def test_a_stored_event_shows_the_message_at_its_time() -> None:
    """A restored update has the message at its own time."""
    builder = MessageBuilder(MODEL, timestamp=1)
    events: list[Any] = [MessageStartEvent(message=builder.message())]
    index, event = builder.open_text()
    events += [update(event), update(builder.delta(index, "a")), update(builder.delta(index, "b"))]
    back = list(jsonl.read(written(events)))
    assert ["", "a", "ab"] == [event.message["content"][0]["text"] for event in back[1:]]


async def test_a_real_run_comes_back() -> None:
    """The events of a run with thinking, parallel calls, updates and an error are read back unchanged."""
    events = await run(
        Reply(thinking("hm", signature="s"), "two", call("double", n=1), call("double", n=2)),
        Reply(call("double", "{not json"), call("nothing")),
        Reply("ha", error="the line broke", usage={"input": 1}),
        tools=[DOUBLE],
    )
    assert_restored(events)


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 + 1, -(2**200), 10**400])
def test_integers_of_any_size_survive(number: int) -> None:
    """No integer becomes a float."""
    events = [ToolExecutionStartEvent(tool_call_id="c", tool_name="t", args={"n": number})]
    back = list(jsonl.read(written(events)))
    assert events == back
    assert isinstance(back[0].args["n"], int)


# ---- each body is written once -----------------------------------------------------------------------


async def test_each_body_is_written_once() -> None:
    """The text of a user, an assistant or a tool is in only one line of a run without deltas."""
    events = await run(
        Reply("ASSISTANT-BODY", call("double", n=21)), "done", prompt="USER-BODY", tools=[DOUBLE]
    )
    lines = written(events, deltas=False)
    for body in (b"USER-BODY", b"ASSISTANT-BODY", b'"text":"42"'):
        assert 1 == b"".join(lines).count(body)
    by_type = {line["type"]: line for line in parsed(lines)}
    assert by_type["agent_end"].keys() == {"type", "seq", "time", "limit"}
    assert by_type["turn_end"].keys() == {"type", "seq", "time"}
    assert "message_update" not in by_type


async def test_bodies_are_in_the_lines_of_the_format() -> None:
    """The message is in `message_end`, and the result of a tool in `tool_execution_end`."""
    lines = parsed(written(await run(Reply(call("double", n=1)), "done", tools=[DOUBLE])))
    ends = [line for line in lines if line["type"] == "message_end"]
    assert ["user", "assistant", "tool_result", "assistant"] == [line["role"] for line in ends]
    assert [True, True, False, True] == ["message" in line for line in ends]
    assert ends[2].keys() == {"type", "seq", "time", "role", "tool_call_id", "timestamp"}
    starts = [line for line in lines if line["type"] == "message_start"]
    assert not any("message" in line for line in starts)
    for line in lines:
        if line["type"] == "message_update":
            step = line["assistant_message_event"]
            assert "partial" not in step
            assert not step["type"].endswith("_end") or step.keys() == {"type", "content_index"}


async def test_lines_are_numbered_and_timed() -> None:
    """`type` is the first key, `seq` has no gaps, and each line but a delta has `time`."""
    events = await run(Reply("a b c", call("double", n=1)), "done", tools=[DOUBLE])
    for deltas in (True, False):
        lines = parsed(written(events, deltas=deltas))
        assert list(range(1, len(lines) + 1)) == [line["seq"] for line in lines]
        assert {"type"} == {next(iter(line)) for line in lines}
        for line in lines:
            delta = line.get("assistant_message_event", {}).get("type", "").endswith("_delta")
            assert ("time" in line) is not delta


def deltas(count: int, word: str = " word") -> tuple[list[Any], list[Any]]:
    builder = MessageBuilder(MODEL, timestamp=1)
    before: list[Any] = [MessageStartEvent(message=builder.message())]
    index, event = builder.open_text()
    return [*before, update(event)], [update(builder.delta(index, word)) for _ in range(count)]


@pytest.mark.parametrize("kind", ["text", "thinking", "tool_call"])
def test_a_delta_is_at_most_130_bytes(kind: str) -> None:
    """1,000 deltas of one word take at most 130 bytes each, including the rest of the message."""
    builder = MessageBuilder(MODEL, timestamp=1)
    events: list[Any] = [MessageStartEvent(message=builder.message())]
    index, event = {
        "text": builder.open_text,
        "thinking": builder.open_thinking,
        "tool_call": lambda: builder.open_tool_call("call_1", "write"),
    }[kind]()
    events.append(update(event))
    events += [update(builder.delta(index, " word")) for _ in range(1000)]
    assert sum(map(len, written(events))) <= 130 * 1000


def test_size_is_linear() -> None:
    """Ten times the deltas take ten times the bytes."""
    small, large = (sum(map(len, written([*a, *b]))) for a, b in (deltas(500), deltas(5000)))
    assert large < 10.5 * small


async def test_a_provider_with_whole_partials_stays_linear() -> None:
    """The size is linear for a provider whose events each contain the whole message."""

    def sized(count: int) -> int:
        before, steps = deltas(count)
        builder = MessageBuilder(MODEL, timestamp=1)
        foreign = [
            update(
                builder.absorb({**event.assistant_message_event, "partial": {**event.message, "model": "x"}})
            )
            for event in [before[1], *steps]
        ]
        events = [before[0], *foreign]
        assert_restored(events)
        return sum(map(len, written(events)))

    assert sized(300) < 3.3 * sized(100)


@pytest.mark.parametrize("started", [True, False])
async def test_a_provider_with_an_envelope_of_its_own_stays_linear(started: bool) -> None:
    """The size is linear if the fields around the content differ from those of the message's start."""

    async def events_of_a_run(count: int) -> list[Any]:
        async def stream(model: Any, context: Any, options: Any) -> Any:
            async def reply() -> Any:
                builder = MessageBuilder(MODEL, timestamp=1)
                if started:
                    yield {"type": "start", "partial": {**builder.message(), "model": "y"}}
                for event in [builder.open_text()[1], *(builder.delta(0, " word") for _ in range(count))]:
                    yield dict(event) if started else event
                yield builder.done("stop")

            return reply()

        agent = Agent(AgentOptions(initial_state={"model": MODEL}, stream_fn=stream))
        return await collect(agent.stream("hi"))

    sizes = []
    for count in (100, 1000):
        events = await events_of_a_run(count)
        assert_restored(events)
        sizes.append(sum(map(len, written(events))))
    assert sizes[1] < 10 * sizes[0]


# ---- the schema ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(jsonl.schema(custom_roles=True))


def records() -> list[Any]:
    error = jsonl.ErrorRecord(kind="timeout", message="no answer", hint=None)
    return [
        session(),
        session(model=None),
        jsonl.HistoryRecord(message=user("earlier")),
        jsonl.HistoryRecord(message={"role": "note", "anything": [1]}),
        jsonl.HistoryRecord(message=assistant("x", stop_reason="complete")),
        result(),
        result(ok=False, exit_code=1, usage=None, stop_reason=None, error=error),
    ]


def test_records_validate(validator: Any) -> None:
    """Session, history and result lines fit the schema."""
    for line in parsed(written(records())):
        validator.validate(line)


async def test_what_an_agent_writes_validates(validator: Any) -> None:
    """Each line of real runs fits the schema."""
    events = await run(
        Reply(thinking("hm", signature="s"), "two", call("double", n=1), call("double", "[]")),
        Reply("ha", error="the line broke", usage={"input": 1}),
        tools=[DOUBLE],
    )
    for line in parsed(written(events)):
        validator.validate(line)


@PROPERTY
@given(runs())
def test_runs_validate(validator: Any, events: list[Any]) -> None:
    """Each line of any well-formed run fits the schema."""
    for line in parsed(written(events)):
        validator.validate(line)


def test_snapshots_validate(validator: Any) -> None:
    """Each line of every snapshot in the tests fits the schema."""
    files = list(SNAPSHOTS.rglob("*.jsonl"))
    assert files
    for file in files:
        for line in file.read_text("utf-8").split("\n"):
            if line:
                validator.validate(json.loads(line))


async def test_lines_without_a_required_field_are_refused(validator: Any) -> None:
    """A line without a field that readers need does not fit the schema."""
    events = await run(Reply("a", call("double", n=1)), "done", tools=[DOUBLE])
    needed = {
        "session": ["version", "id", "created", "model", "system_prompt", "thinking_level", "tools"],
        "history": ["message"],
        "message_start": ["role", "seq", "time"],
        "message_update": ["assistant_message_event", "seq"],
        "message_end": ["role"],
        "tool_execution_start": ["tool_call_id", "tool_name", "args"],
        "tool_execution_update": ["tool_call_id", "partial_result"],
        "tool_execution_end": ["tool_call_id", "tool_name", "result", "is_error"],
        "agent_end": ["seq", "time"],
        "result": ["ok", "exit_code", "stop_reason", "text", "usage", "turns", "duration_ms", "error"],
    }
    seen = set()
    for line in parsed([*written(records()), *written(events)]):
        for name in ["type", *needed.get(line["type"], [])]:
            cut = {key: value for key, value in line.items() if key != name}
            assert not validator.is_valid(cut), (name, line)
        seen.add(line["type"])
    assert needed.keys() <= seen
    assert not validator.is_valid({"type": "message_end", "seq": 1, "time": 1, "role": "user"})
    assert not validator.is_valid(
        {"type": "history", "message": {"role": "user", "content": [{"type": "tool_call"}]}}
    )


def test_the_schema_has_a_component_for_each_type() -> None:
    """Messages, contents and lines have names, so that other programs can generate types from them."""
    names = jsonl.schema()["$defs"].keys()
    assert {"UserMessage", "AssistantMessage", "ToolResultMessage", "TextContent", "MessageEnd"} <= names
    assert not [name for name in names if name.startswith("_")]


async def test_the_wire_format(snapshot_jsonl: Any) -> None:
    """The lines of a run with thinking, a tool call and an answer do not change."""
    events = await run(
        Reply(thinking("hm", signature="s"), call("double", n=21, call_id="c1")),
        Reply("It is 42.", usage={"input": 9, "output": 3, "total": 12, "cost": None}),
        tools=[DOUBLE],
    )
    assert events == snapshot_jsonl


async def test_the_wire_format_of_a_failure(snapshot_jsonl: Any) -> None:
    """The lines of a failed run do not change."""
    assert await run(Reply("Half an ans", error="the line broke")) == snapshot_jsonl


# ---- unusual and invalid lines --------------------------------------------------------------------


def stream(prompt: str, answer: str, *history: Any) -> list[Any]:
    message = user(prompt)
    reply = assistant(answer)
    return [
        session(),
        *(jsonl.HistoryRecord(message=item) for item in history),
        AgentStartEvent(),
        TurnStartEvent(),
        MessageStartEvent(message=message),
        MessageEndEvent(message=message),
        MessageStartEvent(message=assistant()),
        MessageEndEvent(message=reply),
        TurnEndEvent(message=reply, tool_results=[]),
        AgentEndEvent(messages=[message, reply]),
        result(),
    ]


def events_of(records: list[Any]) -> list[Any]:
    kinds = jsonl.SessionRecord | jsonl.HistoryRecord | jsonl.ResultRecord
    return [record for record in records if not isinstance(record, kinds)]


def test_unknown_types_and_fields_are_ignored() -> None:
    """Types and fields of later versions are ignored."""
    lines = written(stream("a", "b"))
    lines.insert(3, b'{"type":"weather","sunny":true}\n')
    lines[1] = lines[1].replace(b'"seq"', b'"mood":"good","seq"')
    assert events_of(stream("a", "b")) == list(jsonl.read(lines))


def test_blank_lines_are_skipped() -> None:
    """Empty lines are skipped, and CR LF ends a line like LF."""
    text = b"\n\r\n".join(line.strip() for line in written(stream("a", "b"))) + b"\n  \n"
    assert events_of(stream("a", "b")) == list(jsonl.read(text))


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_torn_last_line_is_left_out_with_a_warning(cut: int) -> None:
    """An incomplete last line causes a warning, and the lines before it are read."""
    lines = written(stream("ä", "b"))
    torn = b"".join(lines[:5]) + lines[5][:cut]
    warnings: list[str] = []
    assert events_of(stream("ä", "b"))[:4] == list(jsonl.read(torn, on_warning=warnings.append))
    assert 1 == len(warnings)
    assert "line 6" in warnings[0]
    with pytest.warns(UserWarning, match="line 6 is incomplete"):
        list(jsonl.read(torn))


def test_a_complete_last_line_needs_no_line_feed() -> None:
    """A complete last line without LF is read."""
    text = b"".join(written(stream("a", "b"))).rstrip(b"\n")
    assert events_of(stream("a", "b")) == list(jsonl.read(text))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"hello\n", "line 2 is not JSON"),
        (b'{"type":"message_end"\n', "line 2 is not JSON"),
        (b"[1]\n", "line 2 is not an object with a `type`"),
        (b'{"kind":"x"}\n', "line 2 is not an object with a `type`"),
        (b'{"type":7}\n', "line 2 is not an object with a `type`"),
        (b'{"type":"history"}\n', "line 2 (history): Object missing required field `message`"),
        (
            b'{"type":"history","message":[]}\n',
            "line 2 (history): Expected `object`, got `array` - at `$.message`",
        ),
        (b'{"type":"message_end","role":"tool_result","tool_call_id":"c9"}\n', "'c9'"),
        (b'{"type":"turn_end"}\n', "line 2 (turn_end)"),
        (b"[" * 100_000 + b"\n", "line 2 is not JSON"),
    ],
)
def test_a_malformed_line_is_named(line: bytes, says: str) -> None:
    """The error contains the number of the line and the fault."""
    lines = [b'{"type":"agent_start","seq":1,"time":1}\n', line, b'{"type":"turn_start"}\n']
    with pytest.raises(RecordError) as caught:
        list(jsonl.read(lines))
    assert says in str(caught.value)


def test_another_file_is_not_an_empty_conversation() -> None:
    """A text file, even of one line without LF, is refused."""
    for content in (b"Dear reader", b"# Title\n\ntext\n", b"17", b'"text"'):
        with pytest.raises(RecordError):
            jsonl.messages(io.BytesIO(content))


def test_a_newer_version_is_refused() -> None:
    """A stream of a newer version raises an error with that version."""
    with pytest.raises(RecordError, match="version 2"):
        list(jsonl.read(written([session(version=2)])))


def test_line_separators_in_texts_stay_text() -> None:
    """U+2028, U+0085 and similar characters do not end a line."""
    events = events_of(stream("a\u2028b\u0085c\x0bd\r\ne", "x\u2029y"))
    assert_restored(events)


def test_strings_and_lines_without_line_feeds_are_read() -> None:
    """Bytes, text, files, and lists of either give the same events."""
    lines, events = written(stream("a", "b")), events_of(stream("a", "b"))
    whole = b"".join(lines)
    for source in (
        whole,
        whole.decode(),
        io.BytesIO(whole),
        io.StringIO(whole.decode()),
        [line.rstrip(b"\n") for line in lines],
        [line.decode() for line in lines],
        [whole[: len(lines[0]) + len(lines[1])], *lines[2:]],
    ):
        assert events == list(jsonl.read(source))


def test_reading_does_not_wait_for_more_than_the_next_line() -> None:
    """An event is read before the line after the next one arrives."""
    taken = 0

    def lines() -> Iterator[bytes]:
        nonlocal taken
        for line in written(events_of(stream("a", "b"))):
            taken += 1
            yield line

    for number, _ in enumerate(jsonl.read(lines()), 1):
        assert taken <= number + 2


ODD_LINES = [
    b"\n",
    b" \r\n",
    b'{"type":"weather","sunny":true}\n',
    b'{"type":"turn_start","seq":1} {"type":"turn_start","seq":2}\n',
    b'{"type":"turn_start",\n',
    b'"seq":1}\n',
    b'{"type":"turn_start","mood":{\n"good":1}}\n',
    b'{"type": "turn_start"}\r\n',
    b'{"type":"turn_end"}\n',
    b'{"type":"message_update","seq":1}\n',
    b'{"type":"message_update","seq":1,"assistant_message_event":{}}\n',
    b'{"type":"message_update","assistant_message_event":{"a":1,"b":2,"c":3}}\n',
    b'{"type":"message_end","role":"user","message":{"text":"\\ud83d"}}\n',
    b"\xff\n",
    b"hello\n",
]


def outcome(read: Callable[[], Iterable[Any]]) -> tuple[list[Any], str]:
    """Return what was read, and the error that ended it."""
    records: list[Any] = []
    try:
        records.extend(read())
    except RecordError as error:
        return records, str(error)
    return records, ""


@PROPERTY
@given(runs(), st.lists(st.tuples(st.integers(0, 50), st.sampled_from(ODD_LINES)), max_size=3))
def test_lines_in_chunks_are_read_like_single_lines(events: list[Any], odd: list[tuple[int, bytes]]) -> None:
    """For any lines, bytes, a file and a list give the records and the error of one call for each line."""
    lines = written(events)
    for place, line in odd:
        lines.insert(min(place, len(lines)), line)

    def read_single() -> Iterator[Any]:
        decoder = jsonl.Decoder()
        for line in b"".join(lines).splitlines(keepends=True):
            yield from decoder.decode(line)
        yield from decoder.close()

    expected = outcome(read_single)
    for source in (b"".join(lines), io.BytesIO(b"".join(lines)), lines, iter(lines)):
        assert expected == outcome(lambda source=source: jsonl.read_records(source))  # type: ignore[misc]


@PROPERTY
@given(runs())
def test_a_conversation_has_all_messages_that_ended(events: list[Any]) -> None:
    """`messages` leaves out `message_update` lines, and returns the messages of the `message_end` events.

    Without `whole`, these are the summary and the messages that stay.
    """
    expected: list[Any] = [event.message for event in events if isinstance(event, MessageEndEvent)]
    lines = b"".join(written(events))
    assert expected == jsonl.messages(lines, whole=True)
    expected = []
    for event in events:
        if isinstance(event, MessageEndEvent):
            expected.append(event.message)
        elif isinstance(event, CompactionEndEvent) and event.summary is not None:
            left = [expected[place] for place in event.kept if -place <= len(expected)]
            expected = [event.summary, *left]
    assert expected == jsonl.messages(lines)


def test_a_pipe_is_read_as_it_is_written() -> None:
    """Complete lines in a pipe are read while its writer waits, and a partial line when it is complete."""
    lines = written(events_of(stream("a", "b")))
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as reader, os.fdopen(sink, "wb", buffering=0) as writer:
        writer.write(b"".join(lines[:2]) + lines[2][:9])
        events = jsonl.read(reader)
        assert [AgentStartEvent(), TurnStartEvent()] == [next(events), next(events)]
        writer.write(lines[2][9:] + lines[3])
        assert MessageStartEvent(message=user("a")) == next(events)


def test_a_malformed_line_after_many_deltas_is_named() -> None:
    """The number in the error counts all lines, also those of earlier chunks."""
    before, steps = deltas(3000)
    lines = [*written([*before, *steps]), b"hello\n"]
    with pytest.raises(RecordError, match=f"line {len(lines)} is not JSON"):
        list(jsonl.read(b"".join(lines)))


def test_a_long_line_in_a_file_is_read() -> None:
    """A line that is longer than the chunks of a file is complete."""
    events = events_of(stream("a" * 300_000, "b" * 300_000))
    lines = written(events)
    assert events == list(jsonl.read(io.BytesIO(b"".join(lines))))
    assert events == list(jsonl.read(b"".join(lines)))


# ---- records and conversations ----------------------------------------------------------------------------


def test_records_come_back_between_the_events() -> None:
    """`read_records` returns records and events in their order."""
    records = stream("a", "b", user("earlier"))
    back = list(jsonl.read_records(written(records)))
    assert [type(record) for record in records] == [type(record) for record in back]
    assert back[0] == session(time=7)
    assert back[-1] == result(time=7)


def test_a_conversation_is_the_history_and_the_messages() -> None:
    """`messages` returns the history and every complete message."""
    lines = written(stream("now", "yes", user("before"), assistant("hm")))
    assert [user("before"), assistant("hm"), user("now"), assistant("yes")] == jsonl.messages(lines)


def test_streams_one_after_another_are_one_conversation() -> None:
    """Two runs in sequence are one conversation."""
    first, second = stream("a", "b"), stream("c", "d")
    conversation = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert conversation == jsonl.messages([*written(first), *written(second)])
    assert conversation == jsonl.messages([*written(first), *written(second[1:])])


def test_a_continued_stream_repeats_no_message() -> None:
    """If the history of a stream is the stream before it, its messages are not repeated."""
    first = written(stream("a", "b"))
    second = written(stream("c", "d", *jsonl.messages(first)))
    conversation = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert conversation == jsonl.messages(second)
    assert conversation == jsonl.messages([*first, *second])


async def test_tool_results_are_part_of_the_conversation() -> None:
    """The calls and results of a session file without deltas are read."""
    events = await run(Reply(call("double", n=21)), "done", tools=[DOUBLE])
    conversation = jsonl.messages(written(events, deltas=False))
    assert events[-1].messages == conversation
    assert "42" == conversation[2]["content"][0]["text"]


def test_a_message_that_never_ended_is_no_message() -> None:
    """A message without its end is not a part of the conversation."""
    lines = written([*events_of(stream("a", "b")), MessageStartEvent(message=user("lost"))])[:-1]
    assert [user("a"), assistant("b")] == jsonl.messages(lines)
    back = list(jsonl.read(lines))
    assert {"role": "user", "content": []} == back[-1].message


# ---- values that JSON cannot represent ---------------------------------------------------------------


def test_lone_surrogates_never_break_a_line() -> None:
    """An unpaired surrogate in a text becomes U+FFFD."""
    events = events_of(stream("a\ud83d", "b\udc00c"))
    builder = MessageBuilder(MODEL, timestamp=1)
    events.append(MessageStartEvent(message=builder.message()))
    index, event = builder.open_text()
    events += [update(event), update(builder.delta(index, "x\ud83d")), update(builder.close(index))]
    lines = written(events)
    assert "a\ufffd" == jsonl.messages(lines)[0]["content"][0]["text"]
    back = list(jsonl.read(lines))
    assert "x\ufffd" == back[-1].message["content"][0]["text"]
    assert all(b"\n" not in line[:-1] and line.endswith(b"\n") for line in lines)


def test_not_a_number_is_null() -> None:
    """NaN and infinities become null."""
    details = {"nan": float("nan"), "inf": float("inf")}
    event = ToolExecutionEndEvent(
        tool_call_id="c", tool_name="t", result=AgentToolResult(details=details), is_error=False
    )
    (back,) = jsonl.read(written([event]))
    assert {"nan": None, "inf": None} == back.result.details


def test_details_that_are_no_json_are_written_as_text() -> None:
    """Details that JSON cannot represent are written as strings."""
    details = {"path": Path("a/b"), "error": ValueError("x"), 3: {1, 2}, ("t",): b"bytes"}
    event = ToolExecutionEndEvent(
        tool_call_id="c", tool_name="t", result=AgentToolResult(details=details), is_error=False
    )
    (back,) = jsonl.read(written([event]))
    assert "a/b" == back.result.details["path"]
    assert "x" == back.result.details["error"]
    assert back.result.details.keys() == {"path", "error", "3", "('t',)"}


# ---- encodings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_read(codec: str, tmp_path: Path) -> None:
    """The encodings of PowerShell's `>` and of editors are read, as bytes and from a file."""
    texts = ["ਊ é 😀", "two", "three"]  # the first character is two bytes 0x0A in UTF-16
    events = [jsonl.HistoryRecord(message={"role": "note", "text": text}) for text in texts]
    data = b"".join(jsonl.write(events)).decode().encode(codec)
    (tmp_path / "run.jsonl").write_bytes(data)
    with (tmp_path / "run.jsonl").open("rb") as file:
        for lines in (data, file):
            assert texts == [message["text"] for message in jsonl.messages(lines)]


def test_marks_between_streams_are_skipped() -> None:
    """A byte order mark at the start of the second stream of `cat a.jsonl b.jsonl` is skipped."""
    stream = b"\xef\xbb\xbf" + b"".join(jsonl.write([jsonl.HistoryRecord(message={"role": "note"})]))
    assert [{"role": "note"}] * 2 == [record.message for record in jsonl.read_records(stream * 2)]
    assert [{"role": "note"}] * 2 == [record.message for record in jsonl.read_records(stream.decode() * 2)]
