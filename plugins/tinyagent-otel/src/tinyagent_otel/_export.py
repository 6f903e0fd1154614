"""The SDK of the process, configured by the `OTEL_*` variables, and its end.

Spans are sent by the SDK's batch processor, in its own thread. The exporter is imported there, too. A run
never waits for a receiver. At the exit, a receiver has `DRAIN_S` for the last spans; then retries are ended,
and after `END_S` the process exits. A receiver that has failed gets no more time. Failures are one warning.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points, version
from urllib.parse import unquote, urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tinyagent import Agent

from ._content import captures_content
from ._tracer import AgentTracer

__all__ = ["Export"]

DRAIN_S = 1.5
"""Seconds at the exit for sending the last spans."""

END_S = 0.5
"""Seconds after that for a request under way. The command line gives the `atexit` functions 4 s in all."""

SCHEDULE_DELAY_MS = 500
"""Milliseconds between batches. With the SDK's 5 s, most runs would send everything at the exit."""

AGENT_NAME = "tinyagent"

OTLP_HTTP = "otlp_proto_http"
"""The name of the default exporter, as in the entry points of OpenTelemetry."""

MAX_REASON = 300
"""Characters of a reason in the warning."""

log = logging.getLogger("tinyagent.otel")


class Export:
    """Makes the tracers of all runs of the process.

    A tracer provider that exists already, for example by `opentelemetry-instrument`, is used as it is.

    Args:
        environment: The variables.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._capture = captures_content(environment)
        self._parent = _parent(environment)
        present = trace.get_tracer_provider()
        self._provider = (
            present if not isinstance(present, trace.ProxyTracerProvider) else _provider(environment)
        )

    def tracer(self, agent: Agent, session_id: Callable[[], str | None]) -> AgentTracer:
        """Return the tracer of a run."""
        return AgentTracer(
            agent,
            tracer_provider=self._provider,
            name=AGENT_NAME,
            conversation_id=session_id,
            capture_content=self._capture,
            parent=self._parent,
        )


def _parent(environment: Mapping[str, str]) -> Context | None:
    """Return the context in the environment (`TRACEPARENT`), which a caller sets for its child processes."""
    carrier = {
        name: environment[name.upper()]
        for name in ("traceparent", "tracestate", "baggage")
        if environment.get(name.upper())
    }
    return propagate.extract(carrier, Context()) if carrier else None


def _provider(environment: Mapping[str, str]) -> TracerProvider:
    """Make the global provider, so that other instrumentations take part.

    Raises:
        LookupError: An exporter is not installed.
        TypeError: It is not an exporter of spans.
    """
    reports = _Reports()
    exporters = [_LateExporter(name, reports) for name in _exporters(environment)]
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    delay = None if environment.get("OTEL_BSP_SCHEDULE_DELAY") else SCHEDULE_DELAY_MS
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)
    atexit.register(_End(provider, exporters, reports))
    return provider


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        ours = {"service.name": AGENT_NAME, "service.version": version("tinyagent-core")}
        resource = resource.merge(Resource(ours))
    return resource


def _exporters(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the exporters, with the protocol in that of OTLP."""
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    ).strip()
    by_protocol = {"http/protobuf": OTLP_HTTP, "grpc": "otlp_proto_grpc"}
    wanted = (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")
    names = [name.strip() for name in wanted if name.strip().lower() not in ("", "none")]
    return [by_protocol.get(protocol, f"otlp with {protocol}") if name == "otlp" else name for name in names]


class _LateExporter(SpanExporter):
    """An exporter. That of OTLP over HTTP is imported for its first batch, in the thread of the batches.

    Others are made at once, because they may be unable to start at the exit, as that of gRPC.

    Attributes:
        lost: How many spans were not sent.
    """

    def __init__(self, name: str, reports: _Reports) -> None:
        self.name = name
        self.lost = 0
        self._reports = reports
        self._exporter = None if name == OTLP_HTTP else _make_exporter(name)
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        if self._ended:
            self.lost += len(spans)
            return SpanExportResult.FAILURE
        try:
            if self._exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                self._exporter = OTLPSpanExporter()
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - reported at the exit
            self._reports.add_failure(str(error) or type(error).__name__)
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._reports.failing = False
        else:
            self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        """End retries, and send nothing more."""
        if not self._ended:
            self._ended = True
            if self._exporter is not None:
                self._exporter.shutdown()


def _make_exporter(name: str) -> SpanExporter:
    """Return a new exporter of this name.

    Raises:
        LookupError: It is not installed.
        TypeError: It is not an exporter of spans.
    """
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        hint = ""
        if name == "otlp_proto_grpc":
            hint = ". To install it: tinyagent plugins install 'tinyagent-otel[grpc]'"
        raise LookupError(f"the exporter {name} is not installed{hint}")
    exporter: object = found.load()()
    if not isinstance(exporter, SpanExporter):
        raise TypeError(f"{name} is not an exporter of spans")
    return exporter


class _Reports(logging.Handler):
    """Collects what OpenTelemetry logs, so that it is not shown between the output of a run.

    Attributes:
        failing: Whether the last attempt to send a batch has failed.
        failure: Why.
        note: The first other warning, for example about the value of a variable.
        on_failure: Called after a failed attempt.
        closed: Whether failures are no longer taken, because the exporters were ended.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.failing = False
        self.failure = ""
        self.note = ""
        self.on_failure: Callable[[], None] | None = None
        self.closed = False
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        logger.propagate = False

    def add_failure(self, text: str) -> None:
        """Take the reason of a failed attempt."""
        if self.closed:
            return
        if not self.failing:  # what follows is about retries
            self.failing, self.failure = True, _sentence(text)
        if self.on_failure is not None:
            self.on_failure()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a message without its traceback."""
        if record.name.startswith("opentelemetry.exporter"):
            self.add_failure(record.getMessage())
        else:
            self.note = self.note or _sentence(record.getMessage())


def _sentence(text: str) -> str:
    """Return a message in one line, without a full stop and without headers, which may be keys."""
    system = re.search(r"\[Errno [^]]*\] ([^\"')]+)", text)  # enough about a failed connection
    text = text if system is None else system[1]
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for header in filter(None, map(str.strip, os.environ.get(name, "").split(","))):
            value = unquote(header.partition("=")[2]).strip()
            text = text.replace(header, "[header]").replace(value or header, "[header]")
    return " ".join(text.split()).rstrip(".")[:MAX_REASON]


class _End:
    """Ends the provider at the exit. Its thread starts now, because none can start at the exit."""

    def __init__(
        self, provider: TracerProvider, exporters: Sequence[_LateExporter], reports: _Reports
    ) -> None:
        self._provider = provider
        self._exporters = exporters
        self._reports = reports
        self._pid = os.getpid()
        self._begin, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._shut_down, name="tinyagent-otel", daemon=True).start()

    def _shut_down(self) -> None:
        self._begin.wait()
        self._provider.shutdown()
        self._ended.set()

    def __call__(self) -> None:
        if os.getpid() != self._pid:
            return  # a fork, which has no thread of ours
        # A receiver that has just failed gets no more time.
        self._reports.on_failure = self._give_up
        self._begin.set()
        if self._reports.failing or not self._ended.wait(DRAIN_S):
            self._give_up()
            self._ended.wait(END_S)
        self._warn()

    def _give_up(self) -> None:
        self._reports.closed = True
        for exporter in self._exporters:
            exporter.shutdown()

    def _warn(self) -> None:
        lost = sum(exporter.lost for exporter in self._exporters)
        where = ", ".join(_receiver(exporter.name, os.environ) for exporter in self._exporters)
        if not self._ended.is_set():
            log.warning("The last traces were not sent: no answer from %s in time.", where)
        elif lost:
            log.warning(
                "Traces were not sent to %s: %s.", where, self._reports.failure or "no reason is known"
            )
        elif self._reports.note:
            log.warning("OpenTelemetry: %s.", self._reports.note)


def _receiver(name: str, environment: Mapping[str, str]) -> str:
    """Return the address of a receiver, without a user and a query, which may be secret."""
    if not name.startswith("otlp"):
        return name
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        url = environment.get(variable)
        if url:
            try:
                parts = urlsplit(url)
            except ValueError:
                return f"the address in {variable}"
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return "localhost"
