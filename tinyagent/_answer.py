"""What a run came to: its answer, or the reason why it has none; and what it used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from .agent_types import RunLimit, Usage
from .errors import (
    EmptyReplyError,
    OutputTruncatedError,
    RunLimitError,
    TinyAgentError,
    error_from_message,
)

__all__ = ["answer_error", "extract_text", "partial_text", "sum_usage"]

_LIMITS: dict[RunLimit, tuple[str, str]] = {
    "max_turns": ("The run reached its limit of model calls without a final answer.", "Raise max_turns."),
    "budget": ("The run reached its budget without a final answer.", "Raise max_cost."),
    "repeat": (
        "The run was ended because the model repeated the same tool call, or its tool calls kept failing.",
        "Raise max_repeats, or set it to None for no limit.",
    ),
}


def extract_text(message: Mapping[str, Any] | None) -> str:
    """The text of a message, its text blocks joined; empty if it has no text."""
    content = (message or {}).get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block.get("type") == "text")


def answer_error(messages: Sequence[Mapping[str, Any]], limit: RunLimit | None) -> TinyAgentError | None:
    """Why a run has no complete text answer; None if it has one.

    A run that a tool or a hook ended on purpose (`terminate`, `should_stop_after_turn`) is complete: its
    last reply has tool calls and need not have text.

    Args:
        messages: The new messages of the run, in order.
        limit: The limit that ended the run.
    """
    last = _last_reply(messages)
    if last["stop_reason"] in ("error", "aborted"):
        return error_from_message(last)
    if limit is not None:
        text, hint = _LIMITS[limit]
        return RunLimitError(text, limit=limit, hint=hint)
    if last["stop_reason"] == "length":
        return OutputTruncatedError(
            "The reply reached the output limit and is not complete.",
            hint="Raise max_tokens, or ask for less.",
        )
    kinds = dict.fromkeys(str(block.get("type")) for block in last["content"])
    if extract_text(last).strip() or "tool_call" in kinds:
        return None
    other = [kind for kind in kinds if kind not in ("text", "thinking")]
    if other:
        return EmptyReplyError(
            f"The reply holds no text, only content of type {', '.join(other)}.",
            content_types=other,
            hint="The message itself holds the content: prompt() returns it, and --jsonl and -o record it.",
        )
    if "thinking" in kinds:
        return EmptyReplyError(
            "The reply holds only reasoning and no answer.",
            hint="Ask again, allow more output tokens, or ask for less reasoning.",
        )
    return EmptyReplyError("The reply is empty.", hint="Ask again, or choose another model.")


def partial_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last reply that has any, for a run without a complete answer."""
    texts = (extract_text(message) for message in reversed(messages) if message.get("role") == "assistant")
    return next((text for text in texts if text.strip()), "")


def sum_usage(messages: Iterable[Mapping[str, Any]]) -> Usage | None:
    """Tokens and cost of all replies together; None if no reply reports any.

    Counts that a reply does not report add nothing; `cost` is None if no reply has one.
    """
    usages = (message.get("usage") for message in messages if message.get("role") == "assistant")
    reports = [usage for usage in usages if isinstance(usage, Mapping) and usage]
    if not reports:
        return None
    total: dict[str, Any] = {"cost": None} if any("cost" in report for report in reports) else {}
    for report in reports:
        for name, value in report.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = (total.get(name) or 0) + value
    return cast(Usage, total)


def _last_reply(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(message for message in reversed(messages) if message.get("role") == "assistant")
