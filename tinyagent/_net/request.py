"""Requests to providers: time-outs, retries, redirects and errors, above any transport.

    async with HttpRequest(url, headers=headers, body=body, provider="acme") as response:
        while data := await response.read():
            ...

A failure is one of `tinyagent.errors`, and its message has no secret. A request that failed before its
response is sent again where that may help (`RetryPolicy`). Redirects to another server are refused, because
the request has a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from urllib.parse import urljoin, urlsplit

from tinyagent import _json
from tinyagent._cancel import CancelScope
from tinyagent.errors import AuthenticationError, ConfigurationError, ProviderError, TinyAgentError, shorten

from .errors import body_text, format_duration, redact
from .network import proxy_for
from .pool import Pool, current_pool
from .request_errors import RequestErrors
from .response import HttpResponse, Sent, Timeouts
from .retry import RetryPolicy, short_reason
from .transport import (
    ConnectError,
    LimitError,
    Request,
    Route,
    Transport,
    TransportChoice,
    TransportError,
)
from .url_guard import check_headers, check_url

__all__ = ["RETRY", "HttpRequest", "get_json"]

MAX_ERROR_BODY = 64 << 10
MAX_JSON_BODY = 64 << 20
ERROR_BODY_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5


RETRY = RetryPolicy()


class HttpRequest:
    """A request, with its retries and redirects.

    Args:
        url: The URL; it is checked here.
        method: "GET" or "POST".
        headers: The headers; they are checked here.
        body: The encoded body.
        provider: The name of the provider, for messages.
        timeout: See `Timeouts.of`.
        signal: When it is set, the request ends with `Aborted`.
        max_retries: How often the request is sent again; None for that of `RETRY`.
        on_retry: Called with a sentence before each retry.
        secrets: Texts that no message may contain.
        ca_file: A file of CA certificates; None for those of the system.
        allow_http: Whether http:// to other machines is allowed.
        transport: The engine.
        http_client: A client of the user (`httpx.AsyncClient` or `httpx.AsyncBaseTransport`), used instead.

    Raises:
        ConfigurationError: The URL, a header or a time-out is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        provider: str = "",
        timeout: float | Mapping[str, float] | Timeouts | None = None,
        signal: asyncio.Event | None = None,
        max_retries: int | None = None,
        on_retry: Callable[[str], object] | None = None,
        secrets: Iterable[str] = (),
        ca_file: str | None = None,
        allow_http: bool = False,
        transport: TransportChoice = "auto",
        http_client: object = None,
    ) -> None:
        self.url: str = check_url(url, provider=provider, allow_http=allow_http)
        self.method = method
        self.headers: dict[str, str] = {"accept-encoding": "identity", **check_headers(headers, provider)}
        self.body = body
        self.errors: RequestErrors = RequestErrors(provider, secrets)
        self.provider = provider
        self.name: str = self.errors.name
        self.timeouts: Timeouts = Timeouts.of(timeout)
        self.signal = signal
        if transport not in ("auto", "direct", "httpx"):
            raise ConfigurationError(f"unknown transport {transport!r}", hint="Known: auto, direct, httpx.")
        if transport == "direct" and http_client is not None:
            raise ConfigurationError(
                "http_client needs httpx, but the transport is 'direct'", hint="Set the transport to 'auto'."
            )
        self._transport_choice = transport
        self._http_client = http_client
        self._allow_http = allow_http
        self._on_retry = on_retry
        self._ca_file = ca_file
        self._policy = RETRY if max_retries is None else RETRY._replace(retries=max_retries)
        self._retries = 0
        self._response: HttpResponse | None = None

    async def open(self) -> HttpResponse:
        """Send the request, again where that may help, and return when the headers of a response are there.

        Raises:
            TinyAgentError: The error of the last attempt.
            Aborted: The signal was set.
        """
        while True:
            try:
                return await self._attempt()
            except (ProviderError, AuthenticationError) as error:
                await self._wait_to_retry(error)

    async def again(self, error: TinyAgentError) -> HttpResponse:
        """Send the request again, after a response that failed without output.

        Raises:
            TinyAgentError: `error`, if it cannot be retried; else the error of the last attempt.
        """
        await self._wait_to_retry(error)
        return await self.open()

    def restore_retries(self) -> None:
        """Ignore `max_retries` from now on."""
        self._policy = RETRY

    async def _wait_to_retry(self, error: TinyAgentError) -> None:
        policy = self._policy
        seconds = policy.wait(error, self._retries)
        if seconds is None:
            raise error
        self._retries += 1
        if self._on_retry is not None:
            turn = f"{self._retries} of {policy.retries}"
            reason = short_reason(error, self.provider)
            self._on_retry(f"Retrying in {format_duration(seconds)} ({turn}): {reason}")
        async with CancelScope(self.signal):
            await policy.sleep(seconds)

    async def _attempt(self) -> HttpResponse:
        url = self.url
        for _ in range(MAX_REDIRECTS):
            response = await self._send(url)
            if 200 <= response.status < 300:
                return response
            try:
                if response.status in (301, 302, 303, 307, 308):
                    url = self.redirect_target(response.status, response.headers, url)
                    continue
                raise await self._error_from(response)
            finally:
                await response.finish()
        raise self.errors.invalid_error(f"more than {MAX_REDIRECTS} redirects")

    async def _send(self, url: str) -> HttpResponse:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        proxy = None if self._http_client is not None else proxy_for(parts.scheme, host, port)
        route = Route(parts.scheme, host, port, proxy, self._ca_file)
        request = Request(self.method, url, self.headers, self.body, self.timeouts.connect)
        pool = await current_pool()
        while True:
            transport, reused = await self._take_transport(pool, route)
            try:
                response = await self._send_on(transport, request, route, pool)
            except TransportError as error:
                await transport.aclose()
                if isinstance(error, LimitError):
                    raise self.errors.invalid_error(str(error)) from None
                if reused and not isinstance(error, ConnectError):
                    continue  # The server had closed the idle connection, so it did not read the request.
                raise self.errors.connection_error(
                    error, route, self.timeouts.connect
                ) from self.errors.shareable(error)
            except BaseException:
                await transport.aclose()
                raise
            return response

    async def _send_on(
        self, transport: Transport, request: Request, route: Route, pool: Pool
    ) -> HttpResponse:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        limit = self.timeouts.first_event
        response: HttpResponse | None = None
        try:
            async with CancelScope(self.signal) as scope:
                timer = loop.call_later(limit, scope.cancel, self.errors.timeout_error("first_event", limit))
                try:
                    await pool.wait_for_turn()
                    raw = await transport.send(request)
                    await pool.wait_for_turn()
                    response = HttpResponse(
                        Sent(raw, transport, pool, sent_at, partial(self._give_back, pool, route, transport)),
                        self.errors,
                        self.timeouts,
                        self.signal,
                    )
                finally:
                    timer.cancel()
            response.begin()
            return response
        except BaseException:
            if response is not None:
                await response.aclose()
            raise

    async def _take_transport(self, pool: Pool, route: Route) -> tuple[Transport, bool]:
        if self._http_client is None:
            return await pool.take(route, self._transport_choice)
        from .httpx_engine import ClientTransport

        return ClientTransport(self._http_client), False

    async def _give_back(self, pool: Pool, route: Route, transport: Transport) -> None:
        """Keep the connection of a complete response. A client of the user keeps its own."""
        if self._http_client is None:
            await pool.give_back(route, self._transport_choice, transport)

    def redirect_target(self, status: int, headers: Mapping[str, str], url: str) -> str:
        """Return the URL that a redirect from `url` leads to.

        Raises:
            ProviderError: It leads to another server, or would drop the body.
            ConfigurationError: It leads to a URL that is not allowed.
        """
        target = urljoin(url, headers.get("location", ""))
        old, new = urlsplit(url), urlsplit(target)
        shown = self.errors.redact(target)
        if status not in (307, 308):
            raise ProviderError(
                f"{self.name}: HTTP {status} redirects to {shown}, which would drop the request",
                status=status,
                provider=self.provider,
                hint="Set the base URL to the address that it redirects to, if you trust it.",
            )
        if (old.scheme, old.hostname, old.port) != (new.scheme, new.hostname, new.port):
            raise ProviderError(
                f"{self.name}: HTTP {status} redirects to another server: {shown}. The key is not sent there",
                status=status,
                provider=self.provider,
                hint="Set the base URL to that address, if you trust it.",
            )
        return check_url(target, provider=self.provider, allow_http=self._allow_http)

    async def _error_from(self, response: HttpResponse) -> TinyAgentError:
        response.restart(ERROR_BODY_TIMEOUT_S)
        try:
            body = await response.read_all(MAX_ERROR_BODY)
        except ProviderError:
            body = b""  # The status is enough.
        return self.errors.status_error(response.status, response.headers, body, self._policy.now)

    async def __aenter__(self) -> HttpResponse:
        self._response = await self.open()
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            await self._response.aclose()


