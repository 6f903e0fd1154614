"""The test tools are strict, and the grammar checker refuses each kind of wrong run."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from tinyagent import testing
from tinyagent._cancel import AbortSignal
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentStartEvent,
    AgentTool,
    AgentToolResult,
    CompactionEndEvent,
    CompactionStartEvent,
    Context,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnEndEvent,
    TurnStartEvent,
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
    tool_result,
    user,
)

# ---- the scripted provider ----------------------------------------------------------------------------


async def ask(provider: ScriptedProvider, *messages: Any, **options: Any) -> Any:
    response = await provider(provider.model, Context("be brief", list(messages)), options)
    return await collect(response), await response.result()


async def test_a_text_is_a_reply_word_by_word() -> None:
    """A string is a reply with one delta for each word."""
    events, message = await ask(ScriptedProvider("It is 42."))
    types = ["start", "text_start", "text_delta", "text_delta", "text_delta", "text_end", "done"]
    assert types == [event["type"] for event in events]
    assert "It is 42." == message["content"][0]["text"]
    assert "stop" == message["stop_reason"]


async def test_a_reply_has_blocks_of_every_kind() -> None:
    """A reply has its thinking, text and calls in order, with signatures, usage and stop reason."""
    reply = Reply(
        thinking("h", "m", signature="s"),
        "So",
        call("f", a=1),
        call("g", '{"b"', ":2}", call_id="x"),
        usage={"input": 1},
    )
    _, message = await ask(ScriptedProvider(reply))
    assert [
        {"type": "thinking", "thinking": "hm", "thinking_signature": "s"},
        {"type": "text", "text": "So"},
        {"type": "tool_call", "id": "call_1", "name": "f", "arguments": {"a": 1}},
        {"type": "tool_call", "id": "x", "name": "g", "arguments": {"b": 2}},
    ] == message["content"]
    assert ("tool_use", {"input": 1}) == (message["stop_reason"], message["usage"])


async def test_replies_can_fail_in_every_way() -> None:
    """A step can be an error event, an exception of the call or of the stream, or a stream without an end."""
    _, message = await ask(ScriptedProvider(Reply("Half", error="broke", error_kind="timeout")))
    assert ("error", "broke", "timeout") == (
        message["stop_reason"],
        message["error_message"],
        message["error_kind"],
    )
    with pytest.raises(OSError, match="no route"):
        await ask(ScriptedProvider(OSError("no route")))
    with pytest.raises(OSError, match="gone"):
        await ask(ScriptedProvider(Reply(text("a", OSError("gone"), "b"))))
    response = await ScriptedProvider(Reply("a", ends=False))(None, Context(), {})
    assert "text_end" == (await collect(response))[-1]["type"]


async def test_gates_hold_a_reply_back() -> None:
    """The deltas after a gate are yielded when the gate is opened, and not before."""
    gate = asyncio.Event()
    response = await ScriptedProvider(Reply(text("a", gate, "b")))(None, Context(), {})
    events = response.__aiter__()
    seen = [(await anext(events))["type"] for _ in range(3)]
    assert ["start", "text_start", "text_delta"] == seen
    waiting = asyncio.ensure_future(anext(events))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert "b" == (await waiting)["delta"]
    await response.aclose()


async def test_a_hanging_reply_ends_with_the_signal() -> None:
    """A reply with `hang` waits until the call is aborted."""
    signal = AbortSignal()
    asyncio.get_running_loop().call_later(0.01, signal.set)
    _, message = await ask(ScriptedProvider(Reply("Half", hang=True)), signal=signal)
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])


async def test_a_step_can_be_a_function() -> None:
    """A step can be a sync or async function of the context and the options that returns a step."""

    async def later(context: Context, options: Any) -> Reply:
        return Reply(f"{len(context.messages)} {options['temperature']}")

    provider = ScriptedProvider(lambda context, options: context.system_prompt, later)
    assert "be brief" == (await ask(provider, temperature=1))[1]["content"][0]["text"]
    assert "1 1" == (await ask(provider, user("x"), temperature=1))[1]["content"][0]["text"]


async def test_calls_are_recorded() -> None:
    """The model, context and options of each call are recorded, and later changes do not affect them."""
    provider = ScriptedProvider("a", "b")
    message = user("first")
    await ask(provider, message, max_tokens=5)
    message["content"].append("changed")
    assert [user("first")] == provider.calls[0].context.messages
    assert {"max_tokens": 5} == provider.calls[0].options
    assert "scripted" == provider.calls[0].model.id


async def test_a_call_too_many_fails_at_once_and_at_the_end() -> None:
    """A call without a step gets an error message, and the end of the block raises `AssertionError`."""

    async def block() -> Any:
        async with ScriptedProvider("only") as provider:
            await ask(provider)
            return (await ask(provider))[1]

    with pytest.raises(AssertionError, match=r"call 2, but the script has 1 step"):
        await block()
    provider = ScriptedProvider()
    assert "error" == (await ask(provider))[1]["stop_reason"]
    with pytest.raises(AssertionError, match="call 1"):
        provider.assert_finished()


async def test_a_step_left_over_fails() -> None:
    """An unused step raises `AssertionError`, unless the block raises its own error."""
    left = r"1 of 2 step\(s\) not used, the first of them 'b'"
    with pytest.raises(AssertionError, match=left), ScriptedProvider("a", "b") as provider:
        await ask(provider)
    with pytest.raises(KeyError), ScriptedProvider("a"):
        raise KeyError


def test_each_public_name_is_loaded_on_use() -> None:
    """Each name in `__all__` can be imported, and an unknown name raises `AttributeError`."""
    assert set(testing.__all__) == {name for name in testing.__all__ if getattr(testing, name) is not None}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = testing.nonsense


# ---- the grammar --------------------------------------------------------------------------------------


async def _work(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
    on_update(AgentToolResult(content=[{"type": "text", "text": "soon"}]))
    await asyncio.sleep(args.get("seconds", 0))
    return AgentToolResult(content=[{"type": "text", "text": call_id}])


async def run(*steps: Any, **options: Any) -> list[Any]:
    async with ScriptedProvider(*steps) as provider:
        tools = [AgentTool(name="work", execute=_work, read_only=True)]
        state = {"model": provider.model, "tools": tools}
        return await collect(
            Agent(AgentOptions(initial_state=state, stream_fn=provider, **options)).stream("hi")
        )


@pytest.mark.parametrize(
    "steps",
    [
        ["hello"],
        [Reply(thinking("hm"), "text", call("work")), "done"],
        [Reply(call("work", seconds=0.02), call("work", seconds=0.0), call("none")), "done"],
        [Reply(call("work", "[broken"), stop_reason="length"), "done"],
        [Reply("Half", error="broke")],
        [OSError("no route")],
        [Reply("Half", ends=False)],
    ],
)
async def test_runs_fit_the_grammar(steps: list[Any]) -> None:
    """The runs of the loop fit the grammar, also failed ones and those with parallel executions."""
    check_grammar(await run(*steps))


def right() -> list[Any]:
    """Return a correct run of two calls whose executions interleave."""
    block_a = {"type": "tool_call", "id": "a", "name": "work", "arguments": {}}
    block_b = {"type": "tool_call", "id": "b", "name": "work", "arguments": {}}
    first, second = assistant(block_a, block_b), assistant("done")
    given = {name: AgentToolResult(content=[{"type": "text", "text": name}]) for name in "ab"}
    result_a, result_b = tool_result("a", "work", "a"), tool_result("b", "work", "b")
    part = {"type": "text_delta", "content_index": 0, "delta": "x"}
    return [
        AgentStartEvent(),  # 0
        TurnStartEvent(),
        MessageStartEvent(message=user("hi")),
        MessageEndEvent(message=user("hi")),
        MessageStartEvent(message=assistant()),  # 4
        MessageUpdateEvent(assistant_message_event=part),
        MessageEndEvent(message=first),
        ToolExecutionStartEvent(tool_call_id="a", tool_name="work", args={}),  # 7
        ToolExecutionStartEvent(tool_call_id="b", tool_name="work", args={}),
        ToolExecutionUpdateEvent(tool_call_id="a", tool_name="work", args={}, partial_result=given["a"]),
        ToolExecutionEndEvent(tool_call_id="b", tool_name="work", result=given["b"], is_error=False),  # 10
        ToolExecutionEndEvent(tool_call_id="a", tool_name="work", result=given["a"], is_error=False),
        MessageStartEvent(message=result_a),  # 12
        MessageEndEvent(message=result_a),
        MessageStartEvent(message=result_b),
        MessageEndEvent(message=result_b),
        TurnEndEvent(message=first, tool_results=[result_a, result_b]),  # 16
        TurnStartEvent(),
        MessageStartEvent(message=assistant()),  # 18
        MessageEndEvent(message=second),
        TurnEndEvent(message=second),
        AgentEndEvent(messages=[user("hi"), first, result_a, result_b, second]),  # 21
    ]


def test_the_run_written_out_is_right() -> None:
    """The run that the table below breaks is correct."""
    check_grammar(right())


def drop(*places: int) -> Callable[[list[Any]], None]:
    def change(events: list[Any]) -> None:
        for place in sorted(places, reverse=True):
            del events[place]

    return change


def swap(a: int, b: int) -> Callable[[list[Any]], None]:
    def change(events: list[Any]) -> None:
        events[a], events[b] = events[b], events[a]

    return change


def double(place: int) -> Callable[[list[Any]], None]:
    return lambda events: events.insert(place, events[place])


def put(place: int, event: Any) -> Callable[[list[Any]], None]:
    return lambda events: events.insert(place, event)


def edit(place: int, **fields: Any) -> Callable[[list[Any]], None]:
    def change(events: list[Any]) -> None:
        old = events[place]
        unchanged = {name: getattr(old, name) for name in old.__struct_fields__}
        events[place] = type(old)(**{**unchanged, **fields})

    return change


def compact(**fields: Any) -> Callable[[list[Any]], None]:
    """Insert a compaction that ends with these fields."""
    pair = [CompactionStartEvent(reason="limit", tokens=1), CompactionEndEvent(**fields)]
    return lambda events: events.__setitem__(slice(2, 2), pair)


def fail_first(events: list[Any]) -> None:
    events[6] = MessageEndEvent(message={**events[6].message, "stop_reason": "error"})


BROKEN: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "no agent_start": (drop(0), r"event 0 \(turn_start\).*expected agent_start"),
    "two agent_starts": (double(0), r"event 1 \(agent_start\).*expected turn_start"),
    "no agent_end": (drop(21), r"after the last event.*expected turn_start, agent_end"),
    "an event after agent_end": (double(21), r"event 22 \(agent_end\).*expected nothing more"),
    "no turn": (drop(*range(1, 21)), r"event 1 \(agent_end\).*expected turn_start"),
    "no turn_start": (drop(17), r"event 17 \(message_start:assistant\)"),
    "no turn_end": (drop(16), r"event 16 \(turn_start\)"),
    "a turn without an assistant": (drop(18, 19), r"event 18 \(turn_end\)"),
    "two assistants in a turn": (put(20, MessageStartEvent(message=assistant())), r"event 20"),
    "a user after the assistant": (put(7, MessageStartEvent(message=user("x"))), r"event 7"),
    "a message that does not end": (drop(3), r"event 3 \(message_start:assistant\)"),
    "a message that does not begin": (drop(2), r"event 2 \(message_end:user\)"),
    "a message that ends as another": (
        edit(3, message=user("ho")),
        r"event 3 .*the same at its start and its end",
    ),
    "an assistant that begins full": (edit(18, message=assistant("d")), r"event 18 .*starts empty"),
    "an update outside a message": (swap(4, 5), r"event 4 \(message_update\)"),
    "an update that is an end": (
        edit(5, assistant_message_event={"type": "done"}),
        r"event 5 .*a step of a block",
    ),
    "an execution without a call": (edit(7, tool_call_id="z"), r"event 7 .*a call of the turn's message"),
    "an execution of another tool": (edit(7, tool_name="play"), r"event 7 .*by id and name"),
    "an execution twice": (double(7), r"event 8 .*executed once"),
    "an execution after an error": (fail_first, r"event 7 .*no tool runs after stop_reason 'error'"),
    "an execution that does not end": (drop(11), r"event 11 .*after its tool_execution_end"),
    "an execution that does not begin": (drop(8), r"event 9 .*has started and not ended"),
    "an end without its name": (edit(10, tool_name="play"), r"event 10 .*the name 'work'"),
    "an update after the end": (swap(9, 11), r"event 11 .*has started and not ended"),
    "an update that is no result": (edit(9, partial_result=None), r"event 9 .*AgentToolResult"),
    "an end that is no result": (edit(10, result=None), r"event 10 .*AgentToolResult"),
    "results out of order": (
        lambda events: (swap(12, 14)(events), swap(13, 15)(events))[0],
        r"event 12 .*order of the calls; the next is 'a'",
    ),
    "an execution without an end and a result": (drop(10, 14, 15), r"event 13 .*the ends of \['b'\]"),
    "a result missing": (drop(14, 15), r"event 14 .*the results of \['b'\]"),
    "a call left out": (drop(8, 10, 14, 15), r"event 12 .*2 result\(s\)"),
    "a result with other content": (
        lambda events: (
            edit(12, message=tool_result("a", "work", "other"))(events),
            edit(13, message=tool_result("a", "work", "other"))(events),
        )[0],
        r"event 13 .*content is that of tool_execution_end",
    ),
    "a turn_end of another message": (edit(16, message=assistant("x")), r"event 16 .*the turn's assistant"),
    "a turn_end without its results": (edit(16, tool_results=[]), r"event 16 .*results, in order"),
    "a compaction without a summary": (compact(), r"event 3 .*a summary, or else the reason"),
    "a compaction with a summary and an error": (
        compact(summary=user("s"), error_message="no"),
        r"event 3 .*a summary, or else the reason",
    ),
    "a compaction in another order": (
        compact(summary=user("s"), kept=[-1, -2]),
        r"event 3 .*positions from the end, in order",
    ),
    "a compaction that counts from the beginning": (
        compact(summary=user("s"), kept=[-1, 0]),
        r"event 3 .*positions from the end",
    ),
    "an agent_end without a message": (edit(21, messages=[]), r"event 21 .*5 message"),
    "an agent_end with an unknown limit": (edit(21, limit="boredom"), r"event 21 .*a limit"),
    "something that is no event": (put(1, "agent_start"), r"event 1 \(None\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_grammar_is_refused(name: str) -> None:
    """The error names the event, its position and what was expected."""
    change, says = BROKEN[name]
    events = copy.copy(right())
    change(events)
    with pytest.raises(AssertionError, match=says):
        check_grammar(events)


def test_an_empty_list_is_not_a_run() -> None:
    """An empty list of events is refused."""
    with pytest.raises(AssertionError, match="expected agent_start"):
        check_grammar([])


def test_each_transition_is_used_or_refused() -> None:
    """A run without any of its events, or with one twice, is refused, except for updates."""
    optional = {5, 9}  # the updates
    for place in range(len(right())):
        for change in (drop(place), double(place)):
            events = right()
            change(events)
            if place in optional:
                check_grammar(events)
            else:
                with pytest.raises(AssertionError):
                    check_grammar(events)
