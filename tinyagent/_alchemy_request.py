"""The requests of the Rust provider: their bodies, and the errors of the wheel as errors of this library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import anthropic_provider
from ._alchemy import END, AlchemyResponse, Failure, NativeStream, Waker, WakerHub, Wheel, read_facts
from ._cancel import Aborted
from ._net.network import certificate_hint, is_loopback
from ._net.request import HttpRequest
from ._stream.chat_request import chat_request
from ._stream.model import HttpModel, check_model, connection_options
from ._stream.reply import AFTER_FINISH_S
from ._stream.request import encode_body, endpoint, request_headers
from ._stream.response_schema import instructed
from ._tool_schemas import tool_definitions
from .agent_types import Context, SimpleStreamOptions
from .errors import (
    ConfigurationError,
    ConnectionFailedError,
    InvalidReplyError,
    StreamInterruptedError,
    TinyAgentError,
)
from .openai_wire import chat_headers

__all__ = ["ANTHROPIC", "AlchemyRequest"]

ANTHROPIC = "anthropic-messages"


class AlchemyRequest(HttpRequest):
    """A request through the wheel. Checks, retries and error messages are the same as for other requests.

    Raises:
        TinyAgentError: The request cannot be sent.
    """

    def __init__(
        self, wheel: Wheel, model: HttpModel, context: Context, options: SimpleStreamOptions
    ) -> None:
        base_url = check_model(model, 'OpenAICompatModel(id=…, base_url="http://127.0.0.1:8080/v1")')
        connection = connection_options(model, options)
        if connection["http_client"] is not None:
            raise ConfigurationError(
                "the Rust provider cannot use http_client",
                hint="Use stream_openai_completions or stream_anthropic for requests through it.",
            )
        self.api: str = model.api or "openai-completions"
        if self.api == ANTHROPIC:
            url = anthropic_provider.messages_url(base_url)
            base = url.replace("/v1/messages", "", 1)  # alchemy-llm adds it
            variable = model.api_key_env
            headers, secrets = request_headers(
                model, options.get("api_key"), variable=variable, header="x-api-key", prefix=""
            )
        else:
            url = base = endpoint(base_url, "/chat/completions")
            headers, secrets = chat_headers(model, options.get("api_key"))
        super().__init__(
            url,
            headers=headers,
            timeout=options.get("timeout"),
            signal=options.get("signal"),
            max_retries=options.get("max_retries"),
            on_retry=options.get("on_retry"),
            secrets=secrets,
            **connection,
        )
        self._wheel = wheel
        # alchemy-llm adds the key in the place for its API. A key in the model's own headers stays there.
        name = "x-api-key" if self.api == ANTHROPIC else "authorization"
        own = {header.lower() for header in model.headers or {}}
        key = None if own & {name, "authorization"} else headers.pop(name, None)
        key = key.removeprefix("Bearer ") if key else None
        self.sent_body: dict[str, object] = {}
        """The body of the request, before it is encoded; empty if alchemy-llm builds it."""
        self.thinking_level: str = "off"
        """The level of a request to Anthropic. The message stores it for the rest of the turn."""
        self.whole_body: bytes | None = None
        """The body of the request; None if alchemy-llm builds it."""
        self.request: bytes = encode_body(self._described(model, context, options, base, headers, key))

    def _build_body(
        self, model: HttpModel, context: Context, options: SimpleStreamOptions
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Build the body, and return the fields and the conversation that alchemy-llm adds to its own body.

        The requests of alchemy-llm have no reasoning, no caching, no images by URL and no images of tools. So
        this library builds the body if it implements the protocol, else (MiniMax, Z.ai) the messages.
        """
        if self.api == ANTHROPIC:
            self.sent_body, self.thinking_level = anthropic_provider.request_and_level(
                model, context, options, answer_tool=False
            )
            self.whole_body = encode_body(self.sent_body)
            return {}, {}
        if self.api == "openai-completions":
            self.sent_body = chat_request(model, context, options)
            self.whole_body = encode_body(self.sent_body)
            return {}, {}
        schema = options.get("response_schema")
        if schema is not None:  # alchemy-llm has no field for it
            context = instructed(context, schema)
        body = chat_request(model, context, {**options, "response_schema": None})
        conversation: dict[str, object] = {
            "system_prompt": context.system_prompt,
            "tools": tool_definitions(context.tools),
        }
        return {"messages": body["messages"], **model.extra_body}, conversation

    def _described(
        self,
        model: HttpModel,
        context: Context,
        options: SimpleStreamOptions,
        base_url: str,
        headers: Mapping[str, str],
        key: str | None,
    ) -> dict[str, object]:
        level = str(options.get("thinking_level") or model.thinking_level or "off")
        fields, conversation = self._build_body(model, context, options)
        exchange: dict[str, object] = {
            "protocol": "anthropic" if self.api == ANTHROPIC else "chat",
            "connect": self.timeouts.connect,
            "first_event": self.timeouts.first_event,
            "idle": self.timeouts.idle,
            "after_finish": AFTER_FINISH_S,
            "ca_pem": _pem(model.ca_file),
            "loopback": is_loopback(urlsplit(self.url).hostname or ""),
            "headers": list(headers.items()),
            "body": fields,
        }
        return {
            "api": self.api,
            "model": {
                "id": model.id,
                "base_url": base_url,
                "provider": self.provider,
                "name": model.name,
                "reasoning": level != "off",
                "context_window": model.context_window,
                "max_tokens": model.max_tokens,
            },
            "context": conversation,
            "options": {
                "api_key": key,
                "temperature": options.get("temperature"),
                "max_tokens": options.get("max_tokens"),
            },
            "exchange": exchange,
        }

    def open_native(self, waker: Waker | None = None) -> NativeStream:
        """Return the wheel's stream for one attempt.

        Raises:
            ConfigurationError: The wheel refuses the request.
        """
        try:
            return self._wheel.new_stream(self.request, self.whole_body, waker)
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {self.errors.redact(str(error))}") from None

    # `Any`: to `ReplyStream`, the steps of this response are what bytes are in others.
    async def _attempt(self) -> Any:
        hub = WakerHub.of_loop(self._wheel)
        response = AlchemyResponse(self.open_native(hub.waker), hub, self.signal)
        try:
            steps = await response.peek()
            if steps and steps[0][0] == END and (failure := read_facts(steps[0][2]).failure) is not None:
                raise self.error_of(failure)  # The reply did not start.
            return response
        except BaseException:
            await response.aclose()
            raise

    def error_of(self, failure: Failure) -> Aborted | TinyAgentError:
        """Convert a failure of the wheel to an error of this library."""
        kind, details = failure.kind, self.errors.redact(failure.words)
        if kind == "status":
            return self._status_error(failure)
        name, provider = self.name, self.provider
        if kind == "cancelled":
            return Aborted()
        if kind in ("timeout", "connect_timeout"):
            which = "connect" if kind == "connect_timeout" else details
            error = self.errors.timeout_error(which, getattr(self.timeouts, which))
            error.retryable = kind == "connect_timeout"
            return error
        parts = urlsplit(self.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if kind in ("connect", "broken"):
            text = f"cannot connect to {origin} ({details})"
            if kind == "broken":
                text = f"the connection to {origin} broke before the reply began ({details})"
            trusted = "certificate" not in details
            hint = None if trusted else certificate_hint(details)
            return ConnectionFailedError(f"{name}: {text}", provider=provider, retryable=trusted, hint=hint)
        if kind in ("interrupted", "truncated", "empty"):
            text = {
                "interrupted": f"the connection broke in the middle of the reply ({details})",
                "truncated": "the reply broke off before it was complete",
                "empty": "the reply is empty (HTTP 200 without a body)",
            }[kind]
            again = kind == "interrupted"
            return StreamInterruptedError(f"{name}: {text}", provider=provider, retryable=again)
        if kind == "client":
            return ConfigurationError(f"{name}: the request cannot be made: {details}")
        hint = "Check the base URL, and proxies on the way." if details.startswith("the reply is ") else None
        return InvalidReplyError(f"{name}: {details or kind}", provider=provider, hint=hint)

    def _status_error(self, failure: Failure) -> TinyAgentError:
        status, headers = failure.status, failure.headers
        if status in (301, 302, 303, 307, 308):
            try:
                self.redirect_target(status, headers, self.url)
            except TinyAgentError as error:
                return error
        text = failure.words.encode("utf-8", "replace")
        return self.errors.status_error(status, headers, text)


def _pem(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(f"the CA certificates in {path!r} cannot be read: {error}") from None
