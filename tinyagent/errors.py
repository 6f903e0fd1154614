"""Every error that tinyagent raises on purpose, as one tree.

TinyAgentError
├── ConfigurationError            a setting, file or model that cannot be used as it is
│   └── AuthenticationError       no key, or a key that the provider refused
│       └── MissingKeyError       no key at all (also a ValueError)
├── AgentStateError               the agent was asked for something it cannot do now (also a RuntimeError)
├── ProviderError                 the provider or the way to it failed
│   ├── RateLimitError            too many requests, or the quota is used up
│   ├── ContextOverflowError      the conversation is longer than the model takes
│   ├── ConnectionFailedError     no connection: name, network, TLS, refused
│   ├── ProviderTimeoutError      the provider said nothing for too long
│   ├── StreamInterruptedError    the reply broke off before it was complete
│   ├── InvalidReplyError         the reply is not what the protocol says
│   └── ContentFilterError        the provider withheld the reply
├── OutputTruncatedError          the reply hit the output limit
├── ToolError                     a tool failed
│   ├── ToolArgumentsError        the arguments do not fit the tool's schema (also a ValueError)
│   └── ToolRefusedError          a hook, a rule or the user refused the call
├── PluginError                   a plugin cannot be loaded, or breaks its contract
└── RecordError                   a JSONL stream that cannot be read (also a ValueError)

Each class has a stable `kind`, which is what stands in JSONL (`result.error.kind`,
`error_kind` of an assistant message). The command line maps classes to exit codes in one table.
"""

from __future__ import annotations

__all__ = [
    "AgentStateError",
    "AuthenticationError",
    "ConfigurationError",
    "ConnectionFailedError",
    "ContentFilterError",
    "ContextOverflowError",
    "InvalidReplyError",
    "MissingKeyError",
    "OutputTruncatedError",
    "PluginError",
    "ProviderError",
    "ProviderTimeoutError",
    "RateLimitError",
    "RecordError",
    "StreamInterruptedError",
    "TinyAgentError",
    "ToolArgumentsError",
    "ToolError",
    "ToolRefusedError",
    "error_class",
]


class TinyAgentError(Exception):
    """The root of the tree.

    Args:
        message: What went wrong and where.
        hint: What to do next; shown on a line of its own.
    """

    kind = "internal"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(TinyAgentError):
    """A setting, file, model or provider name that cannot be used as it is."""

    kind = "configuration"


class AuthenticationError(ConfigurationError):
    """The provider wants a key: there is none, or it refused the one it got."""

    kind = "authentication"


class MissingKeyError(AuthenticationError, ValueError):
    """No key was given; the message names the environment variable that would hold it."""

    kind = "missing_key"


class AgentStateError(TinyAgentError, RuntimeError):
    """The agent cannot do this now: it is streaming, or it has no model or stream function."""

    kind = "agent_state"


class ProviderError(TinyAgentError):
    """The provider, or the way to it, failed.

    Args:
        message: The provider's words where there are any, bounded and without secrets.
        status: The HTTP status, if there was an HTTP reply.
        retryable: Whether the same request may succeed later.
        provider: The provider's name.
        retry_after: Seconds that the provider asked to wait.
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
        self.retryable = retryable
        self.provider = provider
        self.retry_after = retry_after


class RateLimitError(ProviderError):
    """HTTP 429, or the same said inside a stream."""

    kind = "rate_limit"


class ContextOverflowError(ProviderError):
    """The conversation does not fit the model's context window."""

    kind = "context_overflow"


class ConnectionFailedError(ProviderError):
    """No connection could be made: unknown name, refused, TLS failure, no network."""

    kind = "connection"


class ProviderTimeoutError(ProviderError):
    """The provider said nothing for longer than the time-out that the message names."""

    kind = "timeout"


class StreamInterruptedError(ProviderError):
    """The reply broke off: neither a finish reason nor an end marker was seen."""

    kind = "stream_interrupted"


class InvalidReplyError(ProviderError):
    """The reply cannot be read: no event stream, or an event that is not what the protocol says."""

    kind = "invalid_reply"


class ContentFilterError(ProviderError):
    """The provider withheld the rest of the reply (`content_filter`)."""

    kind = "content_filter"


class OutputTruncatedError(TinyAgentError):
    """The reply reached the output limit before it was complete."""

    kind = "output_truncated"


class ToolError(TinyAgentError):
    """A tool failed; the message is what the model is told."""

    kind = "tool"


class ToolArgumentsError(ToolError, ValueError):
    """Arguments that the tool's JSON Schema does not allow; names the path and the rule."""

    kind = "tool_arguments"


class ToolRefusedError(ToolError):
    """A hook, a rule or the user refused the call; the message is the reason."""

    kind = "tool_refused"


class PluginError(TinyAgentError):
    """A plugin cannot be loaded, or breaks its contract; names plugin, distribution and version."""

    kind = "plugin"


class RecordError(TinyAgentError, ValueError):
    """A JSONL stream that cannot be read; names the line."""

    kind = "record"


def error_class(kind: str | None) -> type[TinyAgentError]:
    """The class whose `kind` this is; the root for one that is not known.

    Failures cross the event stream and JSONL as data; this finds the way back to the class.
    """
    pending: list[type[TinyAgentError]] = [TinyAgentError]
    while pending:
        candidate = pending.pop()
        if candidate.kind == kind:
            return candidate
        pending += candidate.__subclasses__()
    return TinyAgentError
