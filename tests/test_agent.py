# ruff: noqa: PT012 - what a block raises as it is left needs the block
"""The agent: one run at a time, and a history and queues that lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any

import pytest

import tinyagent._cancel as cancel_module
import tinyagent.agent_tool_execution as execution_module
from tinyagent import (
    Agent,
    AgentContext,
    AgentLoopConfig,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    Model,
    OpenRouterModel,
    ThinkingLevel,
    agent_loop,
    default_convert_to_llm,
    extract_text,
    stream_openrouter,
)
from tinyagent._agent import listeners as _listeners
from tinyagent._loop import model_call
from tinyagent._stream.generator_reply import GeneratorReply
from tinyagent.errors import (
    AgentStateError,
    ConnectionFailedError,
    EmptyReplyError,
    InvalidMessageError,
    MissingKeyError,
    OutputTruncatedError,
    ProviderTimeoutError,
    RunAbortedError,
    RunLimitError,
    StreamInterruptedError,
    TinyAgentError,
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

MODEL = Model(provider="scripted", id="scripted", api="scripted")
IMAGE: Any = {"type": "image", "url": "data:image/png;base64,AA=="}


def make(*script: Any, state: Any = None, **options: Any) -> Agent:
    """Return an agent that answers with this script."""
    provider = (
        script[0]
        if len(script) == 1 and inspect.iscoroutinefunction(script[0])
        else ScriptedProvider(*script)
    )
    initial = {"model": MODEL, **(state or {})}
    return Agent(AgentOptions(initial_state=initial, stream_fn=provider, **options))


def provider(agent: Agent) -> Any:
    return agent.options.stream_fn


def tool(execute: Any = None, name: str = "t", **fields: Any) -> AgentTool:
    async def answer(*_: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": "ok"}])

    return AgentTool(name=name, execute=execute or answer, **fields)


def recorded(agent: Agent) -> list[Any]:
    """Record the events of the agent from now on."""
    events: list[Any] = []
    agent.subscribe(events.append)
    return events


def text_of(message: Any) -> str:
    return extract_text(message)


def history(agent: Agent) -> list[str]:
    return [f"{message['role']}:{text_of(message)}" for message in agent.state["messages"]]


async def until(condition: Any) -> None:
    """Run the event loop until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Check that no task outlives its run."""
    before = asyncio.all_tasks()
    yield
    for _ in range(10):
        await asyncio.sleep(0)
    assert set() == asyncio.all_tasks() - before - {asyncio.current_task()}


# ---- prompts -----------------------------------------------------------------------------------------


async def test_a_prompt_gives_the_last_message() -> None:
    """The events are correct, the history grows, and the last message is returned."""
    agent = make("Hello there")
    events = recorded(agent)
    message = await agent.prompt("Hi")
    check_grammar(events)
    assert "Hello there" == text_of(message)
    assert message is agent.state["messages"][-1]
    assert ["user:Hi", "assistant:Hello there"] == history(agent)
    assert agent.state["messages"][0]["timestamp"] > 1_600_000_000_000


async def test_prompt_text_gives_the_text_of_the_last_message() -> None:
    """The text of earlier turns is not returned."""
    agent = make(Reply(text("before"), call("t")), "after", state={"tools": [tool()]})
    assert "after" == await agent.prompt_text("Hi")


def looping(**fields: Any) -> list[Reply]:
    """Return a model that calls a tool endlessly."""
    return [Reply(text("go on"), call("t", n=n), **fields) for n in range(30)]


IMAGE_REPLY = assistant({"type": "image", "url": "data:image/png;base64,AA=="})
INCOMPLETE: dict[str, tuple[list[Any], dict[str, Any], type[TinyAgentError], str, str]] = {
    "no key": ([MissingKeyError("set X")], {}, MissingKeyError, "missing_key", ""),
    "no server": ([ConnectionFailedError("refused")], {}, ConnectionFailedError, "connection", ""),
    "error": (
        [Reply("Half", error="broke", error_kind="timeout")],
        {},
        ProviderTimeoutError,
        "timeout",
        "Half",
    ),
    "cut": ([Reply("Half", stop_reason="length")], {}, OutputTruncatedError, "output_truncated", "Half"),
    "no end": ([Reply("Half", ends=False)], {}, StreamInterruptedError, "stream_interrupted", "Half"),
    "max_turns": (looping()[:2], {"max_turns": 2}, RunLimitError, "max_turns", "go on"),
    "budget": (looping(usage={"cost": 1.0})[:1], {"max_cost": 0.5}, RunLimitError, "budget", "go on"),
    "max_total_tokens": (
        looping(usage={"total": 9})[:2],
        {"max_total_tokens": 18},
        RunLimitError,
        "max_total_tokens",
        "go on",
    ),
    "repeat": ([looping()[0]] * 3, {"max_repeats": 3}, RunLimitError, "repeat", "go on"),
    "empty": ([Reply()], {}, EmptyReplyError, "empty_reply", ""),
    "blank": ([Reply(" \n")], {}, EmptyReplyError, "empty_reply", ""),
    "reasoning": ([Reply(thinking("hm"))], {}, EmptyReplyError, "empty_reply", ""),
    "empty after tools": (
        [Reply("Let me see.", call("t")), Reply()],
        {},
        EmptyReplyError,
        "empty_reply",
        "Let me see.",
    ),
}


@pytest.mark.parametrize("name", INCOMPLETE)
@pytest.mark.parametrize("method", ["prompt_text", "stream_text"])
async def test_text_calls_raise_without_a_complete_answer(method: str, name: str) -> None:
    """They return text, which has no place for a failure: they raise it, with the text that had arrived.

    `prompt` returns the message in every case, and `state["limit"]` names the limit.
    """
    script, options, kind, word, partial = INCOMPLETE[name]
    agent = make(*script, state={"tools": [tool()]}, **options)
    events = recorded(agent)
    with pytest.raises(kind) as raised:
        if method == "prompt_text":
            await agent.prompt_text("Hi")
        else:
            await collect(agent.stream_text("Hi"))
    check_grammar(events)
    assert (word, partial) == (raised.value.kind, raised.value.partial_text)
    limit = word if kind is RunLimitError else None
    assert limit == agent.state["limit"]
    other = make(*script, state={"tools": [tool()]}, **options)
    assert "assistant" == (await other.prompt("Hi"))["role"]
    assert limit == other.state["limit"]


async def test_a_limit_is_of_the_last_run() -> None:
    """The next run starts without a limit."""
    agent = make(Reply(call("t")), "fine", state={"tools": [tool()]}, max_turns=1)
    await agent.prompt("Hi")
    assert "max_turns" == agent.state["limit"]
    await agent.prompt("again")
    assert None is agent.state["limit"]


async def test_text_calls_name_other_content() -> None:
    """An image is an answer but not a text: the error lists the content types."""
    done = {"type": "done", "reason": "stop", "message": IMAGE_REPLY}

    async def provider(*_: Any) -> Any:
        return GeneratorReply(_gives({"type": "start"}, done))

    message = await make(provider).prompt("Hi")
    assert ("stop", "image") == (message["stop_reason"], message["content"][0]["type"])
    with pytest.raises(EmptyReplyError, match="only content of type image") as raised:
        await make(provider).prompt_text("Hi")
    assert ("image",) == raised.value.content_types


async def _gives(*events: Any) -> Any:
    for event in events:
        yield event


async def test_an_aborted_text_call_raises() -> None:
    """The error has the text so far, also if tools were running."""
    agent = make(Reply("Half an answer", hang=True))
    agent.subscribe(lambda event: agent.abort() if "answer" in str(event) else None)
    with pytest.raises(RunAbortedError) as raised:
        await agent.prompt_text("Hi")
    assert "Half an answer" == raised.value.partial_text

    async def abort(*_: Any) -> AgentToolResult:
        other.abort()
        return AgentToolResult()

    other = make(Reply("I look.", call("t")), state={"tools": [tool(abort)]})
    with pytest.raises(RunAbortedError) as raised:
        await other.prompt_text("Hi")
    assert "I look." == raised.value.partial_text


async def test_a_run_that_its_tool_ended_is_complete() -> None:
    """After `terminate` the run needs no text."""

    async def last(*_: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": "42"}], terminate=True)

    agent = make(Reply(call("t")), state={"tools": [tool(last)]})
    assert "" == await agent.prompt_text("Hi")


def test_the_quick_start_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, the documented program raises an error with the variable's name."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    agent = Agent(AgentOptions(stream_fn=stream_openrouter, session_id="my-session"))
    agent.set_model(OpenRouterModel(id="anthropic/claude-3.5-sonnet"))
    with pytest.raises(MissingKeyError, match="OPENROUTER_API_KEY"):
        asyncio.run(agent.prompt_text("What is the capital of France?"))


INPUTS: list[tuple[Any, Any, list[Any]]] = [
    ("Hi", None, [[{"type": "text", "text": "Hi"}]]),
    (user("Hi"), None, [[{"type": "text", "text": "Hi"}]]),
    ({"role": "user", "content": "Hi"}, None, [[{"type": "text", "text": "Hi"}]]),
    (["one", user("two")], None, [[{"type": "text", "text": "one"}], [{"type": "text", "text": "two"}]]),
    ("Hi", [IMAGE], [[{"type": "text", "text": "Hi"}, IMAGE]]),
    ("", [IMAGE], [[IMAGE]]),
    (
        "Hi",
        ["https://x/y.png"],
        [[{"type": "text", "text": "Hi"}, {"type": "image", "url": "https://x/y.png"}]],
    ),
    (user("Hi"), [IMAGE], [[{"type": "text", "text": "Hi"}, IMAGE]]),
    (
        ["one", user("two")],
        [IMAGE],
        [[{"type": "text", "text": "one"}], [{"type": "text", "text": "two"}, IMAGE]],
    ),
]


@pytest.mark.parametrize(("given", "images", "expected"), INPUTS)
async def test_every_kind_of_input(given: Any, images: Any, expected: Any) -> None:
    """A text, a message, a list and images can be sent; the caller's objects do not change."""
    before = copy.deepcopy((given, images))
    agent = make("ok")
    await agent.prompt(given, images)
    assert expected == [message["content"] for message in provider(agent).calls[0].context.messages]
    assert before == (given, images)


