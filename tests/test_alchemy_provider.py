"""The Python half of the Rust provider, with a handle of our own in the wheel's place."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    ConfigurationError,
    Context,
    PluginError,
    ProviderError,
)
from tinyagent.alchemy_provider import LIMIT, OpenAICompatModel, stream_alchemy_openai_completions
from tinyagent.testing import check_grammar, collect, user

URL = "http://127.0.0.1:9/v1"
MODEL = OpenAICompatModel(provider="local", id="m", base_url=URL)
USAGE = {"input": 3, "output": 2, "total": 5}
THREAD = "tinyagent-alchemy"


class MockHandle:
    """What the wheel gives: events one by one, each when it is asked for.

    A step is an event, an exception to raise, or `BLOCK`: wait until it is closed.
    """

    BLOCK = object()

    def __init__(self, *steps: Any) -> None:
        self._steps = iter(steps)
        self._gate = threading.Event()
        self.closed = False
        self.asked = 0

    def next_event(self) -> Any:
        self.asked += 1
        step = next(self._steps, None)
        if step is self.BLOCK:
            assert self._gate.wait(10), "nobody closed the handle"
            return None
        if isinstance(step, BaseException):
            raise step
        return step

    def close(self) -> None:
        self.closed = True
        self._gate.set()


class Wheel(ModuleType):
    """The module, whose calls take the next handle."""

    def __init__(self) -> None:
        super().__init__("alchemy_llm_py")
        self.calls: list[SimpleNamespace] = []
        self.handles: list[Any] = []

    def openai_completions_stream(self, model: Any, context: Any, options: Any = None) -> Any:
        self.calls.append(SimpleNamespace(model=model, context=context, options=options))
        handle = self.handles[len(self.calls) - 1]
        if isinstance(handle, BaseException):
            raise handle
        return handle


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wheel]:
    """The wheel, as if it were installed; after the test none of its threads is left."""
    module = Wheel()
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", module)
    yield module
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(2)
            assert not thread.is_alive(), "a thread goes on reading a reply that was left"


Ask = Callable[..., Any]


@pytest.fixture
def ask(wheel: Wheel) -> Ask:
    """Ask for a reply of these steps; gives the events and the message."""

    async def ask(*steps: Any, **options: Any) -> tuple[list[Any], Any]:
        wheel.handles.append(MockHandle(*steps))
        response = await stream_alchemy_openai_completions(MODEL, Context(messages=[user("Hi")]), options)
        events = await collect(response)
        return events, await response.result()

    return ask


def text(*pieces: str, index: int = 0) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "content_index": index, "delta": piece} for piece in pieces]
    start = {"type": "text_start", "content_index": index}
    return [start, *deltas, {"type": "text_end", "content_index": index, "content": "".join(pieces)}]


def call(*pieces: str, index: int = 0, arguments: Any = None, **named: str) -> list[dict[str, Any]]:
    named = {"id": "c1", "name": "look", **named}
    deltas = [{"type": "tool_call_delta", "content_index": index, "delta": piece} for piece in pieces]
    whole = {"type": "tool_call", **named, "arguments": arguments if arguments is not None else {}}
    return [
        {"type": "tool_call_start", "content_index": index, "tool_call": whole},
        *deltas,
        {"type": "tool_call_end", "content_index": index, "tool_call": whole},
    ]


LOST = {"type": "text_delta", "content_index": 0, "delta": "\ufffd"}
BOOM = {"type": "error", "reason": "error", "error": {"error_message": "boom"}}


def done(reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"type": "done", "reason": reason, "message": {"stop_reason": reason, "usage": USAGE, **message}}


# ---- the call ---------------------------------------------------------------------------------------


async def test_the_wheel_gets_plain_dicts(ask: Ask, wheel: Wheel) -> None:
    """What is set, under the names of the seam, and nothing that is not."""
    await ask(*text("Hi"), done(), api_key="sk-key", temperature=0.5, session_id="s")
    called = wheel.calls[0]
    assert {
        "id": "m",
        "base_url": f"{URL}/chat/completions",
        "provider": "local",
        "reasoning": False,
        "context_window": 128_000,
        "max_tokens": 4096,
    } == called.model
    assert {"system_prompt": "", "messages": [user("Hi")]} == called.context
    assert ("sk-key", 0.5, "s") == tuple(
        called.options[key] for key in ("api_key", "temperature", "session_id")
    )


async def test_without_the_wheel_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is in the message."""
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", None)  # "not to be found", also where it is installed
    with pytest.raises(PluginError, match="pip install tinyagent-alchemy"):
        await stream_alchemy_openai_completions(MODEL, Context(), {})


