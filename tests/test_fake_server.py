"""The loopback server for the tests of providers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions, OpenAICompatModel, extract_text, stream_openai_completions
from tinyagent.testing import FakeReply, FakeServer, Hangup, Hold, Reset, Sleep, Wait, chat_chunk, sse


def fetch(url: str, body: bytes | None = b"{}") -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, body, {"X-Test": "a"}), timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_in_a_thread() -> None:
    """`with` runs the server in a thread; each request gets the next reply and is recorded."""
    with FakeServer(FakeReply.text("Hi"), FakeReply.json({"a": 1}), FakeReply.error(402, "pay")) as server:
        status, body = fetch(f"{server.url}/chat/completions", b'{"x": 1}')
        assert (200, True) == (status, body.endswith(b"data: [DONE]\n\n"))
        assert (200, {"a": 1}) == (lambda reply: (reply[0], json.loads(reply[1])))(fetch(server.origin + "/"))
        assert 402 == fetch(server.url)[0]
        first = server.requests[0]
        assert ("POST", "/v1/chat/completions", {"x": 1}, "a") == (
            first.method, first.path, first.json, first.headers["x-test"]
        )  # fmt: skip
        assert 0 == server.unexpected


def test_more_requests_than_replies() -> None:
    """A request without a reply gets an error and is counted; with `repeat` it gets the last reply."""
    with FakeServer(FakeReply.json(1)) as server:
        assert [200, 500, 500] == [fetch(server.url)[0] for _ in range(3)]
        assert 2 == server.unexpected
        server.add(FakeReply.json(2))
        assert (200, b"2") == fetch(server.url)
    with FakeServer(FakeReply.json(1), FakeReply.json(2), repeat=True) as server:
        assert [b"1", b"2", b"2"] == [fetch(server.url)[1] for _ in range(3)]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_framings(framing: str) -> None:
    """The body is the same with each framing."""
    with FakeServer(FakeReply([b"ab", Sleep(0), b"c"], framing=framing)) as server:  # type: ignore[arg-type]
        assert (200, b"abc") == fetch(server.url)


async def answered(server: FakeServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
    return reader, writer


async def test_gates() -> None:
    """The steps after a `Wait` are sent when it is released, and not before."""
    async with FakeServer(FakeReply([b"one", Wait(), b"two"], head=b"")) as server:
        reader, writer = await answered(server)
        assert b"one" == await reader.readexactly(3)
        rest = asyncio.create_task(reader.read())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not rest.done()
        server.release()
        assert b"two" == await rest
        writer.close()
        await server.wait_closed()


async def test_ends() -> None:
    """`Reset` resets the connection, `Hangup` closes it too early, and `Hold` waits for the client."""
    replies = [FakeReply([b"x", end]) for end in (Reset(), Hangup(), Hold())]
    async with FakeServer(*replies) as server:
        reader, writer = await answered(server)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        reader, writer = await answered(server)
        assert (await reader.read()).endswith(b"1\r\nx\r\n")
        writer.close()
        reader, writer = await answered(server)
        await server.wait_requests(3)
        assert 1 == server.open_connections
        with pytest.raises(TimeoutError):
            await server.wait_closed(timeout=0.05)
        writer.close()
        await server.wait_closed()


async def test_stopping_closes_what_is_open() -> None:
    """Stopping the server closes its connections, so that no client waits."""
    async with FakeServer(FakeReply([b"x", Hold()], head=b"")) as server:
        reader, writer = await answered(server)
        await server.wait_requests(1)
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 60)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 1)


def test_events() -> None:
    """`sse` and `chat_chunk` return the form that servers send."""
    assert b"data: [DONE]\n\n" == sse("[DONE]")
    assert b'event: error\ndata: {"a":"\xc3\xa9"}\n\n' == sse({"a": "\u00e9"}, event="error")
    assert {"content": "Hi"} == chat_chunk("Hi")["choices"][0]["delta"]
    assert "stop" == chat_chunk({}, "stop", usage={})["choices"][0]["finish_reason"]


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not exist for Windows")
@pytest.mark.parametrize("cut", [None, Reset(), Hangup(), Hold()], ids=lambda cut: type(cut).__name__)
def test_under_uvloop(cut: Any) -> None:
    """Each step works with the transports of uvloop, too."""
    import uvloop

    async def ask() -> tuple[str, str]:
        reply = FakeReply.text("fine") if cut is None else FakeReply.chunks(chat_chunk("Half"), cut)
        async with FakeServer(reply) as server:
            model = OpenAICompatModel(provider="fake", id="m", base_url=server.url)
            options = AgentOptions(initial_state={"model": model}, stream_fn=stream_openai_completions)
            agent = Agent(options)
            if isinstance(cut, Hold):
                agent.subscribe(lambda event: agent.abort() if "Half" in str(event) else None)
            message = await agent.prompt("Hi")
            await server.wait_closed() if cut is not None else None
            return extract_text(message), message["stop_reason"]

    expected = {type(None): ("fine", "stop"), Hold: ("Half", "aborted")}.get(type(cut), ("Half", "error"))
    assert expected == uvloop.run(ask())
