"""The boundary between a request and the engine that sends it.

An engine (`direct`, `httpx_engine`) opens connections and speaks HTTP. Everything else is above it, once, in
`request`: time-outs, retries, redirects, decompression, and the wording of errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

__all__ = [
    "MAX_HEAD",
    "BrokenConnectionError",
    "ConnectError",
    "ConnectTimeoutError",
    "LimitError",
    "ProtocolError",
    "Request",
    "Response",
    "Route",
    "Transport",
    "TransportChoice",
    "TransportError",
    "host_and_port",
]

TransportChoice = Literal["auto", "direct", "httpx"]
"""The engine: `auto` is `direct`, and `httpx` where `direct` lacks something (SOCKS, https proxies)."""

MAX_HEAD = 64 << 10
"""The most bytes that a server may send without progress: headers, interim responses, trailers."""


class Route(NamedTuple):
    """What requests must have in common to share a connection.

    Args:
        scheme: "http" or "https".
        host: The host name or address, without brackets.
        port: The port.
        proxy: The URL of a proxy, with its credentials; None for a direct connection.
        ca_file: A file of CA certificates; None for those of the system.
    """

    scheme: str
    host: str
    port: int
    proxy: str | None
    ca_file: str | None


class Request(NamedTuple):
    """One request.

    Args:
        method: "GET" or "POST".
        url: The absolute URL; ASCII, without credentials.
        headers: The headers, without `Host` and `Content-Length`.
        body: The encoded body.
        connect_timeout: The longest time in seconds until there is a connection.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    connect_timeout: float


class Response(Protocol):
    """A response whose status and headers have arrived."""

    @property
    def status(self) -> int:
        """The status code; never an interim one (1xx)."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by their lower-case names; repeated ones are joined by commas."""

    async def read(self) -> bytes:
        """Return the next part of the body as it was transferred, compressed or not; `b""` at its end.

        Raises:
            TransportError: The connection failed, or the body is not valid HTTP or incomplete.
        """

    async def aclose(self) -> None:
        """End the response. If its body was not read to its end, close the connection."""


class Transport(Protocol):
    """One connection, or a client that has its own."""

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent, as far as is known."""

    async def send(self, request: Request) -> Response:
        """Send a request; return when the headers of the response have arrived.

        Raises:
            TransportError: There is no connection, or it failed before the response.
        """

    async def aclose(self) -> None:
        """Close the connection at once."""


class TransportError(Exception):
    """A connection failed. The cause, if any, is the error of the operating system or of a library."""


class ConnectError(TransportError):
    """The server, or its proxy, cannot be reached."""


class ConnectTimeoutError(ConnectError):
    """There was no connection in time."""


class BrokenConnectionError(TransportError):
    """The connection ended too early."""


class ProtocolError(TransportError):
    """The server does not speak HTTP, or breaks its rules."""


class LimitError(TransportError):
    """The server sends more than `MAX_HEAD` bytes without progress."""


def host_and_port(route: Route) -> str:
    """Return the server of a route as in a URL: brackets around an IPv6 address, no default port."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    return host if route.port == (443 if route.scheme == "https" else 80) else f"{host}:{route.port}"
