"""The provider of the Rust wheel `tinyagent-alchemy`: the steps of its replies become events.

    agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))

The first call imports the wheel. It sends requests and reads replies on its own threads, which never run
Python; `_alchemy` describes how the steps arrive. The meaning of a reply, errors and retries are the same as
for every other provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import urlsplit

from . import _json, anthropic_provider
from ._alchemy import (
    DELTAS,
    END,
    TEXT_END,
    TEXT_START,
    THINKING_END,
    THINKING_START,
    AlchemyResponse,
    Facts,
    Failure,
    NamedCall,
    NativeStream,
    Waker,
    WakerHub,
    Wheel,
    load_wheel,
    read_facts,
)
from ._cancel import Aborted
from ._json import as_dict
from ._net.network import certificate_hint, is_loopback
from ._net.request import HttpRequest
from ._stream import request as _wire
from ._stream.builder import BuilderEvent
from ._stream.chat_decoder import Call, ChatDecoder
from ._stream.chat_fields import merge
from ._stream.chat_request import chat_request, refuses_stream_options
from ._stream.chat_types import Delta, unknown_fields
from ._stream.citations import read_citations
from ._stream.decoder import DecoderOptions
from ._stream.messages_decoder import normal_usage
from ._stream.model import HttpModel, as_model, check_model, connection_options
from ._stream.reply import AFTER_FINISH_S, ReplyStream
from ._stream.response_schema import instructed, refuses_schema
from ._tool_schemas import tool_definitions
from .agent_types import Context, ModelIdentity, SimpleStreamOptions, Usage
from .errors import (
    ConfigurationError,
    ConnectionFailedError,
    InvalidReplyError,
    ProviderError,
    StreamInterruptedError,
    TinyAgentError,
)
from .openai_wire import OpenAICompatModel, chat_headers

__all__ = ["AlchemyStreamResponse", "OpenAICompatModel", "stream_alchemy_openai_completions"]

ANTHROPIC = "anthropic-messages"

# ---- the request --------------------------------------------------------------------------------------


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
            headers, secrets = _wire.request_headers(
                model, options.get("api_key"), variable=variable, header="x-api-key", prefix=""
            )
        else:
            url = base = _wire.endpoint(base_url, "/chat/completions")
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
        self.request: bytes = _wire.encode_body(self._described(model, context, options, base, headers, key))

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
            self.whole_body = _wire.encode_body(self.sent_body)
            return {}, {}
        if self.api == "openai-completions":
            self.sent_body = chat_request(model, context, options)
            self.whole_body = _wire.encode_body(self.sent_body)
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

    # ---- errors -----------------------------------------------------------------------------------------

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


# ---- the reply ------------------------------------------------------------------------------------------


class AlchemyDecoder(ChatDecoder):
    """Decodes the steps of the wheel to events.

    Args:
        model: The model that replies.
        request: Makes errors of failures.
    """

    def __init__(
        self, model: ModelIdentity, *, request: AlchemyRequest, **options: Unpack[DecoderOptions]
    ) -> None:
        super().__init__(model, **options)
        self._request = request
        self._anthropic = request.api == ANTHROPIC
        if request.thinking_level != "off":
            self._fields["thinking_level"] = request.thinking_level
        self._places: list[int] = []
        """Our index of each of the wheel's blocks."""
        self._texts: list[int] = []
        """Our index of each text block."""
        self._named: list[tuple[int, str, str]] = []
        """Our index, the id and the name of each tool call, as it began."""

    def feed(self, steps: Any) -> list[BuilderEvent]:
        """Decode the next steps, and return their events."""
        out: list[BuilderEvent] = []
        append, delta, places = out.append, self.builder.delta, self._places
        for step in steps:
            kind = step[0]
            if kind in DELTAS:
                append(delta(places[step[1]], step[2]))
            elif kind == TEXT_START:
                self._begin("text", *self.builder.open_text(), out)
            elif kind == THINKING_START:
                self._begin("thinking", *self.builder.open_thinking(), out)
            elif len(step) == 4:  # CALL_START
                index, event = self.builder.open_tool_call(step[2], step[3])
                self._named.append((index, step[2], step[3]))
                self._begin("", index, event, out)
            elif kind in (TEXT_END, THINKING_END):
                self._end_block(places[step[1]], step[2], out)
            elif kind == END:
                self._end(read_facts(step[2]), out)
        return out

    def close(self) -> list[BuilderEvent]:
        """Decode the end of the steps, and return the last events."""
        out: list[BuilderEvent] = []
        closed = StreamInterruptedError(f"{self._name}: the reply was closed", provider=self._provider)
        self.broken(closed, out)
        return out

    def _begin(self, kind: str, index: int, event: BuilderEvent, out: list[BuilderEvent]) -> None:
        self._places.append(index)
        if kind:
            self._block, self._block_type = index, kind
        if kind == "thinking" and self._thinking_block < 0:
            self._thinking_block = index
        if kind == "text":
            self._texts.append(index)
            if self._text_block < 0:
                self._text_block = index
        out.append(event)

    def _end_block(self, index: int, signature: str, out: list[BuilderEvent]) -> None:
        if index != self._block or not self._block_type:
            return
        # "thinking" is what alchemy-llm writes where there was no signature.
        if self._anthropic and signature and signature != "thinking":
            self.builder.update(index, thinking_signature=signature)
        self._close_block(out)

    def _end(self, facts: Facts, out: list[BuilderEvent]) -> None:
        self.seen: int = facts.seen
        for reason in facts.reasons or filter(None, [facts.finish_reason]):
            self._set_finish_reason(reason)
        self._raw_usage = facts.usage
        self._reasoning_field = facts.reasoning_field
        self._signed.add_details(facts.reasoning_details)
        self._take_text_fields(facts.texts)
        failure = facts.failure
        if failure is None:
            self._take_names(facts.calls)
            self._take_unknown(facts, out)
            self._finish(out)
        elif failure.kind == "reported":
            self._stop(self._reported(failure.value))
        else:
            error = self._request.error_of(failure)
            if not isinstance(error, TinyAgentError):
                raise error
            self._stop(error)

    def _take_names(self, calls: Iterable[NamedCall]) -> None:
        """Set late or fragmented ids and names, and arguments that are objects."""
        for (index, call_id, name), call in zip(self._named, calls, strict=False):
            if call.id and not call_id:
                self.builder.update(index, id=self.builder.unique_id(call.id))
            if call.name != name:
                self.builder.update(index, name=call.name)
            named = Call(index, call.id, call.name)
            named.whole = call.whole
            for fields in call.extra:
                merge(named.extra, fields)
            self._calls.append(named)

    def _take_text_fields(self, texts: Iterable[Mapping[str, object]]) -> None:
        """Set citations and unknown fields of the texts of a Messages reply, as `AnthropicDecoder` does."""
        for index, fields in zip(self._texts, texts, strict=False):
            if fields:
                self.builder.update(index, text_signature=_json.encode(fields).decode())
            if citations := read_citations(fields.get("citations")):
                self.builder.update(index, citations=citations)

    def _take_unknown(self, facts: Facts, out: list[BuilderEvent]) -> None:
        """Set fields to send back, images, citations, and fields that arrive with the finish reason."""
        for delta in facts.extra:
            extra = unknown_fields(delta)
            if extra is not None:
                self._take_extra(Delta(), extra, out)
        self._last_chunks = [chunk.encode() for chunk in facts.last]

    def _finish(self, out: list[BuilderEvent]) -> None:
        if not self._anthropic:
            super()._finish(out)
            return
        self._close_block(out)
        self._close_calls(out)
        self._conclude(out)

    def _usage(self) -> Usage | None:
        if self._anthropic:
            usage = as_dict(self._raw_usage)
            return normal_usage(usage) if usage else None
        return super()._usage()


