"""Requests to providers: connections, retries, time-outs, redirects, and what is checked before."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import ssl
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tinyagent._cancel import Aborted, AbortSignal
from tinyagent._net import direct
from tinyagent._net import network as _network
from tinyagent._net import request as _request
from tinyagent._net import response as _response
from tinyagent._net.errors import redact
from tinyagent._net.pool import current_pool
from tinyagent._net.request import HttpRequest, get_json
from tinyagent._net.response import Timeouts
from tinyagent._net.retry import RetryPolicy
from tinyagent._net.url_guard import check_key
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    ContextOverflowError,
    InvalidReplyError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
    StreamInterruptedError,
)
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold, Reset, Sleep, Wait

OK = FakeReply([b"hello"], framing="length")
NOW = 1_700_000_000.0


@pytest.fixture
def waits(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have waited, at the time `NOW`."""
    monkeypatch.setattr(_request, "RETRY", _request.RETRY._replace(now=lambda: NOW))
    return waits


def request_to(server: FakeServer, **options: Any) -> HttpRequest:
    return HttpRequest(f"{server.origin}/x", body=b"{}", provider="acme", **options)


async def body_of(request: HttpRequest) -> bytes:
    async with request as reply:
        return await reply.read_all(1 << 20)


# ---- connections ------------------------------------------------------------------------------------


async def test_requests_in_sequence_share_a_connection() -> None:
    """The next request uses the connection of a response that was read to its end."""
    async with FakeServer(OK, repeat=True) as server:
        for _ in range(5):
            assert b"hello" == await body_of(request_to(server))
        assert 1 == server.connections
        assert "/x" == server.requests[0].path


async def test_many_streams_at_once() -> None:
    """Concurrent responses have one connection each, and all of them are used again."""
    async with FakeServer(FakeReply([b"a", Wait(), b"b"]), repeat=True) as server:
        calls = [asyncio.create_task(body_of(request_to(server))) for _ in range(40)]
        await server.wait_requests(40)
        server.release(40)
        assert [b"ab"] * 40 == await asyncio.gather(*calls)
        assert 40 == server.connections
        server.release(40)
        await asyncio.gather(*(body_of(request_to(server)) for _ in range(20)))
        assert 40 == server.connections


async def test_leaving_a_response_early_closes_its_connection() -> None:
    """The connection is closed at once, and no task remains."""
    async with FakeServer(FakeReply([b"a" * 1000] * 50 + [Hold()])) as server:
        tasks = asyncio.all_tasks()
        async with request_to(server) as reply:
            assert await reply.read()
            assert 1 == server.open_connections
        await server.wait_closed()
        await asyncio.sleep(0)
        assert not {task for task in asyncio.all_tasks() - tasks if "FakeServer" not in repr(task)}


async def test_cancelling_a_read_closes_its_connection() -> None:
    """A task that is cancelled while it reads raises CancelledError, and its connection is closed."""
    async with FakeServer(FakeReply([b"a", Hold()])) as server:
        read = asyncio.Event()

        async def run() -> None:
            async with request_to(server) as reply:
                await reply.read()
                read.set()
                await reply.read()

        task = asyncio.create_task(run())
        await read.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_closed()


@pytest.mark.parametrize("kind", [AbortSignal, asyncio.Event])
async def test_the_signal_ends_a_request(kind: type[asyncio.Event]) -> None:
    """The signal ends a request that waits for headers, or for more of the body."""
    for steps in ([b"a", Hold()], [Hold()]):
        head = None if steps[0] == b"a" else b""
        async with FakeServer(FakeReply(steps, head=head)) as server:
            signal = kind()
            task = asyncio.create_task(body_of(request_to(server, signal=signal)))
            await server.wait_requests(1)
            signal.set()
            with pytest.raises(Aborted):
                await task
            await server.wait_closed()


async def test_a_signal_that_was_set_before() -> None:
    """A request whose signal was set before ends without a response."""
    async with FakeServer(OK) as server:
        signal = AbortSignal()
        signal.set()
        with pytest.raises(Aborted):
            await body_of(request_to(server, signal=signal))


