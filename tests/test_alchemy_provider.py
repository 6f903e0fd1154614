"""The Python part of the Rust provider, with fake streams in place of the wheel."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    Context,
    MissingKeyError,
    PluginError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
)
from tinyagent.alchemy_provider import (
    AlchemyStreamResponse,
    OpenAICompatModel,
    stream_alchemy_openai_completions,
)
from tinyagent.anthropic_provider import request_body
from tinyagent.openai_wire import chat_request
from tinyagent.testing import check_grammar, collect, user

URL = "http://127.0.0.1:9/v1"
MODEL = OpenAICompatModel(provider="local", id="m", base_url=URL)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
KEY = "sk-test-CANARY-0123456789"


class FakeWaker:
    """A waker like the wheel's, with a Python socket."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._ready: list[int] = []
        self.drained = 0

    def fileno(self) -> int:
        return self._read.fileno()

    def wake(self, stream: int) -> None:
        self._ready.append(stream)
        self._write.send(b"x")

    def drain(self) -> list[int]:
        self.drained += 1
        self._read.recv(1 << 16)
        ready, self._ready = self._ready, []
        return ready

    def __del__(self) -> None:
        self._read.close()
        self._write.close()


class FakeStream:
    """A stream like the wheel's, with the batches of the test."""

    def __init__(self, wheel: Wheel, request: bytes, body: bytes | None, waker: FakeWaker) -> None:
        self.id = len(wheel.streams) + 1
        self.request = json.loads(request)
        self.body = json.loads(body) if body is not None else None
        self.waker = waker
        self.closed = False
        self._batches: list[list[Any]] = []
        self._told = False
        wheel.streams.append(self)
        if wheel.scripts:
            script = wheel.scripts.pop(0)
            if isinstance(script, BaseException):
                raise script
            for batch in script:
                self.give(batch)

    def give(self, batch: list[Any]) -> None:
        self._batches.append(batch)
        if not self._told:
            self._told = True
            self.waker.wake(self.id)

    def take(self) -> list[Any] | None:
        self._told = False
        if self.closed:
            return None
        steps = [step for batch in self._batches for step in batch]
        self._batches.clear()
        return steps

    def close(self) -> None:
        self.closed = True


class Wheel(ModuleType):
    """A fake `alchemy_llm_py.batches`; each stream takes the next list of batches."""

    def __init__(self) -> None:
        super().__init__("alchemy_llm_py.batches")
        self.streams: list[FakeStream] = []
        self.scripts: list[Any] = []
        self.Waker = FakeWaker

    def Stream(self, request: bytes, body: bytes | None, waker: FakeWaker) -> FakeStream:
        return FakeStream(self, request, body, waker)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wheel]:
    """Install the fake wheel, and check after the test that every stream is closed."""
    module = Wheel()
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", ModuleType("alchemy_llm_py"))
    monkeypatch.setitem(sys.modules, "alchemy_llm_py.batches", module)
    yield module
    assert all(stream.closed for stream in module.streams)


START = (0, 0, "")


def end(**facts: Any) -> tuple[int, int, str]:
    known = {
        "seen": 1, "finish_reason": "stop", "usage": USAGE, "calls": [], "reasoning_field": "",
        "reasoning_details": [], "failure": None,
    }  # fmt: skip
    return (9, 0, json.dumps(known | facts))


def failed(kind: str, **fields: Any) -> tuple[int, int, str]:
    return end(finish_reason=None, failure={"kind": kind, **fields})


def text(*pieces: str, index: int = 0) -> list[Any]:
    return [(1, index, ""), *[(2, index, piece) for piece in pieces], (3, index, "")]


def call(*pieces: str, index: int = 0, call_id: str = "c1", name: str = "look") -> list[Any]:
    return [(7, index, call_id, name), *[(8, index, piece) for piece in pieces]]


LOOK = [{"id": "c1", "name": "look"}]
Ask = Callable[..., Any]


