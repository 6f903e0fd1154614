"""The loop: however a run goes, its events are correct, nothing hangs and no task remains."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent import (
    AgentContext,
    AgentLoopConfig,
    AgentTool,
    AgentToolResult,
    Model,
    ThinkingLevel,
    ToolCallDecision,
    agent_loop,
    agent_loop_continue,
    create_agent_stream,
    extract_text,
    stream_assistant_response,
    stream_simple,
)
from tinyagent._cancel import AbortSignal
from tinyagent._stream.history import repair_history
from tinyagent.agent_loop import run_agent_loop
from tinyagent.agent_types import STREAM_UPDATE_EVENTS
from tinyagent.errors import RateLimitError
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

MODEL = Model(provider="scripted", id="scripted", api="scripted")


def echo(read_only: bool = True, name: str = "echo", **fields: Any) -> AgentTool:
    """A tool that returns its arguments."""

    async def execute(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
        on_update(AgentToolResult(content=[{"type": "text", "text": "half"}]))
        await asyncio.sleep(0)
        return AgentToolResult(content=[{"type": "text", "text": f"echo {args}"}])

    return AgentTool(name=name, execute=execute, read_only=read_only, **fields)


def config(**fields: Any) -> AgentLoopConfig:
    """Return a configuration that sends all messages unchanged."""
    return AgentLoopConfig(**{"model": MODEL, "convert_to_llm": list, **fields})


def loop(provider: Any, prompts: Any = "hi", *, tools: Any = None, signal: Any = None, **fields: Any) -> Any:
    """Start a run with one prompt."""
    context = AgentContext(tools=[echo()] if tools is None else tools)
    messages = [user(prompts)] if isinstance(prompts, str) else prompts
    return agent_loop(messages, context, config(**fields), signal, provider)


async def run(provider: Any, prompts: Any = "hi", **fields: Any) -> list[Any]:
    """Return the events of a run, after checking their grammar."""
    async with asyncio.timeout(60):
        events = await collect(loop(provider, prompts, **fields))
    check_grammar(events)
    return events


def kinds(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def last(events: list[Any]) -> Any:
    """Return the last assistant message of a run."""
    return next(m for m in reversed(events[-1].messages) if m["role"] == "assistant")


def text_of(message: Any) -> str:
    return "".join(block.get("text", "") for block in message["content"])


def roles(events: list[Any]) -> list[str]:
    return [message["role"] for message in events[-1].messages]


def results(events: list[Any]) -> list[str]:
    return [text_of(message) for message in events[-1].messages if message["role"] == "tool_result"]


# ---- what goes well --------------------------------------------------------------------------------


async def test_an_answer() -> None:
    """A prompt and its answer give exactly these events, and the new messages are the result."""
    async with ScriptedProvider(Reply(thinking("hm"), text("Hel", "lo"))) as provider:
        stream = loop(provider)
        events = await collect(stream)
    check_grammar(events)
    assert kinds(events) == [
        "agent_start",
        "turn_start",
        *["message_start", "message_end"],
        *["message_start", *["message_update"] * 7, "message_end"],
        "turn_end",
        "agent_end",
    ]
    assert await stream.result() == events[-1].messages
    assert ["user", "assistant"] == roles(events)
    assert ("Hello", "stop", None) == (text_of(last(events)), last(events)["stop_reason"], events[-1].limit)


async def test_updates_show_the_message_so_far_and_stay_as_they_were() -> None:
    """A stored update shows the text at its own time, also after the end."""
    events = await run(ScriptedProvider(Reply(text("a", "b", "c"))))
    texts = [text_of(event.message) for event in events if event.type == "message_update"]
    assert ["", "a", "ab", "abc", "abc"] == texts


async def test_tools_run_and_the_model_goes_on() -> None:
    """The next request has the results in the order of the calls."""
    calls = Reply(call("echo", a=1, call_id="x"), call("echo", a=2, call_id="y"))
    async with ScriptedProvider(calls, "done") as provider:
        events = await run(provider)
    assert ["user", "assistant", "tool_result", "tool_result", "assistant"] == roles(events)
    assert ["echo {'a': 1}", "echo {'a': 2}"] == results(events)
    assert ["user", "assistant", "tool_result", "tool_result"] == [
        message["role"] for message in provider.calls[1].context.messages
    ]


async def test_the_callers_context_is_not_changed() -> None:
    """The context, its messages and the configuration are never modified."""
    context = AgentContext("system", [user("before"), assistant("yes")], [echo()])
    before = copy.deepcopy((context.system_prompt, context.messages))
    settings = config()
    kept = copy.copy(settings)
    async with ScriptedProvider(Reply(call("echo")), "done") as provider:
        events = await collect(agent_loop([user("hi")], context, settings, None, provider))
    check_grammar(events)
    assert before == (context.system_prompt, context.messages)
    assert kept == settings
    assert "system" == provider.calls[0].context.system_prompt


async def test_the_messages_of_the_end_are_a_list_of_their_own() -> None:
    """Changes of the result by the caller do not show in a stored event."""
    stream = loop(ScriptedProvider("hi"))
    events = await collect(stream)
    (await stream.result()).clear()
    assert 2 == len(events[-1].messages)


async def test_every_option_reaches_the_provider() -> None:
    """Options that are set are passed on, and others are absent."""
    signal = AbortSignal()

    def on_retry(why: str) -> None: ...

    given = {
        "temperature": 0.5,
        "max_tokens": 7,
        "session_id": "s",
        "thinking_level": ThinkingLevel.HIGH,
        "thinking_budgets": {"high": 10},
        "timeout": 3.0,
        "on_retry": on_retry,
    }
    provider = ScriptedProvider("hi")
    await run(provider, signal=signal, api_key="key", **given)
    assert {**given, "api_key": "key", "signal": signal} == provider.calls[0].options
    provider = ScriptedProvider("hi")
    await run(provider)
    assert {"thinking_level": ThinkingLevel.OFF} == provider.calls[0].options


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_callbacks_are_called_in_order(is_async: bool) -> None:
    """`transform_context`, `convert_to_llm`, `get_api_key` and the provider; sync or async."""
    seen: list[Any] = []

    def callback(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def sync(*args: Any) -> Any:
            seen.append(name)
            return answer(*args)

        async def later(*args: Any) -> Any:
            await asyncio.sleep(0)
            return sync(*args)

        return later if is_async else sync

    def provider_step(context: Any, options: Any) -> str:
        seen.append("stream_fn")
        assert ["added", "hi"] == [text_of(message) for message in context.messages]
        assert "from callback" == options["api_key"]
        return "done"

    events = await run(
        ScriptedProvider(provider_step),
        api_key="from config",
        transform_context=callback("transform", lambda messages, signal: [user("added"), *messages]),
        convert_to_llm=callback("convert", list),
        get_api_key=callback("key", lambda provider: f"from {'callback' if provider == 'scripted' else '?'}"),
        get_steering_messages=callback("steering", list),
        get_follow_up_messages=callback("follow-up", list),
        should_stop_after_turn=callback("stop", lambda message, results, context: False),
    )
    expected = "steering transform convert key stream_fn stop steering follow-up"
    assert expected.split() == seen
    assert ["user", "assistant"] == roles(events)


async def test_a_key_callback_without_a_key_leaves_the_configured_one() -> None:
    """`get_api_key` may return None."""
    provider = ScriptedProvider("hi")
    await run(provider, api_key="configured", get_api_key=lambda provider: None)
    assert "configured" == provider.calls[0].options["api_key"]


async def test_custom_messages_are_stored_and_not_sent() -> None:
    """The history has them; the result of `convert_to_llm` is sent."""
    note = {"role": "note", "text": "to myself"}
    provider = ScriptedProvider("hi")
    events = await run(
        provider,
        [note, user("hi")],
        convert_to_llm=lambda messages: [message for message in messages if message["role"] != "note"],
    )
    assert ["note", "user", "assistant"] == roles(events)
    assert [user("hi")] == provider.calls[0].context.messages


async def test_a_synchronous_stream_function() -> None:
    """A `stream_fn` that returns the response without await works, too."""

    class Response:
        def __aiter__(self) -> AsyncIterator[Any]:
            return self._events()

        async def _events(self) -> AsyncIterator[Any]:
            yield {"type": "text_delta", "content_index": 0, "delta": "hi"}
            yield {"type": "done", "reason": "stop"}

    events = await run(lambda model, context, options: Response())
    assert "hi" == text_of(last(events))


# ---- providers of every kind -------------------------------------------------------------------------


def foreign(*steps: Any) -> Any:
    """Return a provider that yields these events; a step may be an exception or an event to await."""

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            for step in steps:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step

        return events()

    return stream_fn


DELTA = {"type": "text_delta", "content_index": 0, "delta": "half"}


async def test_a_provider_of_deltas_only() -> None:
    """The message is built from deltas without starts, partials or a final message."""
    events = await run(
        foreign(
            DELTA,
            {"type": "tool_call_start", "content_index": 1, "tool_call": {"id": "x", "name": "echo"}},
            {"type": "tool_call_delta", "content_index": 1, "delta": '{"a": 1'},
            {"type": "tool_call_delta", "content_index": 1, "delta": "}"},
            {"type": "tool_call_end", "content_index": 1},
            {"type": "done", "reason": "toolUse"},
        ),
        max_turns=1,
    )
    assert ["echo {'a': 1}"] == results(events)
    assert ["half", "tool_use"] == [text_of(last(events)), last(events)["stop_reason"]]
    assert "max_turns" == events[-1].limit


async def test_a_provider_of_full_partials() -> None:
    """If a provider sends the same growing dict each time, stored events still show their own time."""
    message: dict[str, Any] = {**assistant(""), "stop_reason": "complete"}

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            yield {"type": "start", "partial": {**message, "content": []}}
            yield {"type": "text_start", "content_index": 0, "partial": message}
            for piece in "abc":
                message["content"][0]["text"] += piece
                yield {"type": "text_delta", "content_index": 0, "delta": piece, "partial": message}
            yield {"type": "done", "reason": "stop", "message": message}

        return events()

    events = await run(stream_fn)
    message["content"][0]["text"] = "changed afterwards"
    updates = [event for event in events if event.type == "message_update"]
    assert ["", "a", "ab", "abc"] == [text_of(event.message) for event in updates]
    assert ["", "a", "ab", "abc"] == [text_of(event.assistant_message_event["partial"]) for event in updates]
    assert ("abc", "stop") == (text_of(last(events)), last(events)["stop_reason"])


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


GARBAGE: dict[str, list[Any]] = {
    "a number": [DELTA, 42],
    "nothing": [DELTA, None],
    "a string": [DELTA, "text"],
    "no type": [DELTA, {"delta": "x"}],
    "a type that is no string": [DELTA, {"type": 1}],
    "a final message of another shape": [DELTA, {"type": "done", "message": {"content": [42]}}],
    "a block without a type": [DELTA, {"type": "done", "message": {"content": [{}]}}],
    "a text that is no string": [
        DELTA,
        {"type": "done", "message": {"content": [{"type": "text", "text": 1}]}},
    ],
    "no end": [DELTA],
    "an error event without a reason": [DELTA, {"type": "error"}],
    "an error event with an empty message": [DELTA, {"type": "error", "error": {}}],
    "an error that claims success": [DELTA, {"type": "error", "error": {"stop_reason": "stop"}}],
    "done because of an error": [DELTA, {"type": "done", "reason": "error"}],
    "an exception": [DELTA, RuntimeError("boom")],
    "its own cancellation": [DELTA, asyncio.CancelledError()],
    "a time-out": [DELTA, TimeoutError()],
    "an error without words": [DELTA, SpeechlessError()],
    "malformed partials and no end": [{**DELTA, "partial": {"content": [42]}}],
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_a_broken_provider_ends_the_run_as_an_error(case: str) -> None:
    """A broken provider ends in an error message with a reason and the partial text, and no tool runs."""
    events = await run(foreign(*GARBAGE[case]))
    assert "error" == last(events)["stop_reason"]
    assert last(events)["error_message"]
    assert "half" == text_of(last(events))


TOLERATED: dict[str, list[Any]] = {
    "an unknown event": [{"type": "ping"}, DELTA],
    "two starts": [{"type": "start"}, {"type": "start"}, DELTA],
    "a start in the middle": [DELTA, {"type": "start"}],
    "a huge index": [{**DELTA, "content_index": 10**9}],
    "a negative index": [{**DELTA, "content_index": -1}],
    "an index of another type": [{**DELTA, "content_index": [0]}],
    "no index": [{"type": "text_delta", "delta": "half"}],
    "an end without a start": [{"type": "text_end", "content_index": 0, "content": "half"}],
    "a start of another role": [{"type": "start", "partial": {"role": None}}, DELTA],
    "an empty start partial": [{"type": "start", "partial": {}}, DELTA],
    "a delta that is None": [DELTA, {**DELTA, "delta": None}],
    "lone surrogates": [DELTA, {**DELTA, "delta": ""}],
}


@pytest.mark.parametrize("case", TOLERATED)
async def test_harmless_violations_are_tolerated(case: str) -> None:
    """Harmless violations of a provider are not failures."""
    events = await run(foreign(*TOLERATED[case], {"type": "done", "reason": "stop"}))
    assert ("half", "stop") == (text_of(last(events)), last(events)["stop_reason"])


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from(["", "x", "echo", "stop", '{"a": 1}'])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "id", "name", "arguments", "partial_json", "content", "text", "thinking"]
            )
            | st.sampled_from(["stop_reason", "role", "usage", "error_message", "cost"]),
            inner | st.sampled_from(["text", "thinking", "tool_call", "error", "length"]),
            max_size=5,
        ),
    ),
    max_leaves=12,
)
EVENTS = st.lists(
    ANYTHING
    | st.fixed_dictionaries(
        {"type": st.sampled_from([*sorted(STREAM_UPDATE_EVENTS), "start", "done", "error", "ping"])},
        optional=dict.fromkeys(
            ["content_index", "delta", "content", "tool_call", "partial", "message", "error", "reason"],
            ANYTHING,
        ),
    ),
    max_size=12,
)


@given(EVENTS)
def test_no_provider_breaks_the_grammar(steps: list[Any]) -> None:
    """For random events of any type, the run ends with correct events."""

    async def go() -> None:
        async with asyncio.timeout(60):
            events = await collect(loop(foreign(*steps), max_turns=2, max_cost=1.0))
        check_grammar(events)
        for event in events:
            repr(event)
        assert last(events)["stop_reason"] in ("stop", "length", "tool_use", "error", "aborted")
        extract_text(last(events))
        repair_history(events[-1].messages)

    asyncio.run(go())


async def test_a_late_done_is_not_read() -> None:
    """After `done` the stream is closed, and later events are ignored."""
    closed = asyncio.Event()

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            try:
                yield DELTA
                yield {"type": "done", "reason": "stop"}
                yield {"type": "error", "error": "never seen"}
            finally:
                closed.set()

        return events()

    assert "stop" == last(await run(stream_fn))["stop_reason"]
    assert closed.is_set()


async def test_blocks_are_separated_by_type_and_index() -> None:
    """A provider that numbers each type from 0, or skips numbers, gets separate blocks."""
    events = await run(
        foreign(
            {"type": "thinking_delta", "content_index": 0, "delta": "hm"},
            DELTA,
            {"type": "tool_call_start", "content_index": 7, "tool_call": {"id": "a", "name": "echo"}},
            {"type": "tool_call_start", "content_index": 9, "tool_call": {"id": "a", "name": "echo"}},
            {"type": "tool_call_delta", "content_index": 7, "delta": '{"n": '},
            {"type": "tool_call_delta", "content_index": 9, "delta": '{"n": 2}'},
            {"type": "tool_call_delta", "content_index": 7, "delta": "1}"},
            {"type": "tool_call_end", "content_index": 7, "tool_call": {"id": "a"}},
            {"type": "tool_call_end", "content_index": 9, "tool_call": {"id": "a"}},
            {"type": "done", "reason": "stop"},
        ),
        max_turns=1,
    )
    message = last(events)
    assert ["thinking", "text", "tool_call", "tool_call"] == [block["type"] for block in message["content"]]
    assert ["a", "a_2"] == [block["id"] for block in message["content"][2:]]
    assert ["echo {'n': 1}", "echo {'n': 2}"] == results(events)
    assert "tool_use" == message["stop_reason"]


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "an object": ({"arguments": {"n": 1}}, "echo {'n': 1}"),
    "the text of an object": ({"arguments": '{"n": 1}'}, "echo {'n': 1}"),
    "no arguments": ({}, "echo {}"),
    "an empty text": ({"arguments": ""}, "echo {}"),
    "null": ({"arguments": None}, "not a JSON object"),
    "a list": ({"arguments": [1]}, "not a JSON object"),
    "a torn text": ({"arguments": '{"n": '}, "not a JSON object"),
    "torn text beside an object": ({"arguments": {}, "partial_json": '{"n": '}, "not a JSON object"),
    "torn text beside a guess": ({"arguments": {"n": 1}, "partial_json": '{"n": 1'}, "not a JSON object"),
    "whole text beside an empty object": ({"arguments": {}, "partial_json": '{"n": 1}'}, "echo {'n': 1}"),
    "partial json of another type": ({"arguments": {"n": 1}, "partial_json": 5}, "echo {'n': 1}"),
}


@pytest.mark.parametrize("case", CALLS)
async def test_a_call_runs_with_the_arguments_that_were_sent_or_not_at_all(case: str) -> None:
    """A malformed call never runs, not even with empty arguments."""
    fields, expected = CALLS[case]
    block = {"type": "tool_call", "id": "x", "name": "echo", **fields}
    message = {**assistant(), "content": [block], "stop_reason": "stop"}
    events = await run(foreign({"type": "done", "reason": "stop", "message": message}), max_turns=1)
    assert expected in results(events)[0]
    assert isinstance(last(events)["content"][0]["arguments"], dict)


@pytest.mark.parametrize(
    "end", [{}, {"tool_call": {"arguments": [1]}}, {"tool_call": {"arguments": '{"n": '}}]
)
async def test_a_call_with_malformed_deltas_is_not_run(end: dict[str, Any]) -> None:
    """Deltas of arguments that are not an object are refused, with and without an end."""
    events = await run(
        foreign(
            {"type": "tool_call_start", "content_index": 0, "tool_call": {"id": "x", "name": "echo"}},
            {"type": "tool_call_delta", "content_index": 0, "delta": '{"n": 1' if not end else ""},
            *([{"type": "tool_call_end", "content_index": 0, **end}] if end else []),
            {"type": "done", "reason": "stop"},
        ),
        max_turns=1,
    )
    assert "not a JSON object" in results(events)[0]


async def test_ids_are_made_unique() -> None:
    """Duplicate and missing ids are replaced, so that results can be matched."""
    blocks = [
        {"type": "tool_call", "id": given, "name": "echo", "arguments": {}} for given in ("x", "x", "", "")
    ]
    events = await run(
        foreign({"type": "done", "message": {"content": blocks, "stop_reason": "stop"}}), max_turns=1
    )
    ids = [block["id"] for block in last(events)["content"]]
    assert 4 == len(set(ids))
    assert ids == [message["tool_call_id"] for message in events[-2].tool_results]


STOPS = {
    "stop": "stop",
    "complete": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "error",
    None: "stop",
}


@pytest.mark.parametrize("given", STOPS)
async def test_stop_reasons_are_read_in_every_spelling(given: str | None) -> None:
    """The message has our stop reason, and the provider's one unchanged."""
    events = await run(foreign(DELTA, {"type": "done", "reason": given}))
    assert STOPS[given] == last(events)["stop_reason"]
    ours = given in (None, "stop", "length", "tool_use", "error", "aborted")
    assert (None if ours else given) == last(events).get("finish_reason")


