"""What every streamed protocol has in common: bytes -> events -> a reply, and the way there.

`ReplyDecoder` takes in bytes and knows when a reply is complete, broken or no stream at all; what an
event means is its protocol's. `ReplyStream` drives a decoder over HTTP: retries before anything was shown,
time-outs, aborts, a reply that is sent back to go on. `open_stream` begins one.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from . import _json
from ._finish_reasons import finish_error, finish_kind, has_content, shown_word
from ._http import Call, Reply, check_headers, check_key
from ._interrupt import Aborted, require_asyncio
from ._message_builder import BuilderEvent, MessageBuilder
from ._provider_errors import check_key_variable, error_code, error_text, provider_error
from ._sse import MAX_EVENT_BYTES, ServerSentEvent, SSEDecoder
from .agent_types import AssistantMessage, AssistantMessageEvent, SimpleStreamOptions, StopReason, Usage
from .errors import (
    ConfigurationError,
    InvalidReplyError,
    MissingKeyError,
    ProviderError,
    StreamInterruptedError,
    TinyAgentError,
    error_fields,
)

__all__ = [
    "ReplyDecoder",
    "ReplyStream",
    "check_model",
    "count",
    "dollars",
    "endpoint",
    "integer",
    "list_timeout",
    "mapping",
    "network",
    "open_stream",
    "request_headers",
    "status_in",
    "string",
]

AFTER_FINISH = 10.0
"""Seconds that a reply may stay silent after its finish reason before it counts as complete."""
PATIENCE = 10
"""So many idle time-outs in a row, signs of life (`ping`) may keep a reply open that says nothing."""

MAX_TEXT = 32 << 20
"""Characters of a reply: text, reasoning and arguments together. No model's output limit comes near it."""
MAX_RECEIVED = 256 << 20
"""Bytes of a reply, with everything that its protocol puts around the text."""

SHOWN = 200
"""Characters that an error message shows of what cannot be read."""
SCANNED = 8192
"""So much of it is searched for secrets before."""

_STREAM, _JSON, _OTHER = "stream", "json", "other"

# ---- values of any type -------------------------------------------------------------------------------


def mapping(value: object) -> dict[str, Any]:
    """Return a JSON object unchanged, and an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def string(value: object) -> str:
    """Return a string unchanged, and an empty one for any other value."""
    return value if isinstance(value, str) else ""


def dollars(value: object) -> float | None:
    """Return a provider's cost in US dollars; None if it is not a finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        price = float(value)
    except OverflowError:
        return None
    return price if 0 <= price < math.inf else None


def integer(value: object) -> int | None:
    """Return the integer of a number or a decimal string; None for any other value."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def count(value: object) -> int:
    """Return a provider's number of tokens; 0 if it is missing, negative or not a number."""
    return max(integer(value) or 0, 0)


def loose(data: bytes) -> object:
    """Decode JSON; return the text itself if it is not JSON."""
    try:
        return _json.decode(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace").strip()


_STATUS_OF = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "too_many_requests": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 503,
    "timeout_error": 504,
}


def status_in(*values: object) -> int | None:
    """Return the HTTP status that corresponds to an error object."""
    for value in values:
        if not isinstance(value, Mapping):
            continue
        for key in ("code", "status_code", "status", "type"):
            code = value.get(key)
            number = integer(code)
            if number is not None and 400 <= number < 600:
                return number
            if isinstance(code, str) and code in _STATUS_OF:
                return _STATUS_OF[code]
    return None


# ---- decoding -----------------------------------------------------------------------------------------


