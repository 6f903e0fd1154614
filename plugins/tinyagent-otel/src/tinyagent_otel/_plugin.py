"""The plugin of the command line: a sink, if the `OTEL_*` variables ask for traces; see README.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tinyagent import Agent, AgentEvent, hookimpl

if TYPE_CHECKING:
    from ._export import Export
    from ._tracer import AgentTracer

__all__ = ["Otel"]


class Otel:
    """The plugin. OpenTelemetry is imported when the first run starts, and only if traces are wanted."""

    def __init__(self) -> None:
        self._export: Export | None = None
        self._failed = False

    @hookimpl
    def tinyagent_register_sinks(
        self, register: Callable[[str, Callable[[], Callable[[AgentEvent], None]]], None]
    ) -> None:
        """Trace every run."""
        if wants_traces(os.environ):
            register("otel", lambda: _Sink(self._exported))

    def _exported(self) -> Export | None:
        """Return the export of the process. A failure is raised once, for the first run."""
        if self._export is None and not self._failed:
            self._failed = True
            from ._export import Export

            self._export = Export(os.environ)
        return self._export


class _Sink:
    """The sink of one run, or of all runs of a chat."""

    def __init__(self, export: Callable[[], Export | None]) -> None:
        self._export = export
        self._tracer: AgentTracer | None = None

    def attach(self, agent: Agent, session_id: Callable[[], str | None]) -> None:
        """Begin to trace an agent."""
        export = self._export()
        if export is not None:
            self._tracer = export.tracer(agent, session_id)

    def __call__(self, event: AgentEvent) -> None:
        if self._tracer is not None:
            self._tracer(event)

    def close(self) -> None:
        """End the spans that are still open."""
        if self._tracer is not None:
            self._tracer.close()


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Return whether the variables ask for traces: an exporter, or an endpoint for the default one.

    The SDK's own default, `http://localhost:4318`, is not used: every run of every user would try to connect.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return exporters != "none"
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(environment.get(name, "").strip() for name in names)