async def test_a_length_in_the_event_only_counts() -> None:
    """If `done` has `length` and its message `stop`, the tool does not run."""
    block = {"type": "tool_call", "id": "x", "name": "echo", "arguments": {}}
    message = {**assistant(), "content": [block], "stop_reason": "stop"}
    events = await run(foreign({"type": "done", "reason": "length", "message": message}), max_turns=1)
    assert "output limit" in results(events)[0]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_stream_function_that_raises(is_async: bool) -> None:
    """The run ends as an error message with the kind and the hint of the exception."""

    def sync(model: Any, context: Any, options: Any) -> Any:
        raise RateLimitError("slow down", hint="wait a minute")

    async def later(model: Any, context: Any, options: Any) -> Any:
        raise RateLimitError("slow down", hint="wait a minute")

    events = await run(later if is_async else sync)
    message = last(events)
    assert ("error", "slow down") == (message["stop_reason"], message["error_message"])
    assert ("rate_limit", "wait a minute") == (message["error_kind"], message["error_hint"])
    assert [] == message["content"]


@pytest.mark.parametrize("stream_fn", [lambda *_: None, lambda *_: 42, 5])
async def test_an_invalid_stream_function(stream_fn: Any) -> None:
    """A result that is not a stream, or an object that cannot be called, is an error message."""
    message = last(await run(stream_fn))
    assert "error" == message["stop_reason"]
    assert ("asynchronous iterator" in message["error_message"]) == callable(stream_fn)


