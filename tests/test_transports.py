"""Both engines, `direct` and `httpx`, give the same result for the same bytes, however they are cut."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyagent._cancel import Aborted, AbortSignal
from tinyagent._net import pool
from tinyagent._net import request as _request
from tinyagent._net.http1 import HIGH_WATER, WRITE_SIZE
from tinyagent._net.request import HttpRequest
from tinyagent._net.retry import RetryPolicy
from tinyagent._net.transport import MAX_HEAD, TransportChoice
from tinyagent.errors import (
    ConnectionFailedError,
    InvalidReplyError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
    TinyAgentError,
)
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold, Reset, Step, Wait, split_bytes

ENGINES: tuple[TransportChoice, ...] = ("direct", "httpx")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
"""How many of each; `FUZZ_EXAMPLES=5000` searches for longer."""
quick = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
each = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True, scope="module")
def no_retries() -> Iterator[None]:
    """Disable retries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_request, "RETRY", RetryPolicy(retries=0))
        yield


class Outcome(NamedTuple):
    """The result of a request for its caller."""

    status: int | None
    headers: dict[str, str] | None
    body: bytes
    error: type[Exception] | None


def request_to(server: FakeServer, engine: TransportChoice, timeout: float = 5.0) -> HttpRequest:
    return HttpRequest(f"{server.origin}/x", body=b"{}", transport=engine, timeout=timeout)


async def outcome_of(request: HttpRequest) -> Outcome:
    """Send a request, and read its response to the end."""
    status: int | None = None
    headers: dict[str, str] | None = None
    body, error = bytearray(), None
    try:
        async with request as response:
            status, headers = response.status, dict(response.headers)
            # h11 returns this value in lower case.
            if "transfer-encoding" in headers:
                headers["transfer-encoding"] = headers["transfer-encoding"].lower()
            while data := await response.read():
                body += data
    except TinyAgentError as failure:
        status, error = getattr(failure, "status", None) or status, type(failure)
    return Outcome(status, headers, bytes(body), error)


def outcome(engine: TransportChoice, *steps: Step, timeout: float = 5.0) -> Outcome:
    """Return what an engine makes of these bytes, sent by a server that then closes the connection."""

    async def run() -> Outcome:
        async with FakeServer(FakeReply(steps, head=b"")) as server:
            return await outcome_of(request_to(server, engine, timeout))

    return asyncio.run(run())


# ---- generated responses ------------------------------------------------------------------------------