@pytest.fixture
def ask(wheel: Wheel) -> Ask:
    """Ask for a reply of these steps; gives the events and the message."""

    async def ask(*steps: Any, model: Any = MODEL, **options: Any) -> tuple[list[Any], Any]:
        wheel.scripts.append([[START, *steps]])
        response = await stream_alchemy_openai_completions(model, Context(messages=[user("Hi")]), options)
        assert isinstance(response, AlchemyStreamResponse)
        events = await collect(response)
        return events, await response.result()

    return ask


# ---- the call ---------------------------------------------------------------------------------------


async def test_the_wheel_gets_the_request_of_the_default_provider(ask: Ask, wheel: Wheel) -> None:
    """The wheel gets the body, the time-outs and the key."""
    await ask(*text("Hi"), end(), api_key=KEY, temperature=0.5, timeout={"idle": 7}, thinking_level="high")
    request, body = wheel.streams[0].request, wheel.streams[0].body
    assert ("m", True, 0.5, "high") == tuple(
        body[key] for key in ("model", "stream", "temperature", "reasoning_effort")
    )
    assert [{"role": "user", "content": "Hi"}] == body["messages"]
    assert (f"{URL}/chat/completions", KEY) == (request["model"]["base_url"], request["options"]["api_key"])
    assert (10.0, 120.0, 7.0) == tuple(request["exchange"][key] for key in ("connect", "first_event", "idle"))
    assert KEY not in json.dumps(request["exchange"])


async def test_images_are_sent(wheel: Wheel) -> None:
    """Images by URL and as data are sent, from the user and from tools."""
    picture = {"type": "image", "url": "https://example.com/x.png"}
    result = {
        "role": "tool_result",
        "tool_call_id": "c",
        "tool_name": "t",
        "content": [picture],
        "is_error": False,
    }
    asked = {
        "role": "assistant", "content": [{"type": "tool_call", "id": "c", "name": "t", "arguments": {}}],
        "stop_reason": "tool_use",
    }  # fmt: skip
    wheel.scripts.append([[START, *text("A cat"), end()]])
    context = Context(messages=[{"role": "user", "content": [picture]}, asked, result])  # type: ignore[list-item]
    await (await stream_alchemy_openai_completions(MODEL, context, {})).result()
    body = json.dumps(wheel.streams[0].body)
    assert 2 == body.count("https://example.com/x.png")


@pytest.mark.parametrize("base", ["", "/v1", "/v1/messages/"])
async def test_the_messages_api_gets_the_request_of_the_default_provider(
    base: str, ask: Ask, wheel: Wheel
) -> None:
    """Thinking, caching, extra fields and checks are those of the provider `anthropic`."""
    model = OpenAICompatModel(
        "anthropic", "claude-sonnet-4-5", "anthropic-messages", reasoning=True,
        base_url=f"https://api.anthropic.com{base}", extra_body={"top_k": 3},
    )  # fmt: skip
    thought = [(4, 0, ""), (5, 0, "hm"), (6, 0, "sig")]
    usage = {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 4}
    _, message = await ask(
        *thought, *text("Hi", index=1), end(usage=usage, finish_reason="max_tokens"),
        model=model, api_key=KEY, thinking_level="low",
    )  # fmt: skip
    request, body = wheel.streams[0].request, wheel.streams[0].body
    assert ("https://api.anthropic.com", KEY) == (request["model"]["base_url"], request["options"]["api_key"])
    assert "anthropic" == request["exchange"]["protocol"]
    context = Context(messages=[user("Hi")])
    assert request_body(model, context, {"thinking_level": "low"}) == body
    assert (3, "enabled") == (body["top_k"], body["thinking"]["type"])
    assert "ephemeral" in json.dumps(body["messages"])
    assert ("sig", "length") == (message["content"][0]["thinking_signature"], message["stop_reason"])
    assert "low" == message["thinking_level"]
    assert (7, 2, 4) == tuple(message["usage"][key] for key in ("input", "output", "cache_read"))