async def test_without_a_stream_function_the_error_says_what_to_pass() -> None:
    """Without `stream_fn` the run ends with an error message."""
    assert "stream_openrouter" in last(await run(None))["error_message"]
    with pytest.raises(NotImplementedError, match="stream_fn"):
        await stream_simple(MODEL, None, {})  # type: ignore[arg-type]


async def test_an_error_keeps_the_partial_text_and_runs_no_tool() -> None:
    """`error` ends the run after `turn_end`; the partial message is in the history."""
    reply = Reply("half a reply", call("echo", call_id="x"), error="overloaded")
    events = await run(ScriptedProvider(reply))
    assert ("half a reply", "overloaded") == (text_of(last(events)), last(events)["error_message"])
    assert "tool_execution_start" not in kinds(events)
    assert ["user", "assistant"] == roles(events)


@pytest.mark.parametrize("how", ["raised", "event"])
async def test_the_key_is_not_in_the_error(how: str) -> None:
    """A key that a provider echoes is not shown."""
    key = "sk-test-CANARY-123456"
    step: Any = (
        RuntimeError(f"bad key {key}") if how == "raised" else {"type": "error", "error": f"bad key {key}"}
    )
    events = await run(foreign(step), api_key=key)
    assert key not in str(events)
    assert "bad key [key]" in last(events)["error_message"]


