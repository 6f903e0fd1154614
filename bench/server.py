"""A chat/completions server on loopback that is never the bottleneck: every reply is prepared in advance.

The model's id selects the reply:

    text-1000           1,000 one-word deltas
    thinking-1000       500 deltas of reasoning, then 500 of text
    arguments-1024-64   a tool call with 1,024 bytes of arguments in 64-byte pieces
    paced-500           500 one-word deltas that take a second
    turns-100           tool calls until the request has 100 tool results, then a word

Each network chunk has one SSE event (chunked encoding); usage and `[DONE]` come last. Connections stay open.
As a process it prints its port: `python -m bench.server CPU`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import sys
from typing import Any

from bench.measure import pin

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = re.findall(r" \w+", " the quick brown fox jumps over a lazy dog and then it sleeps all day")
TICK = 0.02
MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"/]*/)*([a-z]+(?:-\d+)*)"')
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def frame(data: str) -> bytes:
    """Return one SSE event as one network chunk."""
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def chunk(model: str, delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    """Return a chat.completion.chunk; without a delta it has no choices."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {
        "id": "chatcmpl-B7Qk3vXyPpXq0m1nQm0cYtTzq9r1a",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": model,
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [] if delta is None else [choice],
    }
    return frame(json.dumps(head | more, separators=(",", ":")))


def words(model: str, count: int, key: str = "content") -> list[bytes]:
    """Return `count` deltas of one word each."""
    cycle = [chunk(model, {key: word}) for word in WORDS]
    return [cycle[n % len(cycle)] for n in range(count)]


def call(model: str, call_id: str, name: str, arguments: str, size: int) -> list[bytes]:
    """Return a tool call with its arguments in pieces of `size` bytes."""
    first = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    return [
        chunk(model, {"tool_calls": [{"index": 0, **first}]}),
        *(chunk(model, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces),
    ]


def whole(model: str, frames: list[bytes], finish: str = "stop") -> list[bytes]:
    """Return a complete reply with these deltas."""
    usage = {"prompt_tokens": 20, "completion_tokens": len(frames), "total_tokens": 20 + len(frames)}
    return [
        chunk(model, {"role": "assistant", "content": ""}),
        *frames,
        chunk(model, {}, finish),
        chunk(model, None, usage=usage),
        frame("[DONE]") + b"0\r\n\r\n",
    ]


@functools.cache
def reply(model: str, results: int) -> list[bytes]:
    """Return the reply to a request with this number of tool results."""
    kind, *numbers = model.split("-")
    first = int(numbers[0]) if numbers else 1
    match kind:
        case "thinking":
            half = first // 2
            return whole(model, words(model, half, "reasoning_content") + words(model, first - half))
        case "arguments":
            text = json.dumps({"text": "x" * (first - len('{"text":""}'))}, separators=(",", ":"))
            return whole(model, call(model, "call_1", "keep", text, int(numbers[1])), "tool_calls")
        case "turns" if results < first:
            arguments = json.dumps({"path": f"src/module_{results}.py"})
            return whole(model, call(model, f"call_{results}", "read", arguments, 16), "tool_calls")
        case "turns":
            return whole(model, words(model, 1))
        case _:
            return whole(model, words(model, first))


@functools.cache
def reply_bytes(model: str, results: int) -> bytes:
    """Return the same reply in one piece."""
    return HEAD + b"".join(reply(model, results))


def _step(frames: list[bytes]) -> int:
    """Return the frames of a paced reply that are sent at a time."""
    return max(int(len(frames) * TICK), 1)


def pace_s(model: str) -> float:
    """Return the seconds that the server takes for a paced reply."""
    frames = reply(model, 0)
    return (math.ceil(len(frames) / _step(frames)) - 1) * TICK


class Connection(asyncio.Protocol):
    """Answer the requests of one connection, one after the other."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.buffer, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < total:
                return
            body = bytes(self.buffer[end + 4 : total])
            del self.buffer[:total]
            self.answer(body)

    def answer(self, body: bytes) -> None:
        found = MODEL.search(body)
        model = found[1].decode() if found else "text-1"
        if model.startswith("paced"):
            self.transport.write(HEAD)
            frames = reply(model, 0)
            begin = asyncio.get_running_loop().time()
            self.pace(frames, 0, _step(frames), begin)
        else:
            results = body.count(b'"tool_call_id"') if model.startswith("turns") else 0
            self.transport.write(reply_bytes(model, results))

    def pace(self, frames: list[bytes], at: int, step: int, due: float) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(b"".join(frames[at : at + step]))
        if at + step < len(frames):
            loop = asyncio.get_running_loop()
            loop.call_at(due + TICK, self.pace, frames, at + step, step, due + TICK)


async def serve(cpu: int) -> None:
    """Serve until standard input ends, because the parent process has ended."""
    pin(cpu)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