async def test_a_wheel_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that was built for another Python is not called missing."""
    (tmp_path / "alchemy_llm_py.py").write_text("raise ImportError('wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"'alchemy_llm_py' cannot be loaded: wrong ELF class"):
        await stream_alchemy_openai_completions(MODEL, Context(), {})


@pytest.mark.parametrize(
    "model",
    [
        OpenAICompatModel(id="", base_url=URL),
        OpenAICompatModel(id="m", base_url="ftp://127.0.0.1"),
        OpenAICompatModel(id="m", base_url="http://example.com/v1"),
        OpenAICompatModel(id="m", base_url=URL, headers={"bad name": "x"}),
    ],
)
async def test_what_cannot_be_sent_never_reaches_the_wheel(model: Any, wheel: Wheel) -> None:
    """URL, headers and id are checked before the call."""
    with pytest.raises(ConfigurationError):
        await stream_alchemy_openai_completions(model, Context(), {"api_key": "sk-key"})
    assert [] == wheel.calls


async def test_a_call_that_the_wheel_refuses_raises(wheel: Wheel) -> None:
    """With the wheel's words, without the key."""
    wheel.handles.append(RuntimeError("no such model, key sk-secret-1 was used"))
    with pytest.raises(ProviderError, match="no such model") as caught:
        await stream_alchemy_openai_completions(MODEL, Context(), {"api_key": "sk-secret-1"})
    assert "sk-secret-1" not in str(caught.value)


# ---- the reply ----------------------------------------------------------------------------------------


async def test_every_kind_of_block_becomes_our_events(ask: Ask) -> None:
    """Deltas as they were cut, `partial` of each its own moment, usage on the message."""
    thought = [
        {"type": "thinking_start", "content_index": 0},
        {"type": "thinking_delta", "content_index": 0, "delta": "hm"},
        {"type": "thinking_end", "content_index": 0, "content": "hm", "thinking_signature": "sig"},
    ]
    events, message = await ask(
        {"type": "start"}, *thought, *text("H", "i", index=1), *call('{"a":', "1}", index=2), done("tool_use")
    )
    assert [
        {"type": "thinking", "thinking": "hm", "thinking_signature": "sig"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"a": 1}},
    ] == message["content"]
    assert ("tool_use", USAGE) == (message["stop_reason"], message["usage"])
    assert ["H", "Hi"] == [
        event["partial"]["content"][1]["text"] for event in events if event["type"] == "text_delta"
    ]
    assert ["start", "done"] == [events[0]["type"], events[-1]["type"]]


async def test_an_agent_runs_tools_through_the_wheel(wheel: Wheel) -> None:
    """Two turns, the grammar, and the tool's result in the second call."""

    async def look(_id: str, args: dict[str, Any], _signal: Any, _update: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": f"saw {args['a']}"}])

    wheel.handles += [MockHandle(*call('{"a": 1}'), done("tool_use")), MockHandle(*text("Fine."), done())]
    agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))
    agent.set_model(MODEL)
    agent.set_tools([AgentTool("look", "Look.", {"type": "object"}, execute=look)])
    events = await collect(agent.stream("Go"))
    check_grammar(events)
    assert "Fine." == events[-1].messages[-1]["content"][0]["text"]
    assert "saw 1" == wheel.calls[1].context["messages"][-1]["content"][0]["text"]
    assert {"name": "look", "description": "Look.", "parameters": {"type": "object"}} == wheel.calls[
        0
    ].context["tools"][0]


async def test_a_delta_is_seen_before_the_handle_gives_the_next(wheel: Wheel) -> None:
    """Nothing is buffered."""
    wheel.handles.append(handle := MockHandle(*text("a")[:2], MockHandle.BLOCK))
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    seen = [await asyncio.wait_for(anext(response), 2) for _ in range(3)]
    assert "a" == seen[-1]["delta"]
    await response.aclose()
    assert handle.closed


async def test_many_events_wake_the_loop_seldom(wheel: Wheel) -> None:
    """The loop is woken for a batch, not for an event; and a slow reader holds the thread back."""
    count = LIMIT * 3
    wheel.handles.append(handle := MockHandle(*text(*["x"] * count), done()))
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    await anext(response)
    await asyncio.sleep(0.2)
    assert LIMIT <= handle.asked <= LIMIT + 1
    message = await response.result()
    assert count == len(message["content"][0]["text"])


# ---- guards -------------------------------------------------------------------------------------------