# ---- callbacks that raise ----------------------------------------------------------------------------


class BoomError(Exception):
    """An exception of callbacks."""


def raising(error: type[BaseException], is_async: bool) -> Callable[..., Any]:
    def sync(*_: Any) -> Any:
        raise error("boom")

    async def later(*_: Any) -> Any:
        await asyncio.sleep(0)
        raise error("boom")

    return later if is_async else sync


ERRORS: list[type[BaseException]] = [BoomError, asyncio.CancelledError, TimeoutError, StopAsyncIteration]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "name", ["transform_context", "convert_to_llm", "get_api_key", "get_steering_messages"]
)
async def test_a_callback_before_the_call_raises(
    name: str, is_async: bool, error: type[BaseException]
) -> None:
    """The run ends with an error message, and no request is sent."""
    async with ScriptedProvider() as provider:
        events = await run(provider, **{name: raising(error, is_async)})
    assert "error" == last(events)["stop_reason"]
    assert ["user", "assistant"] == roles(events)
    if error is BoomError:
        assert "BoomError: boom" == last(events)["error_message"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("name", ["get_follow_up_messages", "should_stop_after_turn"])
async def test_a_callback_after_the_turn_raises(
    name: str, is_async: bool, error: type[BaseException]
) -> None:
    """The answer is preserved; a separate turn reports the error."""
    async with ScriptedProvider("the answer") as provider:
        events = await run(provider, **{name: raising(error, is_async)})
    assert ["user", "assistant", "assistant"] == roles(events)
    assert ["stop", "error"] == [message["stop_reason"] for message in events[-1].messages[1:]]


@pytest.mark.parametrize("name", ["transform_context", "convert_to_llm", "get_steering_messages"])
@pytest.mark.parametrize("answer", [None, 42, "text", [42], [{}]])
async def test_a_callback_with_a_wrong_return_type(name: str, answer: Any) -> None:
    """It never hangs the run or breaks the grammar."""
    async with asyncio.timeout(60):
        events = await collect(loop(ScriptedProvider("hi"), **{name: lambda *_: answer}, max_turns=2))
    assert "agent_end" == events[-1].type


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
async def test_steering_that_raises_while_tools_run(mode: Any) -> None:
    """Every call still gets its result, and a separate turn reports the error."""
    answers = iter([[]])

    def steering() -> Any:
        for answer in answers:
            return answer
        raise BoomError("boom")

    reply = Reply(call("echo", n=1), call("echo", n=2))
    events = await run(ScriptedProvider(reply), get_steering_messages=steering, tool_execution=mode)
    assert ["user", "assistant", "tool_result", "tool_result", "assistant"] == roles(events)
    assert "BoomError: boom" == last(events)["error_message"]


@pytest.mark.parametrize("error", [*ERRORS, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_guard_that_raises_refuses_the_call(is_async: bool, error: type[BaseException]) -> None:
    """`before_tool_call` fails closed for every exception."""
    reply = Reply(call("echo", n=1))
    events = await run(ScriptedProvider(reply, "done"), before_tool_call=raising(error, is_async))
    assert results(events)[0].startswith("The call was refused: before_tool_call failed with")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_censor_that_raises_withholds_the_result(is_async: bool, error: type[BaseException]) -> None:
    """`after_tool_call` fails closed: the result is not shown."""
    reply = Reply(call("echo", n="secret"))
    events = await run(ScriptedProvider(reply, "done"), after_tool_call=raising(error, is_async))
    assert "withheld" in results(events)[0]
    assert "secret" not in results(events)[0]


async def test_a_hook_with_a_wrong_return_type_refuses() -> None:
    """A result that is not a decision refuses the call."""
    reply = Reply(call("echo", n=1))
    events = await run(ScriptedProvider(reply, "done"), before_tool_call=lambda info: True)
    assert "refused" in results(events)[0]
    events = await run(ScriptedProvider(reply, "done"), after_tool_call=lambda *_: {"content": []})
    assert "withheld" in results(events)[0]


# ---- steering and follow-ups -------------------------------------------------------------------------


class Queue:
    """A queue that is emptied when it is read, as in a plain callback."""

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)

    def __call__(self) -> list[Any]:
        taken, self.messages = self.messages[:1], self.messages[1:]
        return taken


async def test_steering_at_the_start_joins_the_first_turn() -> None:
    """Messages that are queued at the start follow the prompt."""
    provider = ScriptedProvider("hi")
    await run(provider, get_steering_messages=Queue(user("and this")))
    assert ["hi", "and this"] == [text_of(message) for message in provider.calls[0].context.messages]


async def test_steering_after_an_answer_continues_the_run() -> None:
    """After each turn the steering queue is polled before the follow-ups."""
    provider = ScriptedProvider("one", "two", "three")
    events = await run(
        provider,
        get_steering_messages=Queue(user("first"), user("steer")),
        get_follow_up_messages=Queue(user("follow")),
    )
    said_by_user = [text_of(message) for message in events[-1].messages if message["role"] == "user"]
    assert ["hi", "first", "steer", "follow"] == said_by_user
    provider.assert_finished()


async def test_follow_ups_come_only_when_the_agent_would_stop() -> None:
    """They are not delivered while tool results are unanswered."""
    provider = ScriptedProvider(Reply(call("echo", n=1)), "done", "more")
    events = await run(provider, get_follow_up_messages=Queue(user("follow")))
    assert ["user", "assistant", "tool_result", "assistant", "user", "assistant"] == roles(events)


@pytest.mark.parametrize("mode", ["auto", "sequential"])
async def test_steering_while_tools_run_skips_the_rest(mode: Any) -> None:
    """The active call ends, others are skipped with a result, and the message opens the next turn."""
    queue = Queue()
    ran = []

    async def execute(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
        ran.append(call_id)
        queue.messages.append(user("stop that"))
        return AgentToolResult(content=[{"type": "text", "text": "ran"}])

    tools = [AgentTool(name="write", execute=execute)]
    reply = Reply(*(call("write", call_id=name) for name in "abc"))
    provider = ScriptedProvider(reply, "ok")
    events = await run(provider, tools=tools, get_steering_messages=queue, tool_execution=mode)
    assert ["a"] == ran
    assert ["ran", *["Skipped due to queued user message."] * 2] == results(events)
    assert ["user", "assistant", *["tool_result"] * 3, "user", "assistant"] == roles(events)
    assert [False, True, True] == [m["is_error"] for m in events[-1].messages[2:5]]


async def test_injected_messages_stand_after_the_turn_start() -> None:
    """They are never between a call and its result."""
    queue = Queue(*[user("x")] * 3)
    provider = ScriptedProvider(Reply(call("echo", n=1)), Reply(call("echo", n=2)), "done", "done")
    events = await run(provider, get_steering_messages=queue)
    for before, event in itertools.pairwise(events):
        if event.type == "message_start" and event.message["role"] == "user":
            assert before.type in ("turn_start", "message_end")


async def test_an_error_does_not_change_the_queues() -> None:
    """After a failure all queued messages remain queued."""
    follow = Queue(user("later"))
    steering = Queue()

    def reply(context: Any, options: Any) -> Reply:
        steering.messages.append(user("also later"))
        return Reply(error="broken")

    await run(ScriptedProvider(reply), get_steering_messages=steering, get_follow_up_messages=follow)
    assert (1, 1) == (len(steering.messages), len(follow.messages))


# ---- limits and stops --------------------------------------------------------------------------------


async def test_max_turns_ends_the_run() -> None:
    """The limit is reported, and no message is invented."""
    calls = [Reply(call("echo", n=n)) for n in range(3)]
    provider = ScriptedProvider(*calls)
    events = await run(provider, max_turns=3)
    assert "max_turns" == events[-1].limit
    assert ["user", *["assistant", "tool_result"] * 3] == roles(events)


async def test_an_unneeded_limit_is_not_reported() -> None:
    """The model was done in its last turn."""
    events = await run(ScriptedProvider("hi"), max_turns=1)
    assert None is events[-1].limit


@pytest.mark.parametrize("cost", [0.1, 1])
async def test_the_budget_ends_the_run(cost: float) -> None:
    """Costs are summed; the run ends after the turn that reaches the budget."""
    usage = {"cost": cost}
    calls = [Reply(call("echo", n=n), usage=usage) for n in range(20)]
    events = await run(ScriptedProvider(*calls), max_cost=2 * cost)
    assert "budget" == events[-1].limit
    assert 2 == kinds(events).count("turn_end")


@pytest.mark.parametrize(
    "usage",
    [{"total": 50}, {"input": 30, "output": 20}, {"input": 50}, {"total": float("nan"), "output": 50}],
)
async def test_the_limit_of_tokens_ends_the_run(usage: Any) -> None:
    """Input and output of all replies are summed; the run ends after the turn that reaches the limit."""
    calls = [Reply(call("echo", n=n), usage=usage) for n in range(20)]
    events = await run(ScriptedProvider(*calls), max_total_tokens=101)
    assert ("max_total_tokens", 3) == (events[-1].limit, kinds(events).count("turn_end"))


async def test_the_limit_of_tokens_does_not_end_a_complete_run() -> None:
    """A final answer is an answer, whatever it has used."""
    events = await run(ScriptedProvider(Reply("Done.", usage={"total": 500})), max_total_tokens=1)
    assert events[-1].limit is None


async def test_the_limit_of_tokens_without_usage_is_a_note() -> None:
    """A reply without usage does not count; one note reports it."""
    notes: list[str] = []
    provider = ScriptedProvider(*(Reply(call("echo", n=n), usage=None) for n in range(2)), "Done.")
    events = await run(provider, max_total_tokens=1, on_note=notes.append)
    assert "stop" == last(events)["stop_reason"]
    assert 1 == len(notes)
    assert "max_total_tokens: no usage is reported by" in notes[0]


USAGES: list[Any] = [
    *(None, {}, {"cost": None}, {"cost": "free"}, [1], "many"),
    *({"cost": cost} for cost in (float("nan"), -5, True, [], 10**400)),
    *({"input": count, "output": 1} for count in ("3", -1, float("nan"), None, {}, 10**400)),
]


@pytest.mark.parametrize("usage", USAGES)
async def test_invalid_usage_is_tolerated(usage: Any) -> None:
    """A missing or invalid count or cost does not end the run, nor does a number of 400 digits."""
    calls = Reply(call("echo", n=1), usage=usage)
    provider = ScriptedProvider(calls, "done")
    events = await run(
        provider, max_cost=1.0, max_total_tokens=9, model=Model("openai", "gpt-4o", "scripted")
    )
    assert "stop" == last(events)["stop_reason"]


@pytest.mark.parametrize("cost", [float("nan"), float("-inf"), -100])
async def test_a_cost_that_is_none_does_not_undo_the_budget(cost: float) -> None:
    """A reply without a cost does not disable the budget."""
    calls = [Reply(call("echo", n=n), usage={"cost": 0.6 if n else cost}) for n in range(20)]
    events = await run(ScriptedProvider(*calls), max_cost=1.0)
    assert ("budget", 3) == (events[-1].limit, kinds(events).count("turn_end"))
    assert pytest.approx(1.2) == events[-1].usage["cost"]


async def test_a_note_that_raises_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of `on_note` is logged."""

    def on_note(text: str) -> None:
        raise LookupError("no place for notes")

    events = await run(ScriptedProvider("hi"), max_cost=1.0, on_note=on_note)
    assert ("stop", True) == (last(events)["stop_reason"], "no place for notes" in caplog.text)


async def test_the_same_call_again_and_again_ends_the_run() -> None:
    """The run ends after ten equal calls with equal results."""
    calls = [Reply(call("echo", n=1)) for _ in range(10)]
    events = await run(ScriptedProvider(*calls))
    assert "repeat" == events[-1].limit
    assert 10 == len(results(events))


@pytest.mark.parametrize("max_repeats", [1, 3, 10, None])
async def test_the_number_of_repeats_is_an_option(max_repeats: int | None) -> None:
    """`max_repeats` sets the limit, and None disables it."""
    calls = [Reply(call("echo", n=1)) for _ in range(max_repeats or 12)]
    provider = ScriptedProvider(*calls) if max_repeats else ScriptedProvider(*calls, "done")
    events = await run(provider, max_repeats=max_repeats)
    assert ("repeat" if max_repeats else None) == events[-1].limit
    provider.assert_finished()


async def test_failures_with_ever_new_arguments_end_the_run() -> None:
    """The run ends after ten turns in which no tool call succeeds."""
    calls = [Reply(call("missing" if n % 2 else "lost", n=n)) for n in range(4)]
    async with ScriptedProvider(*calls) as provider:
        events = await run(provider, max_repeats=4)
    assert "repeat" == events[-1].limit


async def test_failures_in_one_turn_count_once() -> None:
    """The model gets a failure only after the turn; a success resets the count."""
    wide = Reply(*(call("missing", n=n) for n in range(20)))
    script = [wide, wide, Reply(call("echo", n=1), call("missing", n=2)), wide, wide, "done"]
    async with ScriptedProvider(*script) as provider:
        events = await run(provider, max_repeats=3)
    assert None is events[-1].limit


async def test_usage_is_summed_over_the_run() -> None:
    """`agent_end` has tokens and cost of all replies; None if no reply reports any."""
    script = [
        Reply(call("echo", n=1), usage={"input": 10, "output": 1, "total": 11, "cost": None}),
        Reply(call("echo", n=2)),
        Reply("done", usage={"input": 20, "output": 2, "total": 22, "cost": 0.5}),
    ]
    events = await run(ScriptedProvider(*script))
    assert {"input": 30, "output": 3, "total": 33, "cost": 0.5} == events[-1].usage
    assert None is (await run(ScriptedProvider("done")))[-1].usage


async def test_calls_that_differ_are_no_repetition() -> None:
    """Different arguments reset the count; integers of any size are compared."""
    numbers = [1] * 9 + [10**30] + [1] * 9
    calls = [Reply(call("echo", n=n)) for n in numbers]
    events = await run(ScriptedProvider(*calls, "done"))
    assert None is events[-1].limit


@pytest.mark.parametrize("is_async", [False, True])
async def test_should_stop_after_turn(is_async: bool) -> None:
    """It gets the message, the results and the context, and may end the run."""
    seen = []

    def stop(message: Any, results: Any, context: Any) -> bool:
        seen.append((text_of(message), len(results), len(context.messages)))
        context.messages.clear()  # a snapshot of its own
        results.clear()
        return len(seen) == 2

    async def later(*args: Any) -> bool:
        return stop(*args)

    calls = [Reply(text("t"), call("echo", n=n)) for n in range(2)]
    events = await run(ScriptedProvider(*calls), should_stop_after_turn=later if is_async else stop)
    assert [("t", 1, 3), ("t", 1, 5)] == seen
    assert None is events[-1].limit


async def test_a_result_may_end_the_run() -> None:
    """`terminate=True` ends the run after the complete batch."""

    async def execute(*_: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": "bye"}], terminate=True)

    tools = [AgentTool(name="bye", execute=execute), echo()]
    reply = Reply(call("bye"), call("echo", n=1))
    events = await run(ScriptedProvider(reply), tools=tools)
    assert ["bye", "echo {'n': 1}"] == results(events)
    assert (1, None) == (kinds(events).count("turn_end"), events[-1].limit)


@pytest.mark.parametrize("hook", ["before_tool_call", "after_tool_call"])
async def test_a_hook_may_end_the_run(hook: str) -> None:
    """`terminate` of a decision has the same effect as that of a tool."""
    decision = ToolCallDecision(terminate=True, block="no" if hook == "before_tool_call" else None)
    events = await run(ScriptedProvider(Reply(call("echo", n=1))), **{hook: lambda *_: decision})
    assert 1 == kinds(events).count("turn_end")


async def test_a_reply_cut_by_length_runs_none_of_its_calls() -> None:
    """Each call gets an error result that asks the model to repeat it, and the run continues."""
    reply = Reply(call("echo", n=1), call("echo", n=2), stop_reason="length")
    events = await run(ScriptedProvider(reply, "done"))
    assert 2 == len(results(events))
    for message in results(events):
        assert "output limit" in message
        assert "again" in message
    assert "length" == events[-1].messages[1]["stop_reason"]


# ---- abort -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_type", [AbortSignal, asyncio.Event])
async def test_abort_before_the_run(signal_type: Any) -> None:
    """The run ends as aborted without a request."""
    signal = signal_type()
    signal.set()
    async with ScriptedProvider() as provider:
        events = await run(provider, signal=signal)
    assert "aborted" == last(events)["stop_reason"]
    assert ["user", "assistant"] == roles(events)


@pytest.mark.parametrize("signal_type", [AbortSignal, asyncio.Event])
async def test_abort_at_every_event(signal_type: Any) -> None:
    """An abort at any event keeps the grammar and the partial text, and runs no further call."""
    script = (Reply(text("one", "two"), call("echo", n=1), call("echo", n=2)), Reply(text("three", "four")))
    total = len(await run(ScriptedProvider(*script)))
    for moment in range(total):
        signal = signal_type()
        provider = ScriptedProvider(*script)
        events: list[Any] = []
        async with asyncio.timeout(60):
            async for event in loop(provider, signal=signal):
                events.append(event)
                if len(events) == moment + 1:
                    calls = len(provider.calls)
                    signal.set()
        check_grammar(events)
        assert len(provider.calls) <= calls + 1


@pytest.mark.parametrize("signal_type", [AbortSignal, asyncio.Event])
async def test_abort_at_every_event_from_inside(signal_type: Any) -> None:
    """A sink that aborts during an event ends the run without further requests."""
    script = (Reply(text("one", "two"), call("echo", n=1), call("echo", n=2)), Reply(text("three", "four")))
    total = len(await run(ScriptedProvider(*script)))
    for moment in range(total):
        signal = signal_type()
        provider = ScriptedProvider(*script)
        events: list[Any] = []

        def emit(event: Any, events: Any = events, moment: int = moment, signal: Any = signal) -> None:
            events.append(event)
            if len(events) == moment + 1:
                signal.set()

        context = AgentContext(tools=[echo()])
        async with asyncio.timeout(60):
            await run_agent_loop([user("hi")], context, config(), emit, signal, provider)
        check_grammar(events)
        asked_after = [event for event in events[moment + 1 :] if event.type == "message_update"]
        assert [] == asked_after
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()


@pytest.mark.parametrize("signal_type", [AbortSignal, asyncio.Event])
async def test_abort_while_the_model_is_silent(signal_type: Any) -> None:
    """A provider that hangs and ignores the signal is abandoned and closed."""
    signal, closed = signal_type(), asyncio.Event()

    async def stream_fn(model: Any, context: Any, options: Any) -> Any:
        async def events() -> AsyncIterator[Any]:
            try:
                yield DELTA
                signal.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

        return events()

    events = await run(stream_fn, signal=signal)
    assert ("aborted", "half") == (last(events)["stop_reason"], text_of(last(events)))
    assert closed.is_set()


HANGING = ["transform_context", "convert_to_llm", "get_api_key", "stream_fn", "get_steering_messages"]


@pytest.mark.parametrize("name", [*HANGING, "get_follow_up_messages", "should_stop_after_turn"])
async def test_abort_while_a_callback_hangs(name: str) -> None:
    """An abort ends any callback that the run awaits."""
    signal = AbortSignal()

    async def hang(*_: Any) -> Any:
        signal.set()
        await asyncio.Event().wait()

    provider: Any = ScriptedProvider("hi")
    fields = {name: hang}
    if name == "stream_fn":
        provider, fields = hang, {}
    events = await run(provider, signal=signal, **fields)
    assert "aborted" == last(events)["stop_reason"]


@pytest.mark.parametrize("name", [*HANGING[:4]])
async def test_abort_and_failure_at_once(name: str) -> None:
    """A callback that aborts and raises leaves no stray cancellation behind."""
    signal = AbortSignal()

    def fail(*_: Any) -> Any:
        signal.set()
        raise BoomError("boom")

    provider: Any = ScriptedProvider("hi")
    fields = {name: fail}
    if name == "stream_fn":
        provider, fields = fail, {}
    events: list[Any] = []
    context = AgentContext()

    async def emit_later() -> None:
        await asyncio.sleep(0)

    def emit(event: Any) -> Any:
        events.append(event)
        return emit_later()

    await run_agent_loop([user("hi")], context, config(**fields), emit, signal, provider)
    check_grammar(events)
    assert last(events)["stop_reason"] in ("error", "aborted")


async def test_abort_while_tools_run() -> None:
    """Running calls end, the others get `Operation aborted`, and the model is not called again."""
    signal = AbortSignal()

    async def execute(call_id: str, args: dict[str, Any], given: Any, on_update: Any) -> AgentToolResult:
        assert given is signal
        signal.set()
        await given.wait()
        return AgentToolResult(content=[{"type": "text", "text": "stopped in time"}])

    tools = [AgentTool(name="work", execute=execute)]
    async with ScriptedProvider(Reply(call("work"), call("work"))) as provider:
        events = await run(provider, tools=tools, signal=signal)
    assert ["stopped in time", "Operation aborted"] == results(events)
    assert "aborted" == last(events)["stop_reason"]
    assert ["user", "assistant", "tool_result", "tool_result", "assistant"] == roles(events)


async def test_abort_while_a_guard_waits_for_its_user() -> None:
    """The hook is ended, and its call does not run."""
    signal = AbortSignal()

    async def ask(info: Any) -> Any:
        signal.set()
        await asyncio.Event().wait()

    provider = ScriptedProvider(Reply(call("echo", n=1), call("echo", n=2)))
    events = await run(provider, signal=signal, before_tool_call=ask)
    assert ["Operation aborted"] * 2 == results(events)


async def test_abort_after_the_answer_changes_nothing() -> None:
    """A complete answer remains an answer."""
    signal = AbortSignal()
    events = []
    async for event in loop(ScriptedProvider("hi"), signal=signal):
        events.append(event)
        if event.type == "turn_end":
            signal.set()
    check_grammar(events)
    assert "stop" == last(events)["stop_reason"]


# ---- cancellation ------------------------------------------------------------------------------------


class Pausing:
    """An emit function that pauses at every event, and stores the events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> Any:
        self.events.append(event)
        return self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(0)


def scenario(name: str) -> tuple[Any, dict[str, Any]]:
    """Return a provider and a configuration whose run pauses in many places."""

    async def pause(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    callbacks = {
        "transform_context": lambda messages, signal: pause(messages),
        "convert_to_llm": pause,
        "get_api_key": pause,
        "get_steering_messages": lambda: pause([]),
        "get_follow_up_messages": lambda: pause([]),
        "before_tool_call": lambda info: pause(None),
        "after_tool_call": lambda info, result, is_error: pause(None),
        "should_stop_after_turn": lambda message, results, context: pause(False),
    }

    async def slow(context: Any, options: Any) -> Any:
        return await pause(Reply(text("one", "two"), *(call("echo", n=n) for n in range(3))))

    if name == "plain":
        return ScriptedProvider(Reply(text("one", "two")), "more"), {}
    if name == "error":
        return foreign(DELTA, BoomError("boom")), callbacks
    if name == "length":
        return ScriptedProvider(Reply(call("echo", n=1), stop_reason="length"), "done"), callbacks
    return ScriptedProvider(slow, "done"), {**callbacks, "tool_execution": name}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("name", ["plain", "error", "length", "parallel", "sequential"])
async def test_cancellation_at_every_step(name: str, times: int) -> None:
    """After cancellations at any step, the events are complete and no task remains."""
    before = asyncio.all_tasks()
    for step in range(400):
        emit = Pausing()
        provider, fields = scenario(name)
        context = AgentContext(tools=[echo(read_only=True)])
        run = asyncio.create_task(
            run_agent_loop([user("hi")], context, config(**fields), emit, None, provider)
        )
        for _ in range(step):
            await asyncio.sleep(0)
        finished = run.done()
        for _ in range(times):
            run.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await asyncio.wait([run])
        assert run.cancelled() or finished, "a cancellation is passed on"
        if step > 0:
            check_grammar(emit.events)
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        if finished:
            assert step > 10
            return
    raise AssertionError("the run never ends by itself")


async def test_cancellation_by_the_reader_at_every_event() -> None:
    """Leaving the stream after any event leaves no task."""
    before = asyncio.all_tasks()
    script = (Reply(text("one", "two"), call("echo", n=1), call("echo", n=2)), "done")
    total = len(await run(ScriptedProvider(*script)))
    for moment in range(total):
        async with loop(ScriptedProvider(*script)) as stream:
            for _ in range(moment):
                await anext(stream)
            rest = stream
        check = [event async for event in rest]
        if check:
            assert "agent_end" == check[-1].type
        assert asyncio.all_tasks() == before


async def test_cancellation_keeps_the_partial_text() -> None:
    """The last events have the partial text in an aborted message."""
    emit, gate = Pausing(), asyncio.Event()
    provider = ScriptedProvider(Reply(text("half", gate, "more")))
    run = asyncio.create_task(run_agent_loop([user("hi")], AgentContext(), config(), emit, None, provider))
    while "half" not in str(emit.events):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    run.cancel()
    await asyncio.wait([run])
    check_grammar(emit.events)
    assert ("aborted", "half") == (last(emit.events)["stop_reason"], text_of(last(emit.events)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["convert_to_llm", "get_follow_up_messages", "stream_fn", "delta"])
def test_the_end_of_the_program_closes_the_events(name: str, error: type[BaseException]) -> None:
    """Ctrl-C and `sys.exit()` in a callback are raised after the events have ended."""
    events: list[Any] = []

    def leave(*_: Any) -> Any:
        raise error

    def emit(event: Any) -> None:
        events.append(event)

    fields: dict[str, Any] = {} if name in ("stream_fn", "delta") else {name: leave}
    given = {"stream_fn": leave, "delta": foreign(DELTA, error())}.get(name) or ScriptedProvider("hi")
    with pytest.raises(error):
        asyncio.run(run_agent_loop([user("hi")], AgentContext(), config(**fields), emit, None, given))
    check_grammar(events)


class Closing:
    """A response and an iterator that both must be closed."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed

    __hash__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events()

    async def _events(self) -> AsyncIterator[Any]:
        try:
            yield DELTA
            yield {"type": "done", "reason": "stop"}
        finally:
            self.closed.append("events")

    async def aclose(self) -> None:
        self.closed.append("response")
        raise LookupError("closing failed")


async def test_the_response_is_closed_as_well_as_its_iterator() -> None:
    """Both are closed, and an error of closing is not a failure of the reply."""
    closed: list[str] = []
    events = await run(lambda *_: Closing(closed))
    assert (["events", "response"], "stop") == (closed, last(events)["stop_reason"])


async def test_a_timeout_around_a_run() -> None:
    """`asyncio.timeout` cancels the run and raises TimeoutError."""
    emit = Pausing()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_agent_loop(
                [user("hi")], AgentContext(), config(), emit, None, ScriptedProvider(Reply(hang=True))
            )
    check_grammar(emit.events)


# ---- histories ----------------------------------------------------------------------


def answered(call_id: str) -> dict[str, Any]:
    return tool_result(call_id, "echo", "ok")


def calling(*ids: str, **fields: Any) -> dict[str, Any]:
    blocks = [{"type": "tool_call", "id": call_id, "name": "echo", "arguments": {}} for call_id in ids]
    return assistant(*blocks, **fields)


def test_a_good_history_is_sent_as_it_is() -> None:
    """A valid history is not changed."""
    history: Any = [user("a"), calling("1", "2"), answered("1"), answered("2"), assistant("b"), user("c")]
    before = copy.deepcopy(history)
    assert history == repair_history(history)
    assert before == history


@pytest.mark.parametrize("reason", ["error", "aborted"])
def test_failed_replies_are_omitted_with_their_results(reason: str) -> None:
    """Incomplete replies are not sent to the model."""
    failed: Any = calling("1", stop_reason=reason)
    history: Any = [user("a"), failed, answered("1"), user("b")]
    assert [user("a"), user("b")] == repair_history(history)


def test_a_call_without_a_result_gets_one() -> None:
    """A missing result is added between messages, at the end, and among others."""
    history: Any = [user("a"), calling("1", "2"), answered("1"), user("b"), calling("3")]
    sent: Any = repair_history(history)
    assert [*["user", "assistant", "tool_result", "tool_result"], *["user", "assistant", "tool_result"]] == [
        message["role"] for message in sent
    ]
    for message, call_id in ((sent[3], "2"), (sent[6], "3")):
        assert (call_id, "echo", True) == (message["tool_call_id"], message["tool_name"], message["is_error"])
        assert "No result provided" == text_of(message)


def test_a_result_without_a_call_is_omitted() -> None:
    """Providers refuse such results."""
    history: Any = [answered("0"), user("a"), calling("1"), answered("1"), answered("1"), answered("9")]
    assert [user("a"), calling("1"), answered("1")] == repair_history(history)


async def test_an_incomplete_session_can_continue() -> None:
    """A history that ends between calls and results is repaired before it is sent."""
    context: Any = AgentContext("", [user("a"), calling("1")], [])
    provider = ScriptedProvider("fine")
    events = await collect(agent_loop([user("go on")], context, config(), None, provider))
    check_grammar(events)
    assert ["user", "assistant", "tool_result", "user"] == [
        message["role"] for message in provider.calls[0].context.messages
    ]


# ---- the public functions ----------------------------------------------------------------------


def test_continue_needs_something_to_answer() -> None:
    """An empty context or a last assistant message raises ValueError with a hint."""
    for messages in ([], [user("a"), assistant("b")]):
        with pytest.raises(ValueError, match="agent_loop with a prompt"):
            agent_loop_continue(AgentContext(messages=messages), config())


@pytest.mark.parametrize(
    "messages", [[user("a")], [user("a"), calling("1"), answered("1")], [{"role": "note"}]]
)
async def test_continue_goes_on_without_a_new_message(messages: Any) -> None:
    """A last message of the user, a tool or another role is answered."""
    provider = ScriptedProvider("fine")
    stream = agent_loop_continue(AgentContext(messages=messages), config(), None, provider)
    events = await collect(stream)
    check_grammar(events)
    assert ["assistant"] == roles(events)
    assert await stream.result() == events[-1].messages


async def test_a_run_can_be_awaited_without_reading() -> None:
    """`result()` runs to the end without a reader."""
    messages = await loop(ScriptedProvider(Reply(call("echo", n=1)), "done")).result()
    assert ["user", "assistant", "tool_result", "assistant"] == [message["role"] for message in messages]


@pytest.mark.parametrize("reply", [Reply(text("a", "b")), Reply("half", error="broken"), BoomError("boom")])
async def test_one_reply_by_itself(reply: Any) -> None:
    """`stream_assistant_response` sends one request, pushes the events, and does not change the context."""
    context = AgentContext("", [user("hi")], [])
    stream = create_agent_stream()
    message: Any = await stream_assistant_response(context, config(), None, stream, ScriptedProvider(reply))
    stream.end([message])
    events = await collect(stream)
    assert "message_start" == events[0].type
    assert ("message_end", message) == (events[-1].type, events[-1].message)
    assert {"message_start", "message_update", "message_end"} >= set(kinds(events))
    assert [user("hi")] == context.messages


# ---- messages of callbacks ----------------------------------------------------------------------------


class DrainedQueue:
    """A queue whose callback removes the returned messages, as callers write it."""

    def __init__(self, *messages: Any, at: int = 1) -> None:
        self.messages = list(messages)
        self.polls = 0
        self._at = at

    def __call__(self) -> list[Any]:
        self.polls += 1
        if self.polls < self._at:
            return []
        taken, self.messages = self.messages, []
        return taken


def ending(context: Any, *_: Any) -> bool:
    return True


ENDS: dict[str, dict[str, Any]] = {
    "terminate": {"after_tool_call": lambda *_: ToolCallDecision(terminate=True)},
    "should_stop": {"should_stop_after_turn": ending},
    "max_turns": {"max_turns": 1},
    "budget": {"max_cost": 0.5},
    "max_total_tokens": {"max_total_tokens": 1},
    "repeat": {"max_repeats": 1},
    "error": {"should_stop_after_turn": lambda *_: 1 / 0},
}


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("name", ENDS)
async def test_steering_is_never_lost_when_the_run_ends(name: str, calls: int, at: int) -> None:
    """After any poll, a message is in the history or still in the queue."""
    queue = DrainedQueue(user("steer"), at=at)
    reply = Reply(*(call("echo", n=n) for n in range(calls)), usage={"cost": 1.0, "total": 1})
    provider = ScriptedProvider(*[reply] * 6)
    events = await run(provider, tools=[echo(read_only=False)], get_steering_messages=queue, **ENDS[name])
    recorded = sum(text_of(message) == "steer" for message in events[-1].messages)
    assert 1 == recorded + len(queue.messages)


@pytest.mark.parametrize("name", ENDS)
async def test_a_run_that_ends_does_not_poll(name: str) -> None:
    """Messages that no turn would deliver are not removed from the queue."""
    queue = DrainedQueue(user("follow"))
    provider = ScriptedProvider(Reply(call("echo", n=1), usage={"cost": 1.0, "total": 1}), "x", "y")
    await run(provider, get_follow_up_messages=queue, **ENDS[name])
    assert (0, 1) == (queue.polls, len(queue.messages))


async def test_each_queue_is_polled_once_after_a_turn() -> None:
    """The queues are polled at the start, between calls, and once after the turn."""
    queue = DrainedQueue(at=99)
    calls = Reply(call("echo", n=1), call("echo", n=2), call("echo", n=3))
    await run(ScriptedProvider(calls, "done"), tools=[echo(read_only=False)], get_steering_messages=queue)
    assert 1 + 2 + 1 + 1 == queue.polls


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_steering_that_was_taken_survives_an_abort(how: str) -> None:
    """A message that was removed before an abort opens the turn that reports the abort."""
    queue = DrainedQueue(user("steer"), at=2)
    events: list[Any] = []
    signal = AbortSignal()
    taken = asyncio.Event()

    def emit(event: Any) -> None:
        events.append(event)
        if event.type == "tool_execution_end" and not queue.messages:
            taken.set()
            signal.set() if how == "abort" else task.cancel()

    provider = ScriptedProvider(Reply(call("echo", n=1), call("echo", n=2)))
    context = AgentContext(tools=[echo(read_only=False)])
    task = asyncio.create_task(
        run_agent_loop([user("hi")], context, config(get_steering_messages=queue), emit, signal, provider)
    )
    async with asyncio.timeout(60):
        await asyncio.wait([task])
    assert taken.is_set()
    check_grammar(events)
    assert "steer" in [text_of(message) for message in events[-1].messages]
    assert "aborted" == last(events)["stop_reason"]


async def test_one_malformed_message_does_not_lose_others() -> None:
    """The run ends with an error; valid messages are in the history."""
    queue = DrainedQueue(user("good"), {"role": "user", "content": 3}, user("fine"))
    events = await run(ScriptedProvider(), get_steering_messages=queue)
    assert ["hi", "good", "fine", ""] == [text_of(message) for message in events[-1].messages]
    assert "its content is 3" in last(events)["error_message"]


async def test_messages_that_a_callback_damages_are_omitted(caplog: pytest.LogCaptureFixture) -> None:
    """A warning reports them, and the model gets the others."""

    def break_it(messages: list[Any], signal: Any = None) -> list[Any]:
        return [
            42,
            {"role": "user", "content": None},
            {"role": "note"},
            *messages,
            {"role": "user", "content": "x"},
        ]

    for name in ("transform_context", "convert_to_llm"):
        async with ScriptedProvider("fine") as provider:
            events = await run(provider, **{name: break_it})
        assert "stop" == last(events)["stop_reason"]
        assert ["hi", "x"] == [text_of(message) for message in provider.calls[0].context.messages]
    assert "Message 1 is not sent to the model: it is of type int, not a dict." in caplog.messages