class ReplyDecoder:
    """Bytes of a reply in, events out; no I/O.

    After `feed` or `close`, `ended` says whether there is more to come. If then `error` is set the reply
    failed, and `fail` gives the event that says so; otherwise `done` was among the events.

    A protocol defines `_take_event`, `_finish`, `_spent` and, if it has one, `_take_document`.

    Args:
        model: Anything with `api`, `provider` and `id`.
        clean: Takes secrets out of a provider's words.
        builder: To go on with, after an attempt that showed nothing.
    """

    def __init__(
        self,
        model: Any,
        *,
        clean: Callable[[str], str] = str,
        builder: MessageBuilder | None = None,
        status: int = 200,
    ) -> None:
        self.builder = builder or MessageBuilder(model)
        self.ended = False
        self.error: TinyAgentError | None = None
        self.seen = 0
        """Events of the stream so far; comments are none."""
        self.pings = 0
        """Events that say no more than that the server is there; not among `seen`."""
        self.finish_reason: str | None = None
        self._fields: dict[str, Any] = {}
        """Further fields of the message, set when it ends."""
        self.next_body: bytes | None = None
        """The reply has ended, but not the message: this request goes on with it."""
        self._provider = getattr(model, "provider", "") or ""
        self._name = self._provider or "the provider"
        self._clean = clean
        self._status = status
        self._sse = SSEDecoder()
        self._kind = ""
        self._body: list[bytes] = []
        self._body_size = 0
        self._received = 0
        self._closing = False

    @property
    def shown(self) -> bool:
        """Whether anything of the reply was given out."""
        return len(self.builder) > 0

    # ---- bytes ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[BuilderEvent]:
        """Take in the next bytes."""
        out: list[BuilderEvent] = []
        if self._kind is not _STREAM and not self._is_stream(data):
            return out
        try:
            if self._body:
                data = b"".join([*self._body, data])
                self._body.clear()
            self._take(self._sse.feed(data), out)
            self._received += len(data)
            if self._received > MAX_TEXT and not self.ended:
                self._check_size()
        except InvalidReplyError as error:
            self._stop(error)
        return out

    def close(self) -> list[BuilderEvent]:
        """The body is over."""
        out: list[BuilderEvent] = []
        if self.ended:
            return out
        try:
            if self._kind in (_JSON, _OTHER):
                self._take_body(out)
            else:
                self._closing = True
                self._take(self._sse.close(), out)
        except InvalidReplyError as error:
            self._stop(error)
        if not self.ended:
            self.broken(
                StreamInterruptedError(
                    f"{self._name}: the reply broke off before it was complete"
                    if self.seen
                    else f"{self._name}: the reply is empty (HTTP {self._status} without a body)",
                    provider=self._provider,
                ),
                out,
            )
        return out

    def broken(self, error: TinyAgentError, out: list[BuilderEvent]) -> None:
        """No more bytes will come: that completes a reply whose finish reason was seen, and fails others."""
        if self.ended:
            return
        if self.finish_reason is not None:
            self._finish(out)
        else:
            self._stop(error)

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """The `error` event; what was built so far stays."""
        error = error or self.error
        assert error is not None
        fields: dict[str, Any] = {**error_fields(error), "usage": self._spent()}
        if self.finish_reason:
            fields["finish_reason"] = shown_word(self.finish_reason, self._clean)
        return self.builder.fail("error", **fields)

    def abort(self) -> BuilderEvent:
        """The `error` event of a reply that was not wanted any more."""
        self.ended = True
        return self.builder.fail("aborted", "Operation aborted", usage=self._spent())

    def resume(self) -> None:
        """Get ready for the reply that goes on with this one."""
        self.ended, self.next_body, self.finish_reason = False, None, None
        self._sse, self._kind, self._body_size, self._closing = SSEDecoder(), "", 0, False
        self._body.clear()

    def _check_size(self) -> None:
        """Stop a reply that is longer than any model's, before it fills the memory."""
        if self.builder.text_length() > MAX_TEXT:
            what = f"the reply was cut off after {MAX_TEXT >> 20} Mi characters"
        elif self._received > MAX_RECEIVED:
            what = f"the reply was cut off after {MAX_RECEIVED >> 20} MiB"
        else:
            return
        self._stop(self._invalid(what, hint="The model may be repeating itself; max_tokens limits a reply."))

    def _is_stream(self, data: bytes) -> bool:
        """Look at the first byte that is no space: a stream's line begins with a field name or a colon."""
        if not self._kind:
            start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] if not self._body else data.lstrip()[:1]
            if start in (b"{", b"["):
                self._kind = _JSON
            elif start == b"<":
                self._kind = _OTHER
            elif start:
                self._kind = _STREAM
                return True
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > MAX_EVENT_BYTES:
            self._stop(self._invalid(f"the reply is longer than {MAX_EVENT_BYTES >> 20} MiB"))
        return False

    def _take_body(self, out: list[BuilderEvent]) -> None:
        """A reply that is no stream: one JSON document, or a page of somebody in between."""
        body = b"".join(self._body)
        try:
            value = _json.decode(body.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            self.seen += 1
            if value.get("error") or not self._take_document(value, out):
                self._stop(self._reported(value))
            return
        start = self._shown(" ".join(body[:SCANNED].decode("utf-8", "replace").split()))
        what = "an HTML page" if self._kind is _OTHER else "neither an event stream nor JSON"
        hint = "Check the base URL, and proxies on the way."
        self._stop(self._invalid(f"the reply is {what}: {start}", hint=hint))

    def _take(self, events: Iterable[ServerSentEvent], out: list[BuilderEvent]) -> None:
        for name, data, error_field in events:
            if error_field or name == b"error":
                self.seen += 1
                self._stop(self._reported(loose(error_field or data)))
            elif data.strip():
                self.seen += 1
                self._take_event(name, data, out)
            if self.ended:
                return

    # ---- a protocol's own -------------------------------------------------------------------------------

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        raise NotImplementedError

    def _take_document(self, value: dict[str, Any], out: list[BuilderEvent]) -> bool:
        """A whole reply as one JSON document; False: it is none."""
        return False

    def _finish(self, out: list[BuilderEvent]) -> None:
        """The reply is complete: add what ends it."""
        raise NotImplementedError

    def _spent(self) -> Usage | None:
        """Return the usage so far."""
        raise NotImplementedError

    # ---- for a protocol ---------------------------------------------------------------------------------

    def _object(self, data: bytes) -> dict[str, Any] | None:
        """The object that an event is; None if it is none, over which the reply has ended or broken off."""
        try:
            value = _json.decode(data)
        except (ValueError, RecursionError):
            if self._closing:
                return None  # it was cut: the reply broke off
            self._stop(self._invalid(f"an event of the reply is not JSON: {self._shown(data)}"))
            return None
        if not isinstance(value, dict):
            self._stop(self._invalid(f"an event of the reply is not an object: {self._shown(data)}"))
            return None
        return value

    def _shown(self, data: bytes | str) -> str:
        """The beginning of what the provider sent, for a message: first without secrets, then cut.

        A secret that is cut first is not found any more, and half of it is shown.
        """
        text = data[:SCANNED]
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._clean(text)[:SHOWN]

    def _conclude(
        self,
        out: list[BuilderEvent],
        *,
        word: str | None = None,
        has_content: bool | None = None,
        details: str = "",
    ) -> None:
        """End the reply as its finish reason says: with `done`, or with the error of one that is not whole.

        Args:
            out: Gets the `done` event.
            word: The word to judge, if it is not `finish_reason`.
            has_content: Whether the reply counts as one with content; if None, that is looked up.
            details: What else the provider says about a reply that it withheld, redacted.
        """
        word = word or self.finish_reason
        word = shown_word(word, self._clean) if word else None
        content = self._has_content() if has_content is None else has_content
        kind = finish_kind(word, has_content=content)
        error = finish_error(word, kind, name=self._name, provider=self._provider, details=details)
        if error is not None:
            self._stop(error)
        else:
            self._done("length" if kind == "length" else "stop", out)

    def _has_content(self) -> bool:
        """Whether the reply has anything beside reasoning."""
        return has_content(self.builder.message()["content"])

    def _done(self, reason: StopReason, out: list[BuilderEvent]) -> None:
        """The `done` event; a complete reply with tool calls ends as `tool_use`, whatever its word."""
        if reason in ("stop", "tool_use"):
            calls = any(block["type"] == "tool_call" for block in self.builder.message()["content"])
            reason = "tool_use" if calls else "stop"
        fields: dict[str, Any] = {"usage": self._spent(), **self._fields}
        if self.finish_reason:
            fields["finish_reason"] = shown_word(self.finish_reason, self._clean)
        out.append(self.builder.done(reason, **fields))
        self.ended = True

    def _close_call(self, index: int, arguments: Any = None, **fields: Any) -> BuilderEvent:
        """Close a tool call; one without a name is invalid, whatever its arguments."""
        text = self.builder.text(index)
        event = self.builder.close(index, arguments, **fields)
        if not event["tool_call"]["name"]:
            # Nobody knows what to run: the text stays, and marks the call as invalid.
            self.builder.update(index, arguments={}, partial_json=text)
            event["tool_call"] = self.builder.block(index)
        return event

    def _stop(self, error: TinyAgentError) -> None:
        if not self.ended:
            self.ended, self.error = True, error

    def _invalid(self, what: str, hint: str | None = None) -> InvalidReplyError:
        return InvalidReplyError(f"{self._name}: {what}", provider=self._provider, hint=hint)

    def _reported(self, value: Any) -> TinyAgentError:
        """The error that the provider reported inside its reply."""
        inner = value
        if isinstance(value, Mapping) and value.get("error"):
            inner = value["error"]
        if isinstance(value, Mapping) and not error_text(inner):
            inner = value
        text = self._clean(error_text(inner)) or "the provider reported an error without saying which"
        return provider_error(
            text,
            provider=self._provider,
            status=status_in(inner, value),
            code=self._clean(error_code(value if isinstance(value, Mapping) else inner)),
        )


# ---- the stream ---------------------------------------------------------------------------------------


class MakeDecoder(Protocol):
    """Makes the decoder of an attempt; a later one goes on with the builder of the first."""

    def __call__(
        self, *, clean: Callable[[str], str], builder: MessageBuilder | None = None, status: int = 200
    ) -> ReplyDecoder: ...


class ReplyStream:
    """A reply under way: iterate it for the events, await `result()` for the message.

    Leaving it early, by `aclose`, cancellation or the signal, closes its connection at once.
    """

    def __init__(self, call: Call, reply: Reply | None, make_decoder: MakeDecoder) -> None:
        self._call = call
        self._reply = reply
        self._make = make_decoder
        self._decoder = make_decoder(clean=call.clean)
        self._message: AssistantMessage | None = None
        self._left = asyncio.Event()
        self._events: Any = self._run()

    def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        return cast("AsyncIterator[AssistantMessageEvent]", self._events)

    async def __anext__(self) -> AssistantMessageEvent:
        return cast(AssistantMessageEvent, await self._events.__anext__())

    async def result(self) -> AssistantMessage:
        """The whole message; reads on to the end if nobody has."""
        if self._events.ag_running:
            await self._left.wait()
        else:
            async for _ in self._events:
                pass
        if self._message is None:
            self._message = cast(AssistantMessage, self._decoder.abort()["error"])
        return self._message

    async def aclose(self) -> None:
        """Close the connection; what was read stays readable."""
        if self._events.ag_running:
            if self._reply is not None:
                self._reply.fire(Aborted())
            await self._left.wait()
        await self._events.aclose()
        # Not begun, the generator has nothing to clean up with.
        if self._reply is not None:
            await self._reply.aclose()

    async def _run(self) -> AsyncGenerator[BuilderEvent, None]:
        decoder, seen, pings = self._decoder, 0, 0
        clock = asyncio.get_running_loop().time
        try:
            yield decoder.builder.start()
            if self._reply is None:
                raise Aborted
            reply, said = self._reply, clock()
            while True:
                try:
                    data = await reply.read()
                    events = decoder.feed(data) if data else decoder.close()
                except ProviderError as error:
                    events = []
                    decoder.broken(error, events)
                if decoder.ended:
                    if decoder.error is not None:
                        if not decoder.shown and await self._retry(decoder.error):
                            decoder, reply, seen, pings = self._decoder, self._reply, 0, 0
                            said = clock()
                            continue
                        events.append(decoder.fail())
                    elif decoder.next_body is not None:
                        for event in events:
                            yield event
                        following = await self._go_on(decoder, reply)
                        if following is not None:
                            reply, said = following, clock()
                            continue
                        events = [decoder.fail()]
                    self._end(events[-1])
                    # The last events are given out with the connection already free for the next turn.
                    await reply.finish()
                    for event in events:
                        yield event
                    return
                for event in events:
                    yield event
                if decoder.seen != seen:
                    seen, pings, said = decoder.seen, decoder.pings, clock()
                    reply.restart(AFTER_FINISH if decoder.finish_reason is not None else None)
                elif decoder.pings != pings:
                    pings = decoder.pings
                    if clock() - said < PATIENCE * self._call.timeouts.idle:
                        reply.restart()
        except Aborted:
            yield self._end(decoder.abort())
        finally:
            self._left.set()
            if self._reply is not None:
                await self._reply.aclose()

    async def _retry(self, error: TinyAgentError) -> bool:
        """Ask again, if that may help and the tries are not used up; nothing was shown yet."""
        assert self._reply is not None
        await self._reply.finish()
        try:
            self._reply = await self._call.again(error)
        except TinyAgentError as final:
            self._decoder.error = final
            return False
        self._decoder = self._make(
            clean=self._call.clean, builder=self._decoder.builder, status=self._reply.status
        )
        return True

    async def _go_on(self, decoder: ReplyDecoder, reply: Reply) -> Reply | None:
        """Send back the reply so far; None if that failed."""
        assert decoder.next_body is not None
        await reply.finish()
        self._call.body = decoder.next_body
        decoder.resume()
        try:
            self._reply = await self._call.open()
        except TinyAgentError as error:
            decoder.ended, decoder.error = True, error
            return None
        return self._reply

    def _end(self, event: BuilderEvent) -> BuilderEvent:
        self._message = event["message"] if event["type"] == "done" else event["error"]
        return event


async def open_stream(
    url: str,
    body: Any,
    *,
    model: Any,
    options: SimpleStreamOptions,
    headers: Mapping[str, str],
    secrets: Iterable[str],
    decoder: MakeDecoder,
) -> ReplyStream:
    """Send a request and return as soon as its reply is under way.

    Raises:
        TinyAgentError: if the reply did not begin.
    """
    require_asyncio()
    call = Call(
        url,
        headers={"content-type": "application/json", "accept": "text/event-stream", **headers},
        body=encode_body(body),
        timeout=options.get("timeout"),
        signal=options.get("signal"),
        on_retry=options.get("on_retry"),
        secrets=secrets,
        **network(model),
    )
    try:
        reply = await call.open()
    except Aborted:
        return ReplyStream(call, None, decoder)
    return ReplyStream(call, reply, decoder)


def encode_body(body: Any) -> bytes:
    """The request's body as JSON.

    Raises:
        ConfigurationError: if the conversation holds what JSON cannot say.
    """
    try:
        return _json.encode(body)
    except TypeError as error:
        raise ConfigurationError(f"the conversation cannot be sent: {error}") from None


# ---- the way there ------------------------------------------------------------------------------------


def check_model(model: Any, example: str) -> str:
    """The base URL of a model that can be asked.

    Raises:
        ConfigurationError: if it has none, a blank one, or no id; the hint shows `example`.
    """
    base_url = getattr(model, "base_url", None)
    if not isinstance(base_url, str) or not base_url.strip():
        name = getattr(model, "id", model)
        fault = "a blank base_url" if isinstance(base_url, str) else "no base_url"
        raise ConfigurationError(f"the model {name!r} has {fault}", hint=f"Use {example}.")
    if not getattr(model, "id", ""):
        raise ConfigurationError("the model has no id")
    return base_url


_PROTOCOL_PATHS = re.compile(r"/(?:chat/completions|responses|messages)$")
"""What people copy into a base URL from the documentation of an API."""


def endpoint(base_url: str, path: str) -> str:
    """The URL of `path` under a base URL that may or may not name the path of a protocol; a query is kept."""
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url
    base = _PROTOCOL_PATHS.sub("", parts.path.rstrip("/")).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, base + path, parts.query, ""))


