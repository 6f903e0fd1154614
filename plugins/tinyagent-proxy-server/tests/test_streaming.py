"""Replies through the proxy are complete, not buffered, and end when their caller disconnects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tinyagent import AgentTool, AnthropicModel, Context, OpenAICompatModel, OpenAIResponsesModel
from tinyagent.anthropic_provider import stream_anthropic
from tinyagent.openai_wire import stream_openai_completions
from tinyagent.responses_provider import stream_openai_responses
from tinyagent.testing import FakeReply, FakeServer, Hangup, Hold, Wait, chat_chunk, collect, sse, user
from tinyagent_proxy_server._config import ServerTable, TokenTable

from .conftest import KEY, TOKEN, Serving

USAGE = {
    "prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34, "cost": 0.25,
    "prompt_tokens_details": {"cached_tokens": 20}, "completion_tokens_details": {"reasoning_tokens": 1},
}  # fmt: skip
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}


def arguments(piece: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


CHAT = FakeReply.chunks(
    chat_chunk({"reasoning_content": "hm"}),
    chat_chunk("H"),
    chat_chunk("é \u2028 😀"),
    chat_chunk({"tool_calls": [CALL]}),
    chat_chunk(arguments('{"at": ')),
    chat_chunk(arguments('["x", 123456789012345678901234567890]}')),
    chat_chunk({}, "tool_calls", usage=USAGE),
)


def named(*events: dict[str, Any]) -> FakeReply:
    return FakeReply([sse(event, event=event["type"]) for event in events])


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


ANTHROPIC = named(
    {"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 7}}},
    *block(
        0,
        {"type": "thinking", "thinking": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "SIGNED"},
    ),
    *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}),
    *block(
        2,
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"at": "me"}'},
    ),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)

MESSAGE_ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
REASONING = {
    "type": "reasoning", "id": "rs_1", "encrypted_content": "ENCRYPTED",
    "summary": [{"type": "summary_text", "text": "hm"}],
}  # fmt: skip
RESPONSES = named(
    {"type": "response.created", "response": {"id": "r1", "status": "in_progress"}},
    {"type": "response.output_item.added", "output_index": 0, "item": {**REASONING, "summary": []}},
    {"type": "response.output_item.done", "output_index": 0, "item": REASONING},
    {"type": "response.output_item.added", "output_index": 1, "item": MESSAGE_ITEM},
    {
        "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 1, "content_index": 0,
        "delta": "Hi",
    },
    {
        "type": "response.output_item.done", "output_index": 1,
        "item": {**MESSAGE_ITEM, "content": [{"type": "output_text", "text": "Hi"}]},
    },
    {
        "type": "response.completed",
        "response": {"id": "r1", "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}},
    },
)  # fmt: skip

HALF = FakeReply.chunks(chat_chunk("Half"), Hold())

APIS: dict[str, Any] = {
    "openai-completions": (CHAT, OpenAICompatModel, stream_openai_completions),
    "anthropic-messages": (ANTHROPIC, AnthropicModel, stream_anthropic),
    "openai-responses": (RESPONSES, OpenAIResponsesModel, stream_openai_responses),
}


async def direct(api: str, server: FakeServer) -> Any:
    """Return the same reply without a proxy."""
    _, model, stream = APIS[api]
    asked = model(provider="up", id="m", base_url=server.url, api_key_env=None)
    reply = await stream(asked, Context("Be brief.", [user("Hi")]), {"api_key": KEY})
    return await reply.result()


def content_of(message: Any) -> dict[str, Any]:
    """Return a message without its provider, model and time."""
    maker = ("timestamp", "api", "provider", "model")
    return {name: value for name, value in message.items() if name not in maker}


# ---- what arrives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
async def test_a_reply_is_the_same_as_without_the_proxy(api: str, serving: Serving) -> None:
    """Text, thinking, calls, signatures, usage, cost and finish reason are equal in every protocol."""
    async with FakeServer(APIS[api][0], repeat=True) as server, serving(server.url, api=api) as served:
        expected = await direct(api, server)
        message = await served.message()
        assert content_of(expected) == content_of(message)
        assert ("proxy", "up/m") == (message["provider"], message["model"])
        mine, theirs = server.requests
        assert mine.json == theirs.json
        assert KEY in str(theirs.headers)
        assert TOKEN not in str(theirs.headers)


@pytest.mark.parametrize(
    ("api", "kept"),
    [
        ("openai-completions", '"reasoning_content":"hm"'),
        ("anthropic-messages", '"signature":"SIGNED"'),
        ("openai-responses", "ENCRYPTED"),
    ],
)
async def test_reasoning_is_sent_back(api: str, kept: str, serving: Serving) -> None:
    """The second turn sends the provider its own reasoning and signatures back."""
    async with FakeServer(APIS[api][0], repeat=True) as server, serving(server.url, api=api) as served:
        first = await served.message()
        results = [
            {
                "role": "tool_result", "tool_call_id": call["id"], "tool_name": "look", "details": {},
                "content": [{"type": "text", "text": "saw it"}], "is_error": False, "timestamp": 1,
            }
            for call in first["content"] if call["type"] == "tool_call"
        ]  # fmt: skip
        stored = json.loads(json.dumps(first))  # as from a session file
        await served.message("up/m", user("Hi"), stored, *results, user("Go on"))
        sent = json.dumps(server.requests[-1].json, separators=(",", ":"))
        assert kept in sent
        await served.message("up/other", user("Hi"), stored, *results, user("Go on"))
        assert kept not in json.dumps(server.requests[-1].json, separators=(",", ":"))


async def test_the_request_reaches_the_provider(serving: Serving) -> None:
    """System prompt, tools, temperature, limit and thinking level are the caller's."""
    tool = AgentTool("look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}})
    async with FakeServer(FakeReply.text("Hi")) as server, serving(server.url) as served:
        await served.message(tools=[tool], temperature=0.5, max_tokens=9, reasoning="high")
        sent = server.requests[0].json
    assert "Be brief." == sent["messages"][0]["content"]
    assert "look" == sent["tools"][0]["function"]["name"]
    assert (0.5, 9, "high") == (sent["temperature"], sent["max_tokens"], sent["reasoning_effort"])


async def test_each_delta_is_sent_at_once(serving: Serving) -> None:
    """The caller gets a delta before the provider has sent the next."""
    reply = FakeReply.chunks(chat_chunk("a"), Wait(), chat_chunk("b"), chat_chunk({}, "stop"))
    async with FakeServer(reply) as server, serving(server.url) as served:
        stream = await served.ask()
        seen = [await anext(stream) for _ in range(3)]
        assert "a" == seen[-1]["delta"]
        server.release()
        assert "ab" == (await stream.result())["content"][0]["text"]


async def test_malformed_arguments_are_preserved(serving: Serving) -> None:
    """A broken call arrives unchanged, and so does a call whose arguments were sent as an object."""
    broken = {**CALL, "function": {"name": "look", "arguments": '{"at": '}}
    whole = {**CALL, "index": 1, "id": "c2", "function": {"name": "look", "arguments": {"at": 2**70}}}
    twice = {**CALL, "index": 2, "id": "c3", "function": {"name": "look", "arguments": '"{\\"at\\": 1}"'}}
    reply = FakeReply.chunks(chat_chunk({"tool_calls": [broken, whole, twice]}), chat_chunk({}, "tool_calls"))
    async with FakeServer(reply, repeat=True) as server, serving(server.url) as served:
        expected = await direct("openai-completions", server)
        message = await served.message()
    assert expected["content"] == message["content"]
    assert ['{"at": ', None, None] == [call.get("partial_json") for call in message["content"]]
    assert 2**70 == message["content"][1]["arguments"]["at"]


# ---- what goes wrong --------------------------------------------------------------------------------


async def test_a_failure_is_an_error_event(serving: Serving) -> None:
    """The caller gets the provider's error text, and does not retry."""
    reply = FakeReply.error(500, "the engine is on fire", x_should_retry="false")
    async with FakeServer(reply) as server, serving(server.url) as served:
        message = await served.message()
        assert ("error", "provider") == (message["stop_reason"], message["error_kind"])
        assert "the engine is on fire" in message["error_message"]
        assert 1 == len(server.requests)
        await served.idle()
    assert [True] == ["status=error" in line and "on fire" not in line for line in served.lines]


async def test_the_kind_of_a_failure_is_preserved(serving: Serving) -> None:
    """A context overflow and a rate limit arrive with their kinds and hints."""
    replies = [
        FakeReply.error(400, "This model's maximum context length is 8 tokens"),
        FakeReply.error(429, "slow down", retry_after="3600"),
    ]
    async with FakeServer(*replies) as server, serving(server.url) as served:
        long, limited = await served.message(), await served.message()
    assert ("context_overflow", "rate_limit") == (long["error_kind"], limited["error_kind"])
    assert "Shorten the conversation" in long["error_hint"]
    assert "1:00:00" in limited["error_hint"]
    assert (400, 429, 3600) == (long["error_status"], limited["error_status"], limited["error_retry_after"])


async def test_configuration_errors_are_only_logged(serving: Serving) -> None:
    """A refused key or an unreachable server is explained in the log, without the key."""
    reply = FakeReply.error(401, f"wrong key {KEY}")
    async with FakeServer(reply) as server, serving(server.url) as served:
        refused = await served.message()
    async with serving(server.url) as deaf:
        unreachable = await deaf.message()
    assert ["provider", "provider"] == [refused["error_kind"], unreachable["error_kind"]]
    assert "the proxy was refused by the provider 'up'" in refused["error_message"]
    assert "the proxy cannot reach the provider 'up'" in unreachable["error_message"]
    assert str(server.port) not in unreachable["error_message"]
    assert "HTTP 401" in served.lines[-1]
    assert "refused" in deaf.lines[-1]
    assert KEY not in str([refused, unreachable, served.lines, deaf.lines])


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ([sse({"error": {"message": "overloaded, key " + KEY}})], "provider", "overloaded"),
        ([Hangup()], "stream_interrupted", "broke"),
        ([sse(chat_chunk({}, "content_filter"))], "content_filter", "withheld"),
    ],
)
async def test_a_failed_reply_has_its_partial_text(
    end: list[Any], kind: str, words: str, serving: Serving
) -> None:
    """The partial text arrives with the reason; keys in error texts are redacted."""
    async with (
        FakeServer(FakeReply([sse(chat_chunk("Half")), *end])) as server,
        serving(server.url) as served,
    ):
        message = await served.message()
        await served.idle()
    assert ("error", kind, "Half") == (
        message["stop_reason"], message["error_kind"], message["content"][0]["text"],
    )  # fmt: skip
    assert words in message["error_message"]
    assert KEY not in str([message, served.lines])