@dataclass
class Wire:
    """A response: the bytes of the server, and the expected result."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: bytes = b""
    has_end: bool = True
    """Whether the bytes themselves say where the body ends."""


TOKEN = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
VISIBLE = st.characters(codec="latin-1", categories=("L", "N", "P", "S"))
VALUE = st.lists(st.text(VISIBLE, min_size=1, max_size=6), max_size=3).map(" \t".join)
BLANKS = st.sampled_from(["", " ", "\t", "  "])
CUTS = st.lists(st.integers(1, 600), max_size=12)


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """Draw a valid HTTP/1.x response, also in less common forms."""
    wire = Wire(status=draw(st.sampled_from([200, 200, 200, 201, 226, 299])))
    wire.body = b"".join(pieces := draw(st.lists(st.binary(min_size=1, max_size=60), max_size=6)))
    eol = draw(st.sampled_from(["\r\n", "\r\n", "\n"]))
    head = ""
    for _ in range(draw(st.integers(0, 2))):
        head += f"HTTP/1.1 {draw(st.sampled_from([100, 102, 103]))} Wait{eol}link: </x>{eol}{eol}"
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    reason = draw(st.sampled_from([" OK", " ", "", " Not b\xe4d"]))
    head += f"HTTP/{version} {wire.status}{reason}{eol}"
    fields = [(f"x-{name}", value) for name, value in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=4))]
    framing = draw(st.sampled_from(["length", "chunked", "both", "close"]))
    if framing in ("chunked", "both"):
        fields.append((draw(st.sampled_from(["Transfer-Encoding", "transfer-encoding"])), "chunked"))
    if framing in ("length", "both"):
        stated = len(wire.body) if framing == "length" else draw(st.integers(0, 99))
        fields.append(("Content-Length", str(stated)))
    if draw(st.booleans()):
        fields.append(("Connection", draw(st.sampled_from(["close", "keep-alive"]))))
    for name, value in draw(st.permutations(fields)):
        # llhttp does not recognise an encoding before a tab; see `STRICTER`.
        after = draw(BLANKS if name.lower() != "transfer-encoding" else st.sampled_from(["", " "]))
        head += f"{name}:{draw(BLANKS)}{value}{after}{eol}"
        key = name.lower()
        wire.headers[key] = f"{wire.headers[key]}, {value}" if key in wire.headers else value
    wire.sent = (head + eol).encode("latin-1")
    if framing in ("chunked", "both"):
        wire.sent += b"".join(draw(chunk(piece)) for piece in pieces) + draw(last_chunk())
    else:
        wire.sent += wire.body
    wire.has_end = framing != "close"
    return wire


@st.composite
def chunk(draw: st.DrawFn, data: bytes) -> bytes:
    size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(data)
    extension = draw(st.sampled_from([b"", b"", b";a", b';a=b;c="d"', b"  "]))
    return size + extension + b"\r\n" + data + b"\r\n"


@st.composite
def last_chunk(draw: st.DrawFn) -> bytes:
    trailers = draw(st.lists(st.sampled_from([b"x-cost: 1", b"date: 7", b"a:"]), max_size=2))
    return (
        draw(st.sampled_from([b"0", b"000", b"0;x=y"]))
        + b"\r\n"
        + b"".join(t + b"\r\n" for t in trailers)
        + b"\r\n"
    )


@quick
@given(wire=wires(), cuts=CUTS, stays_open=st.booleans())
def test_a_valid_response(wire: Wire, cuts: list[int], stays_open: bool) -> None:
    """Both engines return the status, the headers and the body."""
    expected = Outcome(wire.status, wire.headers, wire.body, None)
    steps: list[Step] = [*split_bytes(wire.sent, cuts)]
    if stays_open and wire.has_end:
        steps.append(Hold())
    for engine in ENGINES:
        assert expected == outcome(engine, *steps), engine


@quick
@given(wire=wires(), cuts=CUTS, at=st.integers(0, 10_000))
def test_a_response_that_is_cut_short(wire: Wire, cuts: list[int], at: int) -> None:
    """An incomplete response is an error after the same bytes in both engines."""
    sent = wire.sent[: at % len(wire.sent)]
    direct, httpx = (outcome(engine, *split_bytes(sent, cuts)) for engine in ENGINES)
    assert direct == httpx
    if wire.has_end and direct.error is None:
        assert wire.body == direct.body, "a success that is not whole"


async def in_sequence(engine: TransportChoice, responses: list[list[bytes]]) -> list[Outcome]:
    """Return the outcomes of requests to a server that keeps connections open."""
    pending = iter(responses)
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n{}"):
                for piece in next(pending):
                    writer.write(piece)
                    await asyncio.sleep(0)
        except (OSError, EOFError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    outcomes = [
        await outcome_of(HttpRequest(url, body=b"{}", transport=engine, timeout=5.0)) for _ in responses
    ]
    await (await pool.current_pool()).aclose()
    server.close()
    await asyncio.wait(filter(None, connections))
    return outcomes


@quick
@given(items=st.lists(st.tuples(wires().filter(lambda wire: wire.has_end), CUTS), min_size=2, max_size=5))
def test_responses_in_sequence(items: list[tuple[Wire, list[int]]]) -> None:
    """No byte of a response becomes part of the next one on the connection."""
    expected = [Outcome(wire.status, wire.headers, wire.body, None) for wire, _ in items]
    responses = [split_bytes(wire.sent, cuts) for wire, cuts in items]
    for engine in ENGINES:
        assert expected == asyncio.run(in_sequence(engine, responses)), engine


FAULTS = [
    (b"Content-Length: ", b"Content-Length: -"),
    (b"Content-Length: ", b"Content-Length: 99999999999999999999999"),
    (b"Content-Length: ", b"Content-Length: x"),
    (b"Content-Length: ", b"Content-Length: 7, 8,"),
    (b"hunked", b"hunked, gzip"),
    (b"hunked", b"hunke"),
    (b"\r\n\r\n", b"\r\n\r\nz"),
    (b"\r\n0", b"\r\n-0"),
    (b"\r\n0", b"\r\n\r\n0"),
    (b"\r\n0", b"x0"),
    (b"HTTP/1.", b"HTTQ/1."),
    (b"HTTP/1.", b"HTTP/11."),
    (b" 2", b" 2x"),
    (b" 2", b" 02"),
    (b"x-", b"x -"),
    (b"x-", b"x(-"),
    (b"x-", b"\x00"),
    (b":", b""),
    (b":", b" :"),
]


@quick
@given(wire=wires(), fault=st.sampled_from(FAULTS), last=st.booleans(), cuts=CUTS)
def test_a_response_with_a_fault(wire: Wire, fault: tuple[bytes, bytes], last: bool, cuts: list[int]) -> None:
    """A violated rule is the same class of error in both engines."""
    old, new = fault
    at = wire.sent.rfind(old) if last else wire.sent.find(old)
    sent = wire.sent[:at] + new + wire.sent[at + len(old) :] if at >= 0 else wire.sent
    direct, httpx = (outcome(engine, *split_bytes(sent, cuts)) for engine in ENGINES)
    assert direct == httpx


@quick
@given(
    wire=wires(),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.binary(max_size=3)), max_size=4),
    cuts=CUTS,
)
def test_any_bytes(wire: Wire, edits: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    """One engine may be stricter, but two successes are the same."""
    sent = bytearray(wire.sent)
    for place, size, data in edits:
        at = place % (len(sent) + 1)
        sent[at : at + size] = data
    whole = [outcome(engine, bytes(sent)) for engine in ENGINES]
    assert whole == [outcome(engine, *split_bytes(bytes(sent), cuts)) for engine in ENGINES], (
        "it depends on cuts"
    )
    if whole[0].error is None and whole[1].error is None:
        assert whole[0] == whole[1]


# ---- hostile servers ----------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HI = b"content-length: 2\r\n\r\nhi"


def header_lines(size: int) -> bytes:
    return b"".join(b"x-%d: %s\r\n" % (n, b"y" * 990) for n in range(size // 1000))


@each
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ConnectionFailedError),
        ([Reset()], ConnectionFailedError),
        ([OK[:9]], ConnectionFailedError),
        ([OK + b"content-le", Reset()], ConnectionFailedError),
        ([b"hello"], ConnectionFailedError),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], ConnectionFailedError),
        ([b"\x15\x03\x01\x00\x02\x02\x46", Hangup()], ConnectionFailedError),
        ([b"HTTP/1.1 099 Low\r\n" + HI], ConnectionFailedError),
        ([b"HTTP/1.1 1000 High\r\n" + HI], ConnectionFailedError),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ConnectionFailedError),
        ([b"HTTP/1.1 101 Switch\r\n\r\n", Hold()], ConnectionFailedError),
        ([b"HTTP/1.1 101 S\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", Hold()], ConnectionFailedError),
        ([OK + header_lines(MAX_HEAD * 5) + HI], InvalidReplyError),
        ([OK + header_lines(MAX_HEAD + 8000) + HI], InvalidReplyError),
        ([OK + header_lines(MAX_HEAD * 5), Hold()], InvalidReplyError),
        ([OK + b"x: " + b"y" * MAX_HEAD * 5, Hold()], InvalidReplyError),
        ([OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi!"], ConnectionFailedError),
        ([OK + b"content-length: 2, 3\r\n\r\nhi!"], ConnectionFailedError),
        ([OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"], ConnectionFailedError),
        ([OK + b"transfer-encoding: identity\r\n\r\nhi"], ConnectionFailedError),
        ([OK + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n"], ConnectionFailedError),
        ([OK + b"content-length: 3\r\n\r\nhi"], StreamInterruptedError),
        ([OK + b"content-length: 3\r\n\r\nhi", Wait(), Reset()], StreamInterruptedError),
        ([CHUNKED], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\n"], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\n0\r\n"], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\n", Wait(), Reset()], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\nzz\r\nhi\r\n0\r\n\r\n"], StreamInterruptedError),
        ([CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n"], StreamInterruptedError),
        ([CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n"], StreamInterruptedError),
        ([CHUNKED + b"f" * 30 + b"\r\nhi\r\n0\r\n\r\n"], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhix\r\n0\r\n\r\n"], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\n0\r\n" + header_lines(MAX_HEAD * 5), Hold()], StreamInterruptedError),
        ([CHUNKED + b"2;" + b"x" * MAX_HEAD * 5, Hold()], StreamInterruptedError),
        ([CHUNKED + b"2\r\nhi\r\n0\r\nno trailer\r\n\r\n"], StreamInterruptedError),
    ],
    ids=str,
)
async def test_a_hostile_server(
    engine: TransportChoice, steps: Sequence[Step], expected: type[Exception]
) -> None:
    """Invalid, incomplete and endless responses are errors of the same class in both engines."""
    async with FakeServer(FakeReply(steps, head=b"")) as server:
        server.release()
        assert expected is (await outcome_of(request_to(server, engine))).error
        if steps:
            await server.wait_closed()


@each
@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, b"hi"),
        (b"HTTP/1.1 200\r\n" + HI, 200, b"hi"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 20 + OK + HI, 200, b"hi"),
        (OK + b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, b"hi"),
        (CHUNKED + b"2\r\nhi\r\n0\r\nx-cost: 1\r\n\r\n", 200, b"hi"),
        (OK + b"upgrade: h2c\r\nconnection: upgrade\r\n" + HI, 200, b"hi"),
        (OK + b"connection: close\r\n" + HI + b"more", 200, b"hi"),
        (OK + HI + b"HTTP/1.1 500 Other\r\nx: y\r\n\r\nmore", 200, b"hi"),
        (b"HTTP/1.1 204 Nothing\r\n\r\n" + OK + HI, 204, b""),
        (b"HTTP/1.1 204 Nothing\r\ncontent-length: 2\r\n\r\nhi", 204, b""),
        (OK + header_lines(MAX_HEAD - 8000) + HI, 200, b"hi"),
    ],
    ids=range(12),
)
async def test_an_unusual_server(engine: TransportChoice, sent: bytes, status: int, body: bytes) -> None:
    """Unusual but unambiguous responses are accepted by both engines."""
    whole = FakeReply([sent], head=b"")
    parts = FakeReply(split_bytes(sent, range(300)), head=b"")
    async with FakeServer(whole, parts) as server:
        for _ in range(2):
            result = await outcome_of(request_to(server, engine))
            assert (status, body, None) == (result.status, result.body, result.error)


STRICTER = {
    "a version that does not exist": (b"HTTP/1.2 200 OK\r\n" + HI, ConnectionFailedError, None),
    "Content-Length twice": (OK + b"content-length: 2\r\n" + HI, ConnectionFailedError, None),
    "a header in two lines": (OK + b"x: y\r\n z\r\n" + HI, ConnectionFailedError, None),
    "a control character": (OK + b"x: a\x01\r\n" + HI, ConnectionFailedError, None),
    "a tab behind an encoding": (
        OK + b"transfer-encoding: chunked\t\r\n\r\n0\r\n\r\n", ConnectionFailedError, None,
    ),
    "a blank line first": (b"\r\n" + OK + HI, None, ConnectionFailedError),
}  # fmt: skip
"""Where one engine accepts what the other refuses: bytes, error of direct, error of httpx."""


@pytest.mark.parametrize("name", STRICTER)
def test_where_one_engine_is_stricter(name: str) -> None:
    """The known differences are refusals, never different content."""
    sent, *expected = STRICTER[name]
    assert expected == [outcome(engine, sent).error for engine in ENGINES]


@pytest.mark.parametrize(
    ("engine", "expected"), [("direct", InvalidReplyError), ("httpx", ProviderTimeoutError)]
)
async def test_interim_responses_without_end(engine: TransportChoice, expected: type[Exception]) -> None:
    """They end at a limit; in the httpx engine at the time-out."""
    interim = [b"HTTP/1.1 102 Processing\r\n\r\n" * 500] * 8
    async with FakeServer(FakeReply([*interim, Hold()], head=b"")) as server:
        assert expected is (await outcome_of(request_to(server, engine, timeout=0.3))).error
        await server.wait_closed()


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"garbage", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "apart"])
async def test_bytes_behind_the_body(surplus: bytes, apart: bool) -> None:
    """They reach no caller, and the next request has a connection of its own.

    This is a promise of the direct engine only. httpx keeps what it has read, and takes it for the next
    response.
    """
    steps = [b"hi", Wait(), surplus] if apart else [b"hi" + surplus]
    first = FakeReply(steps, framing="length", headers={"content-length": "2"})
    async with FakeServer(first, FakeReply([b"good"], framing="length")) as server:
        assert b"hi" == (await outcome_of(request_to(server, "direct"))).body
        if apart:
            server.release()
            await server.wait_closed()
        assert b"good" == (await outcome_of(request_to(server, "direct"))).body
        assert 2 == server.connections


# ---- connections --------------------------------------------------------------------------------------


@each
async def test_connections_are_reused(engine: TransportChoice) -> None:
    """A complete response makes its connection available, whatever its framing."""
    replies = [
        FakeReply([b"a"]),
        FakeReply([b"b"], framing="length"),
        FakeReply(status=204, headers={"transfer-encoding": None}, framing="length"),
        FakeReply([b"c"], framing="close"),
        FakeReply([b"d"]),
    ]
    async with FakeServer(*replies) as server:
        bodies = [(await outcome_of(request_to(server, engine))).body for _ in replies]
        assert [b"a", b"b", b"", b"c", b"d"] == bodies
        assert 2 == server.connections


@each
async def test_a_server_that_closes_an_idle_connection(engine: TransportChoice) -> None:
    """The next request opens another connection, before or after it was sent."""
    lost = FakeReply([Hangup()], head=b"")
    closed = FakeReply([b"a", Wait()], headers={"content-length": "1"}, framing="length")
    async with FakeServer(FakeReply([b"a"]), lost, closed, FakeReply([b"b"])) as server:
        assert b"a" == (await outcome_of(request_to(server, engine))).body
        assert b"a" == (await outcome_of(request_to(server, engine))).body
        assert 2 == server.connections


@each
async def test_a_connection_that_was_idle_for_too_long(
    engine: TransportChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed, because a router may have dropped it silently."""
    async with FakeServer(FakeReply([b"a"]), FakeReply([b"b"])) as server:
        assert b"a" == (await outcome_of(request_to(server, engine))).body
        monkeypatch.setattr(pool, "KEEP_ALIVE_S", -1.0)
        assert b"b" == (await outcome_of(request_to(server, engine))).body
        assert 2 == server.connections
        for _ in range(100):
            await asyncio.sleep(0)
        assert 1 == server.open_connections


