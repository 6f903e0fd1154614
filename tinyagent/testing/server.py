"""A server for tests: HTTP/1.1 on the loopback interface, with every byte from a script.

    async with FakeServer(FakeReply.text("Hello", " you")) as server:
        model = OpenAICompatModel(id="m", base_url=server.url)
        reply = await stream_openai_completions(model, Context(messages=[...]))
        ...
    assert server.requests[0].json["model"] == "m"

The server answers each request with the next reply of its script, and records the requests. A step of a reply
is bytes, which are sent as one chunk, or `Sleep`, `Wait`, `Hold`, `Reset` or `Hangup`. `with FakeServer(...)`
runs it in a thread, for tests that are not asynchronous or that start processes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypedDict, Unpack, cast

__all__ = [
    "FakeReply",
    "FakeServer",
    "Hangup",
    "Hold",
    "RecordedRequest",
    "Reset",
    "Sleep",
    "Step",
    "Wait",
    "chat_chunk",
    "sse",
]


@dataclass(frozen=True)
class Sleep:
    """Send nothing for this number of seconds."""

    seconds: float


@dataclass(frozen=True)
class Wait:
    """Send nothing until the test calls `release`."""


@dataclass(frozen=True)
class Hold:
    """Send nothing more and keep the connection open until the client closes it."""


@dataclass(frozen=True)
class Reset:
    """Reset the connection (TCP RST)."""


@dataclass(frozen=True)
class Hangup:
    """Close the connection (TCP FIN), although the body is not complete."""


Step: TypeAlias = bytes | Sleep | Wait | Hold | Reset | Hangup


def sse(data: object, *, event: str | None = None) -> bytes:
    """Return a server-sent event. Data other than text and bytes is encoded as JSON."""
    if isinstance(data, bytes):
        text = data
    elif isinstance(data, str):
        text = data.encode("utf-8", "surrogatepass")
    else:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    name = f"event: {event}\n".encode() if event is not None else b""
    return name + b"data: " + text + b"\n\n"


def chat_chunk(
    delta: Mapping[str, object] | str | None = None, finish_reason: str | None = None, **fields: object
) -> dict[str, object]:
    """Return a chunk of chat/completions.

    Args:
        delta: The delta; a string is its `content`.
        finish_reason: The finish reason of the choice.
        fields: Added to the chunk.
    """
    if isinstance(delta, str):
        delta = {"content": delta}
    choice = {"index": 0, "delta": dict(delta or {}), "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [choice],
        **fields,
    }


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class ReplyFields(TypedDict, total=False):
    """Fields of a `FakeReply` other than its steps."""

    status: int
    headers: Mapping[str, str | None]
    framing: Literal["chunked", "length", "close"]
    head: bytes | None


@dataclass(frozen=True)
class FakeReply:
    """The reply to one request.

    Attributes:
        steps: The steps of the body.
        status: The HTTP status.
        headers: Added to the content type and the headers of the framing. The value None removes a header.
        framing: `chunked`; `length`, the sum of the steps that are bytes; or `close`, until the end of the
            connection.
        head: Any bytes, instead of the status line and the headers.
    """

    steps: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    framing: Literal["chunked", "length", "close"] = "chunked"
    head: bytes | None = None

    @classmethod
    def chunks(cls, *chunks: object, done: bool = True, **fields: Unpack[ReplyFields]) -> FakeReply:
        """Return a stream of these JSON chunks. Each is one event and one network chunk.

        Args:
            chunks: The chunks, and steps such as `Wait`.
            done: Whether the stream ends with `[DONE]`.
            fields: Other fields of the `FakeReply`.
        """
        steps = [chunk if isinstance(chunk, Step) else sse(chunk) for chunk in chunks]
        return cls([*steps, DONE] if done else steps, **fields)

    @classmethod
    def text(
        cls, *pieces: str, usage: Mapping[str, object] | None = None, **fields: Unpack[ReplyFields]
    ) -> FakeReply:
        """Return a complete chat reply with this text, one delta for each piece."""
        end = chat_chunk({}, "stop", usage=dict(usage or USAGE))
        return cls.chunks(*map(chat_chunk, pieces), end, **fields)

    @classmethod
    def tool_calls(
        cls, *calls: tuple[str, Mapping[str, object]], text: str = "", **fields: Unpack[ReplyFields]
    ) -> FakeReply:
        """Return a complete chat reply that calls tools, such as `("add", {"a": 1})`."""
        before = [chat_chunk(text)] if text else []
        deltas = [
            {
                "index": n,
                "id": f"call_{name}_{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for n, (name, arguments) in enumerate(calls)
        ]
        end = chat_chunk({}, "tool_calls", usage=USAGE)
        return cls.chunks(*before, *[chat_chunk({"tool_calls": [delta]}) for delta in deltas], end, **fields)

    @classmethod
    def json(cls, value: object, status: int = 200, **headers: str) -> FakeReply:
        """Return a JSON document. Header names have `_` for `-`."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(
            [json.dumps(value).encode()],
            status=status,
            headers={"content-type": "application/json", **named},
            framing="length",
        )

    @classmethod
    def error(cls, status: int, message: str, **headers: str) -> FakeReply:
        """Return an HTTP error in the form of OpenAI. Header names have `_` for `-`."""
        return cls.json({"error": {"message": message}}, status, **headers)

    def _head(self) -> bytes:
        if self.head is not None:
            return self.head
        headers: dict[str, str | None] = {"content-type": "text/event-stream"}
        if self.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        elif self.framing == "length":
            headers["content-length"] = str(sum(len(step) for step in self.steps if isinstance(step, bytes)))
        else:
            headers["connection"] = "close"
        headers |= {name.lower(): value for name, value in self.headers.items()}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
        return (f"HTTP/1.1 {self.status} Scripted\r\n" + "".join(lines) + "\r\n").encode("latin-1")


