"""Run the application on a socket."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from tinyagent import ConfigurationError

from ._app import Proxy

__all__ = ["check_exposure", "is_loopback", "listen", "make_server", "serve", "url_of"]

KEEP_ALIVE_S = 75
"""Seconds until an idle connection is closed: longer than tinyagent's client would reuse it."""
SPARE_FILES = 64


def is_loopback(host: str) -> bool:
    """Return whether a socket on `host` is reachable only from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, tls: bool, allow_http: bool) -> None:
    """Refuse to send tokens and prompts unencrypted over a network, unless the user allows it.

    Raises:
        ConfigurationError: Other machines could connect, without TLS.
    """
    if not (tls or allow_http or is_loopback(host)):
        raise ConfigurationError(
            f"Without TLS the proxy accepts only this machine, and {host!r} is reachable from others.",
            hint="Use --tls-cert and --tls-key, or a reverse proxy with TLS. "
            "On a trusted network, --allow-http permits connections without TLS.",
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigurationError: The address is not available.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from None


def url_of(bound: socket.socket, *, tls: bool) -> str:
    """Return the URL for callers."""
    host, port = bound.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class _Server(uvicorn.Server):
    """A server that reports when it listens, and ends the active replies when it stops."""

    def __init__(self, config: uvicorn.Config, proxy: Proxy, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._proxy = proxy
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._proxy.stop()
        await super().shutdown(sockets)


def make_server(
    proxy: Proxy,
    bound: socket.socket,
    announce: Callable[[str], None],
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> uvicorn.Server:
    """Make the server for a listening socket. It calls `announce` with its URL when it is ready.

    Raises:
        ConfigurationError: The TLS files are invalid.
    """
    config = uvicorn.Config(
        proxy.app,
        lifespan="on",
        ws="none",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(proxy.settings.shutdown_grace)),
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"The TLS files cannot be used: {error.strerror or error}.") from None
    return _Server(config, proxy, lambda: announce(url_of(bound, tls=tls_cert is not None)))


def serve(
    proxy: Proxy,
    bound: socket.socket,
    announce: Callable[[str], None],
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Serve on a socket until SIGINT or SIGTERM, then raise the signal again.

    Raises:
        ConfigurationError: The TLS files are invalid.
    """
    _allow_files(2 * proxy.settings.max_streams + SPARE_FILES)
    server = make_server(proxy, bound, announce, tls_cert=tls_cert, tls_key=tls_key)
    asyncio.run(server.serve([bound]))


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as needed and allowed. A reply needs two."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