class AlchemyStreamResponse(ReplyStream):
    """An active reply: iterate it for the events, await `result()` for the message."""


def prepare(
    model: HttpModel, context: Context, options: SimpleStreamOptions
) -> tuple[AlchemyRequest, Callable[..., AlchemyDecoder]]:
    """Return a checked request, which is not sent yet, and the factory of its decoders.

    Raises:
        PluginError: The wheel is not installed, or cannot be loaded.
        TinyAgentError: The request cannot be sent.
    """
    request = AlchemyRequest(load_wheel(), model, context, options)
    return request, partial(AlchemyDecoder, model, request=request)


async def stream_alchemy_openai_completions(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> AlchemyStreamResponse:
    """Stream a reply through the Rust wheel.

    Args:
        model: An `OpenAICompatModel`, or any model with a `base_url`. Its `api` may be any that alchemy-llm
            implements: `openai-completions`, `anthropic-messages`, `minimax-completions`, `zai-completions`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        PluginError: The wheel is not installed, or cannot be loaded.
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, HttpModel)
    request, decoder = prepare(model, context, options)
    try:
        while True:  # Each refusal is remembered, so there are at most three requests.
            if request.signal is not None and request.signal.is_set():
                raise Aborted
            try:
                response = await request.open()
            except ProviderError as error:
                refused = refuses_stream_options(error, request.sent_body, model, options)
                if not (refused or refuses_schema(error, request.sent_body, model, context, options)):
                    raise
                request, decoder = prepare(model, context, options)
            else:
                return AlchemyStreamResponse(request, response, decoder)
    except Aborted:
        return AlchemyStreamResponse(request, None, decoder)
