"""Convert the error replies of providers to exceptions of the error tree, without secrets."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping

from tinyagent import _json
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    ProviderError,
    RateLimitError,
    TinyAgentError,
    shorten,
)

__all__ = [
    "body_text",
    "check_key_variable",
    "format_duration",
    "provider_error",
    "redact",
    "reported_codes",
    "reported_text",
]

SHOWN_CHARACTERS = 2000
"""Characters of a provider's text that an error message may contain."""


# Most requests do not fail. So the patterns are compiled when they are first used, and `re` caches them.

# ---- secrets ------------------------------------------------------------------------------------------

_SECRETS = (
    # Authorization: Bearer …, Basic …
    r"(?i:\b(?:bearer|basic)\s+[^\s\"',;]+)"
    # Keys of providers and code hosts, by their prefix.
    r"|\b(?:sk|pk|rk|gsk|xai|csk|pplx|nvapi|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_*.\-]{6,}"
    r"|\b(?:fw|tgp|hf|r8|key)[-_][A-Za-z0-9_\-]{20,}"
    r"|\bAIza[A-Za-z0-9_\-]{20,}|\bya29\.[A-Za-z0-9_\-]{10,}|\bAKIA[A-Z0-9]{12,}"
    r"|\beyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-.]+"
    # key=…, "api_key": "…", x-api-key: …
    r"|(?i:(?<=[\"'\s,;&?{])(?:[a-z0-9]+[_-])*(?:api[_-]?key|access[_-]?token|auth[_-]?token|secret|password)"
    r"[\"']?\s*[:=]\s*[\"']?(?=[^\s\"',;&}]*[0-9])[^\s\"',;&}]{8,})"
    # user:password@host, with or without a scheme, and token@host behind one.
    r"|(?<=://)[^\s@\"'<>]+@"
    r"|(?<![^\s\"'(=])[^\s/@:\"'<>(=]+:[^\s/@\"'<>]+@(?=[A-Za-z0-9\[])"
    # The query of a URL.
    r"|(?<=[?&])[A-Za-z0-9_.\-\[\]]+=[^\s\"'<>&)]+(?:&[^\s\"'<>)]*)?"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace `secrets`, and parts of the text that look like secrets, by `[redacted]`."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    return re.sub(_SECRETS, "[redacted]", text)


_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def check_key_variable(variable: str, provider: str) -> None:
    """Check that an `api_key_env` is the name of a variable, and not the key itself.

    Raises:
        ConfigurationError: It is not a name. The message does not show the value.
    """
    if not re.fullmatch(_VARIABLE, variable) or redact(variable) != variable:
        raise ConfigurationError(
            f"api_key_env of {provider!r} is not the name of an environment variable",
            hint='Set it to the name of the variable with the key: api_key_env = "ACME_API_KEY".',
        )


# ---- the error ----------------------------------------------------------------------------------------

_OVERFLOW = (
    r"(?i)context[ _-]?(?:length|window|size|limit)|available context|maximum context|context_exceeded"
    r"|(?:prompt|input|conversation|request|messages?) (?:is|are) too (?:long|large)"
    r"|prompt too long|input too long|request too large for model|prompt contains \d+ tokens"
    r"|reduce (?:the length of )?(?:the|your) (?:messages|prompt|input)"
    # xAI; vLLM; SGLang; DashScope
    r"|maximum prompt length|maximum model length|maximum allowed length|range of input length"
    # Gemini, Copilot, Perplexity: a count of tokens exceeds a limit.
    r"|tokens? (?:count|limit)?.{0,60}exceed(?:s|ed)|exceed(?:s|ed) (?:the )?(?:model'?s? )?.{0,40}tokens?\b"
    r"|exceed(?:s|ed)? (?:the )?(?:model )?token limit|exceeds the limit of \d+"
    # Together, text-generation-inference
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be"
    r"|(?:total number of tokens|tokens in the prompt) cannot exceed"
    r"|too many (?:input |prompt )?tokens"
    # text-generation-inference; GitHub Models
    r"|must have less than \d+ tokens|tokens_limit_reached|max size: \d+ tokens"
)
_OTHER_LIMITS = (
    r"(?i)rate.?limit|throttl|per (?:minute|day|hour|second)|\b[tr]p[mds]\b|please wait|quota"
    r"|max_?(?:new_|completion_|output_)?tokens|(?:completion|output) tokens"
)
_INPUT_WORDS = r"(?i)context|prompt|\binputs?\b|messages|conversation"
_WRONG_KEY = (
    r"(?i)(?:incorrect|invalid|wrong|missing|expired|no|bad) (?:x-)?api[ _-]?key"
    r"|api[ _-]?key (?:is |was |has |you provided )?(?:not valid|invalid|incorrect|expired|missing|not found)"
    r"|api_key_invalid|invalid_api_key|invalid authentication|authentication (?:failed|error)"
    r"|api[ _-]?key (?:doesn't|does not) exist|auth credentials|\bunauthori[sz]ed\b"
)
_FILTERED = (
    r"(?i)content[ _-]?(?:filter|management policy|policy[ _]violation)|responsibleai|data_inspection_failed"
    r"|requires moderation|flagged (?:by|for|as)|was flagged"
)
_NO_CREDIT = (
    r"(?i)insufficient[ _](?:quota|balance|credits?|funds)|billing_(?:hard_limit|not_active)"
    r"|exceeded_current_quota|credit balance is too low|(?:used all|out of) (?:available )?credits"
    r"|arrears|account is not active"
)
_QUOTA_WORDS = r"(?i)exceeded your current quota.{0,80}billing"
_RETRY_ADVICE = r"(?i)retry (?:in|after)|retryDelay|try again in|per (?:minute|day|hour)"
_RETRYABLE_WORDS = r"(?i)overloaded|rate.?limit|server.?error|temporarily|try again|unavailable"


def provider_error(
    text: str,
    *,
    provider: str,
    status: int | None = None,
    code: str = "",
    prefix: str = "",
    retry_after: float | None = None,
    retryable: bool | None = None,
) -> TinyAgentError:
    """Return the error for an error reply, or for an error event inside a stream.

    Args:
        text: The provider's message, without secrets.
        provider: The provider's name.
        status: The HTTP status, or the equivalent number in an event.
        code: The provider's codes and types, as `reported_codes` returns them.
        prefix: Precedes the text in the message: `HTTP 429`.
        retry_after: Seconds to wait, if the provider sent them.
        retryable: Whether a retry may succeed, according to the provider; None to decide by the other values.
    """
    name = provider or "the provider"
    text = shorten(text.strip(), SHOWN_CHARACTERS)
    message = (
        f"{name}: {prefix}: {text}" if prefix and text else f"{name}: {text or prefix or 'unknown error'}"
    )
    everything = f"{code} {text}"
    if status in (400, 403, 422) and re.search(_FILTERED, everything):
        hint = "Rephrase the prompt, or choose another model."
        return ContentFilterError(message, status=status, provider=provider, hint=hint)
    without_credit = status == 402 or (status != 401 and _has_no_credit(everything))
    if _has_wrong_key(status, everything, without_credit=without_credit):
        access = ", and whether it has access to this model" if status == 403 else ""
        return AuthenticationError(message, hint=f"Check the API key{access}.", status=status)
    kind: type[ProviderError] = RateLimitError if status == 429 else ProviderError
    if without_credit:
        hint = "The account has no credit left. Add credit, or choose another provider."
        return kind(message, status=status, retryable=bool(retryable), provider=provider, hint=hint)
    if _is_overflow(status, text, everything):
        hint = "Shorten the conversation, or choose a model with a larger context window."
        return ContextOverflowError(message, status=status, provider=provider, hint=hint)
    return kind(
        message,
        status=status,
        retryable=_is_temporary(status, everything) if retryable is None else retryable,
        provider=provider,
        retry_after=retry_after,
        hint=_hint_for(status, retry_after),
    )


def _has_wrong_key(status: int | None, everything: str, *, without_credit: bool) -> bool:
    if status == 401 or (status == 403 and not without_credit):
        return True
    return status in (None, 400, 403, 422) and re.search(_WRONG_KEY, everything) is not None


def _is_temporary(status: int | None, everything: str) -> bool:
    if status is None:
        return re.search(_RETRYABLE_WORDS, everything) is not None
    return status in (408, 409, 429) or status >= 500


def _hint_for(status: int | None, retry_after: float | None) -> str | None:
    if status == 404:
        return "Check the model's name and the base URL."
    if status != 429:
        return None
    if retry_after is None:
        return "Wait before you try again, or check the rate limits of the API key."
    return f"The provider asks to wait {format_duration(retry_after)}."


def _has_no_credit(everything: str) -> bool:
    """Whether the account has no credit. Gemini uses OpenAI's text for rate limits, with a time to wait."""
    if re.search(_NO_CREDIT, everything):
        return True
    return re.search(_QUOTA_WORDS, everything) is not None and not re.search(_RETRY_ADVICE, everything)


def _is_overflow(status: int | None, text: str, everything: str) -> bool:
    if status == 413:
        return not text or re.search(_OVERFLOW, everything) is not None  # Cerebras sends no body
    if status not in (None, 400, 422, 500) or re.search(_OVERFLOW, everything) is None:
        return False
    # "Too many tokens, please wait before trying again" is a rate limit (Bedrock), and "max_tokens exceeds
    # the maximum" a wrong option.
    return re.search(_INPUT_WORDS, text) is not None or not re.search(_OTHER_LIMITS, everything)


def format_duration(seconds: float) -> str:
    """Format seconds for people: `1.5 s`, `1:00:00`."""
    if seconds < 120:
        return f"{round(seconds, 1):g} s"
    return str(datetime.timedelta(seconds=round(seconds)))


# ---- reading error bodies -----------------------------------------------------------------------------

_TEXT_FIELDS = ("message", "error", "detail", "error_message", "msg")
_CODE_FIELDS = ("code", "type", "status", "reason", "error_code", "innererror")


def reported_text(value: object) -> str:
    """Return the message in an error object of any provider."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return "" if value is None else _json.encode(value).decode()
    for key in _TEXT_FIELDS:
        if value.get(key):
            text = reported_text(value[key])
            break
    else:
        return _json.encode(value).decode() if value else ""
    param = value.get("param")
    if isinstance(param, str) and param not in text:
        text = f"{text} ({param})"  # the field of the request that caused the error
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("raw"):
        # OpenRouter's own message is only "Provider returned error". The reason is in this field.
        raw = metadata["raw"]
        detail = reported_text(_json.decode_lenient(raw) if isinstance(raw, str) else raw)
        if detail and detail not in text:
            text = f"{text} ({detail})"
    return text


def reported_codes(value: object, depth: int = 4) -> str:
    """Return the codes and types in an error object of any provider, separated by spaces."""
    if not isinstance(value, Mapping) or not depth:
        return ""
    codes = [value[key] for key in _CODE_FIELDS if isinstance(value.get(key), str)]
    codes += [reported_codes(value.get(key), depth - 1) for key in ("error", "innererror", "metadata")]
    if isinstance(details := value.get("details"), list):
        codes += [reported_codes(item, depth - 1) for item in details[:10]]
    return " ".join(code for code in codes if code)[:500]


def body_text(body: bytes, content_type: str, clean: Callable[[str], str]) -> tuple[str, str]:
    """Return the message and the codes in the body of an error reply.

    Args:
        body: The body. The caller limits its size.
        content_type: The reply's `Content-Type`.
        clean: Removes secrets.
    """
    text = body.decode("utf-8", "replace").strip()
    if "json" in content_type or text[:1] in ("{", "["):
        value = _json.decode_lenient(text)
        if isinstance(value, list) and value:
            value = value[0]
        if value is not None and not isinstance(value, str):
            return clean(reported_text(value) or text), clean(reported_codes(value))
    text = clean(text)  # before the text is shortened, because half a secret is not recognised
    if "html" in content_type or text[:1] == "<":
        title = re.search(r"(?is)<title[^>]*>(.*?)</title>", text)
        plain = title[1] if title else re.sub(r"(?s)<[^>]*>", " ", text[: SHOWN_CHARACTERS * 4])
        return f"an HTML page: {shorten(' '.join(plain.split()), 200)}", ""
    return text, ""
