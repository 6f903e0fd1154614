"""A stream of events that owns the task which produces them.

Errors of the task are raised to the reader. The task is cancelled at the end of `async with`, by `aclose`,
and when the last reference to the stream is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from ._cancel import is_cancelled, require_asyncio
from .errors import AgentStateError

__all__ = ["Channel", "EventStream", "Iteration"]

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
R = TypeVar("R")

LIMIT = 1024
"""Unread events until the run waits for the reader."""

_running: set[asyncio.Task[None]] = set()


class Channel(Generic[E, R]):
    """The queue between the task and the reader: events and one result."""

    def __init__(self) -> None:
        self._events: deque[E] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._finished: list[asyncio.Future[None]] = []
        self._result: R | None = None
        self._error: BaseException | None = None
        self._is_reported = False
        """Whether a reader has already received the error."""
        self.task: asyncio.Task[None] | None = None
        """The task that pushes the events, if the stream owns it."""
        self.ended = False
        self.bounded = False
        self.abandoned = False

    def push(self, event: E) -> Awaitable[None] | None:
        """Add an event. If the reader is too slow, return an awaitable to wait for it."""
        if self.ended:
            return None
        self._events.append(event)
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(None)
        return self._room() if self.bounded and len(self._events) >= LIMIT else None

    async def _room(self) -> None:
        # A cancelled run must emit its last events, even without a reader.
        while self.bounded and not self.ended and len(self._events) >= LIMIT and not is_cancelled(self.task):
            writer = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            await writer

    def unbind(self) -> None:
        """Do not limit the unread events any more, because they are not read while the result is awaited."""
        self.bounded = False
        _release(self._writers)

    def end(self, result: R | None = None, error: BaseException | None = None) -> None:
        """End the channel. Only the first call has an effect."""
        if self.ended:
            return
        self.ended, self._result, self._error = True, result, error
        if self._reader is not None:
            _release([self._reader])
        _release(self._writers)
        _release(self._finished)

    def close(self) -> None:
        """End the channel because the stream was closed. There is no result."""
        if not self.ended:
            self._is_reported = True
            self.end(error=AgentStateError("The stream was closed before it had a result."))

    async def next(self) -> E:
        """Return the next event. At the end, raise the error of the stream, then `StopAsyncIteration`."""
        while not self._events:
            if self.ended:
                if self._error is not None and not self._is_reported:
                    self._is_reported = True
                    raise self._error
                raise StopAsyncIteration
            if self.task is not None and self.task.get_loop() is not asyncio.get_running_loop():
                raise AgentStateError("The stream belongs to another event loop, where it was first read.")
            if self._reader is not None and not self._reader.done():
                raise AgentStateError("two tasks read one event stream; give each a stream of its own")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = self._events.popleft()
        if self._writers and len(self._events) <= LIMIT // 2:
            _release(self._writers)
        return event

    async def result(self) -> R:
        """Wait for the result, and return it."""
        while not self.ended:
            waiting = asyncio.get_running_loop().create_future()
            self._finished.append(waiting)
            await waiting
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class EventStream(Generic[E, R]):
    """An async iterator of events with a result.

    Without `run`, `push(event)` and `end(result)` fill it. With `run`, the stream owns a task. It starts with
    the first read, `async with` or `result()`. It ends at the latest with a `break` in `async for`, at the
    end of `async with`, by `aclose()`, or when the last reference to the stream is dropped.
    """

    def __init__(self, run: Callable[[Channel[E, R]], Awaitable[R]] | None = None) -> None:
        self._channel: Channel[E, R] = Channel()
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def push(self, event: E) -> None:
        """Add an event. After the end, this has no effect."""
        self._channel.push(event)

    def end(self, result: R | None = None) -> None:
        """End the stream with a result. Only the first call has an effect."""
        self._channel.end(result)

    def __aiter__(self) -> AsyncIterator[E]:
        return Iteration(self)

    async def __anext__(self) -> E:
        channel = self._channel
        if self._run is not None:
            self._start()
        return await channel.next()

    async def result(self) -> R:
        """Return the result of the run. Unread events can still be read afterwards.

        Raises:
            Exception: The run raised it.
            RuntimeError: The stream was closed before it had a result.
        """
        self._start()
        self._channel.unbind()
        return await self._channel.result()

    def _start(self) -> None:
        if self._run is None:
            return
        require_asyncio()
        run, self._run = self._run, None
        self._channel.bounded = True
        self._task = self._channel.task = asyncio.create_task(_drive(run, self._channel))
        _running.add(self._task)
        self._task.add_done_callback(_running.discard)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the run if it is still active, and wait for its end."""
        self._run = None
        task = self._task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            self._channel.unbind()
            if not self._channel.abandoned:  # A second cancellation would interrupt the clean-up.
                task.cancel()
            if task is not asyncio.current_task():
                await asyncio.wait([task])
        self._channel.close()

    def abandon(self) -> None:
        """Cancel the run without waiting for its end. May be called from any thread, also after the end."""
        task, channel = self._task, self._channel
        if task is None or task.done() or channel.ended or channel.abandoned:
            return
        channel.abandoned = True
        loop = task.get_loop()
        if not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime.
                loop.call_soon_threadsafe(_abandon, channel, task)

    def __del__(self) -> None:
        if hasattr(self, "_task"):
            self.abandon()


class Abandonable(Protocol[E_co]):
    """A stream that owns a run."""

    async def __anext__(self) -> E_co: ...

    def abandon(self) -> None:
        """End the run without waiting for it."""
        ...


class Iteration(Generic[E]):
    """One `async for` over a stream. Leaving the loop ends the run, even if the stream is still in use."""

    def __init__(self, stream: Abandonable[E]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[E]:
        return self._stream.__anext__()

    def __del__(self) -> None:
        self._stream.abandon()


async def _drive(run: Callable[[Channel[E, R]], Awaitable[R]], channel: Channel[E, R]) -> None:
    try:
        channel.end(await run(channel))
    except asyncio.CancelledError:
        channel.close()
        raise
    except BaseException as error:
        channel.end(error=error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise


def _abandon(channel: Channel[E, R], task: asyncio.Task[None]) -> None:
    channel.unbind()
    task.cancel()


def _release(futures: list[asyncio.Future[None]]) -> None:
    while futures:
        future = futures.pop()
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None)
