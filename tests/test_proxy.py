"""The proxy provider, over a real socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    ConfigurationError,
    Context,
    MissingKeyError,
    Model,
    ProviderError,
    ProxyStreamOptions,
    create_proxy_stream,
    parse_streaming_json,
    stream_proxy,
)
from tinyagent.proxy_event_handlers import ProxyDecoder
from tinyagent.testing import check_grammar, collect, user
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold, Wait, sse

TOKEN = "proxy-token-CANARY"
USAGE = {
    "input": 3, "output": 2, "cacheRead": 10, "cacheWrite": 0, "totalTokens": 15,
    "cost": {"input": 0.1, "output": 0.2, "total": 0.3},
}  # fmt: skip
MODEL = Model(provider="anthropic", id="claude", api="anthropic-messages")


def event(kind: str, index: int | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **({} if index is None else {"contentIndex": index}), **fields}


def text(*pieces: str, index: int = 0, **end: Any) -> list[dict[str, Any]]:
    deltas = [event("text_delta", index, delta=piece) for piece in pieces]
    return [event("text_start", index), *deltas, event("text_end", index, **end)]


def call(*pieces: str, index: int = 0, **start: Any) -> list[dict[str, Any]]:
    begin = event("toolcall_start", index, **{"id": "c1", "toolName": "look", **start})
    deltas = [event("toolcall_delta", index, delta=piece) for piece in pieces]
    return [begin, *deltas, event("toolcall_end", index)]


def done(reason: str = "stop", **fields: Any) -> dict[str, Any]:
    return event("done", reason=reason, usage=USAGE, **fields)


def reply(*events: Any, **fields: Any) -> FakeReply:
    steps = [sse(item) if isinstance(item, dict) else item for item in events]
    return FakeReply([sse(event("start")), *steps], **fields)


def base(server: FakeServer) -> str:
    return f"http://127.0.0.1:{server.port}"


async def ask(server: FakeServer, **options: Any) -> tuple[list[Any], Any]:
    """The events and the message of one call."""
    options = {"auth_token": TOKEN, "proxy_url": base(server), **options}
    response = await stream_proxy(MODEL, Context(messages=[user("Hi")]), options)
    events = await collect(response)
    return events, await response.result()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    from tinyagent._net import request as _http

    monkeypatch.setattr(_http, "RETRY", _http.RetryPolicy(first_wait=0.001))


# ---- the request ----------------------------------------------------------------------------------


async def test_the_request_is_the_protocols() -> None:
    """Model, context and options as the protocol says, the token as a bearer token."""
    tool = AgentTool("look", "Look.", {"type": "object"})
    async with FakeServer(reply(*text("Hi"), done())) as server:
        context = Context("Be brief.", [user("Hi")], [tool])
        options = ProxyStreamOptions(
            auth_token=TOKEN, proxy_url=base(server) + "/", temperature=0.5, max_tokens=9, reasoning="high"
        )
        await collect(await stream_proxy(MODEL, context, options))
        sent = server.requests[0]
    assert ("POST", "/api/stream") == (sent.method, sent.path)
    assert f"Bearer {TOKEN}" == sent.headers["authorization"]
    assert {
        "model": {
            "provider": "anthropic",
            "id": "claude",
            "api": "anthropic-messages",
            "thinking_level": "high",
        },
        "context": {
            "system_prompt": "Be brief.",
            "messages": [user("Hi")],
            "tools": [
                {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
            ],
        },
        "options": {"temperature": 0.5, "maxTokens": 9, "reasoning": "high"},
    } == sent.json


@dataclass
class ProxyModel(Model):
    proxy_url: str = ""
    auth_token: str = ""


async def test_url_and_token_come_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may know its proxy; the environment is asked last."""
    monkeypatch.setenv("TINYAGENT_PROXY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINYAGENT_PROXY_TOKEN", "not-this-one")
    async with FakeServer(reply(*text("Hi"), done())) as server:
        model = ProxyModel("p", "m", proxy_url=base(server), auth_token=TOKEN)
        message = await (await stream_proxy(model, Context(messages=[user("Hi")]))).result()
    assert "Hi" == message["content"][0]["text"]
    assert f"Bearer {TOKEN}" == server.requests[0].headers["authorization"]


async def test_url_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the loop's options, which name neither, the environment says where to go."""
    async with FakeServer(reply(*text("Hi"), done())) as server:
        monkeypatch.setenv("TINYAGENT_PROXY_URL", base(server))
        monkeypatch.setenv("TINYAGENT_PROXY_TOKEN", TOKEN)
        agent = Agent(AgentOptions(stream_fn=stream_proxy))
        agent.set_model(MODEL)
        assert "Hi" == await agent.prompt_text("Hello")
    assert f"Bearer {TOKEN}" == server.requests[0].headers["authorization"]


