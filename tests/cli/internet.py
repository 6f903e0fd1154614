"""A fake internet on loopback: an HTTP proxy that answers in place of every host, with models that reply.

`Internet.environment` leads programs here. So the commands of a document run unchanged, also those for a
provider with a fixed address, and no test reaches a real host.
"""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tinyagent.testing import AnthropicWire, ChatWire, ResponsesWire, Wire
from tinyagent.testing.wires import Script

REPLY = "Hello from the model.\n\n```sh\necho one\n```\n\n```sh\necho two\n```"
"""The reply to each prompt. It has code for `run -x`."""

WIRES: dict[str, type[Wire]] = {
    "/chat/completions": ChatWire,
    "/responses": ResponsesWire,
    "/messages": AnthropicWire,
}
MODELS = ("gpt-4.1-mini", "gpt-5", "claude-sonnet-4-5", "qwen3")


class Asked(NamedTuple):
    """A request to a model.

    Attributes:
        host: The host that it was meant for; "" for a server of this machine.
        path: The path.
        headers: The headers, with names in lower case.
        body: The body as JSON.
    """

    host: str
    path: str
    headers: Mapping[str, str]
    body: Any


class Internet:
    """A fake internet.

    Attributes:
        asked: The requests to models so far.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[Asked] = []
        self._authority = _Authority(folder)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"internet": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="Internet")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """The address of the proxy, and of a server of this machine."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables for a program that is to use this internet."""
        return {
            "http_proxy": self.address,
            "https_proxy": self.address,
            "no_proxy": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(self._authority.file),
            "OLLAMA_HOST": self.address,
        }

    def context(self, host: str) -> ssl.SSLContext:
        """Return the server side of TLS for a host."""
        return self._authority.context(host)


class _Authority:
    """A certificate authority, whose certificate is in `file`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self._folder = folder
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the tests")])
        self._certificate = self._sign(
            self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None)
        )
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                self._contexts[host] = self._new_context(host)
            return self._contexts[host]

    def _new_context(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([]), key.public_key(), x509.SubjectAlternativeName([x509.DNSName(host)])
        )
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        file = self._folder / f"{host}.pem"
        file.write_bytes(
            certificate.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


class _Handler(BaseHTTPRequestHandler):
    internet: Internet
    host = ""
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        """Become the server that the client asks for."""
        self.host = self.path.rpartition(":")[0]
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            self.connection = self.internet.context(self.host).wrap_socket(self.connection, server_side=True)
        except OSError:  # the client has left
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)  # type: ignore[assignment]
        self.close_connection = False

    def do_GET(self) -> None:
        """Send the list of models."""
        if self.path.partition("?")[0].endswith("/models"):
            self._send_json({"data": [{"id": name} for name in MODELS]})
        else:
            self._send(404, "text/plain", b"There is nothing here.")

    def do_POST(self) -> None:
        """Reply to a prompt."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.internet.asked.append(Asked(self.host, self.path, headers, body))
        for path, wire in WIRES.items():
            if self.path.endswith(path):
                script = Script([{"type": "text", "text": _reply(body)}], usage={"input": 20, "output": 10})
                steps = [step for step in wire().reply(script).steps if isinstance(step, bytes)]
                self._send(200, "text/event-stream", b"".join(steps))
                return
        if self.path.endswith("/mcp"):
            self._serve_mcp(body)
        else:
            self._send(404, "text/plain", b"There is nothing here.")

    def _serve_mcp(self, request: Any) -> None:
        """Answer a request to an MCP server without tools."""
        results: dict[str, object] = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "fake", "version": "1"},
            },
            "tools/list": {"tools": []},
        }
        if "id" not in request:
            self._send(202, "text/plain", b"")
        elif request["method"] in results:
            self._send_json({"jsonrpc": "2.0", "id": request["id"], "result": results[request["method"]]})
        else:
            error = {"code": -32601, "message": "no such method"}
            self._send_json({"jsonrpc": "2.0", "id": request["id"], "error": error})

    def _send_json(self, value: object) -> None:
        self._send(200, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def finish(self) -> None:
        """Close the connection, which TLS may have replaced."""
        super().finish()
        self.connection.close()


def _reply(body: Any) -> str:
    """Return the reply to a request: an example of its schema, or `REPLY`."""
    for place in (("response_format", "json_schema", "schema"), ("text", "format", "schema")):
        schema = body
        for name in place:
            schema = schema.get(name) if isinstance(schema, dict) else None
        if isinstance(schema, dict):
            return json.dumps(_example(schema))
    return REPLY


def _example(schema: Any) -> Any:
    """Return a value that fits a simple schema."""
    if choices := schema.get("enum") or schema.get("anyOf"):
        return choices[0] if "enum" in schema else _example(choices[0])
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: _example(field) for name, field in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema.get("items", {}))]
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case _:
            return "a text"