async def test_the_crate_builds_bodies_of_other_apis(ask: Ask, wheel: Wheel) -> None:
    """For Z.ai the crate builds the body from our messages, tools and extra fields."""
    model = OpenAICompatModel("zai", "glm", "zai-completions", base_url=URL, extra_body={"top_k": 3})
    await ask(*text("Hi"), end(), model=model, api_key=KEY)
    request, body = wheel.streams[0].request, wheel.streams[0].body
    assert body is None
    fields = {"messages": [{"role": "user", "content": "Hi"}], "top_k": 3}
    assert fields == request["exchange"]["body"]


async def test_an_authorization_header_replaces_the_key(ask: Ask, wheel: Wheel) -> None:
    """An Authorization header of the user is sent instead of the key."""
    headers = {"Authorization": f"Token {KEY}", "X-Team": "é"}
    model = OpenAICompatModel("local", "m", base_url=URL, headers=headers)
    await ask(*text("Hi"), end(), model=model, api_key="other")
    request = wheel.streams[0].request
    assert request["options"]["api_key"] is None
    assert headers == dict(request["exchange"]["headers"])


async def test_a_missing_wheel_has_an_installation_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command."""
    # hide the wheel even if it is installed
    monkeypatch.delitem(sys.modules, "alchemy_llm_py.batches", raising=False)
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", None)
    with pytest.raises(PluginError, match="pip install tinyagent-alchemy"):
        await stream_alchemy_openai_completions(MODEL, Context(), {})


async def test_a_wheel_that_cannot_be_loaded_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wheel for another Python is not reported as missing."""
    for name in ("alchemy_llm_py", "alchemy_llm_py.batches"):
        monkeypatch.delitem(sys.modules, name, raising=False)
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
        OpenAICompatModel(id="m", base_url=URL, ca_file="/does/not/exist"),
    ],
)
async def test_invalid_requests_are_not_passed_to_the_wheel(model: Any, wheel: Wheel) -> None:
    """URL, headers, certificates and id are checked before the call."""
    with pytest.raises(ConfigurationError):
        await stream_alchemy_openai_completions(model, Context(), {"api_key": KEY})
    assert [] == wheel.streams


async def test_keys_are_checked_before_the_call(wheel: Wheel) -> None:
    """A missing key, and a key with invalid characters, are errors."""
    model = OpenAICompatModel("openrouter", "m")
    with pytest.raises(MissingKeyError, match="OPENROUTER_API_KEY"):
        await stream_alchemy_openai_completions(model, Context(), {})
    with pytest.raises(AuthenticationError):
        await stream_alchemy_openai_completions(model, Context(), {"api_key": "sk-\u200b1234"})
    assert [] == wheel.streams


async def test_a_client_of_the_user_is_refused(wheel: Wheel) -> None:
    """The crate has its own HTTP client, so rules of the user's client would not apply."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with pytest.raises(ConfigurationError, match="cannot use http_client"):
        await stream_alchemy_openai_completions(MODEL, Context(), {"http_client": transport})
    assert [] == wheel.streams


async def test_a_refused_request_is_a_configuration_error(wheel: Wheel) -> None:
    """The error has the wheel's text without the key."""
    wheel.scripts.append(ValueError(f"no such api, and {KEY}"))
    with pytest.raises(ConfigurationError, match="no such api") as caught:
        await stream_alchemy_openai_completions(MODEL, Context(), {"api_key": KEY})
    assert KEY not in str(caught.value)
    wheel.streams.clear()


# ---- the reply ----------------------------------------------------------------------------------------


async def test_every_kind_of_block_becomes_our_events(ask: Ask) -> None:
    """Deltas are unchanged, `partial` shows each moment, and the message has the usage."""
    thought = [(4, 0, ""), (5, 0, "hm"), (6, 0, "reasoning_content")]
    events, message = await ask(
        *thought, *text("H", "i", index=1), *call('{"a":', "1}", index=2),
        end(calls=LOOK, reasoning_field="reasoning"),
    )  # fmt: skip
    assert [
        {"type": "thinking", "thinking": "hm", "thinking_signature": "reasoning"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"a": 1}},
    ] == message["content"]
    assert ("tool_use", 3, 2) == (
        message["stop_reason"],
        message["usage"]["input"],
        message["usage"]["output"],
    )
    assert ["H", "Hi"] == [
        event["partial"]["content"][1]["text"] for event in events if event["type"] == "text_delta"
    ]
    assert ["start", "done"] == [events[0]["type"], events[-1]["type"]]


