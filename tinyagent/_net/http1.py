"""A connection that speaks HTTP/1.1, parsed by httptools (llhttp).

The response is parsed as its bytes arrive. All the pieces of the body that one read from the socket contains
become one piece for the reader: a stream of small chunks costs one task switch for each read, not for each
chunk.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterable

import httptools

from tinyagent._cancel import wake

from .transport import (
    MAX_HEAD,
    BrokenConnectionError,
    ConnectError,
    LimitError,
    ProtocolError,
    Route,
    TransportError,
)

__all__ = ["HIGH_WATER", "WRITE_SIZE", "HttpConnection", "encode_head"]

READ_SIZE = 64 << 10
"""The most bytes of one read from a socket."""
WRITE_SIZE = 256 << 10
"""Bytes of a request that are passed to asyncio at once. It copies what the socket does not take."""
HIGH_WATER = 16 << 10
"""Bytes of an unread body above which the socket is not read. The kernel then slows the server down."""


def encode_head(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the first line and the headers of a request, as they are sent."""
    lines = [first_line, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class _ReadBuffer(threading.local):
    """The memory that sockets are read into, one for each thread. It is parsed before the next read."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_SIZE))


_read_buffer = _ReadBuffer()


class HttpConnection(asyncio.BufferedProtocol):
    """A connection, and the response that is under way on it.

    The states of a connection are: idle; waiting for the headers (`_headers_done` is false); reading the
    body; and closed (`_lost`). `_failure` is why a response cannot go on. It is raised after the bytes before
    it are read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = _read_buffer.view
        self._body: list[bytes] = []
        self._size = 0
        # The parser calls this for each chunk, without a Python frame in between.
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        # What real servers send and other clients accept: Content-Length beside chunks (the chunks count),
        # line feeds without carriage returns, and blanks after the size of a chunk.
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._paused = False
        """Whether the socket is not read, because the body is not."""
        self._is_full = False
        """Whether the socket takes no more of the request for now."""
        self._busy = False
        self._waiter: asyncio.Future[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._headers_done = False
        self._complete = False
        self._body.clear()
        self._size = 0
        self._overhead = 0
        self._head_size = 0
        self._received = False
        self._surplus: int | None = None
        self._keep_alive = False
        self._failure: TransportError | None = None

    # ---- for the transport above ----

    @property
    def is_idle(self) -> bool:
        """Whether the connection can carry another request."""
        return not (self._busy or self._lost)

    def start(self, request: bytes) -> None:
        """Send a request, and get ready for its response."""
        self._reset()
        self._busy = True
        if self._lost or self._transport is None:
            self._failure = BrokenConnectionError("the server closed the connection")
        else:
            self._transport.write(request)

    async def send_body(self, body: bytes) -> None:
        """Send the body of a request, as fast as the server reads it."""
        view = memoryview(body)
        for start in range(0, len(view), WRITE_SIZE):
            while self._is_full and self._failure is None and not self._headers_done:
                await self._wait()
            if self._failure is not None or self._transport is None:
                return
            if self._headers_done:  # The server answers before it has read everything.
                self._transport.write(view[start:])
                return
            self._transport.write(view[start : start + WRITE_SIZE])

    async def wait_for_headers(self) -> None:
        """Wait for the headers of the final response.

        Raises:
            TransportError: The connection failed first.
        """
        while not self._headers_done:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def read(self) -> bytes:
        """Return all that has arrived of the body, and wait if that is nothing; see `Response`."""
        while not self._body:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return body

    async def aclose(self) -> None:
        """End the response. The connection remains open if the body was read to its end."""
        is_clean = self._complete and not self._body and self._failure is None
        if is_clean and self._keep_alive and self._is_sent():
            self._busy = False
        else:
            self.abort()

    def _is_sent(self) -> bool:
        """Whether all of the request was sent. A server may answer, for example with 413, before it reads."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close the socket without waiting for anything."""
        self._failure = self._failure or BrokenConnectionError("the connection was closed here")
        if self._transport is not None:
            self._transport.abort()

    async def open_tunnel(self, route: Route, headers: dict[str, str]) -> None:
        """Ask a proxy to connect to the server of `route`.

        Raises:
            ConnectError: The proxy refused.
        """
        host = f"[{route.host}]" if ":" in route.host else route.host
        target = f"{host}:{route.port}"
        self.start(encode_head(f"CONNECT {target} HTTP/1.1", {"Host": target, **headers}.items()))
        try:
            await self.wait_for_headers()
        except TransportError as error:
            raise ConnectError(str(error)) from error
        if not 200 <= self.status < 300:
            raise ConnectError(f"the proxy answered with HTTP {self.status}")

    async def start_tls(self, context: ssl.SSLContext, host: str) -> HttpConnection:
        """Continue the connection with TLS, inside an open tunnel."""
        assert self._transport is not None
        inner = HttpConnection()
        transport = await self._loop.start_tls(self._transport, inner, context, server_hostname=host)
        if transport is None:
            raise ConnectError("the proxy closed the tunnel")
        inner.connection_made(transport)
        return inner

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # ---- asyncio.BufferedProtocol ----

    def pause_writing(self) -> None:
        """Wait before the next part of a request."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Continue with the request."""
        self._is_full = False
        wake(self._waiter)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is TCP or TLS
        """Store the transport."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next read. An event loop may run in one thread after another."""
        self._buffer = _read_buffer.view
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what arrived, and wake the reader if there is something for it."""
        if self._complete or not self._busy:
            self._close_after_surplus()
            return
        before = len(self._body)
        self._received = True
        self._overhead += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._complete:
                self._close_after_surplus()
            else:
                self._fail(ProtocolError(str(error)))
        if self._surplus is not None:
            del self._body[self._surplus :]  # the body of a reply that was not requested
        if len(self._body) > before:
            self._size += sum(map(len, self._body[before:]))
            self._overhead = 0
        elif self._overhead > MAX_HEAD and not self._complete:
            self._fail_at_limit()
        if self._size > HIGH_WATER and not self._paused and not self._lost and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        wake(self._waiter)

    def eof_received(self) -> None:
        """Close the connection: nothing more can arrive."""

    def connection_lost(self, error: Exception | None) -> None:
        """End the response: complete if it had no stated length, else broken."""
        self._lost = True
        if self._busy and not self._complete and self._failure is None:
            if error is None and self._headers_done and self._ends_with_connection():
                self._complete = True
            else:
                failure = BrokenConnectionError(self._describe_loss(error))
                failure.__cause__ = error
                self._failure = failure
        wake(self._waiter)

    def _ends_with_connection(self) -> bool:
        encodings = self.headers.get("transfer-encoding", "").lower()
        return "content-length" not in self.headers and not encodings.endswith("chunked")

    def _describe_loss(self, error: Exception | None) -> str:
        if error is not None:
            return str(error) or type(error).__name__
        if not self._received:
            return "the server closed the connection without a reply"
        return "the server closed the connection before the end of the reply"

    def _fail(self, failure: TransportError) -> None:
        self._failure = self._failure or failure
        if self._transport is not None:
            self._transport.abort()

    def _fail_at_limit(self) -> None:
        what = "the trailers" if self._headers_done else "the headers and interim responses"
        self._fail(LimitError(f"{what} of the reply have more than {MAX_HEAD >> 10} KiB"))

    def _close_after_surplus(self) -> None:
        """Do not use the connection again: its server sent more than it announced."""
        self._keep_alive = False
        if self._transport is not None and not self._busy:
            self._transport.abort()

    # ---- callbacks of the parser ----

    def on_message_begin(self) -> None:
        """Notice a further response: the server sent more than it announced."""
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header. Trailers are ignored."""
        if self._headers_done:
            return
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            self._fail_at_limit()
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        if key == "transfer-encoding" and value.endswith(b"\t"):
            text += "\t"  # llhttp does not recognise the encoding then, so `on_headers_complete` refuses it
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """Store the status, or discard an interim response."""
        if self._complete or self._failure is not None:
            return
        self.status = self._parser.get_status_code()
        coding = self.headers.get("transfer-encoding", "chunked")
        if self.status == 101:
            self._fail(ProtocolError("the server switches to another protocol, which was not requested"))
        elif self.status < 100:
            self._fail(ProtocolError(f"{self.status} is not an HTTP status"))
        elif self.status < 200:
            self.headers = {}
        elif coding.lower() != "chunked":
            self._fail(ProtocolError("the reply has a transfer encoding other than 'chunked'"))
        else:
            self._headers_done = True

    def on_message_complete(self) -> None:
        """Store whether the connection can be used again."""
        if self._headers_done and not self._complete:
            self._complete = True
            self._surplus = len(self._body)
            self._keep_alive = self._parser.should_keep_alive()