@dataclass(frozen=True)
class RecordedRequest:
    """A request that the server received. Header names are in lower case.

    Attributes:
        method: The HTTP method.
        path: The path with its query.
        headers: The headers.
        body: The body.
        connection: The number of its connection, from 1.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class FakeServer:
    """A server that answers with a script; see the module.

    Args:
        replies: One reply for each request, in order.
        repeat: Whether further requests get the last reply. Otherwise they get status 500 with the request
            not to try again.

    Attributes:
        requests: The requests, in order.
        unexpected: The number of requests that had no reply in the script.
        connections: The number of connections so far.
        port: The port; 0 before the start.
    """

    def __init__(self, *replies: FakeReply, repeat: bool = False) -> None:
        self.requests: list[RecordedRequest] = []
        self.unexpected: int = 0
        self.connections = 0
        self.port: int = 0
        self._replies = list(replies)
        self._repeat = repeat
        self._open: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._thread: threading.Thread | None = None
        self._changed: asyncio.Condition | None = None
        self._released = 0
        self._waited = 0

    # ---- start and stop -----------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base URL for a model: the origin with `/v1`."""
        return f"{self.origin}/v1"

    async def start(self) -> Self:
        """Start to listen, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Condition()
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        assert self._server is not None
        self._server.close()
        tasks = [connection.task for connection in self._open if connection.task is not None]
        for connection in list(self._open):
            connection.shut()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        ready = threading.Event()
        stop: list[asyncio.Event] = []

        async def serve() -> None:
            stop.append(asyncio.Event())
            await self.start()
            ready.set()
            await stop[0].wait()
            await self.stop()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="FakeServer", daemon=True)
        self._thread.start()
        ready.wait()
        self._stop = stop[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # ---- for tests -------------------------------------------------------------------------

    def add(self, *replies: FakeReply) -> None:
        """Add replies to the script."""
        self._replies += replies

    def release(self, count: int = 1) -> None:
        """End the next `Wait`, or the next `count`. May be called from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._release, count)

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    async def wait_requests(self, count: int, timeout: float = 30.0) -> None:
        """Wait until `count` requests have arrived, at most `timeout` seconds."""
        await self._until(lambda: len(self.requests) >= count, timeout)

    async def wait_closed(self, timeout: float = 30.0) -> None:
        """Wait until the client has closed all connections.

        Raises:
            TimeoutError: Some are open after `timeout` seconds.
        """
        await self._until(lambda: self.connections > 0 and not self._open, timeout)

    # ---- internals -----------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this FakeServer runs in another thread: poll its attributes instead")
        assert self._changed is not None
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    def _notify(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is None or changed is None or loop.is_closed():
            return

        # Only a coroutine can acquire the lock of the condition.
        async def notify() -> None:
            async with changed:
                changed.notify_all()

        self._notifying = loop.create_task(notify())

    def _release(self, count: int) -> None:
        self._released += count
        self._notify()

    async def _wait_for_release(self) -> None:
        self._waited += 1
        number = self._waited
        assert self._changed is not None
        async with self._changed:
            await self._changed.wait_for(lambda: self._released >= number)

    def _next_reply(self) -> FakeReply:
        if self._repeat and len(self._replies) == 1:
            return self._replies[0]
        if self._replies:
            return self._replies.pop(0)
        self.unexpected += 1
        return FakeReply.error(
            500, f"FakeServer: no reply left for request {len(self.requests)}", x_should_retry="false"
        )


class _Connection(asyncio.Protocol):
    """One connection: parses the requests, and answers them in order."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.number = 0
        self.task: asyncio.Task[None] | None = None
        self._buffer = bytearray()
        self._pending: asyncio.Queue[RecordedRequest] = asyncio.Queue()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop are not instances of asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        self._writable.set()
        self.server.connections += 1
        self.number = self.server.connections
        self.server._open.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self.task is not None:
            self.task.cancel()
        self.server._open.discard(self)
        self.server._notify()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (request := self._parse()) is not None:
            self.server.requests.append(request)
            self._pending.put_nowait(request)
            self.server._notify()

    def shut(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _parse(self) -> RecordedRequest | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < end + 4 + length:
            return None
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        return RecordedRequest(method, path, headers, body, self.number)

    async def _serve(self) -> None:
        assert self._transport is not None
        while True:
            await self._pending.get()
            reply = self.server._next_reply()
            if not await self._play(reply, self._transport):
                self._transport.close()
                return

    async def _play(self, reply: FakeReply, transport: asyncio.Transport) -> bool:
        """Send a reply, and return whether the connection can be used again."""
        chunked = reply.framing == "chunked" and reply.head is None
        transport.write(reply._head())
        for step in reply.steps:
            if isinstance(step, bytes):
                if step:
                    transport.write(b"%x\r\n%b\r\n" % (len(step), step) if chunked else step)
                await self._writable.wait()
                # Without this, the kernel would join small steps to one network chunk.
                await asyncio.sleep(0)
            elif isinstance(step, Sleep):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Wait):
                await self.server._wait_for_release()
            elif isinstance(step, Hold):
                await asyncio.get_running_loop().create_future()
            elif isinstance(step, Reset):
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
                return False
            else:
                return False
        if chunked:
            transport.write(b"0\r\n\r\n")
        return reply.framing != "close" and reply.head is None


def split_bytes(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return the bytes in pieces, cut at these positions."""
    places = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
