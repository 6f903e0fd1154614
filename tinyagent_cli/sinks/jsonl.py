"""The run as JSON lines, with a header before it and a result after it, whatever happens."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import UNSET

from tinyagent import extract_text
from tinyagent.agent_types import AgentEvent
from tinyagent.jsonl import VERSION, Encoder, ErrorRecord, HistoryRecord, ResultRecord, SessionRecord
from tinyagent_cli.exit_codes import describe
from tinyagent_cli.version import version

from .output import Output

if TYPE_CHECKING:
    from tinyagent_cli.run.driver import Progress
    from tinyagent_cli.run.plan import Plan

__all__ = ["JsonlSink"]


class JsonlSink:
    """One stream of lines to one output."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._encoder = Encoder()
        self._header_written = False

    def begin(self, plan: Plan | None) -> None:
        """Write the header and the messages of the history. Without a plan, write a header with defaults."""
        self._header_written = True
        self.output.write_now(self._encoder.encode(_header(plan)))
        for message in plan.history if plan is not None else ():
            self.output.write_now(self._encoder.encode(HistoryRecord(message={**message})))

    def __call__(self, event: AgentEvent) -> None:
        line = self._encoder.encode(event)
        if line:
            self.output.write(line)

    def end(self, progress: Progress, error: BaseException | None) -> None:
        """Write the result line, and the header before it if nothing was written so far."""
        if not self._header_written:
            self.begin(None)
        self.output.write_now(self._encoder.encode(_result(progress, error)))


def _header(plan: Plan | None) -> SessionRecord:
    model: dict[str, object] | None = None
    if plan is not None:
        model = {name: getattr(plan.model, name, "") for name in ("provider", "id", "api")}
    return SessionRecord(
        version=VERSION,
        id=os.urandom(16).hex(),
        created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        model=model,
        system_prompt=plan.system if plan else "",
        thinking_level=str(plan.thinking) if plan else "off",
        tools=[tool.name for tool in plan.tools] if plan else [],
        tinyagent=version(),
        empty_stdin=True if plan is not None and plan.empty_stdin else UNSET,
    )


def _result(progress: Progress, error: BaseException | None) -> ResultRecord:
    last = progress.replies[-1] if progress.replies else None
    failure = recorded = None
    if error is not None:
        failure = describe(error)
        recorded = ErrorRecord(
            kind=failure.kind,
            message=failure.message,
            hint=failure.hint,
            status=UNSET if failure.status is None else failure.status,
            retryable=UNSET if failure.retryable is None else failure.retryable,
            retry_after=UNSET if failure.retry_after is None else failure.retry_after,
        )
    return ResultRecord(
        ok=failure is None,
        exit_code=0 if failure is None else failure.exit_code,
        stop_reason=last["stop_reason"] if last else None,
        text=extract_text(last),
        usage=None if progress.usage is None else {**progress.usage},
        turns=len(progress.replies),
        duration_ms=round(progress.seconds * 1000),
        error=recorded,
    )
