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
import socket
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urljoin, urlsplit

from tinyagent import _json
from tinyagent._cancel import Aborted, CancelScope, SignalWatch
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    InvalidReplyError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
    TinyAgentError,
)

from .connection import certificate_hint, is_loopback, proxy_for
from .decompress import decompressor_for
from .errors import body_text, format_duration, provider_error, redact, shorten
from .pool import Pool, current_pool
from .retry_after import retry_after
from .transport import (
    ConnectError,
    ConnectTimeoutError,
    LimitError,
    Request,
    Response,
    Route,
    Transport,
    TransportChoice,
    TransportError,
    host_and_port,
)
from .url_guard import check_headers, check_url

__all__ = ["HttpRequest", "HttpResponse", "RetryPolicy", "Timeouts", "get_json"]

MAX_ERROR_BODY = 64 << 10
MAX_JSON_BODY = 64 << 20
ERROR_BODY_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5
READ_SIZE = 4096
"""Bytes of a body that one `read` returns at most, before other responses have their turn."""
END_TIMEOUT_S = 0.1
"""How long the end of a complete reply is awaited, so that its connection can be used again."""


# ---- settings -------------------------------------------------------------------------------------


class Timeouts(NamedTuple):
    """Time-outs in seconds: to connect, until the first event, and between two events."""

    connect: float = 10.0
    first_event: float = 120.0
    idle: float = 90.0

    @classmethod
    def of(cls, value: float | Mapping[str, float] | Timeouts | None) -> Timeouts:
        """Read `options["timeout"]`: a number for all time-outs, or a mapping with some of them.

        Raises:
            ConfigurationError: A name is unknown, or a value is not a positive number.
        """
        if value is None:
            return cls()
        if isinstance(value, Timeouts):
            return value
        if isinstance(value, Mapping):
            if unknown := sorted(set(value) - set(cls._fields)):
                raise ConfigurationError(
                    f"unknown time-out {unknown[0]!r}", hint="Known: connect, first_event, idle."
                )
            return cls()._replace(**{name: _seconds(name, seconds) for name, seconds in value.items()})
        seconds = _seconds("timeout", value)
        return cls(min(seconds, cls().connect), seconds, seconds)


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"the time-out {name!r} must be a number of seconds above 0, not {value!r}")
    return float(value)


def _random() -> float:
    import random  # only for retries

    return random.random()


class RetryPolicy(NamedTuple):
    """When a request is sent again. All times are in seconds.

    Args:
        retries: How often.
        first_wait: The wait before the first retry. It doubles for each further one.
        longest_wait: The upper limit of this wait.
        longest_asked: If the provider asks for a longer wait than this, the request fails instead.
        sleep: Waits; tests replace it.
        random: A random number from 0 to 1, which shortens a wait by up to a quarter.
        now: The time since the epoch.
    """

    retries: int = 2
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_asked: float = 120.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = _random
    now: Callable[[], float] = time.time


RETRY = RetryPolicy()


# ---- a response -------------------------------------------------------------------------------------


class _Sent(NamedTuple):
    """A response, and what has to be put back when it ends."""

    response: Response
    transport: Transport
    route: Route
    pool: Pool
    sent_at: float


