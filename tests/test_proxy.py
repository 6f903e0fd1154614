"""The proxy provider over a real socket."""

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
    """Return the events and the message of one call."""
    options = {"auth_token": TOKEN, "proxy_url": base(server), **options}
    response = await stream_proxy(MODEL, Context(messages=[user("Hi")]), options)
    events = await collect(response)
    return events, await response.result()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    from tinyagent._net import request as _http
    from tinyagent._net.retry import RetryPolicy

    monkeypatch.setattr(_http, "RETRY", RetryPolicy(first_wait=0.001))


# ---- the request ----------------------------------------------------------------------------------


async def test_the_request_follows_the_protocol() -> None:
    """Model, context and options have the protocol's form; the token is a bearer token."""
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
    """The model takes precedence over the environment."""
    monkeypatch.setenv("TINYAGENT_PROXY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINYAGENT_PROXY_TOKEN", "not-this-one")
    async with FakeServer(reply(*text("Hi"), done())) as server:
        model = ProxyModel("p", "m", proxy_url=base(server), auth_token=TOKEN)
        message = await (await stream_proxy(model, Context(messages=[user("Hi")]))).result()
    assert "Hi" == message["content"][0]["text"]
    assert f"Bearer {TOKEN}" == server.requests[0].headers["authorization"]


async def test_url_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without URL and token in model and options, the environment is used."""
    async with FakeServer(reply(*text("Hi"), done())) as server:
        monkeypatch.setenv("TINYAGENT_PROXY_URL", base(server))
        monkeypatch.setenv("TINYAGENT_PROXY_TOKEN", TOKEN)
        agent = Agent(AgentOptions(stream_fn=stream_proxy))
        agent.set_model(MODEL)
        assert "Hi" == await agent.prompt_text("Hello")
    assert f"Bearer {TOKEN}" == server.requests[0].headers["authorization"]


async def test_without_url_or_token_the_message_names_the_variable() -> None:
    """A missing URL or token is a configuration error with the variable's name."""
    with pytest.raises(ConfigurationError) as caught:
        await stream_proxy(MODEL, Context(), {"auth_token": TOKEN})
    assert "TINYAGENT_PROXY_URL" in str(caught.value.hint)
    with pytest.raises(MissingKeyError, match="TINYAGENT_PROXY_TOKEN") as missing:
        await stream_proxy(MODEL, Context(), {"proxy_url": "http://127.0.0.1:1"})
    assert isinstance(missing.value, ValueError)


async def test_the_token_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a proxy repeats the token in an error, it is redacted."""
    async with FakeServer(FakeReply.error(401, f"bad token {TOKEN}")) as server:
        with pytest.raises(ConfigurationError) as caught:
            await ask(server)
    assert TOKEN not in str(caught.value)


# ---- the reply ------------------------------------------------------------------------------------


async def test_text_thinking_and_calls_become_our_events() -> None:
    """Every block type arrives with signatures, usage and unchanged deltas."""
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


async def test_deltas_are_not_buffered() -> None:
    """A delta arrives before the next one is sent."""
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
    """The run has correct events, and the tool's result is in the second request."""

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


async def test_minor_violations_are_tolerated() -> None:
    """Missing starts, ends and ids, unknown events and `[DONE]` are tolerated."""
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
async def test_malformed_arguments_are_marked(parts: list[Any], raw: str) -> None:
    """The text of malformed arguments is stored, and `{}` is never invented."""
    async with FakeServer(reply(*parts, done("toolUse"))) as server:
        _, message = await ask(server)
    assert ({}, raw) == (message["content"][0]["arguments"], message["content"][0]["partial_json"])


async def test_length_is_not_complete() -> None:
    """A reply at the output limit is not complete, with or without calls."""
    async with FakeServer(reply(*call("{}"), done("length"))) as server:
        _, message = await ask(server)
    assert "length" == message["stop_reason"]


# ---- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [b"", Hangup()])
async def test_a_reply_without_done_is_an_error(last: Any) -> None:
    """The partial text is stored, and no call of the reply is complete."""
    parts = [event("text_start", 0), event("text_delta", 0, delta="Half"), *([last] if last else [])]
    async with FakeServer(reply(*parts)) as server:
        events, message = await ask(server)
    assert "error" == events[-1]["type"] == message["stop_reason"]
    assert "stream_interrupted" == message["error_kind"]
    assert "Half" == message["content"][0]["text"]
    assert 1 == len(server.requests)


async def test_an_error_event_ends_the_reply() -> None:
    """The message has the provider's text, its usage and the partial text."""
    parts = [*text("Half"), event("error", reason="error", errorMessage="boom at upstream", usage=USAGE)]
    async with FakeServer(reply(*parts)) as server:
        _, message = await ask(server)
    assert "error" == message["stop_reason"]
    assert "boom at upstream" in message["error_message"]
    assert (13, "Half") == (message["usage"]["input"], message["content"][0]["text"])


