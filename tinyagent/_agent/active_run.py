"""The current run of an agent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future

from tinyagent._cancel import AbortSignal
from tinyagent._event_stream import Channel
from tinyagent.agent_types import AgentEvent, AgentMessage

__all__ = ["ActiveRun"]

CLOSED_LOOP_INTERVAL_S = 0.2
"""Seconds between checks whether the event loop of a run was closed, while another loop waits for the run."""


class ActiveRun:
    """The current run: its signal, its task and its end."""

    def __init__(self, channel: Channel[AgentEvent, list[AgentMessage]] | None) -> None:
        self.signal = AbortSignal()
        self.channel = channel
        self.task = asyncio.current_task()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.stuck: set[object] = set()
        """Listeners that exceeded their grace period. The run no longer waits for them."""
        self._over: Future[None] = Future()

    @property
    def abandoned(self) -> bool:
        return self.channel is not None and self.channel.abandoned

    def end(self) -> None:
        """Wake all tasks that wait for the end."""
        if not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        """Wait for the end, in any event loop; also returns when the run's own loop is closed."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # The waiting loop was closed.
                loop.call_soon_threadsafe(ended.set)

        self._over.add_done_callback(wake)
        while not ended.is_set() and not self.loop.is_closed():
            # Closing a loop triggers no notification, so another loop has to check.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.loop is loop else CLOSED_LOOP_INTERVAL_S):
                    await ended.wait()
