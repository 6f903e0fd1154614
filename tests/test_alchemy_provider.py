"""The Python half of the Rust provider, with streams of our own in the wheel's place."""

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
from tinyagent._net import request as _http
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
    """As the wheel's, with a socket of Python."""

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
    """As the wheel's; it gives the batches that the test puts in."""

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
    """`alchemy_llm_py.batches`; each stream takes the next script, a list of batches."""

    def __init__(self) -> None:
        super().__init__("alchemy_llm_py.batches")
        self.streams: list[FakeStream] = []
        self.scripts: list[Any] = []
        self.Waker = FakeWaker

    def Stream(self, request: bytes, body: bytes | None, waker: FakeWaker) -> FakeStream:
        return FakeStream(self, request, body, waker)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wheel]:
    """The wheel, as if it were installed; after the test every stream of it is closed."""
    module = Wheel()
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", ModuleType("alchemy_llm_py"))
    monkeypatch.setitem(sys.modules, "alchemy_llm_py.batches", module)
    yield module
    assert all(stream.closed for stream in module.streams)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries do not wait here; these are the seconds that they would have waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(_http, "RETRY", _http.RetryPolicy(sleep=sleep, random=lambda: 0.0))
    return waited


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


async def test_the_wheel_gets_the_request_that_every_provider_sends(ask: Ask, wheel: Wheel) -> None:
    """The body, the time-outs, and the key where the crate takes it."""
    await ask(*text("Hi"), end(), api_key=KEY, temperature=0.5, timeout={"idle": 7}, thinking_level="high")
    request, body = wheel.streams[0].request, wheel.streams[0].body
    assert ("m", True, 0.5, "high") == tuple(
        body[key] for key in ("model", "stream", "temperature", "reasoning_effort")
    )
    assert [{"role": "user", "content": "Hi"}] == body["messages"]
    assert (f"{URL}/chat/completions", KEY) == (request["model"]["base_url"], request["options"]["api_key"])
    assert (10.0, 120.0, 7.0) == tuple(request["exchange"][key] for key in ("connect", "first_event", "idle"))
    assert KEY not in json.dumps(request["exchange"])


async def test_images_go_along(wheel: Wheel) -> None:
    """By address and by data, from the user and from a tool; the seed's binding had none."""
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
    """Thinking, caching and the model's own fields are as in the provider `anthropic`; so are the checks."""
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


async def test_another_api_is_left_to_the_crate(ask: Ask, wheel: Wheel) -> None:
    """The crate makes the body of Z.ai's API; messages, tools and the model's own fields are ours."""
    model = OpenAICompatModel("zai", "glm", "zai-completions", base_url=URL, extra_body={"top_k": 3})
    await ask(*text("Hi"), end(), model=model, api_key=KEY)
    request, body = wheel.streams[0].request, wheel.streams[0].body
    assert body is None
    fields = {"messages": [{"role": "user", "content": "Hi"}], "top_k": 3}
    assert fields == request["exchange"]["body"]


async def test_headers_of_the_users_own_take_the_keys_place(ask: Ask, wheel: Wheel) -> None:
    """An Authorization among them is the one that is sent."""
    headers = {"Authorization": f"Token {KEY}", "X-Team": "é"}
    model = OpenAICompatModel("local", "m", base_url=URL, headers=headers)
    await ask(*text("Hi"), end(), model=model, api_key="other")
    request = wheel.streams[0].request
    assert request["options"]["api_key"] is None
    assert headers == dict(request["exchange"]["headers"])


async def test_without_the_wheel_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is in the message."""
    # "not to be found", also where it is installed
    monkeypatch.delitem(sys.modules, "alchemy_llm_py.batches", raising=False)
    monkeypatch.setitem(sys.modules, "alchemy_llm_py", None)
    with pytest.raises(PluginError, match="pip install tinyagent-alchemy"):
        await stream_alchemy_openai_completions(MODEL, Context(), {})


async def test_a_wheel_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that was built for another Python is not called missing."""
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
async def test_what_cannot_be_sent_never_reaches_the_wheel(model: Any, wheel: Wheel) -> None:
    """URL, headers, certificates and id are checked before the call."""
    with pytest.raises(ConfigurationError):
        await stream_alchemy_openai_completions(model, Context(), {"api_key": KEY})
    assert [] == wheel.streams


