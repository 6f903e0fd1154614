"""The exceptions of tinyagent, as one tree.

TinyAgentError
├── ConfigurationError            an invalid setting, file or model
│   ├── NotConfiguredError        a required setting is missing
│   ├── ToolSchemaError           a tool's JSON Schema is invalid (also a ValueError)
│   └── AuthenticationError       the key is missing, or the provider refused it
│       └── MissingKeyError       the key is missing (also a ValueError)
├── AgentStateError               the agent cannot do this in its current state (also a RuntimeError)
├── ProviderError                 the provider, or the connection to it, failed
│   ├── RateLimitError            too many requests, or the quota is used up
│   ├── ContextOverflowError      the conversation exceeds the model's context window
│   ├── ConnectionFailedError     no connection: name, network, TLS, refused
│   ├── ProviderTimeoutError      the provider sent no data for too long
│   ├── StreamInterruptedError    the connection ended before the reply was complete
│   ├── InvalidReplyError         the reply violates the protocol
│   └── ContentFilterError        the provider withheld the reply
├── IncompleteAnswerError         the run ended without a complete answer
│   ├── OutputTruncatedError      the reply reached the output limit
│   ├── EmptyReplyError           the reply has no text
│   ├── InvalidAnswerError        the answer does not fit the requested schema
│   └── RunLimitError             a limit of the run was reached; `kind` is the limit's name
├── RunAbortedError               the run was aborted
├── InvalidMessageError           a message that cannot be sent to a model (also a ValueError)
├── InputError                    the input of the user is invalid: an argument, a file, a prompt
├── ToolError                     a tool failed
│   ├── ToolArgumentsError        the tool's schema does not allow the arguments (also a ValueError)
│   └── ToolRefusedError          a hook, a rule or the user refused the call
├── PluginError                   a plugin cannot be loaded, or violates its contract
├── WorkerLostError               a worker of an executor ended while it ran items
└── RecordError                   a JSONL stream cannot be read (also a ValueError)

Each class has a stable `kind`. The command line maps classes to exit codes in one table.

A failure crosses the event stream and JSONL as data: `error_fields` writes an exception into an assistant
message, and `error_from_message` reads it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

__all__ = [
    "AgentStateError",
    "AuthenticationError",
    "ConfigurationError",
    "ConnectionFailedError",
    "ContentFilterError",
    "ContextOverflowError",
    "EmptyReplyError",
    "ErrorFields",
    "IncompleteAnswerError",
    "InputError",
    "InvalidAnswerError",
    "InvalidMessageError",
    "InvalidReplyError",
    "MissingKeyError",
    "NotConfiguredError",
    "OutputTruncatedError",
    "PluginError",
    "ProviderError",
    "ProviderTimeoutError",
    "RateLimitError",
    "RecordError",
    "RunAbortedError",
    "RunLimitError",
    "StreamInterruptedError",
    "TinyAgentError",
    "ToolArgumentsError",
    "ToolError",
    "ToolRefusedError",
    "ToolSchemaError",
    "WorkerLostError",
    "error_fields",
    "error_from_message",
]


class TinyAgentError(Exception):
    """The root of the tree.

    Args:
        message: What went wrong and where.
        hint: What to do next; shown on a separate line.

    Attributes:
        kind: A stable name for this kind of failure. A subclass may set its own.
        status: The HTTP status, if there was an HTTP reply.
        retryable: Whether the same request may succeed later; None if unknown.
        retry_after: Seconds to wait, if the provider sent them.
        partial_text: The text received so far, if a text-only call such as `prompt_text` raises.
    """

    kind: str = "internal"
    status: int | None = None
    retryable: bool | None = None
    retry_after: float | None = None
    partial_text: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(TinyAgentError):
    """A setting, file, model or provider name is invalid."""

    kind = "configuration"


class NotConfiguredError(ConfigurationError):
    """A required setting is missing. An invalid setting is a `ConfigurationError` instead.

    A plugin raises it until it is configured. `tinyagent doctor` does not report it as a fault.
    """

    kind = "not_configured"


class ToolSchemaError(ConfigurationError, ValueError):
    """A tool's JSON Schema is invalid. The message shows the tool, the place in the schema and the error."""

    kind = "tool_schema"


