"""Ending what another piece of code awaits: one primitive for aborts, time-outs and closing.

`asyncio.timeout` shows how a block is cancelled from outside and the cancellation turned into an
ordinary exception at its end. `Interrupt` is the same with any reason:

    async with Interrupt(signal) as interrupt:      # setting the signal raises Aborted here
        loop.call_later(5, interrupt.fire, ProviderTimeoutError("no event for 5 s"))
        await something()
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

__all__ = ["AbortSignal", "Aborted", "Interrupt", "finish", "resolve"]

T = TypeVar("T")


class Aborted(Exception):
    """The signal was set; internal, it never leaves a run."""

    def __init__(self, message: str = "The run was aborted.") -> None:
        super().__init__(message)


class AbortSignal(asyncio.Event):
    """An `asyncio.Event` that also calls back, so that waiting for it needs no task."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        """Set the event and call everybody who asked, in the order in which they did."""
        if not self.is_set():
            super().set()
            for callback in list(self._callbacks.values()):
                callback()

    def subscribe(self, key: object, callback: Callable[[], None]) -> None:
        """Have `callback` called by `set`; at once if the signal is set already."""
        self._callbacks[key] = callback
        if self.is_set():
            callback()

    def unsubscribe(self, key: object) -> None:
        """Forget the callback of this key."""
        self._callbacks.pop(key, None)


class Interrupt:
    """Guards a block that `fire`, or a signal, ends with an exception.

    Args:
        signal: Once it is set the block ends with `Aborted`.
    """

    def __init__(self, signal: asyncio.Event | None = None) -> None:
        self.reason: BaseException | None = None
        self._signal = signal
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def fire(self, reason: BaseException) -> None:
        """End the block with `reason`; the first reason wins, and after the block nothing happens."""
        if self.reason is None and self._task is not None:
            self.reason = reason
            self._task.cancel()

    async def __aenter__(self) -> Self:
        if self._signal is not None and self._signal.is_set():
            raise Aborted
        self._task = asyncio.current_task()
        assert self._task is not None, "an Interrupt guards a task"
        self._cancelling = self._task.cancelling()
        signal = self._signal
        if isinstance(signal, AbortSignal):
            signal.subscribe(self, lambda: self.fire(Aborted()))
        elif signal is not None:
            self._watcher = asyncio.create_task(self._watch(signal))
        return self

    async def _watch(self, signal: asyncio.Event) -> None:
        await signal.wait()
        self.fire(Aborted())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        assert task is not None
        if isinstance(self._signal, AbortSignal):
            self._signal.unsubscribe(self)
        elif self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self.reason is None:
            return
        if error is None:
            # Fired by the task itself, or swallowed inside: take delivery of what may be pending.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                kind = asyncio.CancelledError
        if task.uncancel() <= self._cancelling and (kind is None or kind is asyncio.CancelledError):
            raise self.reason from None


async def resolve(value: T | Awaitable[T]) -> T:
    """The value of a callback that may be sync or async."""
    if isinstance(value, Awaitable):
        return cast(T, await value)
    return value


async def finish(awaitable: Awaitable[T], grace: float) -> T:
    """Await something that a cancellation of ours should not cut short.

    When this task is cancelled it goes on for up to `grace` seconds, is then cancelled itself, and the
    cancellation goes its way.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=grace)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=grace)
        if task.done() and not task.cancelled():
            task.exception()
        raise
