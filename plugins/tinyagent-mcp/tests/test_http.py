"""A server over streamable HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tinyagent import ConfigurationError, ToolError
from tinyagent_mcp import McpServers, _live, _streams

from .conftest import SERVER, Tools, config, eventually, text_of


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, str(SERVER), str(port)], stdin=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: _listening(port))
            yield
        finally:
            process.kill()


async def test_a_server_over_http() -> None:
    """Tools, progress and failures are as over stdio; after a restart the tools work again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with McpServers([config(command=None, url=f"http://127.0.0.1:{port}/mcp")]) as servers:
        with _running(port):
            tools = Tools(servers)
            assert "8" == await tools.text("double", n=4)
            assert "done" == await tools.text("steps")
            assert [f"step {n} ({n} of 3)" for n in (1, 2, 3)] == [text_of(part) for part in tools.partials]
            with pytest.raises(ToolError, match="disk is full"):
                await tools.text("fails")
        with pytest.raises(ToolError, match="'t'"):
            await tools.text("double", n=4)
        with _running(port):
            assert "8" == await tools.text("double", n=4)


class _Handler(BaseHTTPRequestHandler):
    """An HTTP server; the path selects the fault of its answers to tools/call."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log."""

    def do_GET(self) -> None:
        """Refuse the stream of notifications."""
        self._reply(405)

    def do_DELETE(self) -> None:
        """End a session."""
        self._reply(200)

    def do_POST(self) -> None:
        """Answer one message."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/unauthorized":
            return self._reply(401, {"error": f"bad token {self.headers['Authorization']}"})
        if self.path == "/elsewhere":
            return self._reply(307, headers={"Location": "http://localhost:9/mcp"})
        if "id" not in request:
            return self._reply(202)
        match request["method"]:
            case "initialize":
                self.server.sessions += 1  # type: ignore[attr-defined]
                info = {"name": "http", "version": "1"}
                version = request["params"]["protocolVersion"]
                result: Any = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
                session = {"mcp-session-id": str(self.server.sessions)}  # type: ignore[attr-defined]
                return self._result(request, result, session)
            case "tools/list":
                return self._result(request, {"tools": [{"name": "call", "inputSchema": {"type": "object"}}]})
            case "tools/call":
                return self._call(request)
        return self._reply(400, {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "no"}})

    def _call(self, request: Any) -> None:
        done = {"content": [{"type": "text", "text": f"session {self.headers['mcp-session-id']}"}]}
        match self.path:
            case "/expires" if self.headers["mcp-session-id"] == "1":
                self._reply(404)
            case "/always-expires":
                self._reply(404)
            case "/forbidden":
                self._reply(403)
            case "/large":
                self._result(request, {"content": [{"type": "text", "text": "x" * 2_000_000}]})
            case "/large-event":
                self._result(request, {"content": [{"type": "text", "text": "x" * 2_000_000}]}, events=True)
            case "/page":
                self._reply(200, kind="text/html")
            case "/cut":
                self._reply(200, kind="text/event-stream")
            case "/malformed":
                self._result(request, {"content": [{"type": "text"}, *done["content"]]})
            case _:
                self._result(request, done)

    def _result(
        self, request: Any, result: Any, headers: dict[str, str] | None = None, *, events: bool = False
    ) -> None:
        body = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        if events:
            return self._reply(
                200, f"event: message\ndata: {json.dumps(body)}\n\n", headers, "text/event-stream"
            )
        return self._reply(200, body, headers)

    def _reply(
        self,
        status: int,
        body: Any = "",
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client does not read what is too large
            self.wfile.write(data)


@pytest.fixture
def origin() -> Iterator[str]:
    """Start the faulty server, and return its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.sessions = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/unauthorized",
            r"HTTP 401, so it needs credentials\. Sign in: tinyagent mcp login t\. Or add them to `headers`",
        ),
        ("/elsewhere", r"Redirect to http://localhost:9/mcp not followed"),
    ],
)
def test_a_refused_request_is_explained(origin: str, path: str, words: str) -> None:
    """The error shows the status and what to do, but not the credentials."""
    refusing = config(command=None, url=origin + path, headers={"Authorization": "Bearer sk-test-CANARY"})
    with McpServers([refusing]) as servers, pytest.raises(ConfigurationError, match=words) as caught:
        servers.tools()
    assert "CANARY" not in str(caught.value)


async def test_an_expired_session_is_reopened(origin: str) -> None:
    """The request was not processed, so it is sent again, once."""
    with McpServers([config(command=None, url=f"{origin}/expires")]) as servers:
        assert "session 2" == await Tools(servers).text("call")
    with (
        McpServers([config(command=None, url=f"{origin}/always-expires")]) as servers,
        pytest.raises(ToolError, match="ended its session twice before it answered 'call'"),
    ):
        await Tools(servers).result("call")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/forbidden", "HTTP 403"),
        ("/large", "larger than 1,000,000 bytes"),
        ("/large-event", "SSE stream failed"),
        ("/page", "Unexpected content type: text/html"),
        ("/cut", "SSE stream ended without a response"),
    ],
)
async def test_an_invalid_answer_fails_the_call(
    origin: str, path: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error shows the reason; memory stays limited."""
    for module in (_live, _streams):
        monkeypatch.setattr(module, "MAX_LINE", 1_000_000)
    servers = McpServers([config(command=None, url=origin + path)])
    with servers, pytest.raises(ToolError, match=words):
        await Tools(servers).result("call")


async def test_answers_over_http_are_repaired(origin: str) -> None:
    """Only the malformed item is omitted."""
    with McpServers([config(command=None, url=f"{origin}/malformed")]) as servers:
        text = await Tools(servers).text("call")
    assert "[An item of the type 'text' was malformed and is omitted]\nsession 1" == text
