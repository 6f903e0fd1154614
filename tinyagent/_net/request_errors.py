"""The errors of a request to a provider: what each one says, without secrets."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping

from tinyagent.errors import (
    ConnectionFailedError,
    InvalidReplyError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
    TinyAgentError,
)

from .errors import body_text, provider_error, redact
from .network import certificate_hint, is_loopback
from .retry import retry_after
from .transport import ConnectError, ConnectTimeoutError, Route, TransportError, host_and_port

__all__ = ["RequestErrors"]


class RequestErrors:
    """Creates the errors of one request.

    Args:
        provider: The name of the provider.
        secrets: Texts that no message may contain.
    """

    def __init__(self, provider: str, secrets: Iterable[str]) -> None:
        self.provider = provider
        self.name: str = provider or "the provider"
        self._secrets = tuple(secrets)

    def status_error(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        now: Callable[[], float] = time.time,
    ) -> TinyAgentError:
        """Return the error for a response whose status is not a success.

        `now` returns the time since the epoch, for a `Retry-After` that is a date.
        """
        text, code = body_text(body, headers.get("content-type", ""), self.redact)
        verdict = headers.get("x-should-retry", "").strip().lower()
        return provider_error(
            text,
            provider=self.provider,
            status=status,
            code=code,
            prefix=f"HTTP {status}",
            retry_after=retry_after(headers, now),
            retryable={"true": True, "false": False}.get(verdict),
        )

    def redact(self, text: str) -> str:
        """Return a provider's text without secrets."""
        return redact(text, self._secrets)

    def shareable(self, error: Exception) -> Exception | None:
        """Return an error to show as the cause of ours; None if its text contains a secret.

        Libraries quote bytes that are not HTTP, and a server may repeat the request.
        """
        import traceback  # only for failures

        text = "".join(traceback.format_exception(error))
        return None if any(secret in text for secret in self._secrets) else error

    def timeout_error(self, name: str, seconds: float) -> ProviderTimeoutError:
        """Return the error for the time-out `name`."""
        what = {"connect": "no connection", "first_event": "no first event", "idle": "no further event"}[name]
        return ProviderTimeoutError(
            f"{self.name}: {what} within {seconds:g} s (time-out {name!r})",
            provider=self.provider,
            hint=f"Set the time-out {name!r} higher if the model needs longer.",
        )

    def connection_error(self, error: TransportError, route: Route, connect_timeout: float) -> ProviderError:
        """Return the error for a connection that failed before the response."""
        origin = f"{route.scheme}://{host_and_port(route)}"
        if route.proxy is not None:
            origin += f" through the proxy {redact(route.proxy)}"
        if isinstance(error, ConnectTimeoutError):
            timeout = self.timeout_error("connect", connect_timeout)
            timeout.args = (f"{timeout.args[0]}: {origin}",)
            timeout.retryable = True
            return timeout
        cause = _root_cause(error)
        reason, hint = _explain(cause, route)
        if isinstance(error, ConnectError):
            text = f"cannot connect to {origin} ({self.redact(reason)})"
        else:
            text = f"the connection to {origin} broke before the reply began ({self.redact(reason)})"
        return ConnectionFailedError(
            f"{self.name}: {text}",
            provider=self.provider,
            retryable=not isinstance(cause, ssl.SSLCertVerificationError),
            hint=hint,
        )

    def interrupted_error(self, error: TransportError) -> StreamInterruptedError:
        """Return the error for a connection that failed in the middle of the response."""
        reason = self.redact(str(_root_cause(error))) or type(error).__name__
        return StreamInterruptedError(
            f"{self.name}: the connection broke in the middle of the reply ({reason})",
            provider=self.provider,
            retryable=True,
        )

    def invalid_error(self, text: str) -> InvalidReplyError:
        """Return the error for a response that is not valid."""
        return InvalidReplyError(f"{self.name}: {text}", provider=self.provider)


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost error of the operating system or of the TLS library; else `error`."""
    found, seen = error, set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError) and (current.errno is not None or isinstance(current, ssl.SSLError)):
            found = current
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        pending += [current.__context__, current.__cause__]
        pending += [item for item in current.args if isinstance(item, BaseException)]
    return found


def _explain(cause: BaseException, route: Route) -> tuple[str, str | None]:
    """Return why there is no connection, and what to do about it."""
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused", "Is the server running?" if is_loopback(route.host) else None
    if isinstance(cause, socket.gaierror):
        return "the host name is not known", "Check the base URL and the network."
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = certificate_hint(cause.verify_message)
        return f"its certificate is not trusted: {cause.verify_message}", hint
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror, None
    return str(cause) or type(cause).__name__, None
