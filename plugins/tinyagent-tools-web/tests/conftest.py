"""A fake public internet on loopback: names resolve to public addresses, whose connections come here.

The check of the addresses is the real one. Only the resolver before it and the last step after it are
replaced: `Wires` connects a checked address to a port of this machine, as a router would.
"""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tinyagent import AgentTool, AgentToolResult
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_tools_web import make_fetch

PUBLIC = "93.184.216.34"


class Wires(httpcore.AsyncNetworkBackend):
    """A backend that connects addresses to ports of loopback, and records the addresses."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.asked: list[tuple[str, int]] = []
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        if host not in self.ports:
            raise httpcore.ConnectError("Connection refused")
        return await self._inner.connect_tcp("127.0.0.1", self.ports[host], timeout)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Internet:
    """A fake internet: names, their addresses, and one server behind `PUBLIC`."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {"example.org": [PUBLIC], "www.example.org": [PUBLIC]}
        self.looked_up: list[str] = []
        self.wires = Wires({})
        self.partials: list[AgentToolResult] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        """Resolve like the system: an address resolves to itself, an unknown name is an error."""
        self.looked_up.append(host)
        if host in self.names:
            return self.names[host]
        try:
            infos = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)  # also 0x7f.1 and 2130706433
        except socket.gaierror:
            raise OSError(-2, "Name or service not known") from None
        return [str(info[4][0]) for info in infos]

    def serve(self, server: FakeServer, address: str = PUBLIC) -> None:
        """Put a server behind a public address."""
        self.wires.ports[address] = urlsplit(server.url).port or 0

    def tool(self, **options: Any) -> AgentTool:
        """Return the tool in this internet."""
        return make_fetch(resolver=self.resolve, connect=self.wires, **options)

    async def fetch(self, url: str, *replies: FakeReply, tool: AgentTool | None = None, **args: Any) -> Any:
        """Fetch from a server with these replies. Return the result; the server is in `self.server`."""
        async with FakeServer(*replies) as self.server:
            self.serve(self.server)
            execute = (tool or self.tool()).execute
            assert execute is not None
            return await execute("c1", {"url": url, **args}, None, self.partials.append)


class _Certified(ssl.SSLContext):
    """A server's context that has its own certificate."""

    pem = ""


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Return the server side of TLS, with a self-signed certificate for example.org."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.org")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    encoding = serialization.Encoding.PEM
    pem = certificate.public_bytes(encoding)
    plain = serialization.NoEncryption()
    file.write_bytes(pem + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    context = _Certified(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.pem = pem.decode()
    return context


@pytest.fixture
def internet() -> Internet:
    """Return a new `Internet`."""
    return Internet()


def page(
    body: bytes | str, content_type: str | None = "text/html; charset=utf-8", **headers: str
) -> FakeReply:
    """Return a reply with this body and type."""
    data = body.encode() if isinstance(body, str) else body
    given = {"Content-Type": content_type, **{name.replace("_", "-"): headers[name] for name in headers}}
    return FakeReply([data], headers=given, framing="length")


def text_of(result: AgentToolResult) -> str:
    """Return the text that the model gets."""
    [part] = result.content
    assert part["type"] == "text"
    return part["text"]
