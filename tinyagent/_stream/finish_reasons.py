"""The finish reasons of all providers in one table: is a reply complete, truncated, withheld or broken?

A provider ends a reply with a finish reason (`finish_reason`, `stop_reason`, `done_reason`). Only the tool
calls of a complete reply may run, so every protocol uses this table:

    complete   the model finished
    length     a limit truncated the reply; its text is used, its tool calls do not run
    withheld   a filter or the model refused; the reply fails with `ContentFilterError`
    broken     the provider failed; the reply fails with `ProviderError`

A finish reason that is not in the table is judged by its terms (`content_filter_hate` contains `filter`). If
it remains unknown, the reply is complete if it has content, and broken otherwise.

Sources: the API references and SDKs of OpenAI, Azure, Anthropic, Bedrock, Gemini, Mistral, Cohere, DeepSeek,
Zhipu, DashScope, watsonx and Together; the source code of vLLM, SGLang, TGI, llama.cpp and Ollama.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

from tinyagent.errors import ContentFilterError, ProviderError

__all__ = [
    "FinishKind",
    "finish_error",
    "finish_kind",
    "has_content",
    "is_final",
    "later_reason",
    "shown_reason",
]

FinishKind: TypeAlias = Literal["complete", "length", "withheld", "broken"]

MAX_REASON = 100
"""Characters of a finish reason that are stored and shown. The longest in use has 40."""

_REASONS: dict[FinishKind, str] = {
    "complete": """
        stop stopped stop_sequence stop_string stop_word stop_token word end_turn turn_end
        end eos eos_token eot end_of_text end_of_turn end_of_sequence end_of_stream
        complete completed done finish finished success normal
        tool_use tool_call tool_calls function_call function_calls""",
    "length": """
        length max_length max_token max_tokens max_new_tokens max_output_tokens max_completion_tokens
        limit stop_limit output_limit token_limit time_limit model_length context_length error_limit
        model_context_window_exceeded context_window_exceeded incomplete truncated pause_turn compaction""",
    "withheld": """
        content_filter content_filtered content_policy safety image_safety sensitive refusal refused
        recitation image_recitation blocklist prohibited_content image_prohibited_content spii language
        guardrail guardrail_intervened model_armor error_toxic function_call_filter""",
    "broken": """
        error server_error internal_error network_error abort aborted cancel cancelled canceled user_cancel
        timeout timed_out failed failure insufficient_system_resource repetition rate_limit
        rate_limit_exceeded malformed_function_call malformed_tool_use malformed_model_output
        malformed_response unexpected_tool_call too_many_tool_calls missing_thought_signature
        no_image image_other""",
}
_TERMS: dict[FinishKind, str] = {
    "withheld": """
        filter filtered filters safety unsafe prohibited forbidden blocklist blocked guardrail guardrails
        sensitive refusal refused moderation moderated censored toxic toxicity policy violation recitation
        copyright harm harmful hate violence sexual jailbreak denied rejected disallowed""",
    "broken": """
        error errors fail failed failure abort aborted cancel cancelled canceled interrupted disconnected
        timeout malformed invalid unavailable overloaded exhausted insufficient quota crash crashed exception
        killed terminated preempted evicted shutdown oom repetition loop""",
    "length": "length limit tokens truncated incomplete window budget overflow exceeded cutoff partial",
}
"""Terms that decide the kind of a finish reason that is not in the table. The first matching kind applies."""

_KIND_OF = {reason: kind for kind, reasons in _REASONS.items() for reason in reasons.split()}
_KIND_OF_TERM = {kind: frozenset(terms.split()) for kind, terms in _TERMS.items()}

_NOT_FINAL = frozenset({"", "null", "none", "not_finished", "in_progress"})
"""Values in chunks before the last one: DashScope's native `null`, watsonx's `not_finished`."""

_CAMEL = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
_SEPARATORS = r"[^a-z0-9]+"
_PREFIX = r"^(finish|stop|done)_reason_"


def is_final(reason: str | None) -> bool:
    """Whether a finish reason ends the reply."""
    return reason in _KIND_OF or (bool(reason) and _normal(reason or "") not in _NOT_FINAL)


def finish_kind(reason: str | None, *, has_content: bool) -> FinishKind:
    """Return how a reply ended.

    Args:
        reason: The provider's finish reason, in any spelling; None if the reply ended without one.
        has_content: Whether the reply has text, tool calls or media. It decides if the reason is unknown.
    """
    if reason is None:
        return "complete"
    known = _KIND_OF.get(reason)  # Most are as in the table, and need no patterns.
    if known is not None:
        return known
    normal = _normal(reason)
    known = _KIND_OF.get(normal)
    if known is not None:
        return known
    terms = set(normal.split("_"))
    for kind, signs in _KIND_OF_TERM.items():
        if not signs.isdisjoint(terms):
            return kind
    return "complete" if has_content else "broken"


def later_reason(known: str | None, reason: str) -> str:
    """Return the finish reason of a reply that has more than one. The later one applies.

    The exception: a `stop` does not make a truncated, withheld or broken reply complete.
    """
    if known is None or finish_kind(known, has_content=True) == "complete":
        return reason
    return known if finish_kind(reason, has_content=True) == "complete" else reason


def has_content(blocks: Iterable[Mapping[str, object]]) -> bool:
    """Whether a message has more than reasoning: text, tool calls or media."""
    return any(
        block["text"] != "" if block["type"] == "text" else block["type"] != "thinking" for block in blocks
    )


def finish_error(
    reason: str | None, kind: FinishKind, *, name: str, provider: str = "", details: str = ""
) -> ProviderError | None:
    """Return the error of a reply that was withheld or broken; None for other replies.

    Args:
        reason: The finish reason, redacted by `shown_reason`.
        kind: The result of `finish_kind`.
        name: The provider's name, for the message.
        provider: The provider's name, for the error's `provider`.
        details: The provider's further explanation, redacted.
    """
    shown = f"finish reason {reason!r}" + (f": {details}" if details else "")
    if kind == "withheld":
        return ContentFilterError(
            f"{name}: the reply was withheld ({shown})",
            provider=provider,
            hint="Change the last message. The same message is likely to be withheld again.",
        )
    if kind == "broken":
        known = _KIND_OF.get(_normal(reason or "")) == "broken"
        what = "the provider ended the reply early" if known else "the reply is empty"
        return ProviderError(f"{name}: {what} ({shown})", provider=provider, retryable=known)
    return None


def shown_reason(reason: str, redact: Callable[[str], str] = str) -> str:
    """Return the finish reason redacted and shortened, because a server may echo a key in it."""
    return reason if reason in _KIND_OF else redact(reason)[:MAX_REASON]


def _normal(reason: str) -> str:
    """Return the finish reason in snake_case, without a qualifier after a colon and without a prefix."""
    head = re.sub(_CAMEL, "_", reason.partition(":")[0]).lower()
    snake = re.sub(_SEPARATORS, "_", head).strip("_")
    return re.sub(_PREFIX, "", snake) or snake