async def test_an_idle_connection_that_the_server_closed(waits: list[float]) -> None:
    """The next request opens another connection at once. This does not count as a retry."""
    async with FakeServer(FakeReply([b"a"]), FakeReply(head=b"", steps=[Hangup()]), OK) as server:
        assert b"a" == await body_of(request_to(server))
        assert b"hello" == await body_of(request_to(server))
        assert [] == waits
        assert 3 == len(server.requests)
        assert 2 == server.connections


def test_connections_end_with_their_loop() -> None:
    """The end of an event loop closes its idle connections, without a warning."""
    with warnings.catch_warnings(), FakeServer(OK, repeat=True) as server:
        warnings.simplefilter("error")
        for n in range(3):
            assert b"hello" == asyncio.run(body_of(request_to(server)))
            gc.collect()
            for _ in range(100):
                if not server.open_connections:
                    break
                time.sleep(0.01)
            assert 0 == server.open_connections
            assert n + 1 == server.connections


def test_an_open_response_is_closed_with_the_loop() -> None:
    """A response that was not closed ends with its event loop."""

    async def leave(server: FakeServer) -> None:
        reply = await request_to(server).open()
        await reply.read()

    with FakeServer(FakeReply([b"a", Hold()])) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(leave(server))
        gc.collect()
        for _ in range(200):
            if not server.open_connections:
                break
            time.sleep(0.01)
        assert 0 == server.open_connections


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_its_own_connections() -> None:
    """A child process does not use the connection of its parent."""
    script = """
import asyncio, os, sys
from tinyagent._net.request import HttpRequest

async def ask():
    async with HttpRequest(sys.argv[1], body=b"{}") as reply:
        assert await reply.read_all(99) == b"hello"

asyncio.run(ask())
if os.fork():
    assert os.wait()[1] == 0
asyncio.run(ask())
"""
    with FakeServer(OK, repeat=True) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, server.url], capture_output=True, check=False
        )
        assert (0, b"") == (done.returncode, done.stderr)
        assert 3 == server.connections


# ---- bodies -----------------------------------------------------------------------------------------

TEXT = b"data: hello\n\n" * 1000


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", deflated(TEXT)),
        ("", TEXT),
    ],
    ids=["gzip", "zlib", "raw deflate", "none"],
)
async def test_compressed_replies(encoding: str, packed: bytes) -> None:
    """gzip and both kinds of deflate are decompressed, wherever the data is cut."""
    steps = [packed[n : n + 7] for n in range(0, len(packed), 7)]
    async with FakeServer(FakeReply(steps, headers={"content-encoding": encoding or None})) as server:
        assert TEXT == await body_of(request_to(server))
        assert "identity" == server.requests[0].headers["accept-encoding"]


async def test_a_small_response_that_decompresses_to_much() -> None:
    """Compressed data is decompressed in pieces of a limited size."""
    packed = FakeReply([gzip.compress(bytes(1 << 25))], headers={"content-encoding": "gzip"})
    async with FakeServer(packed) as server, request_to(server) as reply:
        assert len(await reply.read()) <= 1 << 16


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [("gzip", b"no gzip at all", "cannot be decompressed"), ("br", b"\x00", "was not asked for")],
)
async def test_what_cannot_be_decompressed(encoding: str, data: bytes, text: str) -> None:
    """A body that does not match its encoding is an error with the reason."""
    async with FakeServer(FakeReply([data], headers={"content-encoding": encoding})) as server:
        with pytest.raises(InvalidReplyError, match=text):
            await body_of(request_to(server))


@pytest.mark.parametrize("end", [Reset(), Hangup()])
async def test_a_broken_connection(end: Any) -> None:
    """A body that breaks off is an interrupted stream. What came before is returned first."""
    async with FakeServer(FakeReply([b"a", Wait(), end])) as server, request_to(server) as reply:
        assert b"a" == await reply.read()
        server.release()
        with pytest.raises(
            StreamInterruptedError, match="acme: the connection broke in the middle of the reply"
        ):
            await reply.read()