class AuthenticationError(ConfigurationError):
    """The provider requires an API key: it is missing, or the provider refused it.

    Args:
        message: What went wrong and where.
        hint: What to do next.
        status: The HTTP status of a refusal.
    """

    kind = "authentication"

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class MissingKeyError(AuthenticationError, ValueError):
    """There is no API key. The message names the environment variable for it."""

    kind = "missing_key"


class AgentStateError(TinyAgentError, RuntimeError):
    """The agent cannot do this in its current state: it is streaming, or has no model or stream function."""

    kind = "agent_state"


class ProviderError(TinyAgentError):
    """The provider, or the connection to it, failed.

    Args:
        message: The provider's own text if there is one, shortened and without secrets.
        status: The HTTP status, if there was an HTTP reply.
        retryable: Whether the same request may succeed later.
        provider: The provider's name.
        retry_after: Seconds to wait, if the provider sent them.
        hint: What to do next.
    """

    kind = "provider"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        provider: str = "",
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retryable: bool | None = retryable
        self.provider = provider
        self.retry_after = retry_after


class RateLimitError(ProviderError):
    """HTTP 429, or the equivalent inside a stream."""

    kind = "rate_limit"


class ContextOverflowError(ProviderError):
    """The conversation does not fit the model's context window."""

    kind = "context_overflow"


class ConnectionFailedError(ProviderError):
    """No connection could be made: unknown name, refused, TLS failure, no network."""

    kind = "connection"


class ProviderTimeoutError(ProviderError):
    """The provider sent no data within the time-out that the message names."""

    kind = "timeout"


class StreamInterruptedError(ProviderError):
    """The connection ended before the reply was complete: without a finish reason or end marker."""

    kind = "stream_interrupted"


class InvalidReplyError(ProviderError):
    """The reply cannot be decoded: it is not an event stream, or an event violates the protocol."""

    kind = "invalid_reply"


class ContentFilterError(ProviderError):
    """The provider withheld the rest of the reply (`content_filter`)."""

    kind = "content_filter"


class IncompleteAnswerError(TinyAgentError):
    """The run ended without a complete answer."""

    kind = "incomplete"


class OutputTruncatedError(IncompleteAnswerError):
    """The reply reached the output limit before it was complete."""

    kind = "output_truncated"


class EmptyReplyError(IncompleteAnswerError):
    """The reply is complete but has no text: it is empty, or has only reasoning, images or other content.

    Args:
        message: What the reply contains.
        content_types: The types of its content, such as `image`; empty if it has at most reasoning.
        hint: What to do next.
    """

    kind = "empty_reply"

    def __init__(self, message: str, *, content_types: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.content_types: tuple[str, ...] = tuple(content_types)


class InvalidAnswerError(IncompleteAnswerError):
    """The answer does not fit the schema that was asked for. The message names the place and the fault."""

    kind = "invalid_answer"


class RunLimitError(IncompleteAnswerError):
    """A limit of the run was reached before the model was done.

    Args:
        message: What happened.
        limit: The name of the limit, see `RunLimit`; becomes the error's `kind`.
        hint: What to do next.
    """

    kind: str = "limit"

    def __init__(self, message: str, *, limit: str = "limit", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = limit
        self.limit: str = limit


class RunAbortedError(TinyAgentError):
    """The run was aborted, by `abort()` or by the provider."""

    kind = "aborted"


class InvalidMessageError(TinyAgentError, ValueError):
    """A message cannot be sent to a model. The error shows the message and the reason."""

    kind = "invalid_message"


class InputError(TinyAgentError):
    """The input of the user is invalid: an argument, a file or a prompt."""

    kind = "usage"


class ToolError(TinyAgentError):
    """A tool failed. The model receives the message of the error."""

    kind = "tool"


class ToolArgumentsError(ToolError, ValueError):
    """The tool's JSON Schema does not allow the arguments. The message names the path and the rule."""

    kind = "tool_arguments"


class ToolRefusedError(ToolError):
    """A hook, a rule or the user refused the call. The message is the reason."""

    kind = "tool_refused"


class PluginError(TinyAgentError):
    """A plugin cannot be loaded, or violates its contract. The message names plugin and distribution."""

    kind = "plugin"


class WorkerLostError(TinyAgentError):
    """A worker of an executor ended while it ran items, or could not be started."""

    kind = "worker_lost"


class RecordError(TinyAgentError, ValueError):
    """A JSONL stream cannot be read. The message names the line."""

    kind = "record"


# ---- failures as data -----------------------------------------------------------------------------


class ErrorFields(TypedDict, total=False):
    """The fields of an assistant message that describe a failure.

    `error_category` is the kind of the nearest base class in this module. It is present only if `error_kind`
    is the kind of a class from elsewhere. `error_retry_after` is in seconds.
    """

    error_message: str
    error_kind: str
    error_category: str
    error_hint: str
    error_status: int
    error_retryable: bool
    error_retry_after: float


MAX_TEXT = 10_000
"""The maximum length of an exception's text; some libraries include complete documents."""

_KIND = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"


def error_fields(error: BaseException) -> ErrorFields:
    """Convert an exception to the fields of an assistant message.

    The attributes `kind`, `status`, `retryable`, `retry_after` and `hint` of third-party exceptions are used
    in the same way as those of `TinyAgentError`. Attributes of another type are ignored.
    """
    kind = _as_kind(_attribute(error, "kind"))
    status = _as_status(_attribute(error, "status")) or _as_status(_attribute(error, "status_code"))
    category = next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), None)
    if category is None and (kind or status):
        category = kind if kind in _CLASSES else ProviderError.kind
    kind = kind or category or TinyAgentError.kind
    fields: ErrorFields = {"error_message": error_text(error), "error_kind": kind}
    if kind not in _CLASSES:
        fields["error_category"] = category or TinyAgentError.kind
    hint = _attribute(error, "hint")
    if isinstance(hint, str) and hint:
        fields["error_hint"] = hint
    if status is not None:
        fields["error_status"] = status
    retryable = _attribute(error, "retryable")
    if isinstance(retryable, bool):
        fields["error_retryable"] = retryable
    retry_after = as_amount(_attribute(error, "retry_after"))
    if retry_after is not None:
        fields["error_retry_after"] = retry_after
    return fields