async def test_an_abort_of_the_proxy_is_an_abort() -> None:
    """The `reason` is passed on."""
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
async def test_unreadable_events_are_errors(broken: bytes) -> None:
    """Unreadable events are never skipped silently."""
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
async def test_a_page_instead_of_a_stream_is_an_error(body: bytes, kind: str) -> None:
    """A login page is not an empty reply."""
    async with FakeServer(FakeReply([body])) as server:
        _, message = await ask(server)
    assert "error" == message["stop_reason"]
    assert kind in message["error_message"]


async def test_failures_before_the_reply_are_retried() -> None:
    """There are two retries, reported to `on_retry`, also for an error as the first event."""
    heard: list[str] = []
    overloaded = event("error", reason="error", errorMessage="overloaded, try again")
    async with FakeServer(
        FakeReply.error(503, "busy"), reply(overloaded), reply(*text("Hi"), done())
    ) as server:
        _, message = await ask(server, on_retry=heard.append)
    assert "Hi" == message["content"][0]["text"]
    assert (3, 2) == (len(server.requests), len(heard))


async def test_a_refusal_is_an_exception() -> None:
    """A request without a reply raises an error with the status."""
    async with FakeServer(FakeReply.error(400, "bad model")) as server:
        with pytest.raises(ProviderError, match="bad model") as caught:
            await ask(server)
    assert 400 == caught.value.status


async def test_a_failure_has_the_fields_of_the_proxy() -> None:
    """Kind, status and wait are set; a plugin's kind also has its nearest class of ours."""
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
    """A refused key of the proxy is a provider error, because the caller's key is valid."""
    said = {"type": "error", "reason": "error", "errorMessage": "no", "errorKind": "authentication"}
    async with FakeServer(reply(sse(said))) as server:
        _, message = await ask(server)
    assert "provider" == message["error_kind"]


async def test_silence_is_timed_out() -> None:
    """The idle time-out applies, and the partial text is stored."""
    half = sse(event("text_start", 0)) + sse(event("text_delta", 0, delta="Half"))
    async with FakeServer(reply(half, Hold())) as server:
        _, message = await ask(server, timeout={"idle": 0.1})
    assert ("timeout", "Half") == (message["error_kind"], message["content"][0]["text"])


async def test_the_signal_ends_the_call() -> None:
    """The call ends at once as `aborted`, with the partial text."""
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


async def test_closing_early_closes_the_connection() -> None:
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
    """Each way sends one request."""
    async with FakeServer(reply(*text("Hi"), done()), repeat=True) as server:
        arguments = (MODEL, Context(messages=[user("Hi")]), TOKEN, base(server))
        awaited = await create_proxy_stream(*arguments, max_tokens=5)
        assert "Hi" == (await awaited.result())["content"][0]["text"]
        assert "done" == (await collect(create_proxy_stream(*arguments)))[-1]["type"]
    assert [{"maxTokens": 5}, {}] == [request.json["options"] for request in server.requests]


async def test_create_proxy_stream_raises_errors_of_the_request() -> None:
    """Without await, the first read raises; the stream can be closed."""
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
    """The complete text gives the value, and a prefix gives its first keys in order."""
    document = json.dumps(value)
    assert value == parse_streaming_json(document)
    prefix = document[: data.draw(st.integers(1, len(document)))]
    parsed = parse_streaming_json(prefix)
    assert parsed is not None
    assert list(value)[: len(parsed)] == list(parsed)


@pytest.mark.parametrize("nothing", ["", "[1", '"text', "nonsense", "1"])
def test_other_text_gives_no_object(nothing: str) -> None:
    """Text that does not begin an object gives None."""
    assert parse_streaming_json(nothing) is None


def test_images_arrive_with_the_end() -> None:
    """Images follow the other blocks, also in a failed reply; invalid URLs are skipped."""
    url = "data:image/png;base64,AAAA"
    for end in ("done", "error"):
        decoder = ProxyDecoder(Model("p", "m", "proxy"))
        text = b'data: {"type":"text_delta","contentIndex":0,"delta":"Here"}\n\n'
        last = b'data: {"type":"%s","reason":"stop","errorMessage":"x","images":["%s",3,""]}\n\n'
        events = decoder.feed(text + last % (end.encode(), url.encode()))
        message = events[-1]["message"] if end == "done" else decoder.fail()["error"]
        image = {"type": "image", "url": url, "mime_type": "image/png"}
        assert [{"type": "text", "text": "Here"}, image] == message["content"]