async def test_an_exception_of_a_provider_is_an_error_event(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the caller nor the log gets the exception's text."""
    async with serving("http://127.0.0.1:1/v1") as served:

        async def stream(*_: Any) -> Any:
            raise KeyError("what the prompt said")

        for upstream in served.proxy._upstreams:
            monkeypatch.setattr(upstream, "stream", stream)
        message = await served.message()
        assert "error" == message["stop_reason"]
        await served.idle()
        assert "what the prompt said" not in str([message, served.lines])
        assert "error=internal" in served.lines[-1]


# ---- who is slow, and who goes ------------------------------------------------------------------------


class Flood:
    """A chat server that sends endlessly, as fast as the client reads."""

    PIECE = sse(chat_chunk("x" * 65_536))

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.sent = 0
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Flood:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n")
            for _ in range(self.pieces):
                writer.write(self.PIECE)
                await writer.drain()
                self.sent += len(self.PIECE)
            writer.write(sse(chat_chunk({}, "stop")) + sse(b"[DONE]"))
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self.closed.set()


async def send_request(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request as a caller that reads only when the test does."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
    asked = {"model": {"id": "up/m", "provider": "proxy"}, "context": {"messages": [user("Hi")]}}
    body = json.dumps(asked).encode()
    head = (
        "POST /api/stream HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def settle(flood: Flood) -> int:
    """Return how much the flood has sent, once it sends nothing in a thousand turns of the loop.

    All sockets belong to this loop, so each turn moves what can be moved.
    """
    before, turns = 0, 0
    while not before or turns < 1_000:
        await asyncio.sleep(0)
        turns = turns + 1 if flood.sent == before else 0
        before = flood.sent
    return before


async def test_a_slow_caller_slows_its_provider(serving: Serving) -> None:
    """The proxy does not read ahead of a slow caller, and the complete reply arrives."""
    async with Flood(480) as flood, serving(flood.url) as served:
        reader, writer = await send_request(served.url)
        assert await settle(flood) < flood.pieces * len(flood.PIECE) // 2
        got = 0
        while b'"done"' not in (data := await reader.read(1 << 20)):
            assert data, "the reply ended early"
            got += data.count(b"x")
        assert got + data.count(b"x") >= flood.pieces * 65_536
        writer.close()
        await flood.closed.wait()


async def test_a_caller_that_does_not_read_is_disconnected(serving: Serving) -> None:
    """After `stall_timeout` the connection to the provider is closed."""
    async with Flood(100_000) as flood, serving(flood.url, stall_timeout=0.4) as served:
        _, writer = await send_request(served.url)
        await asyncio.wait_for(flood.closed.wait(), 60)
        await served.idle()
        assert "error=timeout" in served.lines[-1]
        writer.close()


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply.chunks(chat_chunk("Half"), Hold()),
        FakeReply([Hold()]),
        FakeReply([Hold()], head=b"HTTP/1.1 200 OK\r\n"),
    ],
    ids=["in the text", "before the first event", "before the headers"],
)
async def test_a_disconnect_cancels_the_request(reply: FakeReply, serving: Serving) -> None:
    """The connection to the provider is closed at once, at any point of the reply."""
    async with FakeServer(reply) as server, serving(server.url) as served:
        _, writer = await send_request(served.url)
        await server.wait_requests(1)
        assert 1 == served.proxy.streams
        writer.close()
        await server.wait_closed()
        await served.idle()
        assert "status=aborted" in served.lines[-1]


async def test_an_abort_of_our_client_reaches_the_provider(serving: Serving) -> None:
    """An abort ends the caller's reply as aborted, and closes the connection to the provider."""
    signal = asyncio.Event()
    async with FakeServer(HALF) as server, serving(server.url) as served:
        stream = await served.ask(signal=signal)
        while (await anext(stream))["type"] != "text_delta":
            pass
        signal.set()
        message = await stream.result()
        assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])
        await server.wait_closed()


