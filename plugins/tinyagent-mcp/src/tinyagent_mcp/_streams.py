"""The streams between a transport and the SDK: messages are repaired, and answers have a size limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import httpx2
from mcp.client import Transport
from mcp.shared.message import SessionMessage

from ._inbound import Inbound
from ._stdio import MAX_LINE, MessageSink, MessageSource

__all__ = ["BoundedStream", "repaired"]


class _Reading:
    """The stream of repaired messages from a server; reports its end."""

    def __init__(
        self, stream: MessageSource, writing: _Writing, inbound: Inbound, on_end: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._writing = writing
        self._inbound = inbound
        self._on_end = on_end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        while True:
            try:
                item = await self._stream.__anext__()
            except StopAsyncIteration:
                self._on_end()
                raise
            if isinstance(item, Exception):
                continue  # the line is not a message
            message, answer = self._inbound.received(item.message)
            if answer is not None:
                self._writing.send_soon(SessionMessage(answer))
            if message is not None:
                return SessionMessage(message, item.metadata)

    async def receive(self) -> SessionMessage | Exception:
        return await self.__anext__()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self._stream.__aexit__(exc_type, exc_val, exc_tb)


class _Writing:
    """The stream of messages to a server."""

    MAX_WAITING = 32
    """The limit of answers that wait for a server to read; further ones are dropped."""

    def __init__(self, stream: MessageSink, inbound: Inbound) -> None:
        self._stream = stream
        self._inbound = inbound
        self._waiting: set[asyncio.Task[None]] = set()

    async def send(self, item: SessionMessage, /) -> None:
        self._inbound.sent(item.message)
        await self._stream.send(item)

    def send_soon(self, item: SessionMessage) -> None:
        """Send in the background, so that reading continues."""
        if len(self._waiting) < self.MAX_WAITING:
            task = asyncio.create_task(self._try(item))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _try(self, item: SessionMessage) -> None:
        with contextlib.suppress(Exception):  # the reader notices the end of the connection
            await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        for task in list(self._waiting):
            task.cancel()
        await self._stream.__aexit__(exc_type, exc_val, exc_tb)


@asynccontextmanager
async def repaired(
    transport: Transport, inbound: Inbound, on_end: Callable[[], None]
) -> AsyncIterator[tuple[MessageSource, MessageSink]]:
    """Yield the streams of a transport with repaired messages; call `on_end` when the server ends them."""
    async with transport as (read, write):
        writing = _Writing(write, inbound)
        yield _Reading(read, writing, inbound, on_end), writing


class BoundedStream(httpx2.AsyncByteStream):
    """Refuses an answer that is too large. Event streams are exempt: they have a limit per event."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for chunk in self._stream:
            length += len(chunk)
            if length > MAX_LINE:
                raise httpx2.StreamError(f"the answer is larger than {MAX_LINE:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