async def test_keys_are_checked_before_the_call(wheel: Wheel) -> None:
    """None where one is needed, and one that no header can hold."""
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


async def test_a_request_that_the_wheel_refuses_is_the_users_to_mend(wheel: Wheel) -> None:
    """In the wheel's words, without the key."""
    wheel.scripts.append(ValueError(f"no such api, and {KEY}"))
    with pytest.raises(ConfigurationError, match="no such api") as caught:
        await stream_alchemy_openai_completions(MODEL, Context(), {"api_key": KEY})
    assert KEY not in str(caught.value)
    wheel.streams.clear()


# ---- the reply ----------------------------------------------------------------------------------------


async def test_every_kind_of_block_becomes_our_events(ask: Ask) -> None:
    """Deltas as they were cut, `partial` of each its own moment, usage on the message."""
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
    """Two turns, the grammar, and the tool's result in the second call."""

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


async def test_a_delta_is_seen_before_the_next_batch(wheel: Wheel) -> None:
    """Nothing is buffered, and one waking is enough for a batch."""
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
    """And each is woken for its own."""
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
    """Invalid JSON is an invalid call; none at all is `{}`; an object stays as it came."""
    calls = [*LOOK, {"id": "c2", "name": "b"}, {"id": "c3", "name": "c", "whole": {"z": 1}}]
    _, message = await ask(
        *call('{"a": '), *call(index=1, call_id="c2", name="b"),
        *call('{"z":1}', index=2, call_id="c3", name="c"), end(calls=calls),
    )  # fmt: skip
    first, second, third = message["content"]
    assert ({}, '{"a": ') == (first["arguments"], first["partial_json"])
    assert ({}, {"z": 1}) == (second["arguments"], third["arguments"])
    assert "partial_json" not in second


async def test_late_ids_and_names_are_taken_and_equal_ids_made_unique(ask: Ask) -> None:
    """As a server says them, in whatever order."""
    calls = [{"id": "c9", "name": "look"}, {"id": "c9", "name": "b"}, {"id": "", "name": ""}]
    _, message = await ask(
        *call("{}", call_id="", name="lo"), *call("{}", index=1, call_id="c9", name="b"),
        *call("{}", index=2, call_id="", name=""), end(calls=calls),
    )  # fmt: skip
    assert ["look", "b", ""] == [block["name"] for block in message["content"]]
    assert 3 == len({block["id"] for block in message["content"]})
    assert "partial_json" in message["content"][2]  # nobody knows what to run


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
async def test_what_is_no_success_is_none(ask: Ask, steps: list[Any], kind: str, left: str) -> None:
    """An error message of its kind, the text so far kept, the stream closed."""
    _, message = await ask(*steps)
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert left == "".join(block["text"] for block in message["content"])


async def test_length_is_not_complete(ask: Ask) -> None:
    """Also with calls in it."""
    _, message = await ask(*call("{}"), end(calls=LOOK, finish_reason="length"))
    assert "length" == message["stop_reason"]


async def test_a_stop_does_not_make_a_reply_complete(ask: Ask) -> None:
    """Of several finish reasons the last counts, but not a complete one behind one that is not."""
    _, message = await ask(*text("Hi"), end(finish_reason="stop", reasons=["length", "stop"]))
    assert ("length", "length") == (message["stop_reason"], message["finish_reason"])


