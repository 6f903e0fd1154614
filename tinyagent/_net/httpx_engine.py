"""HTTP by httpx: SOCKS and https:// proxies, HTTP/2, and the clients that users pass.

Only the public API of httpx is used. The module is imported when it is needed, because httpx takes longer to
load than the rest of a start.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import httpx

from tinyagent.errors import ConfigurationError

from .errors import redact
from .network import tls_context
from .transport import (
    MAX_HEAD,
    BrokenConnectionError,
    ConnectError,
    ConnectTimeoutError,
    LimitError,
    ProtocolError,
    Request,
    Response,
    Route,
    TransportError,
)

__all__ = ["ClientTransport", "HttpxTransport"]

TOO_LONG = f"the headers or trailers of the reply have more than {MAX_HEAD >> 10} KiB"


@runtime_checkable
class _Closeable(Protocol):
    async def aclose(self) -> None: ...


class HttpxTransport:
    """One connection of httpx.

    A pool of httpx is searched for every request, which costs the square of the streams that are open at
    once. So each transport has one connection.

    Args:
        route: The server and the proxy.

    Raises:
        ConfigurationError: The proxy cannot be used.
    """

    is_reusable = True

    def __init__(self, route: Route) -> None:
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls_context(route.ca_file, owner="httpx") if route.scheme == "https" else False,
            http2=importlib.util.find_spec("h2") is not None,
            trust_env=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None),
            proxy=_proxy(route),
        )
        self._extensions: dict[str, object] = {}
        self._socket: _Closeable | None = None
        if route.proxy is not None and urlsplit(route.proxy).scheme.startswith("socks"):
            # httpcore leaves the socket open if the handshake with a SOCKS proxy fails or is cancelled.
            self._extensions["trace"] = self._keep_socket

    async def send(self, request: Request) -> Response:
        """Send a request; see `Transport`."""
        timeout = httpx.Timeout(None, connect=request.connect_timeout)
        try:
            sent = httpx.Request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body if request.method == "POST" else None,
                extensions={**self._extensions, "timeout": timeout.as_dict()},
            )
            return await _check_head(_HttpxResponse(await self._transport.handle_async_request(sent)))
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"the URL {redact(request.url)} cannot be used: {error}") from None
        except httpx.TransportError as error:
            raise _translate(error) from error

    async def aclose(self) -> None:
        """Close the connection at once."""
        await self._transport.aclose()
        if self._socket is not None:
            await self._socket.aclose()

    async def _keep_socket(self, event: str, info: Mapping[str, object]) -> None:
        """Store the socket of a new connection; httpx calls this with each event of a connection."""
        socket = info.get("return_value")
        if event.endswith("connect_tcp.complete") and isinstance(socket, _Closeable):
            self._socket = socket


class ClientTransport:
    """The client or transport of a user. It is never closed here, and has its own proxies and certificates.

    Args:
        client: An `httpx.AsyncClient`, or an `httpx.AsyncBaseTransport`.

    Raises:
        ConfigurationError: `client` is neither, or is closed.
    """

    is_reusable = True

    def __init__(self, client: object) -> None:
        if isinstance(client, httpx.AsyncBaseTransport):
            client = httpx.AsyncClient(transport=client, trust_env=False)
        if not isinstance(client, httpx.AsyncClient):
            raise ConfigurationError(
                f"http_client must be an httpx.AsyncClient or an httpx.AsyncBaseTransport, "
                f"not {type(client).__name__}"
            )
        if client.is_closed:
            raise ConfigurationError("http_client is closed")
        self._client = client

    async def send(self, request: Request) -> Response:
        """Send a request; see `Transport`. The client adds its own headers, cookies and authentication."""
        try:
            sent = self._client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body if request.method == "POST" else None,
                timeout=httpx.Timeout(None, connect=request.connect_timeout),
            )
            response = await self._client.send(sent, stream=True, follow_redirects=False)
            return await _check_head(_HttpxResponse(response))
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"the URL {redact(request.url)} cannot be used: {error}") from None
        except httpx.TransportError as error:
            raise _translate(error) from error

    async def aclose(self) -> None:
        """Do nothing: the client belongs to the user."""


class _HttpxResponse:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers.raw:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self._response = response
        # An event hook, the authentication or a mock may have read the whole body, which httpx then has
        # decompressed. The connection may carry another request by now.
        self._complete = response.is_stream_consumed
        if self._complete:
            self._body = _pieces(response.content)
            self.headers.pop("content-encoding", None)
        else:
            self._body = response.aiter_raw()

    async def read(self) -> bytes:
        """Return the next part of the body; see `Response`."""
        try:
            while True:
                if data := await anext(self._body):
                    return data
        except StopAsyncIteration:
            self._complete = True
            return b""
        except httpx.TransportError as error:
            raise _translate(error) from error

    async def aclose(self) -> None:
        """End the response, and close its connection if the body was not read to its end."""
        if not self._complete:
            # The generators inside would each be closed later, in a task of its own. With the socket closed,
            # they end where they are, and now.
            stream = self._response.extensions.get("network_stream")
            if stream is not None and self._response.http_version != "HTTP/2":
                await stream.aclose()
                try:
                    while True:
                        await anext(self._body)
                except (StopAsyncIteration, httpx.HTTPError, httpx.StreamError, RuntimeError, OSError):
                    pass
        await self._response.aclose()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _check_head(response: _HttpxResponse) -> _HttpxResponse:
    """Refuse headers of more than `MAX_HEAD` bytes. httpx has a limit of its own, which is higher."""
    if sum(len(name) + len(value) for name, value in response.headers.items()) <= MAX_HEAD:
        return response
    await response.aclose()
    raise LimitError(TOO_LONG)


def _proxy(route: Route) -> httpx.Proxy | None:
    if route.proxy is None:
        return None
    scheme = urlsplit(route.proxy).scheme
    if scheme.startswith("socks5") and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            f"the proxy {redact(route.proxy)} from the environment cannot be used",
            hint="Install httpx[socks].",
        )
    context = tls_context(route.ca_file, owner="httpx") if scheme == "https" else None
    return httpx.Proxy(route.proxy, ssl_context=context)


def _translate(error: httpx.TransportError) -> TransportError:
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return ConnectTimeoutError(text)
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return ConnectError(text)
    if _has_status_hint(error, 431):
        return LimitError(TOO_LONG)
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in text and "closed" not in text:
        return ProtocolError(text)
    return BrokenConnectionError(text)


def _has_status_hint(error: BaseException | None, status: int) -> bool:
    """Whether h11, below httpx, recommends a status for an error; it is 431 for headers beyond its limit."""
    while error is not None:
        if getattr(error, "error_status_hint", None) == status:
            return True
        error = error.__cause__ or error.__context__
    return False
