"""HTTP for every provider; the only module that knows httpx.

httpx is used below its client: one transport carries one connection, and this module keeps the idle
ones of each event loop. A pool that is searched for every request costs the square of the streams
that are open at once, and cookies, redirects and authentication are things that a call with a key in
it must not have done for it.

    async with post_stream(url, headers=headers, body=body, provider="acme") as reply:
        while chunk := await reply.read():
            ...

What may go wrong comes out as one of `tinyagent.errors`, in words that hold no secret. A request that
failed before its reply began is sent again where that may help (`RetryPolicy`).
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import os
import random
import re
import socket
import ssl
import sys
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from tinyagent import _json
from tinyagent._cancel import Aborted, AbortSignal, CancelScope
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

from .chunks import ChunkMerger
from .connection import certificate_hint, is_loopback, proxy_for, tls_context
from .errors import body_text, format_duration, provider_error, redact, shorten

if TYPE_CHECKING:
    import httpx

__all__ = [
    "Call",
    "Reply",
    "RetryPolicy",
    "Timeouts",
    "check_headers",
    "check_key",
    "check_url",
    "get_json",
    "post_stream",
]

MAX_ERROR_BODY = 64 << 10
MAX_JSON_BODY = 64 << 20
ERROR_BODY_TIME = 10.0
MAX_REDIRECTS = 5
IDLE_LANES = 32
"""Idle connections kept for each server."""
KEEP_ALIVE = 60.0
"""Seconds that an idle connection is kept."""
PIECE = 4096
"""Bytes of a body that are given out before it is another reply's turn."""
ROUND = 0.01
"""Seconds after which the loop is to go round."""
TURNS = 16
"""Replies that have their turn between two rounds of the loop."""
LINGER = 0.1
"""Seconds that the end of a complete reply is waited for, so that its connection can be used again."""


# ---- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timeouts:
    """Seconds to connect, until the first event, and between two events."""

    connect: float = 10.0
    first_event: float = 120.0
    idle: float = 90.0

    @classmethod
    def of(cls, value: float | Mapping[str, float] | Timeouts | None) -> Timeouts:
        """From `options["timeout"]`: a number for all of them, or a mapping with some."""
        if value is None:
            return cls()
        if isinstance(value, Timeouts):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"connect", "first_event", "idle"}
            if unknown:
                raise ConfigurationError(
                    f"unknown time-out {sorted(unknown)[0]!r}", hint="Known: connect, first_event, idle."
                )
            given = {name: _seconds(name, seconds) for name, seconds in value.items()}
        else:
            seconds = _seconds("timeout", value)
            given = {"connect": min(seconds, cls.connect), "first_event": seconds, "idle": seconds}
        return cls(**given)


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"the time-out {name!r} must be a number of seconds above 0, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after how long a request is sent again; tests put in their own clock."""

    retries: int = 2
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_asked: float = 120.0
    """A provider that asks for more than this is not waited for."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random.random
    now: Callable[[], float] = time.time


RETRY = RetryPolicy()

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check_key(key: str, provider: str) -> str:
    """The key without white space around it.

    Raises:
        AuthenticationError: if nothing is left, or it cannot stand in a header.
    """
    key = key.strip()
    if not key:
        raise AuthenticationError(f"the API key for {provider or 'the provider'!r} is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError(
            f"the API key for {provider or 'the provider'!r} holds characters that no key has",
            hint="Copy it again: a line break, a space or a typographic character came with it.",
        )
    return key


def check_headers(headers: Mapping[Any, Any] | None, provider: str = "") -> dict[str, str]:
    """The headers, checked: names are tokens, values one line of Latin-1.

    Raises:
        ConfigurationError: naming the header, never its value.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        where = f"header {name!r} of {provider or 'the provider'!r}"
        if not isinstance(name, str) or _TOKEN.fullmatch(name) is None:
            raise ConfigurationError(f"{where} is not a valid header name")
        if not isinstance(value, str):
            raise ConfigurationError(f"{where} must be text, not {type(value).__name__}")
        value = value.strip(" \t")
        if _FORBIDDEN.search(value):
            raise ConfigurationError(f"{where} holds a line break or another control character")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigurationError(f"{where} holds characters beyond Latin-1") from None
        checked[name] = value
    return checked


