"""The open connections of an event loop, and the turns of the responses that are read in it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple
from urllib.parse import urlsplit

from tinyagent._cancel import wake
from tinyagent.errors import ConfigurationError

from .direct import DirectTransport
from .errors import redact
from .transport import Route, Transport, TransportChoice

__all__ = ["Pool", "current_pool", "make_transport"]

MAX_IDLE = 512
"""The most idle connections to one server. A batch of 500 prompts at a time returns as many at once."""
KEEP_ALIVE_S = 60.0
"""How long an idle connection stays open."""
YIELD_AFTER_S = 0.01
"""How long responses are read before the event loop runs its other tasks."""
TURNS_PER_YIELD = 16
"""How many waiting responses continue before the event loop runs its other tasks again."""

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def make_transport(route: Route, choice: TransportChoice) -> Transport:
    """Return a transport without a connection yet.

    Args:
        route: The server and the proxy.
        choice: The engine.

    Raises:
        ConfigurationError: The engine, or no engine, can use the proxy.
    """
    scheme = urlsplit(route.proxy).scheme if route.proxy else "http"
    if scheme not in _PROXY_SCHEMES:
        raise ConfigurationError(
            f"the proxy {redact(route.proxy or '')} from the environment cannot be used",
            hint=f"Supported: {', '.join(_PROXY_SCHEMES[:-1])} and {_PROXY_SCHEMES[-1]}.",
        )
    if choice == "direct" and scheme != "http":
        raise ConfigurationError(
            f"the direct transport cannot use the proxy {redact(route.proxy or '')}",
            hint="Set the transport to 'auto' or 'httpx'.",
        )
    if choice == "direct" or (choice == "auto" and scheme == "http"):
        return DirectTransport(route)
    from .httpx_engine import HttpxTransport

    return HttpxTransport(route)


class _Idle(NamedTuple):
    transport: Transport
    since: float


class Pool:
    """The idle connections of one event loop. They are closed when the loop shuts down."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.closed: bool = False
        self._yielded_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: dict[tuple[Route, TransportChoice], deque[_Idle]] = {}  # the oldest first
        self._shutdown_hook = self._close_at_shutdown()

    async def open(self) -> None:
        """Let the event loop close this pool when it shuts down.

        A loop closes the asynchronous generators that were started in it, while it still runs.
        """
        await anext(self._shutdown_hook)

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._shutdown_hook.aclose()

    @property
    def idle_connections(self) -> int:
        """The number of open connections that no response uses."""
        return sum(map(len, self._idle.values()))

    async def _close_at_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.closed = True
            idle = [item for items in self._idle.values() for item in items]
            self._idle.clear()
            for item in idle:
                await item.transport.aclose()

    async def wait_for_turn(self) -> None:
        """Yield to the event loop if responses have been read for `YIELD_AFTER_S`.

        Otherwise many responses that arrive at the same moment would be processed in one go, and all other
        tasks would have to wait.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if loop.time() - self._yielded_at <= YIELD_AFTER_S:
                return
            loop.call_soon(self._continue_some, loop)
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _continue_some(self, loop: asyncio.AbstractEventLoop) -> None:
        # To wake all of them, and let most wait again, would cost the square of their number.
        self._yielded_at = loop.time()
        for _ in range(min(TURNS_PER_YIELD, len(self._waiting))):
            wake(self._waiting.popleft())
        if self._waiting:
            loop.call_soon(self._continue_some, loop)

    async def take(self, route: Route, choice: TransportChoice) -> tuple[Transport, bool]:
        """Return a transport for a route, and whether it has carried a request before.

        A connection that was idle for too long is not used: a router may have dropped it without notice, and
        a request on it would then wait for the time-out.
        """
        idle = self._idle.get((route, choice), deque())
        while idle:
            transport, since = idle.pop()
            if transport.is_reusable and time.monotonic() - since <= KEEP_ALIVE_S:
                return transport, True
            await transport.aclose()
        return make_transport(route, choice), False

    async def give_back(self, route: Route, choice: TransportChoice, transport: Transport) -> None:
        """Take a transport whose response is complete, and close those that have been idle for too long."""
        now = time.monotonic()
        surplus: list[Transport] = []
        for key, idle in list(self._idle.items()):
            while idle and now - idle[0].since > KEEP_ALIVE_S:
                surplus.append(idle.popleft().transport)
            if not idle:
                del self._idle[key]
        if self.closed or not transport.is_reusable:
            surplus.append(transport)
        else:
            idle = self._idle.setdefault((route, choice), deque())
            idle.append(_Idle(transport, now))
            if len(idle) > MAX_IDLE:
                surplus.append(idle.popleft().transport)
        for other in surplus:
            await other.aclose()


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()
_pools_lock = threading.Lock()


async def current_pool() -> Pool:
    """Return the pool of the running event loop. A forked process gets a new one."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is not None and not pool.closed and pool.pid == os.getpid():
        return pool
    pool = Pool()
    with _pools_lock:
        for other in [other for other in _pools if other.is_closed()]:
            del _pools[other]
        _pools[loop] = pool
    await pool.open()
    return pool
