"""Serve a page that follows a run: `tinyagent events html --serve`.

The page gets its changes as Server-Sent Events.

Only programs of this computer can connect, and only who knows the random token in the address gets an answer.
The Host header must be ours, so that a name of a foreign site that resolves to this computer (DNS rebinding)
reads nothing, and there are no CORS headers.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import signal
from collections.abc import Callable
from typing import NamedTuple

from .live_page import LivePage, follow
from .source import Source

__all__ = ["serve_page"]

HOST = "127.0.0.1"
MAX_HEAD = 16 << 10
"""The most bytes of the head of a request."""
HEAD_S = 10.0
"""Seconds for the head of a request."""
MAX_CLIENTS = 64

_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def serve_page(
    source: Source, on_ready: Callable[[str], None], on_warning: Callable[[str], None]
) -> int:
    """Serve a page of the source until SIGINT or SIGTERM, and return that signal.

    Args:
        source: The lines. The end of a file is watched for more; a pipe ends.
        on_ready: Called with the address.
        on_warning: Called with each of the first lines that cannot be read.

    Raises:
        InputError: The source cannot be read.
        WriteError: `on_ready` could not write the address.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(signum: int) -> None:
        if not stopped.done():
            stopped.set_result(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    live = LivePage(source.name)
    server = _Server(live)
    listener = await asyncio.start_server(server.serve, HOST, 0, limit=MAX_HEAD)
    server.port = listener.sockets[0].getsockname()[1]
    reading = loop.create_task(follow(source, live, on_warning))

    def on_read(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not stopped.done():
            stopped.set_exception(error)

    reading.add_done_callback(on_read)
    try:
        on_ready(server.address)
        return await stopped
    finally:
        reading.cancel()
        listener.close()
        server.close()


# ---- HTTP -------------------------------------------------------------------------------------------------


class _Request(NamedTuple):
    method: str
    path: str
    query: str
    headers: dict[str, list[str]]


class _HttpError(Exception):
    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class _Server:
    """Answers requests: the page, and its changes."""

    def __init__(self, live: LivePage) -> None:
        self._live = live
        self._token = secrets.token_urlsafe(24)
        self._clients: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.port}/{self._token}/"

    def close(self) -> None:
        """Leave all clients."""
        for client in self._clients:
            client.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, which has one request."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._respond(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client has left
        except asyncio.CancelledError:
            pass  # the command ends
        finally:
            self._clients.discard(task)
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                request = _parsed(await reader.readuntil(b"\r\n\r\n"))
            resource = self._resource(request)
        except asyncio.LimitOverrunError:
            writer.write(_response("431 Request Header Fields Too Large"))
        except _HttpError as error:
            writer.write(_response(error.status))
        else:
            if resource == "events":
                await self._send_events(request, writer)
            else:
                body = self._live.html().encode("utf-8", "replace")
                # frame-ancestors does not work in a page.
                policy = f"{self._live.policy}; frame-ancestors 'none'"
                headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
                writer.write(_response("200 OK", headers, body, has_body=request.method == "GET"))
        await writer.drain()

    async def _send_events(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        last = request.headers.get("last-event-id", [])
        cursor = last[0] if last else request.query.removeprefix("from=")
        writer.write(_response("200 OK", {"Content-Type": "text/event-stream"}, None))
        async for event in self._live.events(cursor):
            writer.write(event)
            await writer.drain()

    def _resource(self, request: _Request) -> str:
        """Return what is requested: `""` for the page, or `events`.

        Raises:
            _HttpError: The request is not allowed.
        """
        hosts = [f"{HOST}:{self.port}", f"localhost:{self.port}"]
        host = request.headers.get("host", [])
        if len(host) != 1 or host[0].lower() not in hosts:
            raise _HttpError("403 Forbidden")
        origins = request.headers.get("origin", [])
        if any(origin != f"http://{host[0].lower()}" for origin in origins):
            raise _HttpError("403 Forbidden")
        token, _, resource = request.path.removeprefix("/").partition("/")
        is_ours = hmac.compare_digest(token.encode(), self._token.encode())
        if not is_ours or resource not in ("", "events"):
            raise _HttpError("404 Not Found")
        if request.method not in ("GET", "HEAD") or (resource and request.method == "HEAD"):
            raise _HttpError("405 Method Not Allowed")
        return resource


def _parsed(head: bytes) -> _Request:
    """Parse the head of a request.

    Raises:
        _HttpError: It is malformed.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = re.fullmatch(r"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]", first)
    if line is None:
        raise _HttpError("400 Bad Request")
    headers: dict[str, list[str]] = {}
    for text in lines:
        name, colon, value = text.partition(":")
        if not colon or re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is None:
            raise _HttpError("400 Bad Request")
        headers.setdefault(name.lower(), []).append(value.strip(" \t"))
    path, _, query = line[2].partition("?")
    return _Request(line[1], path, query, headers)


def _response(
    status: str, headers: dict[str, str] | None = None, body: bytes | None = b"", *, has_body: bool = True
) -> bytes:
    """Return a response; without a `body`, only its head."""
    fields = {**_HEADERS, **(headers or {})}
    if body is not None:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (body if body is not None and has_body else b"")