@each
async def test_leaving_a_response_closes_its_connection(engine: TransportChoice) -> None:
    """An incompletely read response closes its connection at once."""
    async with FakeServer(FakeReply([b"a", Hold()])) as server:
        async with request_to(server, engine) as response:
            assert b"a" == await response.read()
        await server.wait_closed()


@each
@pytest.mark.parametrize("part", ["headers", "body"])
@pytest.mark.parametrize("way", ["task", "signal", "timeout"])
async def test_a_request_that_is_stopped(engine: TransportChoice, part: str, way: str) -> None:
    """A cancellation, the signal and a time-out end a request and close its connection."""
    reply = FakeReply([Hold()], head=b"") if part == "headers" else FakeReply([b"a", Hold()])
    async with FakeServer(reply) as server:
        signal = AbortSignal()
        request = HttpRequest(
            f"{server.origin}/x", body=b"{}", transport=engine, signal=signal,
            timeout={"first_event": 0.2 if way == "timeout" else 60.0},
        )  # fmt: skip
        reading = asyncio.Event()

        async def run() -> None:
            async with request as response:
                await response.read()
                reading.set()
                await response.read()

        task = asyncio.create_task(run())
        await (server.wait_requests(1) if part == "headers" else reading.wait())
        if way == "task":
            task.cancel()
        elif way == "signal":
            signal.set()
        expected = {"task": asyncio.CancelledError, "signal": Aborted, "timeout": ProviderTimeoutError}[way]
        with pytest.raises(expected):
            await task
        await server.wait_closed()