async def test_messages_are_copied() -> None:
    """Later changes of a message by the caller affect neither the history nor the events."""
    agent = make("ok")
    events = recorded(agent)
    message = user("Hi")
    await agent.prompt(message)
    message["content"][0]["text"] = "changed"
    assert ["user:Hi", "assistant:ok"] == history(agent)
    check_grammar(events)


async def test_an_empty_list_is_refused() -> None:
    """An empty request is never sent."""
    agent = make()
    with pytest.raises(ValueError, match="no message"):
        await agent.prompt([])
    with pytest.raises(ValueError, match="no message"):
        agent.stream([])


async def test_a_failure_does_not_raise() -> None:
    """The message and the state have the error until the next run."""
    agent = make(Reply("half", error="overloaded"), "fine")
    message = await agent.prompt("Hi")
    assert ("error", "overloaded", "half") == (
        message["stop_reason"],
        message["error_message"],
        text_of(message),
    )
    assert "overloaded" == agent.state["error"]
    await agent.prompt("again")
    assert None is agent.state["error"]
    assert ["user", "user"] == [m["role"] for m in provider(agent).calls[1].context.messages]


async def test_cancelling_a_prompt_cancels_the_run() -> None:
    """The events end, and the agent can be used again."""
    agent = make(Reply("half", hang=True), "fine")
    events = recorded(agent)
    asking = asyncio.create_task(agent.prompt("Hi"))
    await until(lambda: "half" in str(events))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    check_grammar(events)
    assert not agent.state["is_streaming"]
    assert "fine" == await agent.prompt_text("again")


async def test_cancelling_a_prompt_at_every_step() -> None:
    """After a cancellation at any step, the history fits the events, and no queued message is lost."""
    for step in range(500):
        agent = make(Reply(text("one", "two"), call("t")), "done", "again", state={"tools": [tool()]})
        events = recorded(agent)

        async def listen(event: Any) -> None:
            await asyncio.sleep(0)

        agent.subscribe(listen)
        agent.follow_up("follow")
        asking = asyncio.create_task(agent.prompt("Hi"))
        for _ in range(step):
            await asyncio.sleep(0)
        finished = asking.done()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled() or finished
        if events:
            check_grammar(events)
            assert events[-1].messages == agent.state["messages"]
            queued = agent._follow_ups
            assert ("user:follow" in history(agent)) is not bool(queued)
        idle = (agent.state["is_streaming"], agent.state["stream_message"], agent.state["pending_tool_calls"])
        assert (False, None, set()) == idle
        await agent.wait_for_idle()
        if finished:
            assert step > 20
            return
    raise AssertionError("the run never ends by itself")


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt", "prompt_text", "stream", "stream_text", "continue_"])
async def test_invalid_states_raise(method: str) -> None:
    """Without a model or stream function, and while streaming, RuntimeError is raised."""

    async def ask(agent: Agent) -> None:
        given = getattr(agent, method)(*(() if method == "continue_" else ("Hi",)))
        if asyncio.iscoroutine(given):
            await given

    state = {"messages": [user("before")]}
    with pytest.raises(RuntimeError, match=r"set_model\(\)"):
        await ask(Agent(AgentOptions(initial_state=state, stream_fn=ScriptedProvider())))
    with pytest.raises(AgentStateError, match="stream_fn"):
        await ask(Agent(AgentOptions(initial_state={**state, "model": MODEL})))
    agent = make(Reply(hang=True), state=state)
    async with agent.stream("Hi") as events:
        await anext(events)
        with pytest.raises(RuntimeError, match=r"wait_for_idle\(\).*abort\(\).*steer\(\).*follow_up\(\)"):
            await ask(agent)
    assert "before" == text_of(agent.state["messages"][0])


async def test_two_streams_made_before_either_is_read() -> None:
    """Reading the second stream raises an error: the agent is streaming."""
    agent = make(Reply(hang=True))
    first, second = agent.stream("a"), agent.stream("b")
    events = [await anext(first)]
    with pytest.raises(AgentStateError, match="streaming"):
        await anext(second)
    agent.abort()
    check_grammar([*events, *await collect(first)])


@pytest.mark.parametrize(
    "options",
    [
        {"steering_mode": "some"},
        {"follow_up_mode": "one"},
        {"tool_execution": "paralel"},
        {"initial_state": {"massages": []}},
        {"initial_state": {"thinking_level": "much"}},
    ],
)
def test_a_misspelt_option_is_an_error(options: Any) -> None:
    """Unknown options are never ignored."""
    with pytest.raises(ValueError, match=r"'?(some|one|paralel|massages|much)"):
        Agent(AgentOptions(**options))


