"""The transport `direct`: one connection on asyncio, directly or through an http:// proxy."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from urllib.parse import unquote, urlsplit

from .http1 import WRITE_SIZE, HttpConnection, encode_head
from .network import is_loopback, parse_address, tls_context
from .transport import ConnectError, ConnectTimeoutError, Request, Route, host_and_port

__all__ = ["DirectTransport"]

HAPPY_EYEBALLS_DELAY_S = 0.25
"""How long a connection attempt has for itself before the next address is tried beside it (RFC 8305)."""


class DirectTransport:
    """One connection to a server, directly or through an http:// proxy.

    Args:
        route: The server and the proxy.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._proxy = urlsplit(route.proxy) if route.proxy else None
        self._connection: HttpConnection | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is open and no response is under way."""
        return self._connection is not None and self._connection.is_idle

    async def send(self, request: Request) -> HttpConnection:
        """Send a request; see `Transport`."""
        if self._connection is None:
            deadline = asyncio.timeout(request.connect_timeout)
            try:
                async with deadline:
                    self._connection = await self._connect()
            except OSError as error:  # TimeoutError and ssl.SSLError are among them
                if deadline.expired():
                    raise ConnectTimeoutError("no connection in time") from error
                raise ConnectError(str(error)) from _first_error(error)
        connection = self._connection
        head = _encode_request_head(request, self._route, self._proxy_headers())
        if len(request.body) <= WRITE_SIZE:
            connection.start(head + request.body)
        else:
            connection.start(head)
            await connection.send_body(request.body)
        await connection.wait_for_headers()
        return connection

    async def aclose(self) -> None:
        """Close the connection at once."""
        if self._connection is not None:
            self._connection.abort()

    async def _connect(self) -> HttpConnection:
        route, proxy = self._route, self._proxy
        tls = tls_context(route.ca_file) if route.scheme == "https" else None
        if proxy is None:
            return await _open_socket(route.host, route.port, tls)
        connection = await _open_socket(proxy.hostname or "", proxy.port or 80, None)
        if tls is None:
            return connection
        try:
            await connection.open_tunnel(route, _proxy_authorization(proxy.username, proxy.password))
            return await connection.start_tls(tls, route.host)
        except BaseException:
            connection.abort()
            raise

    def _proxy_headers(self) -> dict[str, str]:
        """Return the headers for a proxy that forwards requests; a tunnel gets them when it is opened."""
        if self._proxy is None or self._route.scheme == "https":
            return {}
        return _proxy_authorization(self._proxy.username, self._proxy.password)


async def _open_socket(host: str, port: int, tls: ssl.SSLContext | None) -> HttpConnection:
    loop = asyncio.get_running_loop()
    name = host if tls else None
    # asyncio runs each attempt in a task then, so this is for names of other machines, which have several
    # addresses. uvloop tries the addresses one after another, and has no such argument.
    if isinstance(loop, asyncio.BaseEventLoop) and parse_address(host) is None and not is_loopback(host):
        _, connection = await loop.create_connection(
            HttpConnection,
            host,
            port,
            ssl=tls,
            server_hostname=name,
            happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S,
        )
    else:
        _, connection = await loop.create_connection(
            HttpConnection, host, port, ssl=tls, server_hostname=name
        )
    return connection


_ERRNO = r"\[Errno (\d+)\]"


def _first_error(error: OSError) -> OSError:
    """Return the first of several errors, if asyncio joined those of all addresses to one text."""
    if error.errno is None and (match := re.search(_ERRNO, str(error))):
        return OSError(int(match[1]), os.strerror(int(match[1])))
    return error


def _proxy_authorization(username: str | None, password: str | None) -> dict[str, str]:
    if username is None and password is None:
        return {}
    credentials = f"{unquote(username or '')}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def _encode_request_head(request: Request, route: Route, proxy_headers: dict[str, str]) -> bytes:
    if route.proxy is not None and route.scheme == "http":
        target = request.url.partition("#")[0]
    else:
        parts = urlsplit(request.url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    headers = {**request.headers, **proxy_headers}
    if not any(name.lower() == "host" for name in headers):
        headers = {"Host": host_and_port(route), **headers}
    if request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    return encode_head(f"{request.method} {target} HTTP/1.1", headers.items())
