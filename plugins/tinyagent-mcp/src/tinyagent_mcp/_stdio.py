"""A server as a process, with one JSON-RPC message per line on its standard input and output.

The SDK has such a transport, too. This one reads bytes, so that any output of a server is limited and has a
defined result: long lines are cut, bytes that are not UTF-8 are replaced, and a line that is not a message is
ignored, or fails the request that it answers.

Format: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest

from tinyagent.sandbox import Launch
from tinyagent.supervisor import supervised_command

from ._parser import LongLine, MessageParser

__all__ = ["MAX_LINE", "MessageSink", "MessageSource", "stdio_transport"]

CHUNK = 262_144

MAX_LINE = 32 * 1024 * 1024
"""The limit of one message, in bytes. Only the beginning of a longer one is read."""

MAX_SKIPPED = 512 * 1024 * 1024
"""The limit of one line, in bytes. A longer one ends the connection."""

HEAD, TAIL = 1024 * 1024, 4096
"""Bytes of the beginning and the end of a line that is too long."""

EXIT_SECONDS = 3.0
"""Seconds that the supervisor may take to end the server: one and a half, and a reserve.

The command line gives the `atexit` functions 4 s in all."""


class MessageSource(Protocol):
    """The messages from a server, in the form that the SDK's client reads."""

    async def receive(self) -> SessionMessage | Exception: ...
    async def aclose(self) -> None: ...
    def __aiter__(self) -> MessageSource: ...
    async def __anext__(self) -> SessionMessage | Exception: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...


class MessageSink(Protocol):
    """The messages to a server, in the form that the SDK's client writes."""

    async def send(self, item: SessionMessage, /) -> None: ...
    async def aclose(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...


@asynccontextmanager
async def stdio_transport(
    launch: Launch,
    directory: Path,
    errors: deque[str],
    on_end: Callable[[], None],
) -> AsyncIterator[tuple[MessageSource, MessageSink]]:
    """Start a server, and yield the streams for the SDK's client. End the server afterwards.

    Args:
        launch: How to start its program.
        directory: Its working directory.
        errors: Collects the last lines of its standard error.
        on_end: Called when the server closes its output, or its output exceeds a limit.
    """
    with launch:
        process = await asyncio.create_subprocess_exec(
            *supervised_command(launch.command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=launch.environment,
            cwd=directory,
            pass_fds=launch.descriptors,
            start_new_session=os.name == "posix",
            limit=CHUNK,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    listening = asyncio.create_task(_collect(process.stderr, errors))
    waiting: set[str | int] = set()
    try:
        yield _Messages(process.stdout, waiting, listening, on_end), _Requests(process.stdin, waiting)
    finally:
        await _finish(process)
        listening.cancel()
        await asyncio.wait({listening})


async def _finish(process: asyncio.subprocess.Process) -> None:
    """Close the input of the process, and kill its group if it does not end."""
    assert process.stdin is not None
    process.stdin.close()
    if hasattr(signal, "SIGCONT"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            process.send_signal(signal.SIGCONT)  # a server can stop its parent, the supervisor
    ended = asyncio.ensure_future(process.wait())
    if not await _ends(ended, EXIT_SECONDS):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        await _ends(ended, 1.0)
    ended.cancel()
    # A leftover process may hold the pipes open. There is no public way to get the transport.
    transport: object = getattr(process, "_transport", None)
    if isinstance(transport, asyncio.BaseTransport):
        transport.close()


async def _ends(ended: asyncio.Future[int], seconds: float) -> bool:
    """Return whether it ends in time. The time is short, so cancellations are ignored."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not ended.done() and (left := deadline - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({ended}, timeout=left)
    return ended.done()


async def _collect(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    """Read standard error to its end, and store the last lines, truncated."""
    rest = b""
    while data := await stream.read(65_536):
        *whole, rest = (rest + data).split(b"\n")
        rest = rest[-2_000:]
        lines.extend(line[-500:].decode("utf-8", "replace") for line in whole[-100:] if line.strip())
    if rest.strip():
        lines.append(rest[-500:].decode("utf-8", "replace"))


class _Stream:
    """The common part of the streams of both directions."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Do nothing: `stdio_transport` ends the process."""


class _Requests(_Stream):
    """The messages to the server."""

    def __init__(self, pipe: asyncio.StreamWriter, waiting: set[str | int]) -> None:
        self._pipe = pipe
        self._waiting = waiting

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        data = message.model_dump_json(by_alias=True, exclude_unset=True).encode("utf-8", "replace")
        if isinstance(message, JSONRPCRequest):
            self._waiting.add(message.id)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._waiting.discard((message.params or {}).get("requestId", ""))
        try:
            self._pipe.write(data + b"\n")
            await self._pipe.drain()
        except (OSError, RuntimeError):
            raise anyio.BrokenResourceError from None


class _Messages(_Stream):
    """The messages from the server."""

    def __init__(
        self,
        pipe: asyncio.StreamReader,
        waiting: set[str | int],
        listening: asyncio.Task[None],
        on_end: Callable[[], None],
    ) -> None:
        self._pipe = pipe
        self._parser = MessageParser(waiting)
        self._listening = listening
        self._on_end = on_end
        self._buffer = bytearray()
        self._ready: deque[SessionMessage] = deque()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def receive(self) -> SessionMessage:
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    async def __anext__(self) -> SessionMessage:
        while not self._ready:
            if self._ended:
                # The last lines of standard error often have the reason.
                await asyncio.wait({self._listening}, timeout=0.5)
                raise StopAsyncIteration
            line = await self._line()
            if line is not None:
                self._ready.extend(self._parser.parse(line))
        return self._ready.popleft()

    async def _line(self) -> bytes | LongLine | None:
        """Return the next line; None for a blank line, and at the end."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) > MAX_LINE:
                return await self._long_line()
            searched = len(self._buffer)
            data = await self._pipe.read(CHUNK)
            if not data:
                self._end()
                line = bytes(self._buffer)
                self._buffer.clear()
                return line
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line if line.strip() else None

    async def _long_line(self) -> LongLine | None:
        head, tail, length = bytes(self._buffer[:HEAD]), bytes(self._buffer[-TAIL:]), len(self._buffer)
        self._buffer.clear()
        while data := await self._pipe.read(CHUNK):
            rest, newline, after = data.partition(b"\n")
            length += len(rest)
            tail = (tail + rest)[-TAIL:]
            if newline:
                self._buffer += after
                return LongLine(head, tail, length)
            if length > MAX_SKIPPED:
                break
        self._end()
        return LongLine(head, tail, length)

    def _end(self) -> None:
        self._ended = True
        self._on_end()
