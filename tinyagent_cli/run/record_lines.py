"""The header and the result line of a record, made from the plan and the progress of a run.

They are dicts, because plain text does without the types of `tinyagent.jsonl`, but has a session.
"""

from __future__ import annotations

import os

from msgspec import UNSET

from tinyagent import extract_text
from tinyagent_cli.exit_codes import describe
from tinyagent_cli.sessions.files import created_now
from tinyagent_cli.version import version

from .plan import Plan
from .progress import Progress

__all__ = ["header", "result"]


def header(plan: Plan | None) -> dict[str, object]:
    """Return the first line of a record; with defaults if the run has ended before it had a plan."""
    model: dict[str, object] | None = None
    if plan is not None:
        model = {name: getattr(plan.model, name, "") for name in ("provider", "id", "api")}
    fields: dict[str, object] = {
        "type": "session",
        "version": 1,
        "id": plan.session.id if plan and plan.session else os.urandom(16).hex(),
        "created": created_now(),
        "model": model,
        "system_prompt": plan.system if plan else "",
        "thinking_level": str(plan.thinking) if plan else "off",
        "tools": [tool.name for tool in plan.tools] if plan else [],
        "tinyagent": version(),
    }
    if plan is not None and plan.empty_stdin:
        fields["empty_stdin"] = True
    return fields


def result(
    progress: Progress, error: BaseException | None, session_id: str | None, seconds: float
) -> dict[str, object]:
    """Return the last line of a record; `session_id` if the run is saved. The run took `seconds`."""
    last = progress.replies[-1] if progress.replies else None
    failure = None if error is None else describe(error)
    recorded: dict[str, object] | None = None
    if failure is not None:
        recorded = {"kind": failure.kind, "message": failure.message, "hint": failure.hint}
        for name in ("status", "retryable", "retry_after"):
            if getattr(failure, name) is not None:
                recorded[name] = getattr(failure, name)
    fields: dict[str, object] = {
        "type": "result",
        "ok": failure is None,
        "exit_code": 0 if failure is None else failure.exit_code,
        "stop_reason": last["stop_reason"] if last else None,
        "text": extract_text(last),
        "usage": None if progress.usage is None else {**progress.usage},
        "turns": len(progress.replies),
        "duration_ms": round(seconds * 1000),
        "error": recorded,
    }
    if progress.value is not UNSET:
        fields["value"] = progress.value
    if session_id is not None:
        fields["session"] = session_id
    return fields