def network(model: Any) -> dict[str, Any]:
    """What a model says of the way to it."""
    return {
        "provider": getattr(model, "provider", "") or "",
        "ca_file": getattr(model, "ca_file", None),
        "allow_http": bool(getattr(model, "allow_http", False)),
    }


def list_timeout(options: SimpleStreamOptions) -> dict[str, Any]:
    """Return the `timeout` of a request for a list of models, if the call has one."""
    timeout = options.get("timeout")
    return {} if timeout is None else {"timeout": timeout}


_SECRET_HEADER = re.compile(r"(?i)auth|key|token|secret|cookie")


def request_headers(
    model: Any,
    api_key: str | None,
    *,
    variable: str | None,
    header: str = "authorization",
    prefix: str = "Bearer ",
) -> tuple[dict[str, str], list[str]]:
    """The headers that a model asks for, its key among them, and what of it is secret.

    Args:
        model: Its own `headers` come first: with a key among them no other is sent.
        api_key: The key that the call was given.
        variable: The environment variable that holds it else; None: no key is needed.
        header: The header that the key is sent in.
        prefix: What stands before the key there.

    Raises:
        MissingKeyError: naming the variable.
    """
    provider = getattr(model, "provider", "") or ""
    headers = check_headers(getattr(model, "headers", None), provider)
    secrets = [value for name, value in headers.items() if _SECRET_HEADER.search(name)]
    if any(name.lower() in ("authorization", header) for name in headers):
        return headers, secrets + [value.split(" ", 1)[1] for value in secrets if " " in value]
    if api_key is None and variable:
        api_key = os.environ.get(variable) or None
        if api_key is None:
            check_key_variable(variable, provider)
            raise MissingKeyError(
                f"no API key for {provider!r}: set {variable}, or pass options['api_key']",
                hint=f"export {variable}=…",
            )
    if api_key is not None:
        key = check_key(api_key, provider)
        headers[header] = f"{prefix}{key}"
        secrets.append(key)
    return headers, secrets