async def test_without_url_or_token_the_message_names_the_variable() -> None:
    """What is missing is an error of the configuration, and says what to set."""
    with pytest.raises(ConfigurationError) as caught:
        await stream_proxy(MODEL, Context(), {"auth_token": TOKEN})
    assert "TINYAGENT_PROXY_URL" in str(caught.value.hint)
    with pytest.raises(MissingKeyError, match="TINYAGENT_PROXY_TOKEN") as missing:
        await stream_proxy(MODEL, Context(), {"proxy_url": "http://127.0.0.1:1"})
    assert isinstance(missing.value, ValueError)


async def test_the_token_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that repeats the token in its complaint does not get it printed."""
    async with FakeServer(FakeReply.error(401, f"bad token {TOKEN}")) as server:
        with pytest.raises(ConfigurationError) as caught:
            await ask(server)
    assert TOKEN not in str(caught.value)


# ---- the reply ------------------------------------------------------------------------------------


async def test_text_thinking_and_calls_become_our_events() -> None:
    """Every kind of block, with signatures, usage in our words, and deltas as they were cut."""
    thought = [
        event("thinking_start", 0),
        event("thinking_delta", 0, delta="hm"),
        event("thinking_end", 0, contentSignature="sig"),
    ]
    parts = [*thought, *text("H", "i", index=1), *call('{"a":', "1}", index=2), done("toolUse")]
    async with FakeServer(reply(*parts)) as server:
        events, message = await ask(server)
    assert [
        "start", "thinking_start", "thinking_delta", "thinking_end", "text_start", "text_delta", "text_delta",
        "text_end", "tool_call_start", "tool_call_delta", "tool_call_delta", "tool_call_end", "done",
    ] == [item["type"] for item in events]  # fmt: skip
    assert [
        {"type": "thinking", "thinking": "hm", "thinking_signature": "sig"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"a": 1}},
    ] == message["content"]
    assert ("tool_use", "toolUse") == (message["stop_reason"], message["finish_reason"])
    assert ("anthropic", "anthropic-messages", "claude") == (
        message["provider"],
        message["api"],
        message["model"],
    )
    counts = {"input": 13, "output": 2, "cache_read": 10, "cache_write": 0, "reasoning": 0, "total": 15}
    assert counts | {"cost": 0.3} == message["usage"]
    assert "Hi" == events[6]["partial"]["content"][1]["text"]
    assert "H" == events[5]["partial"]["content"][1]["text"]


async def test_deltas_are_seen_before_the_next_is_sent() -> None:
    """Nothing is buffered."""
    parts = [
        event("text_start", 0),
        event("text_delta", 0, delta="a"),
        Wait(),
        event("text_delta", 0, delta="b"),
    ]
    async with FakeServer(reply(*parts, done())) as server:
        response = await stream_proxy(
            MODEL, Context(), ProxyStreamOptions(auth_token=TOKEN, proxy_url=base(server))
        )
        seen = [await anext(response) for _ in range(3)]
        assert "a" == seen[-1]["delta"]
        server.release()
        assert "ab" == (await response.result())["content"][0]["text"]


async def test_an_agent_runs_tools_through_a_proxy() -> None:
    """The grammar of a run holds, and the tool's result is in the second request."""

    async def look(_id: str, args: dict[str, Any], _signal: Any, _update: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": f"saw {args['a']}"}])

    async with FakeServer(reply(*call('{"a": 1}'), done("toolUse")), reply(*text("Fine."), done())) as server:
        agent = Agent(AgentOptions(stream_fn=stream_proxy, get_api_key=lambda _: TOKEN))
        agent.set_model(ProxyModel("p", "m", proxy_url=base(server)))
        agent.set_tools([AgentTool("look", "Look.", {"type": "object"}, execute=look)])
        events = await collect(agent.stream("Go"))
    check_grammar(events)
    assert "Fine." == events[-1].messages[-1]["content"][0]["text"]
    assert "saw 1" == server.requests[1].json["context"]["messages"][-1]["content"][0]["text"]


async def test_what_is_odd_but_clear_is_taken() -> None:
    """A block without its start or end, events of unknown kinds, a `[DONE]`, a call without an id."""
    parts = [
        event("text_delta", 0, delta="Hi"),
        event("ping"),
        event("annotation_start", 7),
        event("toolcall_start", 1, toolName="look"),
        event("toolcall_end", 1),
        event("toolcall_end", 1),
        b"data: [DONE]\n\n",
        done("toolUse"),
    ]
    async with FakeServer(reply(*parts)) as server:
        _, message = await ask(server)
    assert ["text", "tool_call"] == [block["type"] for block in message["content"]]
    assert {} == message["content"][1]["arguments"]
    assert message["content"][1]["id"]


@pytest.mark.parametrize(
    ("parts", "raw"),
    [
        (call('{"a": '), '{"a": '),
        (call("[1]"), "[1]"),
        (call('{"a": 1}', toolName=""), '{"a": 1}'),
    ],
)
async def test_a_call_that_cannot_be_read_is_marked_invalid(parts: list[Any], raw: str) -> None:
    """Never an invented `{}`: the text stays where the loop sees that it is no object."""
    async with FakeServer(reply(*parts, done("toolUse"))) as server:
        _, message = await ask(server)
    assert ({}, raw) == (message["content"][0]["arguments"], message["content"][0]["partial_json"])


async def test_length_is_not_complete() -> None:
    """A reply that hit the limit says so, calls or not."""
    async with FakeServer(reply(*call("{}"), done("length"))) as server:
        _, message = await ask(server)
    assert "length" == message["stop_reason"]


# ---- ends that are none -----------------------------------------------------------------------------


@pytest.mark.parametrize("last", [b"", Hangup()])
async def test_a_reply_without_done_is_cut(last: Any) -> None:
    """The partial text stays, the message is an error, and no call of it is complete."""
    parts = [event("text_start", 0), event("text_delta", 0, delta="Half"), *([last] if last else [])]
    async with FakeServer(reply(*parts)) as server:
        events, message = await ask(server)
    assert "error" == events[-1]["type"] == message["stop_reason"]
    assert "stream_interrupted" == message["error_kind"]
    assert "Half" == message["content"][0]["text"]
    assert 1 == len(server.requests)


async def test_an_error_event_ends_the_message_with_its_words() -> None:
    """The provider's words, its usage, the text so far."""
    parts = [*text("Half"), event("error", reason="error", errorMessage="boom at upstream", usage=USAGE)]
    async with FakeServer(reply(*parts)) as server:
        _, message = await ask(server)
    assert "error" == message["stop_reason"]
    assert "boom at upstream" in message["error_message"]
    assert (13, "Half") == (message["usage"]["input"], message["content"][0]["text"])


async def test_a_proxy_that_aborts_says_so() -> None:
    """`reason` is passed on."""
    async with FakeServer(reply(*text("Half"), event("error", reason="aborted", usage=USAGE))) as server:
        _, message = await ask(server)
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {nonsense}\n\n",
        b"data: [1]\n\n",
        b'data: {"no": "type"}\n\n',
        b'data: {"type": "text_delta", "contentIndex": "zero"}\n\n',
        sse(event("thinking_delta", 0, delta="is text")),
    ],
)
async def test_what_cannot_be_read_is_loud(broken: bytes) -> None:
    """Nothing is skipped in silence."""
    async with FakeServer(reply(*text("Half"), broken, done())) as server:
        _, message = await ask(server)
    assert ("error", "invalid_reply") == (message["stop_reason"], message["error_kind"])
    assert "Half" == message["content"][0]["text"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": "quota exceeded"}', "quota exceeded"),
        (b'{"choices": [{"message": {"content": "Hi"}}]}', "no event stream"),
        (b"<html><title>Log in</title></html>", "HTML"),
    ],
)
async def test_a_body_that_is_no_stream_is_an_error(body: bytes, kind: str) -> None:
    """A login page of somebody in between is no empty reply."""
    async with FakeServer(FakeReply([body])) as server:
        _, message = await ask(server)
    assert "error" == message["stop_reason"]
    assert kind in message["error_message"]