# ---- state -------------------------------------------------------------------------------------------


def test_the_state_of_a_new_agent() -> None:
    """The state has all keys with their empty values."""
    assert {
        "system_prompt": "",
        "model": None,
        "thinking_level": ThinkingLevel.OFF,
        "tools": [],
        "messages": [],
        "is_streaming": False,
        "stream_message": None,
        "pending_tool_calls": set(),
        "error": None,
        "limit": None,
    } == Agent().state


async def test_the_setters_apply_to_the_next_run() -> None:
    """The values reach the provider."""
    agent = make("ok")
    given = [tool()]
    model = Model("p", "m", "a")
    agent.set_system_prompt("system")
    agent.set_model(model)
    agent.set_thinking_level("high")
    agent.set_tools(given)
    agent.session_id = "s"
    await agent.prompt("Hi")
    asked = provider(agent).calls[0]
    assert (model, "system", given) == (asked.model, asked.context.system_prompt, asked.context.tools)
    assert ("s", ThinkingLevel.HIGH) == (asked.options["session_id"], asked.options["thinking_level"])
    assert "s" == agent.session_id
    with pytest.raises(ValueError, match="much"):
        agent.set_thinking_level("much")


async def test_every_option_is_honoured() -> None:
    """All options of `AgentOptions` reach the provider."""

    def on_retry(why: str) -> None: ...

    given: Any = {
        "session_id": "s",
        "thinking_budgets": {"high": 5},
        "temperature": 0.1,
        "max_tokens": 3,
        "timeout": 1.0,
        "on_retry": on_retry,
    }
    agent = make("ok", get_api_key=lambda name: f"key of {name}", **given)
    await agent.prompt("Hi")
    options = provider(agent).calls[0].options
    assert {**given, "api_key": "key of scripted"}.items() <= options.items()


@pytest.mark.parametrize(
    ("of_model", "of_state", "expected"),
    [("off", None, "off"), ("high", None, "high"), ("high", "off", "off"), ("off", "low", "low")],
)
async def test_the_thinking_level_of_the_model_counts_unless_the_agent_has_one(
    of_model: str, of_state: str | None, expected: str
) -> None:
    """An agent without a level uses that of its model."""
    agent = make("ok", "ok", state={"thinking_level": of_state} if of_state else None)
    agent.set_model(Model("p", "m", "a", ThinkingLevel(of_model)))
    await agent.prompt("Hi")
    assert expected == provider(agent).calls[0].options["thinking_level"]


async def test_the_state_while_it_streams() -> None:
    """The state shows the stream, the message so far and the active calls, and is reset at the end."""
    gate = asyncio.Event()
    seen: list[Any] = []
    agent = make(Reply(text("half", gate), call("t", call_id="x")), "done", state={"tools": [tool()]})

    def look(event: Any) -> None:
        state = agent.state
        seen.append(
            (event.type, state["is_streaming"], text_of(state["stream_message"]), state["pending_tool_calls"])
        )

    agent.subscribe(look)
    assert not agent.state["is_streaming"]
    asking = asyncio.create_task(agent.prompt("Hi"))
    await until(lambda: text_of(agent.state["stream_message"]) == "half")
    assert agent.state["is_streaming"]
    gate.set()
    await asking
    assert ("tool_execution_start", True, "", {"x"}) in seen
    assert ("tool_execution_end", True, "", set()) in seen
    assert ("agent_end", True, "", set()) == seen[-1]
    assert not agent.state["is_streaming"]
    assert (None, set(), False) == (
        agent.state["stream_message"],
        agent.state["pending_tool_calls"],
        agent.state["is_streaming"],
    )


async def test_the_state_is_read_while_a_message_ends() -> None:
    """A reader in another thread does not bring the message so far back, whenever it reads."""
    agent = make("Hi")

    class History(list[Any]):
        """A history in whose place the other thread continues."""

        def append(self, message: Any) -> None:
            super().append(message)
            _ = agent.state

    agent.state["messages"] = History()
    seen: list[Any] = []
    agent.subscribe(lambda event: seen.append((event.type, agent.state["stream_message"])))
    await agent.prompt("Hi")
    assert ("turn_end", None) in seen


def test_the_history_can_be_written() -> None:
    """It can be replaced, extended and cleared; the caller's list is copied."""
    agent = make()
    mine: Any = [user("a")]
    agent.replace_messages(mine)
    agent.append_message(user("b"))  # type: ignore[arg-type]
    assert (1, ["user:a", "user:b"]) == (len(mine), history(agent))
    agent.clear_messages()
    assert [] == agent.state["messages"]


def test_a_mapping_becomes_a_dict() -> None:
    """A message may be any mapping; the history contains dicts, which JSON can represent."""
    agent = make()
    agent.append_message(MappingProxyType(user("a")))
    agent.replace_messages([*agent.state["messages"], MappingProxyType(user("b"))])
    assert [dict, dict] == [type(message) for message in agent.state["messages"]]
    assert ["user:a", "user:b"] == history(agent)


async def test_the_initial_state_is_used() -> None:
    """A conversation can be continued, and its list does not change."""
    before: Any = [user("a"), assistant("b")]
    agent = make("d", state={"messages": before, "system_prompt": "s", "tools": [tool()]})
    await agent.prompt("c")
    assert ["user:a", "assistant:b", "user:c", "assistant:d"] == history(agent)
    assert 2 == len(before)


async def test_reset_clears_the_conversation() -> None:
    """History, queues and error are cleared; model, tools and listeners remain."""
    agent = make(Reply(error="broken"), "fine", state={"system_prompt": "s", "tools": [tool()]})
    events = recorded(agent)
    await agent.prompt("Hi")
    agent.steer("steer")
    agent.follow_up("follow")
    agent.reset()
    assert ([], None) == (agent.state["messages"], agent.state["error"])
    events.clear()
    assert "fine" == await agent.prompt_text("again")
    check_grammar(events)
    assert ["user:again", "assistant:fine"] == history(agent)
    assert ("s", 1) == (agent.state["system_prompt"], len(agent.state["tools"]))


# ---- streaming ---------------------------------------------------------------------------------------


async def test_stream_gives_the_events() -> None:
    """The stream has the events of the listeners, and its result is the new messages."""
    agent = make(Reply(call("t")), "done", state={"tools": [tool()]})
    heard = recorded(agent)
    stream = agent.stream("Hi")
    events = await collect(stream)
    check_grammar(events)
    assert heard == events
    assert agent.state["messages"] == await stream.result()


async def test_stream_as_a_block() -> None:
    """`async with` gives the same events."""
    agent = make("one", "two")
    async with agent.stream("Hi") as events:
        check_grammar([event async for event in events])
    async with agent.stream("Hi") as events:
        pass  # not read at all
    assert not agent.state["is_streaming"]


