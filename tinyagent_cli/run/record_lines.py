"""The header and the result line of a record, made from the plan and the progress of a run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from msgspec import UNSET

from tinyagent import extract_text
from tinyagent.jsonl import VERSION, ErrorRecord, ResultRecord, SessionRecord
from tinyagent_cli.exit_codes import describe
from tinyagent_cli.version import version

from .plan import Plan
from .progress import Progress

__all__ = ["header", "result"]


def header(plan: Plan | None) -> SessionRecord:
    """Return the first line of a record; with defaults if the run has ended before it had a plan."""
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


def result(progress: Progress, error: BaseException | None) -> ResultRecord:
    """Return the last line of a record."""
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
        value=progress.value,
        usage=None if progress.usage is None else {**progress.usage},
        turns=len(progress.replies),
        duration_ms=round(progress.seconds * 1000),
        error=recorded,
    )