_URL_EXAMPLE = "For example https://api.example.com/v1 or http://127.0.0.1:8080/v1."


def check_url(url: str, *, provider: str = "", allow_http: bool = False) -> str:
    """The URL, checked: http(s), a host, no user name in it, and http:// for this machine only.

    Raises:
        ConfigurationError: saying what is wrong with it.
    """
    shown = redact(url)
    where = f"base URL of {provider or 'the provider'!r}"
    if not url.isascii() or _FORBIDDEN.search(url) or " " in url:
        raise ConfigurationError(f"the {where} holds a space, a control or a non-ASCII character")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"the {where} is malformed: {shown}", hint=_URL_EXAMPLE) from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"the {where} must begin with https:// or http://: {shown}",
            hint=_URL_EXAMPLE,
        )
    if not host or port == 0:
        raise ConfigurationError(f"the {where} names no host: {shown}", hint=_URL_EXAMPLE)
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"the {where} holds a user name or password",
            hint="Put credentials into the key or a header; URLs end up in logs.",
        )
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"the {where} is not encrypted: {shown}",
            hint="Use https://, or set allow_http for this provider if the network between is yours.",
        )
    return url


def _reason(error: BaseException) -> BaseException:
    """The innermost cause that the operating system or the TLS library gave."""
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


# ---- connections ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Route:
    """What a connection must have in common with a request to carry it."""

    scheme: str
    host: str
    port: int
    proxy: str | None
    ca_file: str | None


class _MergingBackend:
    """Connects as httpcore's own backend does; the responses come with their chunks merged."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sleep = inner.sleep

    async def connect_tcp(self, *args: Any, **options: Any) -> _MergingStream:
        return _MergingStream(await self._inner.connect_tcp(*args, **options))


class _MergingStream:
    """One connection of httpcore's, see `_chunks`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._merger = ChunkMerger()
        self.aclose = inner.aclose
        self.get_extra_info = inner.get_extra_info

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        feed, read = self._merger.feed, self._inner.read
        while data := await read(max_bytes, timeout):
            if merged := feed(data):
                return merged
        return self._merger.close()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._merger.begin()
        await self._inner.write(buffer, timeout)

    async def start_tls(self, *args: Any, **options: Any) -> _MergingStream:
        return _MergingStream(await self._inner.start_tls(*args, **options))