async def test_an_agent_runs_tools_through_the_wheel(wheel: Wheel) -> None:
    """Two turns have correct events, and the second request has the tool's result."""

    async def look(_id: str, args: dict[str, Any], _signal: Any, _update: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": f"saw {args['a']}"}])

    wheel.scripts += [[[START, *call('{"a": 1}'), end(calls=LOOK)]], [[START, *text("Fine."), end()]]]
    agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions, session_id="s"))
    agent.set_model(MODEL)
    agent.set_tools([AgentTool("look", "Look.", {"type": "object"}, execute=look)])
    events = await collect(agent.stream("Go"))
    check_grammar(events)
    assert "Fine." == events[-1].messages[-1]["content"][0]["text"]
    first, second = (stream.body for stream in wheel.streams)
    assert "saw 1" == second["messages"][-1]["content"]
    assert "look" == first["tools"][0]["function"]["name"]


async def test_deltas_are_not_buffered(wheel: Wheel) -> None:
    """Each batch wakes the loop once."""
    wheel.scripts.append([[START, *text("a")[:2]]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    seen = [await asyncio.wait_for(anext(response), 60) for _ in range(3)]
    assert "a" == seen[-1]["delta"]
    stream = wheel.streams[0]
    for _ in range(3):
        stream.give([(2, 0, "b")] * 1000)
    stream.give([end()])
    drained = stream.waker.drained
    message = await response.result()
    assert "a" + "b" * 3000 == message["content"][0]["text"]
    assert stream.waker.drained - drained <= 1


async def test_streams_of_one_loop_share_a_socket(wheel: Wheel) -> None:
    """Each stream gets its own wake-ups."""
    wheel.scripts += [[[START]], [[START]]]
    one, two = [await stream_alchemy_openai_completions(MODEL, Context(), {}) for _ in range(2)]
    assert wheel.streams[0].waker is wheel.streams[1].waker
    results = [asyncio.create_task(response.result()) for response in (one, two)]
    await asyncio.sleep(0)
    wheel.streams[1].give([*text("two"), end()])
    assert "two" == (await results[1])["content"][0]["text"]
    assert not results[0].done()
    wheel.streams[0].give([*text("one"), end()])
    assert "one" == (await results[0])["content"][0]["text"]


# ---- guards -------------------------------------------------------------------------------------------


async def test_arguments_are_parsed_strictly(ask: Ask) -> None:
    """Invalid JSON is an invalid call, missing arguments are `{}`, and an object is unchanged."""
    calls = [*LOOK, {"id": "c2", "name": "b"}, {"id": "c3", "name": "c", "whole": {"z": 1}}]
    _, message = await ask(
        *call('{"a": '), *call(index=1, call_id="c2", name="b"),
        *call('{"z":1}', index=2, call_id="c3", name="c"), end(calls=calls),
    )  # fmt: skip
    first, second, third = message["content"]
    assert ({}, '{"a": ') == (first["arguments"], first["partial_json"])
    assert ({}, {"z": 1}) == (second["arguments"], third["arguments"])
    assert "partial_json" not in second


async def test_late_ids_and_names_are_used(ask: Ask) -> None:
    """Ids and names may arrive in any order; duplicate ids are made unique."""
    calls = [{"id": "c9", "name": "look"}, {"id": "c9", "name": "b"}, {"id": "", "name": ""}]
    _, message = await ask(
        *call("{}", call_id="", name="lo"), *call("{}", index=1, call_id="c9", name="b"),
        *call("{}", index=2, call_id="", name=""), end(calls=calls),
    )  # fmt: skip
    assert ["look", "b", ""] == [block["name"] for block in message["content"]]
    assert 3 == len({block["id"] for block in message["content"]})
    assert "partial_json" in message["content"][2]  # a call without a name cannot run


@pytest.mark.parametrize(
    ("steps", "kind", "left"),
    [
        ([failed("invalid", words="an event of the reply is not JSON: x")], "invalid_reply", ""),
        ([*text("Half")[:2], failed("truncated")], "stream_interrupted", "Half"),
        ([*text("Half")[:2], failed("interrupted", words="reset")], "stream_interrupted", "Half"),
        ([*text("Half")[:2], failed("timeout", words="idle")], "timeout", "Half"),
        ([*text("Half")[:2], failed("reported", value={"error": {"message": "boom"}})], "provider", "Half"),
        ([*text("Half"), end(finish_reason="content_filter")], "content_filter", "Half"),
        ([failed("empty")], "stream_interrupted", ""),
        ([failed("crate", words="panicked")], "invalid_reply", ""),
    ],
)  # fmt: skip
async def test_failures_are_errors(ask: Ask, steps: list[Any], kind: str, left: str) -> None:
    """Each failure is an error message with its kind and the partial text; the stream is closed."""
    _, message = await ask(*steps)
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert left == "".join(block["text"] for block in message["content"])


async def test_length_is_not_complete(ask: Ask) -> None:
    """A reply at the output limit is not complete, even if it has calls."""
    _, message = await ask(*call("{}"), end(calls=LOOK, finish_reason="length"))
    assert "length" == message["stop_reason"]


async def test_a_stop_does_not_make_a_reply_complete(ask: Ask) -> None:
    """The last finish reason counts, but `stop` does not override an incomplete one."""
    _, message = await ask(*text("Hi"), end(finish_reason="stop", reasons=["length", "stop"]))
    assert ("length", "length") == (message["stop_reason"], message["finish_reason"])


async def test_unknown_fields_are_sent_back(ask: Ask) -> None:
    """Unknown fields, usage and sources are handled as in the default provider."""
    last = {
        "choices": [{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}],
        "citations": ["https://a.example"],
    }
    calls = [{**LOOK[0], "extra": [{"call": {"extra_content": {"google": {"thought_signature": "s"}}}}]}]
    _, message = await ask(
        *text("Hi"), *call("{}", index=1),
        end(
            usage=None, calls=calls, last=[json.dumps(last)],
            extra=[{"reasoning_opaque": "op"}, {"token_ids": [1]}],
        ),
    )  # fmt: skip
    assert [{"url": "https://a.example"}] == message["content"][0]["citations"]
    assert 3 == message["usage"]["input"]
    sent, _ = chat_request(MODEL, Context(messages=[message]), {})["messages"]
    assert "op" == sent["reasoning_opaque"]
    assert {"google": {"thought_signature": "s"}} == sent["tool_calls"][0]["extra_content"]


REFUSED = {"status": 429, "words": '{"error": {"message": "slow"}}', "headers": {"retry-after": "7"}}


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (failed("connect", words="Connection refused"), ConnectionFailedError, "cannot connect to http://127.0.0.1:9"),
        (failed("connect_timeout"), ProviderTimeoutError, "'connect'"),
        (failed("timeout", words="first_event"), ProviderTimeoutError, "first_event"),
        (failed("status", **REFUSED), RateLimitError, "HTTP 429: slow"),
        (failed("status", status=401, words=f"bad key {KEY}"), AuthenticationError, "redacted"),
        (failed("status", status=307, headers={"location": "http://evil/"}), ProviderError, "another server"),
        (failed("client", words="no certificates"), ConfigurationError, "no certificates"),
    ],
)  # fmt: skip
async def test_a_request_without_a_reply_raises(
    wheel: Wheel, waits: list[float], failure: Any, kind: type[Exception], words: str
) -> None:
    """The error has the same text as with the default provider, without the key."""
    wheel.scripts += [[[failure]]] * 3
    with pytest.raises(kind, match=words) as caught:
        await stream_alchemy_openai_completions(MODEL, Context(), {"api_key": KEY})
    assert KEY not in str(caught.value)