@pytest.mark.parametrize("how", ["break", "raise", "block", "aclose", "drop"])
async def test_leaving_early_ends_the_run(how: str) -> None:
    """The provider is closed, tools are cancelled, the events end, and the next prompt works."""
    closed = asyncio.Event()

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            try:
                yield {"type": "text_delta", "content_index": 0, "delta": "half"}
                if len(context.messages) == 1:
                    await asyncio.Event().wait()
                yield {"type": "done", "reason": "stop"}
            finally:
                closed.set()

        return events()

    agent = make(stream_fn)
    heard = recorded(agent)
    if how == "break":
        async for event in agent.stream("Hi"):
            if event.type == "message_update":
                break
    elif how == "raise":
        with pytest.raises(LookupError, match="body"):
            async for event in agent.stream("Hi"):
                if event.type == "message_update":
                    raise LookupError("body")
    elif how == "block":
        with pytest.raises(LookupError, match="body"):
            async with agent.stream("Hi") as events:
                async for event in events:
                    if event.type == "message_update":
                        raise LookupError("body")
        assert closed.is_set()
        assert not agent.state["is_streaming"]
    else:
        events = agent.stream("Hi")
        while (await anext(events)).type != "message_update":
            pass
        if how == "aclose":
            await events.aclose()
            assert not agent.state["is_streaming"]
        del events
    count = len(heard)
    assert "half" == text_of(await agent.prompt("again"))
    assert closed.is_set()
    ends = [number for number, event in enumerate(heard) if event.type == "agent_end"]
    check_grammar(heard[: ends[0] + 1])
    check_grammar(heard[ends[0] + 1 :])
    assert count <= len(heard)
    assert "aborted" == agent.state["messages"][1]["stop_reason"]


@pytest.mark.parametrize("method", ["stream", "stream_text"])
async def test_break_ends_the_run_of_a_named_stream(method: str) -> None:
    """`break` ends the run and closes the reply even if a variable refers to the stream."""
    agent = make(Reply("half", hang=True), "fine")
    heard = recorded(agent)
    stream: Any = getattr(agent, method)("Hi")
    async for piece in stream:
        if method == "stream_text" or piece.type == "message_update":
            break
    async with asyncio.timeout(60):
        await agent.wait_for_idle()
    check_grammar(heard)
    assert "aborted" == agent.state["messages"][-1]["stop_reason"]
    assert "fine" == await agent.prompt_text("again")


async def test_a_stream_that_was_read_to_its_end_is_not_ended_again() -> None:
    """Reading it again yields nothing, and its result is available."""
    agent = make("fine")
    stream = agent.stream("Hi")
    events = await collect(stream)
    check_grammar(events)
    assert [] == await collect(stream)
    assert events[-1].messages == await stream.result()


