"""The thread with the event loop of all connections.

A synchronous function registers tools, and they run later in the event loop of the agent. A connection
outlives both. So connections have an event loop of their own, in a daemon thread that starts with the first
server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["Host"]

T = TypeVar("T")

CLOSE_TIMEOUT_S = 3.0
"""Seconds for the remaining tasks of the loop to end."""


class Host:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread runs."""
        return self._loop is not None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._live, args=(loop,), name="tinyagent mcp", daemon=True
                )
                self._loop = loop
                self._thread.start()
            return self._loop

    @staticmethod
    def _live(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            # Tasks first: a generator cannot be closed while a task runs it.
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine in the thread, and block until it is done."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def call(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine in the thread, and await it in the current loop. A cancellation is forwarded."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
