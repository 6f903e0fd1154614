"""The result of a run: its answer, or the error that explains why it has none, and its usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ._stream.message_checks import has_failed, is_assistant
from .agent_types import AgentMessage, AssistantMessage, RunLimit
from .errors import (
    EmptyReplyError,
    OutputTruncatedError,
    RunLimitError,
    TinyAgentError,
    error_from_message,
)

__all__ = ["answer_error", "check_answer", "extract_text", "last_reply", "partial_text"]

_LIMITS: dict[RunLimit, tuple[str, str]] = {
    "max_turns": ("The run reached its limit of model calls without a final answer.", "Raise max_turns."),
    "budget": ("The run reached its budget without a final answer.", "Raise max_cost."),
    "max_total_tokens": (
        "The run reached its limit of tokens without a final answer.",
        "Raise max_total_tokens.",
    ),
    "repeat": (
        "The run was ended because the model repeated the same tool call, or all its tool calls failed.",
        "Raise max_repeats, or set it to None for no limit.",
    ),
}


def extract_text(message: Mapping[str, object] | None) -> str:
    """Return the text blocks of a message, joined; an empty string if it has no text."""
    content = (message or {}).get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else ()
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def answer_error(messages: Sequence[AgentMessage], limit: RunLimit | None) -> TinyAgentError | None:
    """Return why a run has no complete text answer; None if it has one.

    A run that a tool or a hook ended on purpose (`terminate`, `should_stop_after_turn`) is complete: its
    last reply has tool calls and does not need text.

    Args:
        messages: The new messages of the run, in order.
        limit: The limit that ended the run.
    """
    last = last_reply(messages)
    if has_failed(last):
        return error_from_message(last)
    if limit is not None:
        text, hint = _LIMITS[limit]
        return RunLimitError(text, limit=limit, hint=hint)
    if last["stop_reason"] == "length":
        return OutputTruncatedError(
            "The reply reached the output limit and is not complete.",
            hint="Raise max_tokens, or request a shorter answer.",
        )
    kinds = dict.fromkeys(str(block["type"]) for block in last["content"])
    if extract_text(last).strip() or "tool_call" in kinds:
        return None
    other = [kind for kind in kinds if kind not in ("text", "thinking")]
    if other:
        return EmptyReplyError(
            f"The reply has no text, only content of type {', '.join(other)}.",
            content_types=other,
            hint="The message has the content: prompt() returns it, and --jsonl and -o record it.",
        )
    if "thinking" in kinds:
        return EmptyReplyError(
            "The reply has only reasoning and no answer.",
            hint="Ask again, allow more output tokens, or ask for less reasoning.",
        )
    return EmptyReplyError("The reply is empty.", hint="Ask again, or choose another model.")


def check_answer(messages: Sequence[AgentMessage], limit: RunLimit | None) -> None:
    """Raise the error of `answer_error`, if there is one, with the text so far."""
    error = answer_error(messages, limit)
    if error is not None:
        error.partial_text = partial_text(messages)
        raise error


def partial_text(messages: Sequence[AgentMessage]) -> str:
    """Return the text of the last reply that has text, for a run without a complete answer."""
    texts = (extract_text(message) for message in reversed(messages) if is_assistant(message))
    return next((text for text in texts if text.strip()), "")


def last_reply(messages: Sequence[AgentMessage]) -> AssistantMessage:
    """Return the last reply of a run. Every run has at least one, because a turn always has one."""
    return next(message for message in reversed(messages) if is_assistant(message))