async def test_leaving_early_cancels_a_running_tool() -> None:
    """A tool does not continue after its run has ended."""
    ended = asyncio.Event()

    async def execute(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent = make(Reply(call("t")), state={"tools": [tool(execute)]})
    heard = recorded(agent)
    async with agent.stream("Hi") as events:
        async for event in events:
            if event.type == "tool_execution_start":
                break
        await asyncio.sleep(0)
    assert ended.is_set()
    check_grammar(heard)


async def test_deltas_are_not_buffered() -> None:
    """The reader gets a delta before the provider sends the next one."""
    gates = [asyncio.Event() for _ in range(3)]
    pieces: list[Any] = []
    for number, gate in enumerate(gates):
        pieces += [str(number), gate]
    agent = make(Reply(text(*pieces)))
    got = []
    async with asyncio.timeout(60):
        async for piece in agent.stream_text("Hi"):
            got.append(piece)
            gates[int(piece)].set()
    assert ["0", "1", "2"] == got


async def test_stream_text_gives_the_text_of_every_turn_once() -> None:
    """It yields only the deltas of texts."""
    agent = make(Reply(text("a", "b"), call("t")), Reply(text("c", "d")), state={"tools": [tool()]})
    assert ["a", "b", "c", "d"] == await collect(agent.stream_text("Hi"))


@pytest.mark.parametrize("how", ["break", "block", "aclose"])
async def test_leaving_stream_text_early(how: str) -> None:
    """The run ends, and the next prompt works at once."""
    agent = make(Reply(text("a", "b"), hang=True), "fine")
    if how == "break":
        async for _ in agent.stream_text("Hi"):
            break
    else:
        pieces = agent.stream_text("Hi")
        if how == "block":
            async with pieces:
                assert "a" == await anext(pieces)
        else:
            assert "a" == await anext(pieces)
            await pieces.aclose()
        assert not agent.state["is_streaming"]
    assert "fine" == await agent.prompt_text("again")


async def test_stored_events_never_change() -> None:
    """Copies of the events, made on arrival, are equal to the events at the end."""
    agent = make(Reply(text("a", "b"), call("t", x=1)), Reply(text("c")), state={"tools": [tool()]})
    kept = []

    def photograph(event: Any) -> Any:
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        return copy.deepcopy({**fields, "partial": dict(fields.get("assistant_message_event") or {})})

    agent.subscribe(lambda event: kept.append((event, photograph(event))))
    await agent.prompt("Hi")
    await agent.prompt("surplus")
    assert [then for _, then in kept] == [photograph(event) for event, _ in kept]


# ---- queues ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), [("one-at-a-time", [1, 2]), ("all", [2])])
async def test_steering_modes(mode: Any, expected: list[int]) -> None:
    """Queued messages are delivered one per turn or all at once."""
    agent = make("a", "b", "c", steering_mode=mode)
    events = recorded(agent)
    agent.steer("s1")
    agent.steer(user("s2"))
    await agent.prompt("Hi")
    check_grammar(events)
    turns = "".join(
        "T" if event.type == "turn_start" else "u"
        for event in events
        if event.type == "turn_start" or (event.type == "message_end" and event.message["role"] == "user")
    )
    assert {"one-at-a-time": "TuuTu", "all": "Tuuu"}[mode] == turns
    assert len(expected) == len(provider(agent).calls)


@pytest.mark.parametrize(("mode", "count"), [("one-at-a-time", 3), ("all", 2)])
async def test_follow_up_modes(mode: Any, count: int) -> None:
    """Follow-ups are delivered one at a time or all at once."""
    agent = make("a", "b", "c", follow_up_mode=mode)
    agent.follow_up("f1")
    agent.follow_up("f2")
    await agent.prompt("Hi")
    assert count == len(provider(agent).calls)
    assert 3 == sum(message["role"] == "user" for message in agent.state["messages"])


async def test_steering_from_a_tool() -> None:
    """A steering message during a tool call skips the other calls and starts the next turn."""

    async def execute(*_: Any) -> Any:
        agent.steer("stop that")
        return AgentToolResult(content=[{"type": "text", "text": "ran"}])

    agent = make(Reply(call("t"), call("t")), "ok", state={"tools": [tool(execute)]})
    events = recorded(agent)
    await agent.prompt("Hi")
    check_grammar(events)
    assert [
        "user:Hi",
        "assistant:",
        "tool_result:ran",
        "tool_result:Skipped due to queued user message.",
        "user:stop that",
        "assistant:ok",
    ] == history(agent)


async def test_cleared_queues_are_empty() -> None:
    """Messages that were cleared from the queue are not sent."""
    agent = make("ok")
    agent.steer("s")
    agent.follow_up("f")
    agent.clear_steering_queue()
    agent.clear_follow_up_queue()
    await agent.prompt("Hi")
    assert ["user:Hi", "assistant:ok"] == history(agent)


@pytest.mark.parametrize("how", ["error", "abort"])
async def test_queues_survive_a_failure(how: str) -> None:
    """After an error or an abort the queues are unchanged; `continue_` delivers them."""
    reply = Reply(error="broken") if how == "error" else Reply("half", hang=True)
    agent = make(reply, "s", "f")

    def say(event: Any) -> None:
        if event.type == "message_end" and event.message["role"] == "user" and text_of(event.message) == "Hi":
            agent.steer("steer")
            agent.follow_up("follow")
        if how == "abort" and event.type == "message_update":
            agent.abort()

    unsubscribe = agent.subscribe(say)
    await agent.prompt("Hi")
    unsubscribe()
    assert 2 == len(agent.state["messages"])
    await agent.continue_()
    assert ["user:steer", "assistant:s", "user:follow", "assistant:f"] == history(agent)[2:]


async def test_continue_answers_the_last_message() -> None:
    """A user message or tool result is answered without a new message."""
    agent = make("ok", state={"messages": [user("Hi")]})
    assert "ok" == text_of(await agent.continue_())
    assert ["user:Hi", "assistant:ok"] == history(agent)


@pytest.mark.parametrize("messages", [[], [user("a"), assistant("b")]])
async def test_continue_with_nothing_to_answer(messages: Any) -> None:
    """RuntimeError has the reason; queued messages are delivered instead."""
    agent = make("ok", "ok", state={"messages": messages})
    with pytest.raises(RuntimeError, match="nothing to continue"):
        await agent.continue_()
    agent.follow_up("follow")
    await agent.continue_()
    agent.steer("steer")
    await agent.continue_()
    assert ["user:follow", "assistant:ok", "user:steer", "assistant:ok"] == history(agent)[len(messages) :]


async def test_a_refused_continue_takes_nothing_from_the_queue() -> None:
    """Without a model, the follow-up stays in the queue."""
    agent = make("ok")
    agent.set_model(None)
    agent.follow_up("follow")
    with pytest.raises(RuntimeError, match="set_model"):
        await agent.continue_()
    agent.set_model(MODEL)
    await agent.continue_()
    assert ["user:follow", "assistant:ok"] == history(agent)


async def test_queued_messages_are_copied() -> None:
    """Later changes by the caller have no effect."""
    agent = make("ok")
    message = user("steer")
    agent.steer(message)
    message["content"][0]["text"] = "changed"
    await agent.prompt("Hi")
    assert "user:steer" in history(agent)


# ---- listeners ---------------------------------------------------------------------------------------


async def test_subscribing_and_unsubscribing_during_an_event() -> None:
    """Both take effect at the next event, and other listeners miss no event."""
    agent = make("one two")
    heard: dict[str, list[str]] = {"always": [], "once": [], "late": []}

    def once(event: Any) -> None:
        heard["once"].append(event.type)
        leave()
        leave()
        agent.subscribe(lambda event: heard["late"].append(event.type))

    leave = agent.subscribe(once)
    agent.subscribe(lambda event: heard["always"].append(event.type))
    await agent.prompt("Hi")
    assert ["agent_start"] == heard["once"]
    assert heard["always"][1:] == heard["late"]


async def test_the_same_listener_twice() -> None:
    """Each subscription is separate."""
    agent = make("one")
    heard: list[Any] = []
    leave = agent.subscribe(heard.append)
    agent.subscribe(heard.append)
    leave()
    await agent.prompt("Hi")
    assert 1 == sum(event.type == "agent_start" for event in heard)


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, TimeoutError, StopIteration])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_raises(
    is_async: bool, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once and still called, and affects neither the run nor other listeners."""
    agent = make("one two three")
    count = 0

    def sync(event: Any) -> None:
        nonlocal count
        count += 1
        raise error("mine")

    async def later(event: Any) -> None:
        await asyncio.sleep(0)
        sync(event)

    agent.subscribe(later if is_async else sync)
    heard = recorded(agent)
    with caplog.at_level(logging.ERROR, "tinyagent"):
        assert "one two three" == await agent.prompt_text("Hi")
    check_grammar(heard)
    assert len(heard) == count
    assert 1 == len(caplog.records)
    assert "listener" in caplog.records[0].getMessage()


async def test_async_listeners_are_awaited_in_order() -> None:
    """Async listeners run one after another, in the order of subscription, before the run continues."""
    agent = make("one two")
    order: list[Any] = []

    def listener(name: str) -> Any:
        async def listen(event: Any) -> None:
            order.append((name, "in", event.type))
            await asyncio.sleep(0)
            order.append((name, "out", event.type))

        return listen

    agent.subscribe(listener("a"))
    agent.subscribe(listener("b"))
    await agent.prompt("Hi")
    assert len(order) % 4 == 0
    for start in range(0, len(order), 4):
        group = order[start : start + 4]
        assert [("a", "in"), ("a", "out"), ("b", "in"), ("b", "out")] == [entry[:2] for entry in group]
        assert 1 == len({entry[2] for entry in group})


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_a_listener_that_never_returns(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It delays the run, but not an abort or a cancellation."""
    monkeypatch.setattr(_listeners, "LISTENER_GRACE_S", 0.01)
    agent = make("one two")
    heard = recorded(agent)
    hanging = asyncio.Event()

    async def hang(event: Any) -> None:
        if len(heard) >= 5:
            hanging.set()
            await asyncio.Event().wait()

    agent.subscribe(hang)
    asking = asyncio.create_task(agent.prompt("Hi"))
    await hanging.wait()
    async with asyncio.timeout(60):
        if how == "abort":
            agent.abort()
            assert "aborted" == (await asking)["stop_reason"]
        else:
            asking.cancel()
            await asyncio.wait([asking])
    check_grammar(heard)


async def test_listeners_that_never_return_cost_one_grace_period_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its grace period a listener no longer delays the run; others get all events."""
    monkeypatch.setattr(_listeners, "LISTENER_GRACE_S", 0.05)
    agent = make(Reply("half", hang=True))
    entered: list[str] = []
    heard: list[Any] = []

    async def hang(event: Any) -> None:
        if event.type == "message_update":
            return
        entered.append(event.type)
        if agent.state["messages"]:
            await asyncio.Event().wait()

    async def listen(event: Any) -> None:
        await asyncio.sleep(0)
        heard.append(event)

    agent.subscribe(hang)
    agent.subscribe(listen)
    asking = asyncio.create_task(agent.prompt("Hi"))
    await until(lambda: entered and entered[-1] == "message_end")
    agent.abort()
    async with asyncio.timeout(60):
        await asking
    check_grammar(heard)
    assert 1 == len(entered) - entered.index("message_end")


# ---- code that ignores cancellation ---------------------------------------------------------------------


class Stubborn:
    """Code that swallows every cancellation until it is released."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._others = asyncio.all_tasks()
        self._released = asyncio.Event()

    async def __call__(self, *_: Any) -> Any:
        self.entered.set()
        while not self._released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self._released.wait()

    async def release(self) -> None:
        """Let it return, and wait until all tasks that are newer than it have ended."""
        self._released.set()
        if left := asyncio.all_tasks() - self._others - {asyncio.current_task()}:
            await asyncio.wait(left)


@pytest.fixture
async def stubborn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stubborn]:
    """Use short grace periods, and check that no task remains."""
    monkeypatch.setattr(cancel_module, "CALLBACK_GRACE_S", 0.02)
    monkeypatch.setattr(model_call, "CLOSE_GRACE_S", 0.02)
    monkeypatch.setattr(model_call, "REPLY_GRACE_S", 0.02)
    monkeypatch.setattr(_listeners, "LISTENER_GRACE_S", 0.02)
    code = Stubborn()
    yield code
    await code.release()