async def test_failures_before_the_reply_are_tried_again() -> None:
    """Twice, told to `on_retry`; also an error that is the first thing in the stream."""
    heard: list[str] = []
    overloaded = event("error", reason="error", errorMessage="overloaded, try again")
    async with FakeServer(
        FakeReply.error(503, "busy"), reply(overloaded), reply(*text("Hi"), done())
    ) as server:
        _, message = await ask(server, on_retry=heard.append)
    assert "Hi" == message["content"][0]["text"]
    assert (3, 2) == (len(server.requests), len(heard))


async def test_a_refusal_is_an_exception() -> None:
    """A request that never became a reply raises, with the status."""
    async with FakeServer(FakeReply.error(400, "bad model")) as server:
        with pytest.raises(ProviderError, match="bad model") as caught:
            await ask(server)
    assert 400 == caught.value.status


async def test_a_failure_keeps_what_the_proxy_knows_of_it() -> None:
    """Kind, status and waiting time; with the kind of a plugin's class also the nearest one of ours."""
    said = {
        "type": "error",
        "reason": "error",
        "errorMessage": "account 7 is used up",
        "errorKind": "acme_quota",
        "errorCategory": "rate_limit",
        "errorStatus": 429,
        "retryable": False,
        "retryAfter": 2.5,
    }
    async with FakeServer(reply(sse(said))) as server:
        _, message = await ask(server)
    assert {
        "error_message": "anthropic: account 7 is used up",
        "error_kind": "acme_quota",
        "error_category": "rate_limit",
        "error_status": 429,
        "error_retryable": False,
        "error_retry_after": 2.5,
    } == {key: value for key, value in message.items() if key.startswith("error_")}