async def test_what_is_not_known_goes_back(ask: Ask) -> None:
    """Fields of the message and of a call, as with the default provider; usage and sources in odd places."""
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
async def test_a_reply_that_never_began_raises(
    wheel: Wheel, waits: list[float], failure: Any, kind: type[Exception], words: str
) -> None:
    """In the words that every provider has for it, without the key."""
    wheel.scripts += [[[failure]]] * 3
    with pytest.raises(kind, match=words) as caught:
        await stream_alchemy_openai_completions(MODEL, Context(), {"api_key": KEY})
    assert KEY not in str(caught.value)


async def test_tries_again_before_anything_was_shown(wheel: Wheel, waits: list[float]) -> None:
    """Refused, then broken before the first delta, then answered: one message."""
    heard: list[str] = []
    lost = failed("reported", value={"error": {"code": 503, "message": "overloaded"}})
    wheel.scripts += [[[failed("status", **REFUSED)]], [[START, lost]], [[START, *text("Hi"), end()]]]
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"on_retry": heard.append})
    events = await collect(response)
    assert ["start", "text_start", "text_delta", "text_end", "done"] == [event["type"] for event in events]
    assert ([7.0, 1.0], 2) == (waits, len(heard))


async def test_a_server_that_refuses_to_count(wheel: Wheel) -> None:
    """It is asked again without `stream_options`, once, and from then on only without."""
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


async def test_never_tries_again_once_a_delta_was_shown(wheel: Wheel, waits: list[float]) -> None:
    """The half that was shown stays, as a failure."""
    wheel.scripts.append([[START, *text("Half")[:2], failed("interrupted", words="reset")]])
    message = await (await stream_alchemy_openai_completions(MODEL, Context(), {})).result()
    assert ("error", 1, []) == (message["stop_reason"], len(wheel.streams), waits)


# ---- leaving ------------------------------------------------------------------------------------------


async def test_the_signal_closes_the_stream(wheel: Wheel) -> None:
    """At once; the text so far stays."""
    signal = asyncio.Event()
    wheel.scripts.append([[START, *text("Half")[:2]]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    async for event in response:
        if event["type"] == "text_delta":
            signal.set()
    message = await response.result()
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])
    assert wheel.streams[0].closed


async def test_a_signal_that_was_set_before_calls_nothing(wheel: Wheel) -> None:
    """No request is made for nothing."""
    signal = asyncio.Event()
    signal.set()
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    assert "aborted" == (await response.result())["stop_reason"]
    assert [] == wheel.streams


async def test_a_signal_before_the_reply_ends_the_call(wheel: Wheel) -> None:
    """Nobody waits for headers that nobody wants."""
    signal = asyncio.Event()
    asyncio.get_running_loop().call_soon(signal.set)
    response = await stream_alchemy_openai_completions(MODEL, Context(), {"signal": signal})
    assert "aborted" == (await response.result())["stop_reason"]
    assert wheel.streams[0].closed


async def test_a_cancelled_reader_closes_the_stream(wheel: Wheel) -> None:
    """Cancellation goes its way, and nothing goes on."""
    wheel.scripts.append([[START]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    task = asyncio.create_task(collect(response))
    await asyncio.sleep(0)  # The task reads.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wheel.streams[0].closed


async def test_a_reply_that_is_left_unread_is_closed(wheel: Wheel) -> None:
    """Also if nobody ever began to read it; the loop watches nothing any more."""
    wheel.scripts.append([[START, *text("Hi")]])
    response = await stream_alchemy_openai_completions(MODEL, Context(), {})
    await response.aclose()
    assert wheel.streams[0].closed
    assert not asyncio.get_running_loop().remove_reader(wheel.streams[0].waker.fileno())


def test_each_loop_has_a_socket_of_its_own(wheel: Wheel) -> None:
    """One after the other."""

    async def one() -> None:
        wheel.scripts.append([[START, *text("Hi"), end()]])
        await (await stream_alchemy_openai_completions(MODEL, Context(), {})).result()

    asyncio.run(one())
    asyncio.run(one())
    assert wheel.streams[0].waker is not wheel.streams[1].waker