async def test_active_replies_end_with_an_error_at_shutdown(serving: Serving) -> None:
    """The error event shows the reason, and the partial text arrives."""
    async with FakeServer(HALF) as server, serving(server.url) as served:
        stream = await served.ask()
        while (await anext(stream))["type"] != "text_delta":
            pass
        served.stop()
        message = await stream.result()
        assert ("error", "stream_interrupted", "Half") == (
            message["stop_reason"], message["error_kind"], message["content"][0]["text"],
        )  # fmt: skip
        assert "the proxy is shutting down" in message["error_message"]
        await server.wait_closed()


async def test_a_reply_without_output_ends_at_shutdown(serving: Serving) -> None:
    """The client reports an error and does not wait forever."""
    async with FakeServer(FakeReply([Hold()])) as server, serving(server.url) as served:
        asking = asyncio.create_task(served.message())
        await server.wait_requests(1)
        served.stop()
        message = await asyncio.wait_for(asking, 60)
        assert ("error", []) == (message["stop_reason"], message["content"])
        await server.wait_closed()


async def test_a_slow_caller_does_not_delay_shutdown(serving: Serving) -> None:
    """The server stops within its grace period even if the last event cannot be delivered."""
    async with Flood(100_000) as flood:
        async with serving(flood.url, shutdown_grace=1) as served:
            _, writer = await send_request(served.url)
            await settle(flood)
            served.stop()
            await flood.closed.wait()
        writer.close()