async def get_json(
    url: str,
    *,
    provider: str = "",
    headers: Mapping[str, str] | None = None,
    timeout: float | Mapping[str, float] | Timeouts | None = None,
    secrets: Iterable[str] = (),
    ca_file: str | None = None,
    allow_http: bool = False,
    transport: TransportChoice = "auto",
    http_client: object = None,
) -> object:
    """Return the JSON document at `url`. See `HttpRequest` for the arguments.

    Raises:
        TinyAgentError: The request failed; `InvalidReplyError` if the document is not JSON.
    """
    request = HttpRequest(
        url,
        method="GET",
        provider=provider,
        headers=headers,
        timeout=Timeouts(10.0, 30.0, 30.0) if timeout is None else timeout,
        secrets=secrets,
        ca_file=ca_file,
        allow_http=allow_http,
        transport=transport,
        http_client=http_client,
    )
    response = await request.open()
    try:
        body = await response.read_all(MAX_JSON_BODY)
    finally:
        await response.finish()
    try:
        value: object = _json.decode(body)
    except (ValueError, RecursionError):
        content_type = response.headers.get("content-type", "")
        text, _ = body_text(body[:MAX_ERROR_BODY], content_type, request.errors.redact)
        raise request.errors.invalid_error(
            f"{redact(url)} did not return JSON but {shorten(text, 200) or 'nothing'}"
        ) from None
    return value
