"""Fixtures: spans in memory, a receiver of OTLP on loopback, and the command line with the plugin."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).resolve().parents[1] / "src"
SECONDS = 60
"""How long anything may take; nothing waits this long unless it hangs."""

PROJECT = """Metadata-Version: 2.1
Name: tinyagent-otel
Version: 0.1.0
Requires-Dist: tinyagent-core
"""


# ---- spans in memory ------------------------------------------------------------------------------------


class Spans:
    """Spans in memory, as trees of names and attributes."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))

    @property
    def all(self) -> Sequence[ReadableSpan]:
        """The finished spans, in the order of their ends."""
        return self._memory.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the finished spans of this name."""
        return [span for span in self.all if span.name == name]

    def tree(self, *, attributes: bool = True) -> list[Any]:
        """Return the spans without a parent, each with its children in the order of their starts.

        Durations are shown as "…", since they differ.
        """
        ids = {span.context.span_id for span in self.all}

        def node(span: ReadableSpan) -> Any:
            children = below(span.context.span_id)
            if not attributes:
                return {span.name: children} if children else span.name
            found = {key: _shown(key, value) for key, value in sorted((span.attributes or {}).items())}
            made = {"name": span.name, "kind": span.kind.name, "status": span.status.status_code.name}
            return {**made, "attributes": found, **({"children": children} if children else {})}

        def below(parent: int | None) -> list[Any]:
            own = [
                span
                for span in self.all
                if (span.parent.span_id if span.parent and span.parent.span_id in ids else None) == parent
            ]
            return [node(span) for span in sorted(own, key=lambda span: span.start_time or 0)]

        return below(None)


def _shown(key: str, value: Any) -> Any:
    if key == "gen_ai.response.time_to_first_chunk":
        assert 0 <= value < SECONDS
        return "…"
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture
def spans() -> Spans:
    """Spans in memory."""
    return Spans()


# ---- a receiver -----------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A span as it was received."""

    trace: str
    id: str
    parent: str
    name: str
    error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Receiver:
    """An OTLP receiver on loopback, which decodes what it gets.

    Args:
        answer: Sends the response; by default an empty one with status 200.
    """

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None] | None = None) -> None:
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.failures: list[str] = []
        self.arrived: queue.Queue[int] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                receiver.paths.append(self.path)
                receiver.bodies.append(body)
                receiver.arrived.put(len(body))
                (answer or _accept)(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client has left

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """The value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All spans that have arrived."""
        found = []
        for body in self.bodies:
            try:
                request = ExportTraceServiceRequest.FromString(body)
            except DecodeError as error:
                raise AssertionError("the body is not OTLP") from error
            for resource in request.resource_spans:
                about = {item.key: _value(item.value) for item in resource.resource.attributes}
                for scope in resource.scope_spans:
                    if scope.scope.name == "tinyagent":
                        assert "https://opentelemetry.io/schemas/1.41.0" == scope.schema_url
                    for span in scope.spans:
                        assert span.start_time_unix_nano <= span.end_time_unix_nano
                        found.append(
                            Span(
                                span.trace_id.hex(),
                                span.span_id.hex(),
                                span.parent_span_id.hex(),
                                span.name,
                                span.status.code == 2,
                                {item.key: _value(item.value) for item in span.attributes},
                                about,
                            )
                        )
        return found

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(SECONDS)


def _accept(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-protobuf")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return (
        [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Return a function that starts a receiver."""
    started: list[Receiver] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None] | None = None) -> Receiver:
        started.append(Receiver(answer))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


@pytest.fixture
def closed_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


# ---- the command line -----------------------------------------------------------------------------------


class Done(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


def _ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=SECONDS)
    return Done(process.returncode, out, err)


class Command:
    """Runs `tinyagent` in an empty directory, with or without the plugin on its path."""

    def __init__(self, work: Path, site: Path, home: Path) -> None:
        self.work = work
        self._site = site
        self._home = home

    def start(
        self, *args: str, plugin: bool = True, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command."""
        return self._start(["-m", "tinyagent_cli", *args], plugin, stdin, environment)

    def _start(
        self, args: Sequence[str], plugin: bool, stdin: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        paths = [ROOT, *((self._site, SOURCE) if plugin else ())]
        return subprocess.Popen(
            [sys.executable, *args],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
                "HOME": str(self._home),
                "TINYAGENT_HOME": str(self._home / "tinyagent"),
                "PYTHONPATH": os.pathsep.join(map(str, paths)),
                **environment,
            },
            cwd=self.work,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: str, plugin: bool = True, **environment: str) -> Done:
        """Run a command to its end."""
        return _ended(self.start(*args, plugin=plugin, **environment))

    def python(self, script: str, **environment: str) -> Done:
        """Run a script to its end."""
        return _ended(self._start(["-c", script], True, subprocess.DEVNULL, environment))

    def provider(self, url: str) -> None:
        """Make a server the provider `local`."""
        home = self._home / "tinyagent"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(f"[providers.local]\nbase_url = {json.dumps(url)}\n")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command line, with the plugin as if it were installed."""
    site, work = tmp_path / "site", tmp_path / "work"
    info = site / "tinyagent_otel-0.1.0.dist-info"
    info.mkdir(parents=True)
    work.mkdir()
    (info / "METADATA").write_text(PROJECT)
    (info / "entry_points.txt").write_text("[tinyagent.hooks]\notel = tinyagent_otel._plugin:Otel\n")
    return Command(work, site, tmp_path)