async def test_many_concurrent_replies_are_complete(serving: Serving) -> None:
    """A hundred concurrent replies each have their own text."""
    async with serving() as served:

        async def one(number: int) -> bool:
            prompt = f"number {number} of many"
            events = await collect(await served.ask("demo", user(prompt)))
            return f"You said: {prompt}" in events[-1]["message"]["content"][0]["text"]

        assert [True] * 100 == await asyncio.gather(*map(one, range(100)))


async def test_the_server_limits_replies(serving: Serving) -> None:
    """At `max_streams` the server refuses a request; after a reply ends, it accepts one."""
    reply = FakeReply.chunks(chat_chunk("a"), Wait(), chat_chunk({}, "stop"))
    async with FakeServer(reply, repeat=True) as server, serving(server.url, max_streams=1) as served:
        stream = await served.ask()
        full = await served.http("POST", "/api/stream", content=b"{}")
        assert (503, "1") == (full.status_code, full.headers["retry-after"])
        server.release()
        await stream.result()
        await served.idle()
        assert "a" == (await _released(served, server))["content"][0]["text"]


async def _released(served: Any, server: FakeServer) -> Any:
    stream = await served.ask()
    server.release()
    return await stream.result()


async def test_a_token_limits_its_replies(serving: Serving) -> None:
    """The replies of one token do not count for another token."""
    reply = FakeReply.chunks(chat_chunk("a"), Wait(), chat_chunk({}, "stop"))
    tokens = {"alice": TokenTable(env="-", max_streams=1), "bob": TokenTable(env="-")}
    async with FakeServer(reply, repeat=True) as server, serving(server.url, tokens=tokens) as served:
        streams = [await served.ask()]
        assert 429 == (await served.http("POST", "/api/stream", content=b"{}")).status_code
        streams.append(await served.ask(token=f"{TOKEN}-1"))
        server.release(2)
        assert ["a", "a"] == [(await stream.result())["content"][0]["text"] for stream in streams]


def test_the_default_limits_are_high() -> None:
    """Five hundred callers of one token need no configuration."""
    assert ServerTable().max_streams >= 500
    assert TokenTable(env="X").max_streams is None