def error_from_message(message: Mapping[str, object]) -> TinyAgentError:
    """Convert the failure in an assistant message back to an exception.

    The class is the one whose kind is `error_kind`, else the one of `error_category`, else `ProviderError`.
    Constructors of third-party classes are not called: the exception is always of a class of this module. It
    has the recorded `kind`, `hint`, `status`, `retryable` and `retry_after`.
    """
    hint = message.get("error_hint")
    hint = hint if isinstance(hint, str) and hint else None
    text = message.get("error_message")
    text = text if isinstance(text, str) and text else ""
    kind = _as_kind(message.get("error_kind"))
    if message.get("stop_reason") == "aborted" and kind is None:
        return RunAbortedError(text or "The run was aborted.", hint=hint)
    found = _CLASSES.get(str(kind)) or _CLASSES.get(str(message.get("error_category"))) or ProviderError
    error = found(text or "The provider reported an error without a reason.", hint=hint)
    error.kind = kind or found.kind
    error.status = _as_status(message.get("error_status"))
    retryable = message.get("error_retryable")
    error.retryable = retryable if isinstance(retryable, bool) else None
    error.retry_after = as_amount(message.get("error_retry_after"))
    if isinstance(error, ProviderError):
        error.provider = str(message.get("provider") or "")
    return error


def error_text(error: BaseException) -> str:
    """Return the truncated text of an exception, with the name of its type unless it is our own."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception without a readable text must not cause another
        text = ""
    text = shorten(text, MAX_TEXT)
    if isinstance(error, TinyAgentError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shorten(text: str, limit: int) -> str:
    """Truncate a text after `limit` characters, and add its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


MIN_KEY_LENGTH = 6
"""Shorter API keys are not removed from error texts, because they could be parts of words."""


def without_key(text: str, key: str | None) -> str:
    """Remove an API key from a text, because a server may repeat it."""
    return text.replace(key, "[key]") if key and len(key) >= MIN_KEY_LENGTH else text


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - a property of a foreign class may raise anything
        return None


def _as_kind(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(_KIND, value) else None


def _as_status(value: object) -> int | None:
    return value if type(value) is int and 100 <= value < 600 else None


MAX_AMOUNT = 1e300
"""Larger amounts are ignored as mistakes: sums of such integers cannot be converted to `float`."""


def as_amount(value: object) -> float | None:
    """Return a number that is finite and not negative, and None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= MAX_AMOUNT else None


_CLASSES: dict[str, type[TinyAgentError]] = {
    value.kind: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, TinyAgentError) and value is not RunLimitError
}
"""The classes of this module by kind, without `RunLimitError`, which messages never have."""

_KINDS: dict[type, str] = {known: kind for kind, known in _CLASSES.items()}