@each
async def test_a_reader_that_is_slow(engine: TransportChoice) -> None:
    """The buffer has a limit, so the server has to wait."""
    piece, count, sent = bytes(16 * HIGH_WATER), 128, 0  # more than the kernel's buffers

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(OK + b"content-length: %d\r\n\r\n" % (len(piece) * count))
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
            sent += 1
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        request = HttpRequest(f"http://127.0.0.1:{port}", body=b"{}", transport=engine)
        async with request as response:
            received = len(await response.read())
            for _ in range(2000):
                await asyncio.sleep(0)
            assert sent < count // 2
            while data := await response.read():
                received += len(data)
        assert count * len(piece) == received


LARGE = bytes(range(256)) * (WRITE_SIZE // 64)
"""A request of many parts, larger than the buffers of a socket."""


@pytest.mark.parametrize(
    ("engine", "way"),
    [
        *((engine, way) for engine in ENGINES for way in ("reads first", "answers first", "resets")),
        ("direct", "refuses"),  # httpx reads the response only after it has sent the request
    ],
)
async def test_a_large_request(engine: TransportChoice, way: str) -> None:
    """It arrives complete, also if the response starts before; a refusal ends it."""
    received = b""
    status = b"HTTP/1.1 413 Too Large" if way == "refuses" else b"HTTP/1.1 200 OK"
    head = status + b"\r\ncontent-length: 2\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        if way == "resets":
            writer.transport.abort()
            return
        if way != "reads first":
            writer.write(head + b"no" if way == "refuses" else head)
            await writer.drain()
        if way != "refuses":
            received = await reader.readexactly(len(LARGE))
            writer.write(b"ok" if way == "answers first" else head + b"ok")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        request = HttpRequest(f"http://127.0.0.1:{port}", body=LARGE, transport=engine, timeout=10.0)
        result = await outcome_of(request)
        await (await pool.current_pool()).aclose()
    if way == "refuses":
        assert (413, ProviderError) == (result.status, result.error)
    elif way == "resets":
        assert ConnectionFailedError is result.error
    else:
        assert (200, b"ok", None) == (result.status, result.body, result.error)
        assert LARGE == received


@each
async def test_a_server_that_is_not_there(engine: TransportChoice) -> None:
    """Both engines give the same reason and hint."""
    async with FakeServer() as server:
        origin = server.origin
    with pytest.raises(ConnectionFailedError) as caught:
        await HttpRequest(origin, provider="local", transport=engine).open()
    assert f"local: cannot connect to {origin} (connection refused)" == str(caught.value)
    assert "Is the server running?" == caught.value.hint


@each
async def test_a_status_that_is_an_error(engine: TransportChoice) -> None:
    """Both engines give the text and the status, and the connection remains usable."""
    async with FakeServer(FakeReply.error(400, "no such model"), FakeReply([b"a"])) as server:
        with pytest.raises(ProviderError, match="HTTP 400: no such model"):
            await request_to(server, engine).open()
        assert b"a" == (await outcome_of(request_to(server, engine))).body
        assert 1 == server.connections


# ---- uvloop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", Reset(), Hangup(), Hold()], ids=["end", "reset", "hangup", "hold"])
def test_uvloop(end: Step) -> None:
    """The direct engine works on uvloop: a slow reader, every end, and an abort."""
    uvloop = pytest.importorskip("uvloop")
    piece, count = bytes(HIGH_WATER), 40

    async def run() -> None:
        steps = [*[piece] * count, Wait(), end] if end != b"" else [piece] * count
        async with FakeServer(FakeReply(steps), FakeReply([b"again"])) as server:
            request = request_to(server, "direct")
            async with request as response:
                received = len(await response.read())
                for _ in range(200):
                    await asyncio.sleep(0)
                while received < count * len(piece):
                    received += len(await response.read())
                server.release()
                if isinstance(end, Reset | Hangup):
                    with pytest.raises(StreamInterruptedError):
                        await response.read()
                elif end == b"":
                    assert b"" == await response.read()
            if end != b"":
                await server.wait_closed()
            assert b"again" == (await outcome_of(request_to(server, "direct"))).body
            assert (1 if end == b"" else 2) == server.connections
        refused = await outcome_of(HttpRequest(server.origin, transport="direct"))
        assert ConnectionFailedError is refused.error

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
