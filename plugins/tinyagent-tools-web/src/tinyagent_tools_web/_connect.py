"""Connections to checked addresses only.

httpcore uses this backend for every connection, so names are resolved in one place. A name is resolved once,
all its addresses are checked, and the connection goes to a checked address. There is no second look-up, which
could return another address. httpcore negotiates TLS for the name in the URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

import httpcore

from tinyagent import ToolError

from ._addresses import Address, parse_address, why_not_public

__all__ = ["CheckedBackend", "Resolver", "resolve"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""`async (host, port) -> addresses`, as text."""

RESOLVE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
MAX_TRIED = 4
"""The maximum number of addresses of a name that are tried, one after the other."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Resolve a name in a daemon thread, because the system's resolver cannot be interrupted."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str], error: OSError | UnicodeError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: list[str] = []
        failure: OSError | UnicodeError | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(info[4][0]) for info in infos]
        except (OSError, UnicodeError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found, failure)

    # Not the loop's executor, because Python waits for its threads at exit.
    threading.Thread(target=ask, name="tinyagent fetch resolver", daemon=True).start()
    return await answer


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """The network backend of one fetch.

    Args:
        resolver: Resolves a name to addresses.
        connect: Connects to an address; httpcore's default backend if None.
    """

    def __init__(self, resolver: Resolver, connect: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._resolver = resolver
        # httpcore replaces this class if anyio is missing, so type checkers do not see its base class.
        self._inner = connect or cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to an address of `host` if all its addresses are public."""
        addresses = await self._checked(host, port)
        failure: Exception | None = None
        for address in addresses[:MAX_TRIED]:
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout or CONNECT_SECONDS, None, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        why = (
            "it did not answer in time"
            if isinstance(failure, httpcore.ConnectTimeout)
            else str(failure or "")
        )
        raise ToolError(f"No connection to {host}:{port}: {why}.") from failure

    async def _checked(self, host: str, port: int) -> list[Address]:
        """Resolve and check a name. If one address is not public, all are refused, as in DNS rebinding."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                answers = await self._resolver(host, port)
            addresses = [parse_address(answer) for answer in answers]
        except TimeoutError:
            raise ToolError(f"The name {host!r} was not resolved in {RESOLVE_SECONDS:g} s.") from None
        except (OSError, ValueError) as error:  # ValueError: UnicodeError, or an invalid address
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ToolError(f"The name {host!r} cannot be resolved: {why}.") from None
        if not addresses:
            raise ToolError(f"The name {host!r} has no address.")
        for address in addresses:
            reason = why_not_public(address)
            if reason is not None:
                shown = "" if str(address) == host else f" is {address}:"
                raise ToolError(
                    f"Refused: {host}{shown or ':'} {reason}. This tool reaches the public internet only."
                )
        return list(dict.fromkeys(addresses))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse Unix sockets, because they are not on the public internet."""
        raise ToolError("Refused: this tool reaches the public internet only.")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore does between retries."""
        await asyncio.sleep(seconds)