async def test_arguments_are_what_was_sent_not_what_the_crate_made_of_them(ask: Ask) -> None:
    """Invalid JSON, of which the crate makes `{}`, is an invalid call."""
    _, message = await ask(*call('{"a": ', arguments={}), done("tool_use"))
    assert ({}, '{"a": ') == (message["content"][0]["arguments"], message["content"][0]["partial_json"])


async def test_arguments_without_deltas_are_the_crates(ask: Ask) -> None:
    """A call that came whole has its arguments in its end only."""
    _, message = await ask(*call(arguments={"a": 1}), done("tool_use"))
    assert {"a": 1} == message["content"][0]["arguments"]


async def test_the_first_id_and_name_stay(ask: Ask) -> None:
    """The crate lets an empty or other one on a continuation erase them."""
    events = call("{}")
    events[-1]["tool_call"] = {"id": "", "name": "other"}
    _, message = await ask(*events, done("tool_use"))
    assert ("c1", "look") == (message["content"][0]["id"], message["content"][0]["name"])


async def test_a_late_id_and_name_are_taken(ask: Ask) -> None:
    """What was empty at the start is filled in."""
    events = call("{}", id="", name="")
    events[-1]["tool_call"] = {"id": "c9", "name": "look"}
    _, message = await ask(*events, done("tool_use"))
    assert ("c9", "look") == (message["content"][0]["id"], message["content"][0]["name"])


@pytest.mark.parametrize(
    ("steps", "kind", "left"),
    [
        ([done()], "invalid_reply", ""),
        (text("Half")[:2], "stream_interrupted", "Half"),
        ([*text("Half")[:2], LOST], "invalid_reply", "Half"),
        ([*text("Half")[:2], RuntimeError("connection reset")], "provider", "Half"),
        ([*text("Half")[:2], BOOM], "provider", "Half"),
        ([*text("Half")[:2], "no event"], "invalid_reply", "Half"),
        ([*text("Half"), done("error", error_message="boom")], "provider", "Half"),
    ],
)  # fmt: skip
async def test_what_is_no_success_is_none(
    ask: Ask, wheel: Wheel, steps: list[Any], kind: str, left: str
) -> None:
    """An error message of its kind, the text so far kept, the handle closed."""
    _, message = await ask(*steps)
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert left == "".join(block["text"] for block in message["content"])


async def test_length_is_not_complete(ask: Ask) -> None:
    """Also with calls in it."""
    _, message = await ask(*call("{}"), done("length"))
    assert "length" == message["stop_reason"]


# ---- leaving ------------------------------------------------------------------------------------------


async def test_the_signal_closes_the_handle(wheel: Wheel) -> None:
    """At once; the text so far stays."""
    signal = asyncio.Event()
    wheel.handles.append(handle := MockHandle(*text("Half")[:2], MockHandle.BLOCK))
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    async for event in response:
        if event["type"] == "text_delta":
            signal.set()
    message = await response.result()
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])
    assert handle.closed


async def test_a_signal_that_was_set_before_calls_nothing(wheel: Wheel) -> None:
    """No request is made for nothing."""
    signal = asyncio.Event()
    signal.set()
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    assert "aborted" == (await response.result())["stop_reason"]
    assert [] == wheel.calls


async def test_silence_is_timed_out(ask: Ask, wheel: Wheel) -> None:
    """The idle time-out ends it, and names itself."""
    wheel.handles.append(handle := MockHandle(*text("Half")[:2], MockHandle.BLOCK))
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"timeout": {"idle": 0.05}})
    message = await response.result()
    assert ("timeout", "Half") == (message["error_kind"], message["content"][0]["text"])
    assert handle.closed


async def test_a_cancelled_reader_closes_the_handle(wheel: Wheel) -> None:
    """Cancellation goes its way, and nothing goes on."""
    wheel.handles.append(handle := MockHandle(MockHandle.BLOCK))
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    task = asyncio.create_task(collect(response))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.closed


async def test_a_handle_without_close_is_let_go(wheel: Wheel) -> None:
    """The thread ends with the next event that it gets."""
    gate = threading.Event()

    class Plain:
        def next_event(self) -> Any:
            gate.wait(5)
            return {"type": "start"}

    wheel.handles.append(Plain())
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    await anext(response)
    await response.aclose()
    gate.set()


def test_a_loop_that_is_gone_ends_the_thread(wheel: Wheel) -> None:
    """A program that just stops leaves no thread that writes to a closed loop."""
    wheel.handles.append(MockHandle(*text("a", "b"), MockHandle.BLOCK))

    async def leave() -> None:
        response = await stream_alchemy_openai_completions(MODEL, Context(), {})
        await anext(response)
        await response.aclose()

    asyncio.run(leave())
