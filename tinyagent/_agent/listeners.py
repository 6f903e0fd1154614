"""The listeners of an agent, which may be async, slow or faulty."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from tinyagent._cancel import Aborted, CancelScope, best_effort, invoke, is_cancelled, shielded
from tinyagent.agent_types import AgentEvent

from .active_run import ActiveRun

__all__ = ["Listener", "Listeners", "Waiting"]

logger: logging.Logger = logging.getLogger("tinyagent")

LISTENER_GRACE_S = 1.0
"""Seconds that an async listener has for an event after its run was aborted or cancelled."""

Listener = Callable[[AgentEvent], Awaitable[None] | None]
Waiting = list[tuple[object, Awaitable[None]]]
"""What the async listeners have returned for an event, by their keys."""


class Listeners:
    """Calls listeners. One that raises is logged once, and is still called with later events."""

    def __init__(self) -> None:
        self.functions: dict[object, Listener] = {}
        """The listeners by their keys. The dict is replaced, not changed, so that it can be iterated."""
        self._reported: set[object] = set()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a listener, and return a function that removes it."""
        key = object()
        self.functions = {**self.functions, key: listener}

        def remove() -> None:
            self.functions = {other: fn for other, fn in self.functions.items() if other is not key}
            self._reported.discard(key)

        return remove

    def call(self, event: AgentEvent) -> Waiting | None:
        """Call all listeners with an event. What async ones return is for `settle`."""
        waiting: Waiting | None = None
        for key, listener in self.functions.items():
            try:
                returned = listener(event)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a listener never breaks the run
                self._report(key, listener)
            else:
                if returned is not None and inspect.isawaitable(returned):
                    waiting = [*(waiting or ()), (key, returned)]
        return waiting

    async def settle(self, waiting: Waiting, active: ActiveRun | None, room: Awaitable[None] | None) -> None:
        """Await async listeners in order; for a limited time if the run is ending. Then await `room`."""
        stuck = active.stuck if active is not None else set()
        rest = deque(waiting)

        async def listen() -> None:
            while rest:
                key, returned = rest[0]
                if key in stuck:
                    _close_unawaited(returned)
                else:
                    try:
                        await invoke(lambda returned=returned: returned)
                    except Exception:  # noqa: BLE001 - a listener never breaks the run
                        self._report(key, self.functions.get(key))
                rest.popleft()

        cancelled: asyncio.CancelledError | None = None
        while rest:
            try:
                if active is None or is_cancelled(active.task) or active.signal.is_set():
                    # The run is closing its events. This must not be interrupted again.
                    await best_effort(listen(), LISTENER_GRACE_S)
                else:
                    async with CancelScope(active.signal):
                        await shielded(listen(), LISTENER_GRACE_S)
            except Aborted:
                pass  # The listener had its grace period. The run itself reacts to the abort.
            except asyncio.CancelledError as error:
                cancelled = error
            if rest:
                stuck.add(rest.popleft()[0])
        if cancelled is not None:
            raise cancelled
        if room is not None:
            await room

    def _report(self, key: object, listener: Listener | None) -> None:
        if key not in self._reported:
            self._reported.add(key)
            logger.exception(
                "The event listener %r raised. This is logged once, and the run continues.",
                listener,
            )


def _close_unawaited(returned: Awaitable[None]) -> None:
    if inspect.iscoroutine(returned):
        returned.close()