class HttpResponse:
    """A response that is being read, with its time-outs.

    The time-out of the first event starts with the request. The decoder of the events calls `restart` before
    it waits for another one. So bytes without an event do not extend the time, and a slow consumer is not
    counted.
    """

    def __init__(self, request: HttpRequest, sent: _Sent) -> None:
        self.status: int = sent.response.status
        self.headers: Mapping[str, str] = sent.response.headers
        self.complete: bool = False
        """Whether the body was read to its end."""
        self._request = request
        self._sent = sent
        self._read_body = _body_reader(sent.response, request)
        self._rest = b""
        self._position = 0
        self._failed = False
        self._closed = False
        self._scope = CancelScope()
        self._watch: SignalWatch | None = None
        self._loop = asyncio.get_running_loop()
        self._since = sent.sent_at
        self._limit = request.timeouts.first_event
        self._limit_name = "first_event"
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the time-out, and react to the signal from now on."""
        self._timer = self._loop.call_at(self._since + self._limit, self._check_time)
        if self._request.signal is not None:
            self._watch = SignalWatch(self._request.signal, lambda: self.cancel(Aborted()))

    def restart(self, limit: float | None = None) -> None:
        """Restart the time-out, as `idle`; `limit` seconds if that is shorter."""
        self._since = self._loop.time()
        if self._limit_name != "idle" or limit is not None:
            self._limit_name = "idle"
            self._limit = min(self._request.timeouts.idle, limit or float("inf"))
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_at(self._since + self._limit, self._check_time)

    def _check_time(self) -> None:
        # One timer a response. It checks the time when it is due, and starts again if there was an event
        # since.
        now = self._loop.time()
        due = self._since + self._limit
        if not self._scope.is_active:  # The consumer is slow, not the provider.
            self._since, due = now, now + self._limit
        if now < due:
            self._timer = self._loop.call_at(due, self._check_time)
        else:
            self.cancel(self._request.timeout_error(self._limit_name, self._limit))

    def cancel(self, reason: BaseException) -> None:
        """Let the current `read`, or the next one, raise `reason`."""
        self._scope.cancel(reason)

    async def read(self) -> bytes:
        """Return the next bytes of the body, decompressed; `b""` at its end.

        A large part is returned in pieces, so that all responses of an event loop take turns with each other
        and with all other tasks.

        Raises:
            StreamInterruptedError: The connection broke.
            ProviderTimeoutError: There was no event in time.
        """
        try:
            async with self._scope:
                data, position = self._rest, self._position
                if position < len(data):
                    await self._sent.pool.wait_for_turn()
                else:
                    data, position = await self._read_body(), 0
        except zlib.error as error:
            self._failed = True
            raise InvalidReplyError(
                f"{self._request.name}: the compressed reply cannot be decompressed ({error})",
                provider=self._request.provider,
            ) from self._request.shareable(error)
        except TransportError as error:
            self._failed = True
            reason = self._request.redact(str(_root_cause(error))) or type(error).__name__
            raise StreamInterruptedError(
                f"{self._request.name}: the connection broke in the middle of the reply ({reason})",
                provider=self._request.provider,
                retryable=True,
            ) from self._request.shareable(error)
        except BaseException:
            self._failed = True
            raise
        if position == 0:
            self._rest, self.complete = data, not data
        self._position = position + READ_SIZE
        return data[position : position + READ_SIZE]

    async def read_all(self, limit: int) -> bytes:
        """Return the rest of the body, up to `limit` bytes."""
        parts, size = [], 0
        while size < limit and (data := await self.read()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)[:limit]

    async def finish(self) -> None:
        """Close a response that has all its events. Its end is read first, if it arrives at once."""
        if not (self.complete or self._failed or self._closed):
            self._scope = CancelScope()
            timer = self._loop.call_later(END_TIMEOUT_S, self.cancel, Aborted())
            try:
                while await self.read():
                    pass
            except (Aborted, TinyAgentError):
                pass  # The reply is complete, so a connection that stays open or breaks does not matter.
            finally:
                timer.cancel()
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once. The connection stays open only if the body was read to its end."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        watcher = None
        if self._watch is not None:
            self._watch.stop()  # first, because the closing may be cancelled
            watcher = self._watch.task
        sent = self._sent
        await sent.response.aclose()
        if self.complete:
            await self._request.give_back(sent.pool, sent.route, sent.transport)
        else:
            await sent.transport.aclose()
        if watcher is not None:
            await asyncio.wait([watcher])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _body_reader(response: Response, request: HttpRequest) -> Callable[[], Awaitable[bytes]]:
    """Return the function that reads the next part of a body, decompressed."""
    try:
        decompressor = decompressor_for(response.headers.get("content-encoding", ""))
    except ValueError as error:
        raise InvalidReplyError(f"{request.name}: {error}", provider=request.provider) from None
    return response.read if decompressor is None else partial(decompressor.read, response.read)


# ---- a request --------------------------------------------------------------------------------------


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
        self.provider = provider
        self.name: str = provider or "the provider"
        self.timeouts: Timeouts = Timeouts.of(timeout)
        self.signal = signal
        self.secrets: tuple[str, ...] = tuple(secrets)
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
        self._policy = RETRY
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

    async def _wait_to_retry(self, error: TinyAgentError) -> None:
        policy = self._policy
        if not isinstance(error, ProviderError) or not error.retryable or self._retries >= policy.retries:
            raise error
        seconds = error.retry_after
        if seconds is None:
            seconds = min(policy.first_wait * 2**self._retries, policy.longest_wait)
            seconds *= 1 - policy.random() / 4
        elif seconds > policy.longest_asked:
            raise error
        self._retries += 1
        if self._on_retry is not None:
            turn = f"{self._retries} of {policy.retries}"
            self._on_retry(f"Retrying in {format_duration(seconds)} ({turn}): {self._short_reason(error)}")
        async with CancelScope(self.signal):
            await policy.sleep(seconds)

    def _short_reason(self, error: ProviderError) -> str:
        if error.status is not None:
            return f"{self.name}: HTTP {error.status}"
        return shorten(str(error).partition("\n")[0], 200)

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
        raise InvalidReplyError(f"{self.name}: more than {MAX_REDIRECTS} redirects", provider=self.provider)

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
                    raise InvalidReplyError(f"{self.name}: {error}", provider=self.provider) from None
                if reused and not isinstance(error, ConnectError):
                    continue  # The server had closed the idle connection, so it did not read the request.
                raise self._connection_error(error, route) from self.shareable(error)
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
                timer = loop.call_later(limit, scope.cancel, self.timeout_error("first_event", limit))
                try:
                    await pool.wait_for_turn()
                    raw = await transport.send(request)
                    await pool.wait_for_turn()
                    response = HttpResponse(self, _Sent(raw, transport, route, pool, sent_at))
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

    async def give_back(self, pool: Pool, route: Route, transport: Transport) -> None:
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
        shown = self.redact(target)
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
        return self.status_error(response.status, response.headers, body)

    def status_error(self, status: int, headers: Mapping[str, str], body: bytes) -> TinyAgentError:
        """Return the error for a response whose status is not a success."""
        text, code = body_text(body, headers.get("content-type", ""), self.redact)
        verdict = headers.get("x-should-retry", "").strip().lower()
        return provider_error(
            text,
            provider=self.provider,
            status=status,
            code=code,
            prefix=f"HTTP {status}",
            retry_after=retry_after(headers, self._policy.now),
            retryable={"true": True, "false": False}.get(verdict),
        )

    def redact(self, text: str) -> str:
        """Return a provider's text without secrets."""
        return redact(text, self.secrets)

    def shareable(self, error: Exception) -> Exception | None:
        """Return an error to show as the cause of ours; None if its text contains a secret.

        Libraries quote bytes that are not HTTP, and a server may repeat the request.
        """
        import traceback  # only for failures

        text = "".join(traceback.format_exception(error))
        return None if any(secret in text for secret in self.secrets) else error

    def timeout_error(self, name: str, seconds: float) -> ProviderTimeoutError:
        """Return the error for the time-out `name`."""
        what = {"connect": "no connection", "first_event": "no first event", "idle": "no further event"}[name]
        return ProviderTimeoutError(
            f"{self.name}: {what} within {seconds:g} s (time-out {name!r})",
            provider=self.provider,
            hint=f"Set the time-out {name!r} higher if the model needs longer.",
        )

    def _connection_error(self, error: TransportError, route: Route) -> ProviderError:
        """Return the error for a connection that failed before the response."""
        origin = f"{route.scheme}://{host_and_port(route)}"
        if route.proxy is not None:
            origin += f" through the proxy {redact(route.proxy)}"
        if isinstance(error, ConnectTimeoutError):
            timeout = self.timeout_error("connect", self.timeouts.connect)
            timeout.args = (f"{timeout.args[0]}: {origin}",)
            timeout.retryable = True
            return timeout
        cause = _root_cause(error)
        reason, hint = _explain(cause, route)
        if isinstance(error, ConnectError):
            text = f"cannot connect to {origin} ({self.redact(reason)})"
        else:
            text = f"the connection to {origin} broke before the reply began ({self.redact(reason)})"
        return ConnectionFailedError(
            f"{self.name}: {text}",
            provider=self.provider,
            retryable=not isinstance(cause, ssl.SSLCertVerificationError),
            hint=hint,
        )

    async def __aenter__(self) -> HttpResponse:
        self._response = await self.open()
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            await self._response.aclose()


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost error of the operating system or of the TLS library; else `error`."""
    found, seen = error, set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError) and (current.errno is not None or isinstance(current, ssl.SSLError)):
            found = current
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        pending += [current.__context__, current.__cause__]
        pending += [item for item in current.args if isinstance(item, BaseException)]
    return found


def _explain(cause: BaseException, route: Route) -> tuple[str, str | None]:
    """Return why there is no connection, and what to do about it."""
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused", "Is the server running?" if is_loopback(route.host) else None
    if isinstance(cause, socket.gaierror):
        return "the host name is not known", "Check the base URL and the network."
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = certificate_hint(cause.verify_message)
        return f"its certificate is not trusted: {cause.verify_message}", hint
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror, None
    return str(cause) or type(cause).__name__, None


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
        text, _ = body_text(body[:MAX_ERROR_BODY], content_type, request.redact)
        raise InvalidReplyError(
            f"{request.name}: {redact(url)} did not return JSON but {shorten(text, 200) or 'nothing'}",
            provider=request.provider,
        ) from None
    return value
