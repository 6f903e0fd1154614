"""Lower bounds of the cost: bytes from a socket or from httpx, and a typed decode of each event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec

from bench.clients import Ask, Body, Reply


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice]


_decode = msgspec.json.Decoder(Chunk).decode
_encode = msgspec.json.encode


def take(events: list[bytes], reply: Reply) -> None:
    """Decode the events of one read. Each still has the bytes before its `data: `."""
    for event in events:
        data = event[event.index(b"data: ") + 6 :]
        if data == b"[DONE]":
            return
        for choice in _decode(data).choices:
            delta = choice.delta
            if delta is None:
                continue
            piece = delta.content or delta.reasoning_content
            if piece:
                reply.count += 1
                reply.pieces.append(piece)
            elif delta.tool_calls:
                call = delta.tool_calls[0]
                reply.call_id = call.id or reply.call_id
                if call.function:
                    reply.count += 1
                    reply.name = call.function.name or reply.name
                    reply.arguments.append(call.function.arguments or "")


@asynccontextmanager
async def sockets(url: str) -> AsyncIterator[Ask]:
    """asyncio's streams with persistent connections. It assumes that each chunk has one event."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(body: Body) -> Reply:
        connection = idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = connection
        data = _encode(body)
        writer.write(b"%b%d\r\n\r\n%b" % (head, len(data), data))
        await reader.readuntil(b"\r\n\r\n")
        reply, rest = Reply(), b""
        while rest != b"0\r\n\r\n":
            *events, rest = (rest + await reader.read(1 << 18)).split(b"\n\n\r\n")
            take(events, reply)
        idle.append(connection)
        return reply

    try:
        yield ask
    finally:
        for _, writer in idle:
            writer.close()


@asynccontextmanager
async def httpx_bytes(url: str) -> AsyncIterator[Ask]:
    """An httpx client that returns the bytes as they arrive."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def ask(body: Body) -> Reply:
            reply, rest = Reply(), b""
            headers = {"Content-Type": "application/json"}
            async with client.stream(
                "POST", f"{url}/chat/completions", content=_encode(body), headers=headers
            ) as response:
                async for data in response.aiter_raw():
                    *events, rest = (rest + data).split(b"\n\n")
                    take(events, reply)
            return reply

        yield ask