async def test_failures_before_the_first_delta_are_retried(wheel: Wheel, waits: list[float]) -> None:
    """A refusal and a broken connection are retried, and the result is one message."""
    heard: list[str] = []
    lost = failed("reported", value={"error": {"code": 503, "message": "overloaded"}})
    wheel.scripts += [[[failed("status", **REFUSED)]], [[START, lost]], [[START, *text("Hi"), end()]]]
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"on_retry": heard.append})
    events = await collect(response)
    assert ["start", "text_start", "text_delta", "text_end", "done"] == [event["type"] for event in events]
    assert ([7.0, 1.0], 2) == (waits, len(heard))


async def test_a_server_without_stream_options(wheel: Wheel) -> None:
    """The request is repeated once without `stream_options`, and later requests omit it."""
    words = '{"error": {"message": "unknown field: stream_options"}}'
    answer = [[START, *text("Hi"), end()]]
    wheel.scripts += [[[failed("status", status=400, words=words)]], answer, answer]
    notes: list[str] = []
    model = OpenAICompatModel(provider="acme", id="m", base_url="http://127.0.0.1:19/v1")
    for _ in range(2):
        options: Any = {"on_note": notes.append}
        response = await stream_alchemy_openai_completions(model, Context(messages=[user("Hi")]), options)
        assert "stop" == (await response.result())["stop_reason"]
    assert [True, False, False] == ["stream_options" in stream.body for stream in wheel.streams]
    assert ["acme: the server refuses stream_options, so it is omitted."] == notes