async def test_fast_responses_take_turns() -> None:
    """However fast the bodies arrive, all readers and all other tasks advance."""
    async with FakeServer(FakeReply([b"x" * 100_000] * 10), repeat=True) as server:
        progress = [0] * 5
        widest = 0

        async def run(n: int) -> None:
            nonlocal widest
            async with request_to(server) as reply:
                while chunk := await reply.read():
                    progress[n] += len(chunk)
                    behind = [size for size in progress if size < 1_000_000]
                    if min(progress) > 0 and behind:
                        widest = max(widest, max(behind) - min(behind))
                    assert len(chunk) <= _response.READ_SIZE

        await asyncio.gather(*(run(n) for n in range(5)))
        assert [1_000_000] * 5 == progress
        assert widest < 900_000


# ---- time-outs --------------------------------------------------------------------------------------


async def read_on(reply: _response.HttpResponse) -> None:
    while await reply.read():
        pass


async def test_first_event_and_idle() -> None:
    """Bytes without an event do not extend a time-out. The error names the time-out and its length."""
    ticks = [b":\n\n", Sleep(0.05)] * 2000  # for longer than a test may take
    async with FakeServer(FakeReply([*ticks, Hold()]), FakeReply([b"x", *ticks, Hold()])) as server:
        times = {"first_event": 0.3, "idle": 0.2}
        async with request_to(server, timeout=times) as reply:
            with pytest.raises(ProviderTimeoutError, match=r"no first event within 0.3 s \(.*'first_event'"):
                await read_on(reply)
        async with request_to(server, timeout=times) as reply:
            await reply.read()
            reply.restart()
            with pytest.raises(ProviderTimeoutError, match=r"no further event within 0.2 s \(.*'idle'"):
                await read_on(reply)
        await server.wait_closed()


async def test_headers_count_for_the_first_event() -> None:
    """A server that accepts the request and never answers meets the same time-out."""
    async with FakeServer(FakeReply([Hold()], head=b"")) as server:
        with pytest.raises(ProviderTimeoutError, match="first_event"):
            await body_of(request_to(server, timeout={"first_event": 0.1}))
        await server.wait_closed()


async def test_the_time_of_a_slow_reader() -> None:
    """Time without a read does not count."""
    times = {"first_event": 0.2, "idle": 0.1}
    late = FakeReply([b"a", Sleep(0.5), b"b", Hold()])
    async with FakeServer(late) as server, request_to(server, timeout=times) as reply:
        await asyncio.sleep(0.4)
        assert b"a" == await reply.read()
        await asyncio.sleep(0.3)
        reply.restart()
        assert b"b" == await reply.read()