class _Lane:
    """One transport with at most one connection."""

    def __init__(self, route: _Route) -> None:
        lib = _load()
        proxy = None
        if route.proxy is not None:
            scheme = urlsplit(route.proxy).scheme
            usable = scheme in ("http", "https") or (
                scheme in ("socks5", "socks5h") and importlib.util.find_spec("socksio") is not None
            )
            if not usable:
                socks = scheme.startswith("socks5")
                raise ConfigurationError(
                    f"the proxy {redact(route.proxy)} from the environment cannot be used",
                    hint="Install httpx[socks]." if socks else "Known: http, https, socks5 and socks5h.",
                )
            proxy = lib.Proxy(
                route.proxy, ssl_context=tls_context(route.ca_file) if scheme == "https" else None
            )
        self.route = route
        self.used = False
        self.since = 0.0
        self.transport = lib.AsyncHTTPTransport(
            verify=tls_context(route.ca_file) if route.scheme == "https" else _NO_TLS,
            trust_env=False,
            limits=lib.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE),
            proxy=proxy,
        )
        # httpcore takes a backend of ours, httpx has no argument for it. Where this is not to be had
        # everything works as well, only slower.
        pool: Any = getattr(self.transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = _MergingBackend(pool._network_backend)


class _Pool:
    """The idle connections of one event loop, and whose turn it is when there is much to do."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.closed = False
        self._round = 0.0
        """When the loop last went round, as far as anybody here asked."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: dict[_Route, list[_Lane]] = {}
        self._keeper = self._keep()

    async def open(self) -> None:
        # The loop closes every asynchronous generator that was begun in it when it shuts down; that
        # makes this one the place to close connections in, with the loop still running.
        await self._keeper.__anext__()

    async def _keep(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.closed = True
            lanes = [lane for idle in self._idle.values() for lane in idle]
            self._idle.clear()
            for lane in lanes:
                await lane.transport.aclose()

    async def turn(self) -> None:
        """Let the loop go round if it has been at it for long.

        Many replies that begin, or come, at the same moment would otherwise all be dealt with in one
        go, and everything else in the program would wait for that.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if loop.time() - self._round <= ROUND:
                return
            loop.call_soon(self._turn, loop)
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        # A few at a time, first come first served: to wake them all, for most of them to wait again,
        # costs the square of how many there are.
        self._round = loop.time()
        for _ in range(min(TURNS, len(self._waiting))):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            loop.call_soon(self._turn, loop)

    def take(self, route: _Route) -> _Lane:
        idle = self._idle.get(route)
        return idle.pop() if idle else _Lane(route)

    async def give(self, lane: _Lane) -> None:
        """Keep a connection whose reply is complete; close those that nobody came for."""
        now = time.monotonic()
        lane.used, lane.since = True, now
        surplus = [lane] if self.closed else []
        for route, idle in list(self._idle.items()):
            old = [other for other in idle if now - other.since > KEEP_ALIVE]
            if old:
                surplus += old
                idle[:] = [other for other in idle if other not in old]
            if not idle:
                del self._idle[route]
        if not self.closed:
            idle = self._idle.setdefault(lane.route, [])
            idle.append(lane)
            if len(idle) > IDLE_LANES:
                surplus.append(idle.pop(0))
        for other in surplus:
            await other.transport.aclose()


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()
_pools_lock = threading.Lock()


async def _pool() -> _Pool:
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is not None and not pool.closed and pool.pid == os.getpid():
        return pool
    pool = _Pool()
    with _pools_lock:
        for other in [other for other in _pools if other.is_closed()]:
            del _pools[other]
        _pools[loop] = pool
    await pool.open()
    return pool


_load_lock = threading.RLock()
_loaded: ModuleType | None = None


def _load() -> ModuleType:
    """httpx, without what it does not need here.

    `import httpx` imports click, rich and pygments for its own command whenever they are installed, and
    with us they are: more than the rest of it together. It takes an ImportError there as "not installed".
    Several threads may send their first requests at once: one imports, and the others wait.
    """
    if _loaded is None:
        with _load_lock:
            if _loaded is None:
                _import()
    assert _loaded is not None
    return _loaded


def _import() -> None:
    global _loaded
    is_first = "httpx" not in sys.modules
    if is_first:
        sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        # Also where another thread has begun to import it: the statement waits for the whole module.
        import httpx
    finally:
        if is_first:
            sys.modules.pop("httpx._main", None)
    # httpcore imports it several times a request; to search for a module that is not installed takes
    # longer each time than all the rest. None says that it is not there, which is what the search finds.
    if importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]
    _loaded = httpx


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody: for connections without TLS. A real one takes 30 ms to make."""


# ---- a reply under way ------------------------------------------------------------------------------


class Reply:
    """A reply under way: its status and headers are there, its body comes as it is read.

    The clock for the first event starts with the request. Whoever decodes the events calls `restart`
    each time before it waits for another one, so that bytes which are no event keep nothing alive,
    and a reader that takes its time is not blamed on the provider.
    """

    def __init__(self, call: Call, pool: _Pool, lane: _Lane, response: httpx.Response, since: float) -> None:
        self.status: int = response.status_code
        self.headers = response.headers
        self.complete = False
        """The body was read to its end."""
        self._call = call
        self._pool = pool
        self._lane = lane
        self._response = response
        self._next = response.stream.__aiter__().__anext__  # type: ignore[union-attr]
        self._unzip = _decompressor(response.headers.get("content-encoding", ""), call.provider)
        self._chunk = b""
        """What came at once, and how much of it was given out."""
        self._at = 0
        self._failed = False
        self._closed = False
        self._task: asyncio.Task[Any] | None = None
        self._fired: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._since = since
        self._limit = call.timeouts.first_event
        self._which = "first_event"
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the clock and listen to the signal."""
        self._timer = self._loop.call_at(self._since + self._limit, self._check)
        signal = self._call.signal
        if isinstance(signal, AbortSignal):
            signal.subscribe(self, lambda: self.cancel(Aborted()))
        elif signal is not None:
            self._watcher = asyncio.create_task(self._watch(signal))

    async def _watch(self, signal: asyncio.Event) -> None:
        await signal.wait()
        self.cancel(Aborted())

    def restart(self, limit: float | None = None) -> None:
        """Wait for the next event from now on, for the idle time-out or `limit` if that is less."""
        self._since = self._loop.time()
        if self._which != "idle" or limit is not None:
            self._which = "idle"
            self._limit = self._call.timeouts.idle
            if limit is not None and limit < self._limit:
                self._limit = limit
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._since + self._limit, self._check)

    def _check(self) -> None:
        # One timer a reply: it looks at the clock when it goes off, and sets itself again.
        now = self._loop.time()
        due = self._since + self._limit
        if self._task is None:
            self._since, due = now, now + self._limit
        if now < due:
            self._timer = self._loop.call_at(due, self._check)
        else:
            self.cancel(self._call.timed_out(self._which, self._limit))

    def cancel(self, reason: BaseException) -> None:
        """Have the read that is going on, or the next one, raise `reason`."""
        if self._fired is None:
            self._fired = reason
            if self._task is not None:
                self._task.cancel()

    async def read(self) -> bytes:
        """The next bytes of the body, decompressed; empty at its end.

        What comes faster than it is read is given out a little at a time, so that all the replies of a
        loop take turns, and so does everything else in it.

        Raises:
            StreamInterruptedError: if the connection breaks.
            ProviderTimeoutError: if no event came in time.
        """
        if self._fired is not None:
            raise self._fired
        task = self._task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            chunk, at = self._chunk, self._at
            if at < len(chunk):
                await self._pool.turn()
            else:
                chunk, at = b"", 0
                while not chunk:
                    chunk = await (self._next() if self._unzip is None else self._unzip.read(self._next))
                if len(chunk) <= PIECE:
                    return chunk
                self._chunk = chunk
            self._at = at + PIECE
            return chunk[at : at + PIECE]
        except StopAsyncIteration:
            self.complete = True
            return b""
        except asyncio.CancelledError:
            self._failed = True
            if self._fired is not None and task.uncancel() <= before:
                raise self._fired from None
            raise
        except Exception as error:
            self._failed = True
            if isinstance(error, zlib.error):
                raise InvalidReplyError(
                    f"{self._call.name}: the compressed reply cannot be decompressed ({error})",
                    provider=self._call.provider,
                ) from self._call.cause(error)
            if not isinstance(error, _load().TransportError):
                raise
            reason = self._call.clean(str(_reason(error))) or type(error).__name__
            raise StreamInterruptedError(
                f"{self._call.name}: the connection broke off in mid-reply ({reason})",
                provider=self._call.provider,
                retryable=True,
            ) from self._call.cause(error)
        finally:
            self._task = None

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body, up to `limit` bytes."""
        parts, size = [], 0
        while size < limit and (chunk := await self.read()):
            parts.append(chunk)
            size += len(chunk)
        return b"".join(parts)[:limit]

    async def finish(self) -> None:
        """The reply is all there but perhaps for its end: read that, if it comes at once, and close."""
        if not (self.complete or self._failed or self._closed):
            self._fired = None
            timer = self._loop.call_later(LINGER, self.cancel, Aborted())
            try:
                while await self.read():
                    pass
            except (Aborted, TinyAgentError):
                pass  # a connection that is left open, or breaks, after the end is nobody's loss
            finally:
                timer.cancel()
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once. The connection is kept only if the body was read to its end."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(self._call.signal, AbortSignal):
            self._call.signal.unsubscribe(self)
        if self._watcher is not None:
            self._watcher.cancel()  # first, since closing may be cancelled itself
        if not (self.complete or self._failed):
            # The generators inside hold on to the connection, and dropping them would close each in a
            # task of its own, later. With the socket closed they end where they are, and now.
            await self._response.extensions["network_stream"].aclose()
            try:
                while True:
                    await self._next()
            except StopAsyncIteration:
                pass
            except Exception as error:  # noqa: BLE001 - whatever a closed connection raises
                del error
        await self._response.stream.aclose()  # type: ignore[union-attr]
        if self.complete:
            await self._pool.give(self._lane)
        else:
            await self._lane.transport.aclose()
        if self._watcher is not None:
            await asyncio.wait([self._watcher])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Unzip:
    """gzip or deflate, a bounded piece at a time."""

    PIECE = 1 << 20

    def __init__(self, encoding: str) -> None:
        # 47: gzip or zlib, whichever the first bytes say. Some servers mean raw deflate by "deflate".
        self._inflate = zlib.decompressobj(47)
        self._raw = encoding == "deflate"

    async def read(self, more: Callable[[], Awaitable[bytes]]) -> bytes:
        while True:
            data = self._inflate.unconsumed_tail or await more()
            try:
                piece = self._inflate.decompress(data, self.PIECE)
            except zlib.error:
                if not self._raw:
                    raise
                self._inflate, self._raw = zlib.decompressobj(-15), False
                piece = self._inflate.decompress(data, self.PIECE)
            if piece:
                self._raw = False
                return piece


def _decompressor(encoding: str, provider: str) -> _Unzip | None:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Unzip(encoding)
    known = repr(encoding) if encoding in ("br", "zstd", "compress") else "something unknown"
    raise InvalidReplyError(
        f"{provider or 'the provider'}: the reply is compressed with {known}, which was not asked for",
        provider=provider,
    )


# ---- a call -----------------------------------------------------------------------------------------


class Call:
    """A request, the attempts at it, and what was asked for in `options`.

    Args:
        url: Checked already, or checked here.
        headers: Checked here; `Authorization` among them.
        body: The request's body, encoded once.
        provider: Its name, for messages.
        secrets: What must appear in no message.
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
    ) -> None:
        self.url = check_url(url, provider=provider, allow_http=allow_http)
        self.method = method
        self.headers = {"accept-encoding": "identity", **check_headers(headers, provider)}
        self.body = body
        self.provider = provider
        self.name = provider or "the provider"
        self.timeouts = Timeouts.of(timeout)
        self.signal = signal
        self.secrets = tuple(secrets)
        self._allow_http = allow_http
        self._on_retry = on_retry
        self._ca_file = ca_file
        self._policy = RETRY
        self._tries = 0
        self._reply: Reply | None = None

    async def open(self) -> Reply:
        """Send the request, again where that may help, and return once the reply's headers are there.

        Raises:
            TinyAgentError: what the last attempt met.
            Aborted: if the signal was set.
        """
        while True:
            try:
                return await self._attempt()
            except (ProviderError, AuthenticationError) as error:
                await self._wait(error)

    async def again(self, error: TinyAgentError) -> Reply:
        """As `open`, after a reply that failed before anything of it was shown; raises `error` if in vain."""
        await self._wait(error)
        return await self.open()

    async def _wait(self, error: TinyAgentError) -> None:
        policy = self._policy
        if not isinstance(error, ProviderError) or not error.retryable or self._tries >= policy.retries:
            raise error
        seconds = error.retry_after
        if seconds is None:
            seconds = min(policy.first_wait * 2**self._tries, policy.longest_wait)
            seconds *= 1 - policy.random() / 4
        elif seconds > policy.longest_asked:
            raise error
        self._tries += 1
        if self._on_retry is not None:
            turn = f"{self._tries} of {policy.retries}"
            self._on_retry(f"Retrying in {format_duration(seconds)} ({turn}): {self._reason(error)}")
        async with CancelScope(self.signal):
            await policy.sleep(seconds)

    def _reason(self, error: ProviderError) -> str:
        """Why, on one short line; the last error has the whole body."""
        if error.status is not None:
            return f"{self.name}: HTTP {error.status}"
        return shorten(str(error).partition("\n")[0], 200)

    async def _attempt(self) -> Reply:
        url = self.url
        for _ in range(MAX_REDIRECTS):
            reply = await self._send(url)
            if 200 <= reply.status < 300:
                return reply
            try:
                if reply.status in (301, 302, 303, 307, 308):
                    url = self._redirected(reply, url)
                    continue
                raise await self._error_from(reply)
            finally:
                await reply.finish()
        raise InvalidReplyError(f"{self.name}: more than {MAX_REDIRECTS} redirects", provider=self.provider)

    async def _send(self, url: str) -> Reply:
        lib = _load()
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        route = _Route(parts.scheme, host, port, proxy_for(parts.scheme, host, port), self._ca_file)
        pool = await _pool()
        try:
            request = lib.Request(
                self.method,
                url,
                headers=self.headers,
                content=self.body if self.method == "POST" else None,
                extensions={"timeout": {"connect": self.timeouts.connect}},
            )
        except lib.InvalidURL as error:
            raise ConfigurationError(f"the URL {redact(url)} cannot be used: {error}") from None
        loop = asyncio.get_running_loop()
        while True:
            lane = pool.take(route)
            since = loop.time()
            reply: Reply | None = None
            try:
                async with CancelScope(self.signal) as interrupt:
                    limit = self.timeouts.first_event
                    timer = loop.call_later(limit, interrupt.cancel, self.timed_out("first_event", limit))
                    try:
                        await pool.turn()
                        response = await lane.transport.handle_async_request(request)
                        await pool.turn()
                        reply = Reply(self, pool, lane, response, since)
                    finally:
                        timer.cancel()
                reply.begin()
                return reply
            except BaseException as error:
                if reply is not None:
                    await reply.aclose()
                else:
                    await lane.transport.aclose()
                if isinstance(error, InvalidReplyError):
                    raise InvalidReplyError(f"{self.name}: {error}", provider=self.provider) from None
                if not isinstance(error, lib.TransportError):
                    raise
                lost = isinstance(error, lib.ReadError | lib.WriteError | lib.RemoteProtocolError)
                if lost and lane.used:
                    continue  # an idle connection that the server had given up: nobody read the request
                raise self._not_connected(error, route) from self.cause(error)

    def _redirected(self, reply: Reply, url: str) -> str:
        target = urljoin(url, reply.headers.get("location", ""))
        old, new = urlsplit(url), urlsplit(target)
        shown = self.clean(target)
        if reply.status not in (307, 308):
            raise ProviderError(
                f"{self.name}: HTTP {reply.status} redirects to {shown}, which would drop the request",
                status=reply.status,
                provider=self.provider,
                hint="Set the base URL to the address that it redirects to, if you trust it.",
            )
        if (old.scheme, old.hostname, old.port) != (new.scheme, new.hostname, new.port):
            raise ProviderError(
                f"{self.name}: HTTP {reply.status} redirects to another server: {shown}. No key goes there",
                status=reply.status,
                provider=self.provider,
                hint="Set the base URL to that address, if you trust it.",
            )
        return check_url(target, provider=self.provider, allow_http=self._allow_http)

    async def _error_from(self, reply: Reply) -> TinyAgentError:
        reply.restart(ERROR_BODY_TIME)
        try:
            body = await reply.read_all(MAX_ERROR_BODY)
        except ProviderError:
            body = b""  # the status says enough
        text, code = body_text(body, reply.headers.get("content-type", ""), self.clean)
        verdict = reply.headers.get("x-should-retry", "").strip().lower()
        return provider_error(
            text,
            provider=self.provider,
            status=reply.status,
            code=code,
            prefix=f"HTTP {reply.status}",
            retry_after=_retry_after(reply.headers, self._policy.now),
            retryable={"true": True, "false": False}.get(verdict),
        )

    def clean(self, words: str) -> str:
        """A provider's words without secrets."""
        return redact(words, self.secrets)

    def cause(self, error: Exception) -> Exception | None:
        """The error, to be shown as the cause of ours; None if a secret stands in what it says.

        The HTTP library quotes bytes that are no HTTP, and a server may say what it was sent.
        """
        import traceback  # only for failures

        said = "".join(traceback.format_exception(error))
        return None if any(secret in said for secret in self.secrets) else error

    def timed_out(self, which: str, seconds: float) -> ProviderTimeoutError:
        """The error for the time-out of this name."""
        what = {
            "connect": "no connection",
            "first_event": "no first event",
            "idle": "no further event",
        }[which]
        return ProviderTimeoutError(
            f"{self.name}: {what} within {seconds:g} s (time-out {which!r})",
            provider=self.provider,
            hint=f"Set the time-out {which!r} higher if the model needs longer.",
        )

    def _not_connected(self, error: Exception, route: _Route) -> ProviderError:
        lib = _load()
        default = {"https": 443, "http": 80}[route.scheme]
        host = f"[{route.host}]" if ":" in route.host else route.host
        origin = f"{route.scheme}://{host}" + ("" if route.port == default else f":{route.port}")
        if route.proxy is not None:
            origin += f" through the proxy {redact(route.proxy)}"
        if isinstance(error, lib.ConnectTimeout):
            timeout = self.timed_out("connect", self.timeouts.connect)
            timeout.args = (f"{timeout.args[0]}: {origin}",)
            timeout.retryable = True
            return timeout
        reason = _reason(error)
        hint: str | None = None
        if isinstance(reason, ConnectionRefusedError):
            why = "connection refused"
            if is_loopback(route.host):
                hint = "Is the server running?"
        elif isinstance(reason, socket.gaierror):
            why = "the host name is not known"
            hint = "Check the base URL and the network."
        elif isinstance(reason, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {reason.verify_message}"
            hint = certificate_hint(reason.verify_message)
        elif isinstance(reason, OSError) and reason.strerror:
            why = reason.strerror
        else:
            why = str(reason) or type(reason).__name__
        if isinstance(error, lib.ConnectError | lib.ProxyError):
            text = f"cannot connect to {origin} ({self.clean(why)})"
        else:
            text = f"the connection to {origin} broke before the reply began ({self.clean(why)})"
        return ConnectionFailedError(
            f"{self.name}: {text}",
            provider=self.provider,
            retryable=not isinstance(reason, ssl.SSLCertVerificationError),
            hint=hint,
        )

    async def __aenter__(self) -> Reply:
        self._reply = await self.open()
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is not None:
            await self._reply.aclose()


post_stream = Call


_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,9})?", re.ASCII)
_LONGEST_WAIT = 366 * 86400.0
"""Seconds; a server that names a longer wait does not mean it."""


def _retry_after(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Seconds that the reply asks to wait: `retry-after-ms`, else `Retry-After`, a number or a date.

    What is neither, or is absurd (`nan`, `inf`, a negative number, more than a year), is ignored.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    value = headers.get("retry-after", "").strip()
    seconds: float | None = None
    if _NUMBER.fullmatch(milliseconds):
        seconds = float(milliseconds) / 1000
    elif _NUMBER.fullmatch(value):
        seconds = float(value)
    elif value:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_WAIT else None


async def get_json(url: str, **options: Any) -> Any:
    """The JSON document at `url`, bounded; `options` are those of `Call`.

    Raises:
        TinyAgentError: as for any call; `InvalidReplyError` if it is not JSON.
    """
    call = Call(url, method="GET", **{"timeout": {"connect": 10, "first_event": 30, "idle": 30}, **options})
    reply = await call.open()
    try:
        body = await reply.read_all(MAX_JSON_BODY)
    finally:
        await reply.finish()
    try:
        return _json.decode(body)
    except (ValueError, RecursionError):
        text, _ = body_text(body[:MAX_ERROR_BODY], reply.headers.get("content-type", ""), call.clean)
        raise InvalidReplyError(
            f"{call.name}: {redact(url)} did not return JSON but {shorten(text, 200) or 'nothing'}",
            provider=call.provider,
        ) from None