async def test_a_refused_key_of_the_proxy_is_not_ours() -> None:
    """The caller's own key is fine, so the class is that of a provider's failure."""
    said = {"type": "error", "reason": "error", "errorMessage": "no", "errorKind": "authentication"}
    async with FakeServer(reply(sse(said))) as server:
        _, message = await ask(server)
    assert "provider" == message["error_kind"]


async def test_silence_is_timed_out() -> None:
    """The idle time-out holds here, and the text so far stays."""
    half = sse(event("text_start", 0)) + sse(event("text_delta", 0, delta="Half"))
    async with FakeServer(reply(half, Hold())) as server:
        _, message = await ask(server, timeout={"idle": 0.1})
    assert ("timeout", "Half") == (message["error_kind"], message["content"][0]["text"])


async def test_the_signal_ends_the_call() -> None:
    """At once, as `aborted`, with the text so far."""
    signal = asyncio.Event()
    parts = [event("text_start", 0), event("text_delta", 0, delta="Half"), Hold()]
    async with FakeServer(reply(*parts)) as server:
        options = ProxyStreamOptions(auth_token=TOKEN, proxy_url=base(server), signal=signal)
        response = await stream_proxy(MODEL, Context(), options)
        async for item in response:
            if item["type"] == "text_delta":
                signal.set()
        message = await response.result()
    assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])


async def test_leaving_closes_the_connection() -> None:
    """`aclose` in the middle of a reply closes the connection."""
    async with FakeServer(reply(event("text_delta", 0, delta="Half"), Hold())) as server:
        response = create_proxy_stream(MODEL, Context(), TOKEN, base(server))
        async for item in response:
            if item["type"] == "text_delta":
                break
        await response.aclose()
        await server.wait_closed()


# ---- the other functions ------------------------------------------------------------------------------


async def test_create_proxy_stream_can_be_awaited_or_read() -> None:
    """Both ways to use it send one request each."""
    async with FakeServer(reply(*text("Hi"), done()), repeat=True) as server:
        arguments = (MODEL, Context(messages=[user("Hi")]), TOKEN, base(server))
        awaited = await create_proxy_stream(*arguments, max_tokens=5)
        assert "Hi" == (await awaited.result())["content"][0]["text"]
        assert "done" == (await collect(create_proxy_stream(*arguments)))[-1]["type"]
    assert [{"maxTokens": 5}, {}] == [request.json["options"] for request in server.requests]


async def test_create_proxy_stream_raises_what_opening_it_meets() -> None:
    """Read without being awaited, it raises at the first read; and can be closed."""
    async with FakeServer(FakeReply.error(400, "bad model")) as server:
        response = create_proxy_stream(MODEL, Context(), TOKEN, base(server))
        with pytest.raises(ProviderError, match="bad model"):
            await collect(response)
        await response.aclose()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values), st.data())
def test_every_prefix_of_an_object_gives_an_object(value: dict[str, Any], data: st.DataObject) -> None:
    """The whole text gives the value, a part of it some of its keys, in order."""
    document = json.dumps(value)
    assert value == parse_streaming_json(document)
    prefix = document[: data.draw(st.integers(1, len(document)))]
    parsed = parse_streaming_json(prefix)
    assert parsed is not None
    assert list(value)[: len(parsed)] == list(parsed)


@pytest.mark.parametrize("nothing", ["", "[1", '"text', "nonsense", "1"])
def test_what_begins_like_no_object_gives_none(nothing: str) -> None:
    """There is no best object in it."""
    assert parse_streaming_json(nothing) is None


def test_images_arrive_with_the_end() -> None:
    """They are behind the other blocks, in a reply that failed as well; what is no URL is skipped."""
    url = "data:image/png;base64,AAAA"
    for end in ("done", "error"):
        decoder = ProxyDecoder(Model("p", "m", "proxy"))
        text = b'data: {"type":"text_delta","contentIndex":0,"delta":"Here"}\n\n'
        last = b'data: {"type":"%s","reason":"stop","errorMessage":"x","images":["%s",3,""]}\n\n'
        events = decoder.feed(text + last % (end.encode(), url.encode()))
        message = events[-1]["message"] if end == "done" else decoder.fail()["error"]
        image = {"type": "image", "url": url, "mime_type": "image/png"}
        assert [{"type": "text", "text": "Here"}, image] == message["content"]