async def aborted(agent: Agent, code: Stubborn, how: str) -> None:
    """Start a run, wait until the code runs, and check that the run can be ended."""
    events = recorded(agent)
    asking = asyncio.create_task(agent.prompt("Hi"))
    async with asyncio.timeout(60):
        await code.entered.wait()
        if how == "abort":
            agent.abort()
            assert "aborted" == (await asking)["stop_reason"]
        else:
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
    check_grammar(events)
    assert not agent.state["is_streaming"]


@pytest.mark.parametrize("how", ["abort", "cancel"])
@pytest.mark.parametrize("where", ["call", "events", "after a delta"])
async def test_a_provider_that_swallows_its_cancellation(stubborn: Stubborn, where: str, how: str) -> None:
    """It is abandoned after a grace period, and its later events are ignored."""

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            if where == "after a delta":
                yield {"type": "text_delta", "content_index": 0, "delta": "half"}
            await stubborn()
            yield {"type": "text_delta", "content_index": 0, "delta": "too late"}
            yield {"type": "done", "reason": "stop"}

        if stubborn.entered.is_set():
            return GeneratorReply(_gives({"type": "done", "reason": "stop", "message": assistant("fine")}))
        if where == "call":
            await stubborn()
        return events()

    agent = make(stream_fn)
    await aborted(agent, stubborn, how)
    count = len(agent.state["messages"])
    await stubborn.release()
    assert count == len(agent.state["messages"])
    assert "too late" not in str(agent.state["messages"])
    assert "fine" == await agent.prompt_text("again")


async def test_a_provider_that_cannot_be_closed(stubborn: Stubborn) -> None:
    """After a complete reply, the run continues without waiting for the close."""

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        class Events:
            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> Any:
                return {"type": "done", "reason": "stop", "message": assistant("fine")}

            aclose = staticmethod(stubborn)

        return Events()

    agent = make(stream_fn)
    events = recorded(agent)
    async with asyncio.timeout(60):
        assert "fine" == await agent.prompt_text("Hi")
    check_grammar(events)


CALLBACKS = ["transform_context", "convert_to_llm", "get_api_key", "before_tool_call", "after_tool_call",
             "should_stop_after_turn", "listener"]  # fmt: skip


@pytest.mark.parametrize("how", ["abort", "cancel"])
@pytest.mark.parametrize("name", CALLBACKS)
async def test_a_callback_that_swallows_its_cancellation(
    stubborn: Stubborn, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort and a cancellation end the run in spite of any callback."""
    monkeypatch.setattr(execution_module, "ABORT_GRACE_S", 0.02)
    agent = make(Reply(call("t")), state={"tools": [tool()]})
    if name == "listener":
        agent.subscribe(stubborn)
    else:
        setattr(agent.options, name, stubborn)
    await aborted(agent, stubborn, how)


# ---- other loops and threads ---------------------------------------------------------------------------


async def test_waiting_for_idle_from_another_loop() -> None:
    """A thread with its own event loop waits until the run is over."""
    agent = make(Reply("half", hang=True))
    asking = asyncio.create_task(agent.prompt("Hi"))
    await until(lambda: text_of(agent.state["stream_message"]) == "half")
    started = threading.Event()

    async def wait() -> bool:
        started.set()
        async with asyncio.timeout(60):
            await agent.wait_for_idle()
        return agent.state["is_streaming"]

    waiting = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(wait())))
    await until(started.is_set)
    agent.abort()
    assert not await waiting
    await asking


@pytest.mark.parametrize("how", ["thread", "gather"])
async def test_waiting_for_idle_inside_a_tool_that_delegates(how: str) -> None:
    """It raises at once in a thread or task for which the tool waits."""
    caught: list[BaseException] = []

    async def wait() -> None:
        try:
            async with asyncio.timeout(60):
                await agent.wait_for_idle()
        except BaseException as error:
            caught.append(error)
            raise

    async def execute(*_: Any) -> AgentToolResult:
        if how == "thread":
            await asyncio.to_thread(lambda: asyncio.run(wait()))
        else:
            await asyncio.gather(wait())
        return AgentToolResult()

    agent = make(Reply(call("t")), "ok", state={"tools": [tool(execute)]})
    await agent.prompt("Hi")
    assert [AgentStateError] == [type(error) for error in caught]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["prompt", "stream"])
def test_an_agent_works_after_its_loop_was_closed(how: str) -> None:
    """The agent is idle, and works in another loop."""
    agent = make(Reply("half", hang=True), "fine")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def ask() -> None:
        stream.extend([agent.stream("Hi")])
        running.append(asyncio.create_task(agent.prompt("Hi") if how == "prompt" else collect(stream[0])))
        await until(lambda: text_of(agent.state["stream_message"]) == "half")

    stream: list[Any] = []
    running: list[Any] = []
    loop.run_until_complete(ask())
    assert agent.state["is_streaming"]
    loop.close()
    agent.abort()
    assert not agent.state["is_streaming"]

    async def again() -> str:
        async with asyncio.timeout(60):
            await agent.wait_for_idle()
            if how == "stream":
                with pytest.raises((AgentStateError, StopAsyncIteration)):
                    while True:
                        await anext(stream[0])
                await stream[0].aclose()
            agent.clear_messages()
            return await agent.prompt_text("again")

    assert "fine" == asyncio.run(again())
    running.clear()
    gc.collect()


async def test_a_wait_for_idle_ends_when_the_runs_loop_is_closed() -> None:
    """A waiter in another loop detects it."""
    agent = make(Reply("half", hang=True))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    def run() -> None:
        async def ask() -> None:
            running.append(asyncio.ensure_future(agent.prompt("Hi")))
            await until(lambda: text_of(agent.state["stream_message"]) == "half")
            await asyncio.to_thread(close.wait)

        loop.run_until_complete(ask())
        loop.close()

    running: list[Any] = []
    close = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    await until(lambda: text_of(agent.state["stream_message"]) == "half")
    waiting = asyncio.create_task(agent.wait_for_idle())
    await asyncio.sleep(0)
    close.set()
    async with asyncio.timeout(60):
        await waiting
    thread.join()


@pytest.mark.parametrize(
    "method", ["prompt", "prompt_text", "continue_", "wait_for_idle", "stream", "stream_text"]
)
def test_other_libraries_than_asyncio_are_refused(method: str) -> None:
    """Under trio, the error says that asyncio is required."""
    agent = make("fine", state={"messages": [user("Hi")]})
    coroutine: Any
    if method in ("stream", "stream_text"):
        coroutine = anext(getattr(agent, method)("Hi")).__await__()
    else:
        coroutine = getattr(agent, method)(*(["Hi"] if method.startswith("prompt") else []))
    with pytest.raises(AgentStateError, match="runs on asyncio") as raised:
        coroutine.send(None)
    assert "trio" in str(raised.value.hint)


# ---- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "clear_messages", "replace_messages", "append_message"])
async def test_the_history_cannot_change_during_a_run(how: str) -> None:
    """A change raises an error, and the run continues."""
    arguments = {"replace_messages": [[]], "append_message": [user("x")]}.get(how, [])
    caught: list[Any] = []

    async def execute(*_: Any) -> AgentToolResult:
        try:
            getattr(agent, how)(*arguments)
        except AgentStateError as error:
            caught.append(str(error))
        return AgentToolResult()

    agent = make(Reply(call("t")), "ok", state={"tools": [tool(execute)]})
    events = recorded(agent)
    await agent.prompt("Hi")
    check_grammar(events)
    assert 4 == len(agent.state["messages"])
    assert [how] == [text.partition("(")[0] for text in caught]
    assert "wait_for_idle" in caught[0]
    getattr(agent, how)(*arguments)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
MALFORMED: dict[str, tuple[Any, str]] = {
    "no dict": (42, "it is of type int"),
    "no role": ({"content": "Hi"}, "no role"),
    "a role of another type": ({"role": 3, "content": "Hi"}, "its role is 3"),
    "no content": ({"role": "user"}, "its content is None"),
    "content of another type": ({"role": "user", "content": 3}, "its content is 3"),
    "a block that is text": ({"role": "user", "content": ["Hi"]}, "content[0] is 'Hi'"),
    "a block without a type": ({"role": "user", "content": [{"text": "Hi"}]}, "content[0] has no type"),
    "a block of an unknown type": ({"role": "user", "content": [{"type": "tex", "text": "Hi"}]}, "'tex'"),
    "text that is none": ({"role": "user", "content": [{"type": "text", "text": None}]}, "its text is not"),
    "text in bytes": ({"role": "user", "content": [{"type": "text", "text": b"Hi"}]}, "its text is not"),
    "an image without a url": (
        {"role": "user", "content": [{"type": "image", "data": "x"}]},
        "its url is not",
    ),
    "a signature of another type": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "thinking_signature": 3}]},
        "its thinking_signature is not",
    ),
    "bytes beside the text": (
        {"role": "user", "content": [{"type": "text", "text": "Hi", "more": object()}]},
        "JSON",
    ),
    "a circle": ({"role": "user", "content": [{"type": "text", "text": "Hi", "more": CYCLE}]}, "JSON"),
    "a result of no call": ({"role": "tool_result", "content": []}, "tool_call_id is None"),
    "a call without an id": (
        {"role": "assistant", "content": [{"type": "tool_call", "name": "t", "arguments": {}}]},
        "its id is not",
    ),
    "a call whose arguments are text": (
        {"role": "assistant", "content": [{"type": "tool_call", "id": "1", "name": "t", "arguments": "{}"}]},
        "its arguments are not",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_messages_are_refused(name: str) -> None:
    """Every entry point raises with the reason; the history does not change."""
    message, reason = MALFORMED[name]
    agent = make("fine")
    for enter in (
        lambda: agent.append_message(message),
        lambda: agent.replace_messages([user("before"), message]),
        lambda: agent.steer(message),
        lambda: agent.follow_up(message),
        lambda: agent.stream([user("Hi"), message]),
        lambda: make(state={"messages": [message]}),
        lambda: agent_loop([message], AgentContext(), AgentLoopConfig(model=MODEL, convert_to_llm=list)),
    ):
        with pytest.raises(InvalidMessageError) as raised:
            enter()
        assert reason in str(raised.value)
    with pytest.raises(InvalidMessageError):
        await agent.prompt(message)
    assert [] == agent.state["messages"]
    assert "fine" == await agent.prompt_text("Hi")


async def test_malformed_messages_in_the_state_are_not_sent() -> None:
    """Users can write to `state["messages"]`; malformed messages are skipped."""
    agent = make("fine")
    agent.state["messages"] += [42, {"role": "user", "content": [None]}, user("before")]  # type: ignore[list-item]
    assert "fine" == await agent.prompt_text("Hi")
    assert ["before", "Hi"] == [text_of(message) for message in provider(agent).calls[0].context.messages]


def test_messages_are_completed() -> None:
    """Text content and minimal tool results are accepted; the caller's dicts do not change."""
    result: Any = {"role": "tool_result", "tool_call_id": "1", "content": "ok"}
    given: Any = [
        {"role": "user", "content": "Hi"},
        assistant("x"),
        result,
        {"role": "note", "anything": object()},
    ]
    before = copy.copy(result)
    agent = make()
    agent.replace_messages(given)
    assert ["user:Hi", "assistant:x", "tool_result:ok", "note:"] == history(agent)
    assert (False, {}, before) == (
        agent.state["messages"][2]["is_error"],  # type: ignore[typeddict-item]
        agent.state["messages"][2]["details"],  # type: ignore[typeddict-item]
        result,
    )


LIMITS: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("max_turns", "max_repeats", "max_total_tokens")
        for value in (0, -1, True, 2.0, "3")
    ),
    *(("max_cost", value) for value in (-1, True, "1", float("nan"))),
]