async def test_connect_timeout(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """If there is no connection in time, the error has the reason, and the request is sent again."""

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(10)

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(ProviderTimeoutError, match=r"no connection within 0.05 s.*http://127.0.0.1:9"):
        await body_of(HttpRequest("http://127.0.0.1:9/", provider="acme", timeout={"connect": 0.05}))
    assert 2 == len(waits)


def test_timeouts_from_options() -> None:
    """A number sets all time-outs and a mapping some of them. Other values are refused."""
    assert Timeouts(10, 120, 90) == Timeouts.of(None)
    assert Timeouts(10, 30, 30) == Timeouts.of(30)
    assert Timeouts(3, 3, 3) == Timeouts.of(3)
    assert Timeouts(10, 120, 5) == Timeouts.of({"idle": 5})
    for wrong in (0, -1, float("nan"), float("inf"), "9", True, {"total": 1}, {"idle": None}):
        with pytest.raises(ConfigurationError):
            Timeouts.of(wrong)  # type: ignore[arg-type]


# ---- retries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_statuses_that_are_retried(status: int, waits: list[float]) -> None:
    """These statuses are retried twice, after half a second and a second, and each retry is reported."""
    notes: list[str] = []
    async with FakeServer(FakeReply.error(status, "busy"), FakeReply.error(status, "busy"), OK) as server:
        assert b"hello" == await body_of(request_to(server, on_retry=notes.append))
        assert 3 == len(server.requests)
    assert [0.5, 1.0] == waits
    assert f"Retrying in 0.5 s (1 of 2): acme: HTTP {status}" == notes[0]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_statuses_that_are_not_retried(status: int, waits: list[float]) -> None:
    """These statuses are final."""
    async with FakeServer(FakeReply.error(status, "no")) as server:
        with pytest.raises((ProviderError, AuthenticationError), match=f"acme: HTTP {status}: no"):
            await body_of(request_to(server))
    assert [] == waits


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after_ms": "1500", "retry_after": "7"}, [1.5, 1.5]),
        ({"retry_after": "7"}, [7.0, 7.0]),
        ({"retry_after": "120"}, [120.0, 120.0]),
        ({"retry_after": "0"}, [0.0, 0.0]),
        ({"retry_after": "-5"}, [0.5, 1.0]),
        ({"retry_after": "soon"}, [0.5, 1.0]),
        ({"retry_after": formatdate(NOW + 9, usegmt=True)}, [9.0, 9.0]),
        ({"retry_after": formatdate(NOW - 9, usegmt=True)}, [0.5, 1.0]),
        ({"retry_after": "121"}, []),
        ({"retry_after": "nan"}, [0.5, 1.0]),
        ({"retry_after": "inf"}, [0.5, 1.0]),
        ({"retry_after": "1e308"}, [0.5, 1.0]),
        ({"retry_after": "9" * 400}, [0.5, 1.0]),
        ({"retry_after": "Fri, 31 Dec 9999 23:59:59 GMT"}, [0.5, 1.0]),
        ({"retry_after_ms": "nan", "retry_after": "7"}, [7.0, 7.0]),
        ({"retry_after_ms": "-1"}, [0.5, 1.0]),
        ({"x_should_retry": "false"}, []),
    ],
    ids=str,
)
async def test_the_wait_that_the_provider_asks_for(
    headers: dict[str, str], expected: list[float], waits: list[float]
) -> None:
    """The headers decide whether and when to retry. A wait of more than two minutes is an error."""
    async with FakeServer(FakeReply.error(429, "slow down", **headers), repeat=True) as server:
        with pytest.raises(RateLimitError):
            await body_of(request_to(server))
        assert len(expected) + 1 == len(server.requests)
    assert expected == waits


async def test_x_should_retry_makes_any_status_retryable(waits: list[float]) -> None:
    """`x-should-retry: true` takes precedence over the status."""
    async with FakeServer(FakeReply.error(400, "again", x_should_retry="true"), OK) as server:
        assert b"hello" == await body_of(request_to(server))