async def test_failures_after_the_first_delta_are_not_retried(wheel: Wheel, waits: list[float]) -> None:
    """The partial text is stored in a failed message."""
    wheel.scripts.append([[START, *text("Half")[:2], failed("interrupted", words="reset")]])
    message = await (await stream_alchemy_openai_completions(MODEL, Context(), {})).result()
    assert ("error", 1, []) == (message["stop_reason"], len(wheel.streams), waits)


# ---- closing ------------------------------------------------------------------------------------------


async def test_the_signal_closes_the_stream(wheel: Wheel) -> None:
    """The stream is closed at once, and the partial text is stored."""
    signal = asyncio.Event()
    wheel.scripts.append([[START, *text("Half")[:2]]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    async for event in response:
        if event["type"] == "text_delta":
            signal.set()
    message = await response.result()
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])
    assert wheel.streams[0].closed


async def test_a_signal_that_is_already_set_sends_no_request(wheel: Wheel) -> None:
    """An aborted call sends no request."""
    signal = asyncio.Event()
    signal.set()
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    assert "aborted" == (await response.result())["stop_reason"]
    assert [] == wheel.streams


async def test_a_signal_before_the_reply_ends_the_call(wheel: Wheel) -> None:
    """The call ends without waiting for headers."""
    signal = asyncio.Event()
    asyncio.get_running_loop().call_soon(signal.set)
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    assert "aborted" == (await response.result())["stop_reason"]
    assert wheel.streams[0].closed


async def test_a_cancelled_reader_closes_the_stream(wheel: Wheel) -> None:
    """CancelledError is raised, and no task remains."""
    wheel.scripts.append([[START]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    task = asyncio.create_task(collect(response))
    await asyncio.sleep(0)  # The task reads.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wheel.streams[0].closed


async def test_an_unread_reply_is_closed(wheel: Wheel) -> None:
    """The stream is closed even if it was never read, and the loop watches no socket."""
    wheel.scripts.append([[START, *text("Hi")]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    await response.aclose()
    assert wheel.streams[0].closed
    assert not asyncio.get_running_loop().remove_reader(wheel.streams[0].waker.fileno())


def test_each_loop_has_a_socket_of_its_own(wheel: Wheel) -> None:
    """Event loops that run one after the other have separate sockets."""

    async def one() -> None:
        wheel.scripts.append([[START, *text("Hi"), end()]])
        await (await stream_alchemy_openai_completions(MODEL, Context(), {})).result()

    asyncio.run(one())
    asyncio.run(one())
    assert wheel.streams[0].waker is not wheel.streams[1].waker