@pytest.mark.parametrize(("name", "value"), LIMITS)
def test_invalid_limits_are_refused(name: str, value: Any) -> None:
    """A limit is an integer of at least 1 or an amount of money; None is no limit."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        Agent(AgentOptions(**options))
    with pytest.raises(ValueError, match=name):
        agent_loop([user("x")], AgentContext(), AgentLoopConfig(model=MODEL, convert_to_llm=list, **options))
    Agent(AgentOptions(**{name: None}))


STRANGE_TOOLS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "a list of AgentTool objects, not of type NoneType"),
    (AgentTool("x", "", {}), TypeError, "a list of AgentTool objects, not of type AgentTool"),
    ([AgentTool(5, "", {})], ValueError, "has no name"),  # type: ignore[arg-type]
    *(
        ([AgentTool("x", "", {}, timeout=timeout)], ValueError, "timeout of the tool 'x'")
        for timeout in (0, -1, float("nan"), "5", True)
    ),
]


@pytest.mark.parametrize(("tools", "error", "text"), STRANGE_TOOLS)
def test_tools_that_cannot_be_used_are_refused(tools: Any, error: type[Exception], text: str) -> None:
    """Tools are checked when they are set."""
    with pytest.raises(error, match=text):
        make().set_tools(tools)


@pytest.mark.parametrize("images", ["https://example.com/a.png", IMAGE, b"png"])
async def test_one_image_is_not_a_list_of_images(images: Any) -> None:
    """A URL and an image block are refused as lists."""
    with pytest.raises(InvalidMessageError, match="list of URLs and image blocks"):
        await make("hi").prompt("Look", images)


async def test_a_state_that_was_saved_during_a_run_begins_idle() -> None:
    """The fields of the active run are ignored."""
    agent = make("hi", state={"is_streaming": True, "stream_message": {}, "pending_tool_calls": {"c"}})
    assert (False, None, set()) == tuple(
        agent.state[name]
        for name in ("is_streaming", "stream_message", "pending_tool_calls")  # type: ignore[literal-required]
    )


# ---- abort and idle ----------------------------------------------------------------------------------


async def test_abort_without_a_run_does_nothing() -> None:
    """It does not affect the next run, either."""
    agent = make("ok")
    agent.abort()
    assert "ok" == await agent.prompt_text("Hi")
    agent.abort()


@pytest.mark.parametrize(
    "kind", ["agent_start", "turn_start", "message_start", "message_update", "message_end"]
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_abort_from_a_listener(kind: str, is_async: bool) -> None:
    """The run ends as aborted with complete events."""
    agent = make(Reply(text("a", "b"), hang=True), "fine")
    heard = recorded(agent)

    def listen(event: Any) -> None:
        if event.type == kind:
            agent.abort()

    async def later(event: Any) -> None:
        listen(event)

    leave = agent.subscribe(later if is_async else listen)
    async with asyncio.timeout(60):
        message = await agent.prompt("Hi")
    check_grammar(heard)
    assert "aborted" == message["stop_reason"]
    assert agent.state["error"]
    leave()
    if provider(agent).calls:
        assert "fine" == await agent.prompt_text("again")


@pytest.mark.parametrize("is_async", [False, True])
async def test_abort_from_a_tool(is_async: bool) -> None:
    """The tool finishes, and no further request is sent."""

    def sync(*_: Any) -> Any:
        agent.abort()
        return AgentToolResult(content=[{"type": "text", "text": "ran"}])

    async def later(*_: Any) -> Any:
        return sync()

    agent = make(Reply(call("t"), call("t")), state={"tools": [tool(later if is_async else sync)]})
    heard = recorded(agent)
    message = await agent.prompt("Hi")
    check_grammar(heard)
    assert "aborted" == message["stop_reason"]
    assert ["tool_result:ran", "tool_result:Operation aborted"] == history(agent)[2:4]


async def test_abort_from_another_thread() -> None:
    """The run is ended in its own loop."""
    agent = make(Reply("half", hang=True))
    heard = recorded(agent)
    asking = asyncio.create_task(agent.prompt("Hi"))
    await until(lambda: "half" in str(heard))
    thread = threading.Thread(target=agent.abort)
    thread.start()
    async with asyncio.timeout(60):
        message = await asking
    thread.join()
    check_grammar(heard)
    assert ("aborted", "half") == (message["stop_reason"], text_of(message))


async def test_abort_of_a_stream() -> None:
    """The reader gets the remaining events."""
    agent = make(Reply("half", hang=True))
    events = []
    async for event in agent.stream("Hi"):
        events.append(event)
        if event.type == "message_update":
            agent.abort()
    check_grammar(events)


async def test_waiting_for_idle() -> None:
    """It returns at once without a run, else at its end, even if the stream is not read."""
    agent = make("ok", Reply(text(*"x" * 5000)))
    await agent.wait_for_idle()
    asking = asyncio.create_task(agent.prompt("Hi"))
    await asyncio.sleep(0)
    await agent.wait_for_idle()
    assert ["user:Hi", "assistant:ok"] == history(agent)
    await asking
    stream = agent.stream("Hi")
    events = [await anext(stream)]
    async with asyncio.timeout(60):
        await agent.wait_for_idle()
    assert not agent.state["is_streaming"]
    check_grammar([*events, *await collect(stream)])


@pytest.mark.parametrize("where", ["listener", "tool", "transform_context", "before_tool_call"])
async def test_waiting_for_idle_from_inside(where: str) -> None:
    """It raises RuntimeError in every task of the run, because it would wait for itself."""
    caught: list[BaseException] = []

    async def wait(*_: Any) -> Any:
        try:
            async with asyncio.timeout(60):
                await agent.wait_for_idle()
        except BaseException as error:
            caught.append(error)
            raise

    agent = make(Reply(call("t")), "ok", state={"tools": [tool(wait if where == "tool" else None)]})
    if where == "listener":
        agent.subscribe(wait)
    elif where != "tool":
        setattr(agent.options, where, wait)
    await agent.prompt("Hi")
    assert caught
    assert {AgentStateError} == {type(error) for error in caught}


async def test_a_task_of_ones_own_may_wait_for_idle() -> None:
    """A listener may start a task that waits."""
    agent = make("ok")
    tasks: list[Any] = []

    def listen(event: Any) -> None:
        if event.type == "agent_start":
            tasks.append(asyncio.create_task(agent.wait_for_idle()))

    agent.subscribe(listen)
    await agent.prompt("Hi")
    await tasks[0]


async def test_a_prompt_from_inside_is_refused() -> None:
    """A tool cannot prompt its own agent, but another one."""
    other = make("from the other")

    async def execute(*_: Any) -> Any:
        with pytest.raises(AgentStateError, match="streaming"):
            await agent.prompt("nested")
        return AgentToolResult(content=[{"type": "text", "text": await other.prompt_text("Hi")}])

    agent = make(Reply(call("t")), "ok", state={"tools": [tool(execute)]})
    await agent.prompt("Hi")
    assert "tool_result:from the other" in history(agent)


# ---- helpers and memory ------------------------------------------------------------------------------


def test_extract_text() -> None:
    """Text blocks are joined; without text the result is empty."""
    assert "ab" == extract_text(assistant("a", {"type": "thinking", "thinking": "x"}, "b"))
    assert "a" == extract_text({"role": "user", "content": "a"})
    for nothing in (None, {}, {"role": "note"}, {"content": None}, {"content": []}):
        assert "" == extract_text(nothing)


def test_the_default_conversion() -> None:
    """Messages of other roles are omitted."""
    messages: Any = [user("a"), {"role": "note"}, assistant("b"), {"no": "role"}]
    assert [user("a"), assistant("b")] == default_convert_to_llm(messages)


class Held:
    """An object that a run refers to."""

    provider = id = api = "held"


def failing(context: Any, options: Any) -> Any:
    raise LookupError("raised")


@pytest.mark.parametrize("reply", ["ok", Reply(error="broken"), failing, Reply(call("t", x=1))])
async def test_a_finished_run_is_freed(reply: Any) -> None:
    """Run, model and agent are in no reference cycle."""
    gc.collect()
    gc.disable()
    try:
        agent = make(*[reply], *(["ok"] if isinstance(reply, Reply) and reply.parts else []))
        held = Held()
        agent.set_model(held)
        events = agent.stream("Hi")
        await collect(events)
        seen = [weakref.ref(held), weakref.ref(agent)]
        del agent, held, events
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [None, None] == [reference() for reference in seen]
    finally:
        gc.enable()


# ---- tools that change during a run ----------------------------------------------------------------


def offered(agent: Agent) -> list[list[str]]:
    """Return the names of the tools of each request."""
    contexts = [asked.context for asked in provider(agent).calls]
    return [[tool.name for tool in context.tools or ()] for context in contexts]


async def test_tools_that_are_set_during_a_run_are_offered_in_its_next_request() -> None:
    """New tools can be called, and removed tools are unknown."""

    async def change(*_: Any) -> AgentToolResult:
        agent.set_tools([tool(name="new")])
        return AgentToolResult(content=[{"type": "text", "text": "changed"}])

    agent = make(Reply(call("old")), Reply(call("new"), call("old")), "Done.")
    agent.set_tools([tool(change, name="old")])
    events = recorded(agent)
    await agent.prompt("go")
    check_grammar(events)
    assert [["old"], ["new"], ["new"]] == offered(agent)
    results = [text_of(message) for message in agent.state["messages"] if message["role"] == "tool_result"]
    assert ["changed", "ok", "There is no tool 'old'. Available tools: new."] == results


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_get_tools_is_called_before_each_request(how: str) -> None:
    """Its tools are used from then on; None changes nothing."""
    answers = iter([None, [tool(name="second")], None])

    async def later() -> Any:
        return next(answers)

    agent = make(
        Reply(call("first")), Reply(call("second")), "Done.",
        get_tools=later if how == "async" else lambda: next(answers),
    )  # fmt: skip
    agent.set_tools([tool(name="first")])
    events = recorded(agent)
    await agent.prompt("go")
    check_grammar(events)
    assert [["first"], ["second"], ["second"]] == offered(agent)
    assert ["second"] == [one.name for one in agent.state["tools"]]


async def test_a_get_tools_that_fails_ends_the_run_as_an_error() -> None:
    """No request is sent with tools that may be wrong."""

    def fail() -> Any:
        raise ValueError("no tools today")

    agent = make("Never asked.", get_tools=fail)
    events = recorded(agent)
    message = await agent.prompt("go")
    check_grammar(events)
    assert ("error", []) == (message["stop_reason"], offered(agent))
    assert "no tools today" in message["error_message"]