async def test_the_wait_is_shorter_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is shortened by up to a quarter, so that clients do not return at the same time."""
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(_request, "RETRY", RetryPolicy(retries=6, sleep=sleep, random=lambda: 1.0))
    async with FakeServer(FakeReply.error(500, "x"), repeat=True) as server:
        with pytest.raises(ProviderError):
            await body_of(request_to(server))
    assert [0.375, 0.75, 1.5, 3.0, 6.0, 6.0] == waited


async def test_connections_that_break_before_the_reply(waits: list[float]) -> None:
    """If a connection ends without a response, the request is sent again."""
    lost = FakeReply([Hangup()], head=b"")
    async with FakeServer(lost, FakeReply([Reset()], head=b""), OK) as server:
        assert b"hello" == await body_of(request_to(server))
    assert [0.5, 1.0] == waits


async def test_the_signal_ends_the_wait() -> None:
    """The signal ends the wait before a retry."""
    async with FakeServer(FakeReply.error(429, "x", retry_after="100"), repeat=True) as server:
        signal = AbortSignal()
        notes = asyncio.Event()
        task = asyncio.create_task(body_of(request_to(server, signal=signal, on_retry=lambda _: notes.set())))
        await notes.wait()
        signal.set()
        with pytest.raises(Aborted):
            await task


# ---- redirects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_to_the_same_origin(status: int) -> None:
    """The redirect is followed, with the key and the body."""
    move = FakeReply(status=status, headers={"location": "/y?z=1"}, framing="length")
    async with FakeServer(move, OK) as server:
        assert b"hello" == await body_of(request_to(server, headers={"authorization": "Bearer k"}))
        first, second = server.requests
        assert ("/y?z=1", b"{}", "Bearer k") == (second.path, second.body, second.headers["authorization"])
        assert first.connection == second.connection


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_drop_the_body(status: int) -> None:
    """Clients make a GET of such a redirect, so it is refused, also to the same origin."""
    move = FakeReply(status=status, headers={"location": "/y"}, framing="length")
    async with FakeServer(move, OK) as server:
        with pytest.raises(ProviderError, match="would drop the request"):
            await body_of(request_to(server))
        assert 1 == len(server.requests)


async def test_a_redirect_to_another_origin() -> None:
    """The redirect is refused. The error shows where it leads, and nothing is sent there."""
    async with FakeServer(OK) as other:
        for status in (301, 302, 303, 307, 308):
            target = f"{other.origin}/y?token=secret1"
            move = FakeReply(status=status, headers={"location": target}, framing="length")
            async with FakeServer(move) as server:
                with pytest.raises(ProviderError, match=f"redirects .*{other.origin}/y") as caught:
                    await body_of(request_to(server, headers={"authorization": "Bearer k"}))
                assert "secret1" not in str(caught.value)
        assert [] == other.requests


async def test_a_redirect_loop() -> None:
    """A redirect loop is an error after five redirects."""
    move = FakeReply(status=307, headers={"location": "/x"}, framing="length")
    async with FakeServer(move, repeat=True) as server:
        with pytest.raises(InvalidReplyError, match="more than 5 redirects"):
            await body_of(request_to(server))


# ---- error messages --------------------------------------------------------------------------------


async def test_a_refused_connection(waits: list[float]) -> None:
    """The error has what failed, where, and what to do."""
    async with FakeServer() as server:
        origin = server.origin
    with pytest.raises(ConnectionFailedError) as caught:
        await body_of(HttpRequest(f"{origin}/v1", provider="local"))
    assert f"local: cannot connect to {origin} (connection refused)" == str(caught.value)
    assert "Is the server running?" == caught.value.hint
    assert 2 == len(waits)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, '{"error":{"message":"bad key sk-abcdef123456"}}', AuthenticationError, "bad key [redacted]"),
        (403, '{"error":"no access"}', AuthenticationError, "no access"),
        (402, '{"error":{"message":"Insufficient credits"}}', ProviderError, "Insufficient credits"),
        (429, '{"detail":"quota"}', RateLimitError, "quota"),
        (400, '{"error":{"message":"This model\'s maximum context length is 8192 tokens"}}',
         ContextOverflowError, "maximum context length"),
        (413, "Request is too long", ContextOverflowError, "too long"),
        (400, '[{"error":{"message":"from a list"}}]', ProviderError, "from a list"),
        (400, '{"error":{"message":"It failed","metadata":{"raw":"{\\"error\\":\\"the reason\\"}"}}}',
         ProviderError, "It failed (the reason)"),
        (500, "<html><head><title>Bad Gateway</title></head><body>x</body></html>", ProviderError,
         "an HTML page: Bad Gateway"),
        (400, "", ProviderError, "acme: HTTP 400"),
        (400, "{not json", ProviderError, "{not json"),
    ],
)  # fmt: skip
async def test_the_text_of_the_provider(
    status: int, body: str, kind: type[Exception], text: str, waits: list[float]
) -> None:
    """Each status has its class of error. The message has the text of the provider."""
    reply = FakeReply([body.encode()], status=status, headers={"content-type": "application/json"})
    async with FakeServer(reply, repeat=True) as server:
        with pytest.raises(kind) as caught:
            await body_of(request_to(server))
    assert text in str(caught.value)
    assert getattr(caught.value, "status", status) == status


async def test_error_bodies_are_bounded(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long body is neither read nor shown in full, and the end of an endless one is not awaited."""
    monkeypatch.setattr(_request, "ERROR_BODY_TIMEOUT_S", 3600.0)
    long = FakeReply([b"x" * 500_000], status=400)
    async with FakeServer(long) as server:
        with pytest.raises(ProviderError) as caught:
            await body_of(request_to(server))
        assert len(str(caught.value)) < 3000
    endless = FakeReply([b"y" * 70_000, Hold()], status=400)
    async with FakeServer(endless) as server:
        with pytest.raises(ProviderError):
            await body_of(request_to(server))
        await server.wait_closed()


