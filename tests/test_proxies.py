"""Proxies, TLS and HTTP/2 over loopback, with both engines."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from tinyagent._net import request as _request
from tinyagent._net.pool import current_pool
from tinyagent._net.request import HttpRequest
from tinyagent._net.retry import RetryPolicy
from tinyagent._net.transport import TransportChoice
from tinyagent.errors import ConfigurationError, ConnectionFailedError, ProviderError, ProviderTimeoutError
from tinyagent.testing.server import FakeReply, FakeServer, Hold

ENGINES: tuple[TransportChoice, ...] = ("direct", "httpx")
each = pytest.mark.parametrize("engine", ENGINES)
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable retries."""
    monkeypatch.setattr(_request, "RETRY", RetryPolicy(retries=0))


async def body_of(url: str, engine: TransportChoice = "auto", **options: object) -> bytes:
    request = HttpRequest(url, body=b"{}", transport=engine, timeout=5.0, **options)  # type: ignore[arg-type]
    async with request as response:
        return await response.read_all(1 << 20)


# ---- servers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate for models.example and 127.0.0.1, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    command += " -addext subjectAltName=DNS:models.example,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    return folder / "cert.pem"


def server_context(certificate: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@dataclass
class Seen:
    """The connections and requests that a server has received."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def wait_closed(self) -> None:
        """Wait until the client has closed all connections."""
        async with asyncio.timeout(5):
            await asyncio.wait(self.tasks)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Seen], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Seen]:
    """Serve on loopback until the end of the block, then close all connections."""
    seen = Seen()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.tasks.add(task)
        seen.connections += 1
        try:
            await handler(reader, writer, seen)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            seen.tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        await (await current_pool()).aclose()
        server.close()
        for task in list(seen.tasks):
            task.cancel()
        await asyncio.gather(*seen.tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
    """Answer each request of a connection with `hello`."""
    while True:
        seen.requests.append(await reader.readuntil(b"\r\n\r\n{}"))
        writer.write(HELLO)
        await writer.drain()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Copy bytes between a client and a server, until one of them ends."""
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()

    copies = [
        asyncio.create_task(copy(reader, other_writer)),
        asyncio.create_task(copy(other_reader, writer)),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in copies:
            task.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        other_writer.transport.abort()


def connect_proxy(port: int) -> Handler:
    """Return a proxy that opens a tunnel to `port` for any requested server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        seen.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        await relay(reader, writer, port)

    return handle


def socks_proxy(port: int, *, reply: int = 0, password: bytes | None = None) -> Handler:
    """Return a SOCKS5 proxy (RFC 1928) that connects to `port` for any server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        if password is None:
            writer.write(b"\x05\x00")
        else:
            assert 2 in methods
            writer.write(b"\x05\x02")  # user name and password, RFC 1929
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            given = await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\x01\x00" if given == password else b"\x01\x01")
            seen.requests.append(user)
            if given != password:
                await writer.drain()
                return
        _, _, _, kind = await reader.readexactly(4)
        size = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        seen.requests.append(await reader.readexactly(size))
        await reader.readexactly(2)
        writer.write(bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        await writer.drain()
        if reply == 0:
            await relay(reader, writer, port)

    return handle


# ---- CONNECT ------------------------------------------------------------------------------------------


@each
async def test_a_tunnel(engine: TransportChoice, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An http:// proxy gets CONNECT with the credentials of its URL, and none of the request.

    The tunnel stays open for the next request.
    """
    async with (
        serving(answer, server_context(certificate)) as server,
        serving(connect_proxy(server.port)) as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert b"hello" == await body_of(
                "https://models.example/v1", engine, ca_file=str(certificate), headers={"x-key": "sk-test-1"}
            )
        assert (1, 1) == (proxy.connections, server.connections)
        (connect,) = proxy.requests
        assert connect.startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")
        assert b"Basic " + base64.b64encode(b"me:p@ss") in connect
        assert b"sk-test-1" not in connect
        assert all(b"sk-test-1" in request for request in server.requests)
        assert all(b"roxy-" not in request for request in server.requests)


@each
async def test_the_certificate_of_a_server_behind_a_tunnel(
    engine: TransportChoice, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is verified for the name of the server."""
    async with (
        serving(answer, server_context(certificate)) as server,
        serving(connect_proxy(server.port)) as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted"):
            await body_of("https://models.example/v1", engine)
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted"):
            await body_of("https://other.example/v1", engine, ca_file=str(certificate))
        assert [] == server.requests


@each
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 9\r\n\r\nno server",
        b"HTTP/1.1 302 Found\r\nlocation: http://log.in\r\ncontent-length: 0\r\n\r\n",
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno TLS at all",
    ],
    ids=["407", "502", "302", "nothing", "no HTTP", "closed tunnel", "no TLS"],
)
async def test_a_proxy_that_opens_no_tunnel(
    engine: TransportChoice, reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the proxy without its password, and no key was sent."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        seen.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        await writer.drain()
        writer.close()

    async with serving(refuse) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:pass1@127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailedError, match="through the proxy") as caught:
            await body_of("https://models.example/v1", engine, headers={"x-key": "sk-test-1"})
        assert "pass1" not in str(caught.value)
        assert not any(b"sk-test-1" in request for request in proxy.requests)


@each
async def test_a_proxy_that_does_not_answer(engine: TransportChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out ends a tunnel that is never opened."""
    async with FakeServer(FakeReply([Hold()], head=b"")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        with pytest.raises(ProviderTimeoutError, match=r"within 0\.2 s"):
            await HttpRequest(
                "https://models.example/v1", transport=engine, timeout={"connect": 0.2, "first_event": 0.2}
            ).open()
        await proxy.wait_closed()


@each
async def test_a_proxy_for_plain_http(engine: TransportChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS the proxy gets the complete URL and its credentials with each request."""
    async with serving(answer) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:pass1@127.0.0.1:{proxy.port}")
        assert b"hello" == await body_of("http://models.example/v1/x?y=1", engine, allow_http=True)
        (request,) = proxy.requests
        assert request.startswith(b"POST http://models.example/v1/x?y=1 HTTP/1.1\r\n")
        assert b"Basic " + base64.b64encode(b"me:pass1") in request
        assert b"\r\nhost: models.example\r\n" in request.lower()


@pytest.mark.parametrize("engine", ["auto", "httpx"])
async def test_an_https_proxy(
    engine: TransportChoice, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to an https:// proxy is encrypted, too. `auto` uses httpx for it."""
    tls = server_context(certificate)
    async with serving(answer, tls) as server, serving(connect_proxy(server.port), tls) as proxy:
        monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{proxy.port}")
        assert b"hello" == await body_of("https://models.example/v1", engine, ca_file=str(certificate))
        assert (1, 1) == (proxy.connections, server.connections)


# ---- SOCKS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "httpx"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_socks_proxy(
    engine: TransportChoice, scheme: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy resolves the name, and the request uses TLS. `auto` uses httpx."""
    async with (
        serving(answer, server_context(certificate)) as server,
        serving(socks_proxy(server.port)) as proxy,
    ):
        monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert b"hello" == await body_of("https://models.example/v1", engine, ca_file=str(certificate))
        assert [b"models.example"] == proxy.requests
        assert 2 == len(server.requests)


async def test_a_socks_proxy_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of the URL are used; a refusal shows the proxy without them."""
    async with serving(answer) as server, serving(socks_proxy(server.port, password=b"pass1")) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5://me:pass1@127.0.0.1:{proxy.port}")
        assert b"hello" == await body_of("http://models.example/v1", allow_http=True)
        assert [b"me", b"models.example"] == proxy.requests
        monkeypatch.setenv("all_proxy", f"socks5://me:wrong1@127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailedError, match="through the proxy") as caught:
            await body_of("http://models.example/v1", allow_http=True)
        assert "wrong1" not in str(caught.value)


async def test_a_socks_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's refusal is a failed connection."""
    async with serving(socks_proxy(0, reply=5)) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailedError, match="through the proxy"):
            await body_of("http://models.example/v1", allow_http=True)


async def test_a_socks_proxy_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out ends the handshake, and closes the connection to the proxy."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        while await reader.read(9):
            pass

    async with serving(wait) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{proxy.port}")
        with pytest.raises(ProviderTimeoutError, match=r"within 0\.2 s"):
            await HttpRequest("https://models.example/v1", timeout=0.2).open()
        await proxy.wait_closed()


@pytest.mark.parametrize("scheme", ["socks5", "https"])
async def test_proxies_that_the_direct_engine_does_not_support(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are an error with a hint, before anything is sent."""
    async with serving(answer) as proxy:
        monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:{proxy.port}")
        with pytest.raises(ConfigurationError, match="the direct transport cannot use the proxy") as caught:
            await body_of("https://models.example/v1", "direct")
        assert "'auto' or 'httpx'" in str(caught.value.hint)
        assert 0 == proxy.connections


# ---- an early response --------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_alive", [True, False])
async def test_a_response_before_the_request_is_sent(keeps_alive: bool) -> None:
    """A server may refuse a large body without reading it. The error has its reason.

    This is a promise of the direct engine only: httpx sends all of the body before it reads.
    """

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\ncontent-length: 9\r\n\r\ntoo large")
        await writer.drain()
        if keeps_alive:
            await asyncio.Event().wait()

    async with serving(refuse) as server:
        for _ in range(2):
            request = HttpRequest(
                f"http://127.0.0.1:{server.port}", body=bytes(20_000_000), transport="direct", timeout=5.0
            )
            with pytest.raises(ProviderError, match="HTTP 413: too large"):
                await request.open()
        assert 2 == server.connections


# ---- TLS and HTTP/2 -----------------------------------------------------------------------------------


async def answer_h2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
    """Answer requests over HTTP/2; a path that ends with /hold gets the start of a body that never ends."""
    assert "h2" == writer.get_extra_info("ssl_object").selected_alpn_protocol()
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    paths: dict[int, bytes] = {}
    while True:
        writer.write(connection.data_to_send())
        await writer.drain()
        data = await reader.read(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                paths[event.stream_id] = dict(event.headers)[b":path"]
            elif isinstance(event, h2.events.StreamEnded):
                seen.requests.append(path := paths[event.stream_id])
                connection.send_headers(event.stream_id, [(":status", "200"), ("x-protocol", "h2")])
                connection.send_data(event.stream_id, b"hello", end_stream=not path.endswith(b"/hold"))


async def test_http_2(certificate: Path) -> None:
    """The httpx engine uses HTTP/2 if the server offers it, and reuses the connection."""
    async with serving(answer_h2, server_context(certificate, "h2")) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        for _ in range(2):
            assert b"hello" == await body_of(url, "httpx", ca_file=str(certificate))
        assert (1, [b"/v1", b"/v1"]) == (server.connections, server.requests)


async def test_leaving_a_response_over_http_2(certificate: Path) -> None:
    """The connection of the engine is closed, so that the server stops."""
    async with serving(answer_h2, server_context(certificate, "h2")) as server:
        url = f"https://127.0.0.1:{server.port}/hold"
        async with HttpRequest(url, body=b"{}", transport="httpx", ca_file=str(certificate)) as response:
            assert b"hello" == await response.read()
        await server.wait_closed()


async def test_a_client_with_http_2(certificate: Path) -> None:
    """Requests share one connection of the user's client, and leaving one does not close it.

    httpx does not tell the server, so it goes on to send. There is no public way to reset the stream.
    """
    verify = ssl.create_default_context(cafile=certificate)
    async with (
        serving(answer_h2, server_context(certificate, "h2")) as server,
        httpx.AsyncClient(http2=True, verify=verify, trust_env=False) as client,
    ):
        url = f"https://127.0.0.1:{server.port}"
        async with HttpRequest(f"{url}/hold", body=b"{}", http_client=client) as response:
            assert b"hello" == await response.read()
            assert "h2" == response.headers["x-protocol"]
            assert b"hello" == await body_of(f"{url}/v1", http_client=client)
        assert b"hello" == await body_of(f"{url}/v1", http_client=client)
        assert 1 == server.connections
        assert [b"/hold", b"/v1", b"/v1"] == server.requests


@each
async def test_tls(engine: TransportChoice, certificate: Path) -> None:
    """The direct engine offers no HTTP/2, and both engines reuse a TLS connection."""

    async def check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() in (None, "http/1.1")
        await answer(reader, writer, seen)

    async with serving(check, server_context(certificate, "http/1.1")) as server:
        url = f"https://127.0.0.1:{server.port}/v1"
        for _ in range(3):
            assert b"hello" == await body_of(url, engine, ca_file=str(certificate))
        assert (1, 3) == (server.connections, len(server.requests))


@each
async def test_a_tls_handshake_that_never_ends(engine: TransportChoice) -> None:
    """The time-out of the connection ends the handshake, and the connection is closed."""

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        while await reader.read(9999):
            pass

    async with serving(wait) as server:
        url = f"https://127.0.0.1:{server.port}"
        with pytest.raises(ProviderTimeoutError, match=r"no connection within 0\.2 s"):
            await HttpRequest(url, transport=engine, timeout={"connect": 0.2}).open()
        await server.wait_closed()


@each
async def test_a_server_without_tls(engine: TransportChoice) -> None:
    """https:// to a server with plain HTTP is a failed connection."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        await reader.read(9)
        writer.write(b"HTTP/1.1 400 The plain HTTP request was expected\r\n\r\n")
        await writer.drain()

    async with serving(refuse) as server:
        with pytest.raises(ConnectionFailedError, match="cannot connect to https://"):
            await body_of(f"https://127.0.0.1:{server.port}", engine)