def test_redact() -> None:
    """Keys, tokens, passwords and queries of URLs are replaced, and nothing else."""
    shown = redact(
        "key MYKEY99 or sk-or-v1-abcdef and 'Bearer abc.def' at https://u:p@h/x?key=1&b=2#z, sk-abc*** end",
        ["MYKEY99"],
    )
    for secret in ("MYKEY99", "sk-or", "abc.def", "u:p", "key=1", "b=2", "sk-abc"):
        assert secret not in shown
    assert shown.startswith(
        "key [redacted] or [redacted] and '[redacted]' at https://[redacted]h/x?[redacted]"
    )
    assert "a plain sentence: 1 + 1 = 2?" == redact("a plain sentence: 1 + 1 = 2?")


# ---- checks before a request ----------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com/v1", "ftp://example.com", "https://", "https:///v1", "https://u:p@example.com/v1",
        "https://user@example.com", "http://example.com/v1", "http://10.0.0.1:8080", "https://exa mple.com",
        "https://example.com/\r\nHost: x", "https://example.com:99999/", "https://example.com:0/", "https://[::1",
        "https://ex\x00.com", "https://b\u00fccher.example/",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    """An invalid URL, or one with credentials, is refused. The error does not show a password."""
    with pytest.raises(ConfigurationError) as caught:
        HttpRequest(url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/v1",
        "http://127.0.0.1:8080",
        "http://localhost/v1",
        "http://[::1]:9/v1",
        "http://127.9.9.9/",
    ],
)
def test_urls_that_are_accepted(url: str) -> None:
    """https:// is accepted for all servers, http:// for this machine."""
    assert url == HttpRequest(url).url
    assert "http://10.0.0.1/" == HttpRequest("http://10.0.0.1/", allow_http=True).url


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "5"}, {"transfer-encoding": "chunked"},
     {"x y": "a"}, {"": "a"}, {"x:": "a"}, {"x": "a\r\nb: c"}, {"x": "a\nb"}, {"x": "a\x00"}, {"x": "\u20ac"},
     {"x\u00e9": "a"}, {"x": 1}],
)  # fmt: skip
def test_headers_that_are_refused(headers: Any) -> None:
    """Header names are tokens, and values are one line of Latin-1. The error does not show the value."""
    with pytest.raises(ConfigurationError, match="header"):
        HttpRequest("https://example.com", headers=headers)


@pytest.mark.parametrize("key", ["", "  ", "\n", "a b", "a\nb", "\u201cabc\u201d", "k\x00"])
def test_keys_that_are_refused(key: str) -> None:
    """A key that is empty or malformed is refused. The error does not show it."""
    with pytest.raises(AuthenticationError) as caught:
        check_key(key, "acme")
    assert "acme" in str(caught.value)
    assert "abc" not in str(caught.value)
    assert "abc" == check_key(" abc\n", "acme")


async def test_interim_responses_without_end() -> None:
    """A few interim responses are skipped. `100 Continue` without end is an error at once."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with FakeServer(
        FakeReply([b"hi"], head=interim * 20 + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    ) as server:
        assert b"hi" == await body_of(request_to(server))
    async with FakeServer(FakeReply([Hold()], head=interim * 5000)) as server:
        with pytest.raises(InvalidReplyError, match="interim responses"):
            await body_of(request_to(server))


# ---- proxies and certificates -------------------------------------------------------------------------


async def test_a_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`http_proxy` is used for other machines, except those of `no_proxy` and this machine."""
    async with FakeServer(OK, repeat=True) as proxy:
        monkeypatch.setenv("http_proxy", proxy.origin.removeprefix("http://"))
        target = "http://models.example/v1/x"
        assert b"hello" == await body_of(HttpRequest(target, body=b"{}", allow_http=True))
        assert target == proxy.requests[0].path
        async with FakeServer(OK) as server:
            assert b"hello" == await body_of(request_to(server))
        assert 1 == len(proxy.requests)
        monkeypatch.setenv("no_proxy", "models.example")
        assert _network.proxy_for("http", "models.example", 80) is None


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """If the proxy refuses a tunnel, the error has the URL of the proxy without its password."""
    async with FakeServer(FakeReply(status=407, framing="length"), repeat=True) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin.replace("://", "://me:pass1@"))
        with pytest.raises(
            ConnectionFailedError, match=r"https://models.example through the proxy"
        ) as caught:
            await body_of(HttpRequest("https://models.example/v1", body=b"{}"))
        assert "CONNECT" == proxy.requests[0].method
        assert "pass1" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:9", "ftp://127.0.0.1:9"])
async def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the proxy and the supported kinds. Nothing is sent."""
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigurationError, match=f"the proxy {proxy} from the environment") as caught:
        await body_of(HttpRequest("https://models.example/v1"))
    assert "socks5" in str(caught.value.hint)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A self-signed certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    return folder


async def test_certificates(certificate: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """Certificates are always verified: by `ca_file`, by SSL_CERT_FILE, or by those of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted") as caught:
            await body_of(HttpRequest(url, provider="acme"))
        assert "ca_file" in str(caught.value.hint)
        assert [] == waits
        ca_file = str(certificate / "cert.pem")
        assert b"hello" == await body_of(HttpRequest(url, ca_file=ca_file))
        monkeypatch.setenv("SSL_CERT_FILE", ca_file)
        assert b"hello" == await body_of(HttpRequest(url))
        await (await current_pool()).aclose()
    with pytest.raises(ConfigurationError, match="CA certificates in '/nowhere'"):
        await body_of(HttpRequest(url, ca_file="/nowhere"))


# ---- JSON, and start -----------------------------------------------------------------------------------


async def test_get_json() -> None:
    """A JSON document is decoded. Anything else is an error that shows how it begins."""
    page = FakeReply([b"<html>log in</html>"], headers={"content-type": "text/html"})
    async with FakeServer(FakeReply.json({"a": [1]}), page) as server:
        assert {"a": [1]} == await get_json(f"{server.origin}/models", provider="acme")
        assert "GET" == server.requests[0].method
        with pytest.raises(InvalidReplyError, match="did not return JSON but an HTML page: log in"):
            await get_json(f"{server.origin}/models", provider="acme")


def test_what_a_first_request_imports() -> None:
    """A request by the direct engine imports neither httpx nor what httpx imports."""
    script = """
import asyncio, sys
import tinyagent.openai_wire
from tinyagent._net.request import HttpRequest
assert "httpx" not in sys.modules

async def ask():
    async with HttpRequest(sys.argv[1], body=b"{}") as reply:
        assert await reply.read_all(99) == b"hello"

asyncio.run(ask())
for name in ("httpx", "httpcore", "anyio", "click", "pygments"):
    assert name not in sys.modules, name
"""
    with FakeServer(OK) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, server.url], capture_output=True, check=False
        )
        assert (0, b"") == (done.returncode, done.stderr)


def test_no_tls_context_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request over plain http makes no TLS context, which takes as long as the rest of the start."""
    made = []
    monkeypatch.setattr(direct, "tls_context", made.append)
    with FakeServer(OK) as server:
        assert b"hello" == asyncio.run(body_of(request_to(server)))
    assert [] == made


FIRST_REQUESTS = """
import asyncio, sys, threading
from tinyagent import Agent, AgentOptions, OpenAICompatModel

def ask():
    together.wait()
    from tinyagent import stream_openai_completions
    model = OpenAICompatModel(provider="fake", id="m", base_url=sys.argv[1])
    agent = Agent(AgentOptions(initial_state={"model": model}, stream_fn=stream_openai_completions))
    message = asyncio.run(agent.prompt("Hi"))
    failures.append(message.get("error_message"))

failures = []
together = threading.Barrier(8)
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert [None] * 8 == failures, failures
"""


def test_the_first_requests_of_many_threads() -> None:
    """Threads that send their first requests at the same time all get a response."""
    with FakeServer(FakeReply.text("fine"), repeat=True) as server:
        command = [sys.executable, "-c", FIRST_REQUESTS, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
