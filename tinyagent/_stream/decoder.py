"""The common part of all streamed protocols: from bytes to events.

`ReplyDecoder` decodes bytes, and detects whether a reply is complete, broken or not a stream. Its subclasses
interpret the events of a protocol. `reply` drives a decoder over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import TypedDict

from tinyagent import _json
from tinyagent._json import as_dict, as_int, decode_lenient
from tinyagent._net.errors import provider_error, reported_codes, reported_text
from tinyagent.agent_types import (
    ModelIdentity,
    StopReason,
    Usage,
)
from tinyagent.errors import (
    InvalidReplyError,
    StreamInterruptedError,
    TinyAgentError,
    error_fields,
)

from .builder import BuilderEvent, MessageBuilder
from .finish_reasons import finish_error, finish_kind, has_content, later_reason, shown_reason
from .sse import MAX_EVENT_BYTES, ServerSentEvent, SSEDecoder

__all__ = ["DecoderOptions", "ReplyDecoder", "ReplyState", "status_in"]

MAX_TEXT = 32 << 20
"""Characters of a reply: text, reasoning and arguments together. All models have much lower limits."""
MAX_RECEIVED = 256 << 20
"""Bytes of a reply, including the overhead of its protocol."""

SHOWN_CHARACTERS = 200
"""Characters of unreadable data that an error message shows."""
SCANNED_CHARACTERS = 8192
"""Characters of unreadable data that are first searched for secrets."""

_BOM = b"\xef\xbb\xbf"
_MARKUP_START = b"<"
_DOCUMENT_STARTS = (b"{", b"[", _MARKUP_START)
"""The first bytes of bodies that are no event stream: JSON, and a page of a proxy."""


class ReplyState(Enum):
    """The life cycle of a reply.

        DETECTING ─► STREAMING ──► CLOSING ─► COMPLETE
            └──────► COLLECTING ──────┘       PAUSED ─► DETECTING
                                              FAILED
                                              ABORTED

    A reply may end in any of the first four states, and then stays in one of the last four. Only a paused one
    goes on, with the body of the next response.
    """

    DETECTING = auto()
    """No byte has arrived yet that shows the format of the body."""
    STREAMING = auto()
    """The body is an event stream."""
    COLLECTING = auto()
    """The body is a document, which is decoded at its end."""
    CLOSING = auto()
    """The body has ended. Its last event may be incomplete."""
    COMPLETE = auto()
    """`done` was returned."""
    PAUSED = auto()
    """The reply has ended, but not its message: `continuation` is the request for the rest."""
    FAILED = auto()
    """`error` is the reason."""
    ABORTED = auto()
    """The event of an aborted reply was returned."""


_ENDED = (ReplyState.COMPLETE, ReplyState.PAUSED, ReplyState.FAILED, ReplyState.ABORTED)

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
            number = as_int(code)
            if number is not None and 400 <= number < 600:
                return number
            if isinstance(code, str) and code in _STATUS_OF:
                return _STATUS_OF[code]
    return None


# ---- decoding -----------------------------------------------------------------------------------------


class DecoderOptions(TypedDict, total=False):
    """The keyword arguments of `ReplyDecoder`."""

    redact: Callable[[str], str]
    builder: MessageBuilder | None
    status: int


class ReplyDecoder:
    """Decodes the bytes of a reply to events, without I/O.

    After `feed` or `close`, `state` says whether the reply has ended, and how. `fail` returns the event of a
    failed reply; the last event of a complete one is `done`.

    A protocol defines `_take_event`, which gets each event of the stream, `_finish` and `_usage`; and
    `_take_document`, if a reply may also be one JSON document. They end the reply with `_conclude`, `_done`,
    `_pause`, `_stop` or `abort`.

    Args:
        model: The model that replies.
        redact: Removes secrets from a provider's text.
        builder: The builder of an earlier attempt without output, to continue with.
        status: The HTTP status of the reply.
    """

    def __init__(
        self,
        model: ModelIdentity,
        *,
        redact: Callable[[str], str] = str,
        builder: MessageBuilder | None = None,
        status: int = 200,
    ) -> None:
        self.builder: MessageBuilder = builder or MessageBuilder(model)
        self.state: ReplyState = ReplyState.DETECTING
        self.error: TinyAgentError | None = None
        """The reason of a failed reply."""
        self.continuation: bytes = b""
        """The body of the request that continues a paused reply."""
        self.seen: int = 0
        """Events of the stream so far, without comments."""
        self.pings = 0
        """Keep-alive events; not counted in `seen`."""
        self.finish_reason: str | None = None
        self._fields: dict[str, object] = {}
        """More fields of the message, which are set at its end."""
        self._images: list[str] = []
        """The URLs of the images, in order."""
        self._provider = model.provider or ""
        self._name = self._provider or "the provider"
        self._redact = redact
        self._status = status
        self._sse = SSEDecoder()
        self._body: list[bytes] = []
        """The body so far, unless it is an event stream."""
        self._body_size = 0
        self._received = 0

    @property
    def ended(self) -> bool:
        """Whether the reply has ended, in whatever way."""
        return self.state in _ENDED

    @property
    def shown(self) -> bool:
        """Whether a part of the reply was already yielded."""
        return len(self.builder) > 0

    # ---- bytes ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[BuilderEvent]:
        """Decode the next bytes, and return their events."""
        out: list[BuilderEvent] = []
        if self.state is not ReplyState.STREAMING and not self._is_stream(data):
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
        """Decode the end of the body, and return the last events."""
        out: list[BuilderEvent] = []
        if self.ended:
            return out
        is_document = self.state is ReplyState.COLLECTING
        self.state = ReplyState.CLOSING
        try:
            if is_document:
                self._take_body(out)
            else:
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
        """End a reply whose connection failed. It is complete if its finish reason has arrived."""
        if self.ended:
            return
        if self.finish_reason is not None:
            self._finish(out)
        else:
            self._stop(error)

    def _ignore_event(self) -> None:
        """Do not count the event that is being decoded: it has no content."""
        self.seen -= 1

    def _set_finish_reason(self, reason: str) -> None:
        """Store a finish reason. See `later_reason` for a second one."""
        self.finish_reason = later_reason(self.finish_reason, reason)

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """Return the `error` event, with the content so far.

        Args:
            error: The reason, if it is not that of the reply itself.
        """
        if error is not None:
            self.state, self.error = ReplyState.FAILED, error
        assert self.error is not None
        return self.builder.fail("error", **error_fields(self.error), **self._last_fields())

    def abort(self, reason: str = "Operation aborted") -> BuilderEvent:
        """End the reply as aborted, and return its `error` event."""
        self.state = ReplyState.ABORTED
        return self.builder.fail("aborted", reason, usage=self._usage())

    def start_continuation(self) -> None:
        """Prepare for the reply that continues this one."""
        self.state, self.continuation, self.finish_reason = ReplyState.DETECTING, b"", None
        self._sse, self._body_size = SSEDecoder(), 0
        self._body.clear()

    def _check_size(self) -> None:
        """Stop a reply that exceeds the size limits, before it fills the memory."""
        if self.builder.text_length() > MAX_TEXT:
            what = f"the reply was cut off after {MAX_TEXT >> 20} Mi characters"
        elif self._received > MAX_RECEIVED:
            what = f"the reply was cut off after {MAX_RECEIVED >> 20} MiB"
        else:
            return
        self._stop(self._invalid(what, hint="The model may be repeating itself; max_tokens limits a reply."))

    def _is_stream(self, data: bytes) -> bool:
        """Detect a stream by its first byte that is not a space: a field name or a colon."""
        if self.ended:
            return False
        if self.state is ReplyState.DETECTING:
            start = data.removeprefix(_BOM).lstrip()[:1] if not self._body else data.lstrip()[:1]
            if start in _DOCUMENT_STARTS:
                self.state = ReplyState.COLLECTING
            elif start:
                self.state = ReplyState.STREAMING
                return True
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > MAX_EVENT_BYTES:
            self._stop(self._invalid(f"the reply is longer than {MAX_EVENT_BYTES >> 20} MiB"))
        return False

    def _take_body(self, out: list[BuilderEvent]) -> None:
        """Decode a reply that is not a stream: a JSON document, or a page of a proxy."""
        body = b"".join(self._body).removeprefix(_BOM)
        try:
            value = _json.decode(body)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            self.seen += 1
            document = as_dict(value)
            if document.get("error") or not self._take_document(document, out):
                self._stop(self._reported(document))
            return
        start = self._shown(" ".join(body[:SCANNED_CHARACTERS].decode("utf-8", "replace").split()))
        is_page = body.lstrip()[:1] == _MARKUP_START
        what = "an HTML page" if is_page else "neither an event stream nor JSON"
        hint = "Check the base URL and the proxy settings."
        self._stop(self._invalid(f"the reply is {what}: {start}", hint=hint))

    def _take(self, events: Iterable[ServerSentEvent], out: list[BuilderEvent]) -> None:
        """Decode events until the reply ends. This is the inner loop of all protocols."""
        state = self.state
        for name, data, error_field in events:
            self.seen += 1
            if error_field or name == b"error":
                self._stop(self._reported(decode_lenient(error_field or data)))
            else:
                self._take_event(name, data, out)
            if self.state is not state:
                return

    # ---- implemented by protocols -----------------------------------------------------------------------

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        """Decode one event of the stream.

        Args:
            name: The event's name; empty if it has none.
            data: The event's data, which is not empty but may be blank or malformed.
            out: Receives the events of the message.
        """
        raise NotImplementedError

    def _take_document(self, value: dict[str, object], out: list[BuilderEvent]) -> bool:
        """Decode a reply that is one JSON document. Return False if the document is not a reply."""
        return False

    def _finish(self, out: list[BuilderEvent]) -> None:
        """Add the last events of a complete reply."""
        raise NotImplementedError

    def _usage(self) -> Usage | None:
        """Return the usage so far."""
        raise NotImplementedError

    # ---- used by protocols ------------------------------------------------------------------------------

    def _object(
        self, data: bytes, decode: Callable[[bytes], object] = _json.decode
    ) -> dict[str, object] | None:
        """Decode the JSON object of an event.

        Return None for a blank or incomplete event, and for any other data, which ends the reply.
        """
        try:
            value = decode(data)
        except (ValueError, RecursionError):
            if not data.strip():
                self._ignore_event()
            elif self.state is not ReplyState.CLOSING:  # then the connection broke off in the event
                self._stop(self._invalid(f"an event of the reply is not JSON: {self._shown(data)}"))
            return None
        if not isinstance(value, dict):
            self._stop(self._invalid(f"an event of the reply is not an object: {self._shown(data)}"))
            return None
        return value

    def _shown(self, data: bytes | str) -> str:
        """Return the beginning of the provider's data for a message, without secrets.

        Secrets are removed before the text is shortened, because half a secret is not recognised.
        """
        text = data[:SCANNED_CHARACTERS]
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._redact(text)[:SHOWN_CHARACTERS]

    def _conclude(
        self,
        out: list[BuilderEvent],
        *,
        reason: str | None = None,
        has_content: bool | None = None,
        details: str = "",
    ) -> None:
        """End the reply according to its finish reason, with `done` or with an error.

        Args:
            out: Receives the `done` event.
            reason: The finish reason, if it is not `self.finish_reason`.
            has_content: Whether the reply counts as one with content; None to check the message.
            details: The provider's explanation for a withheld reply, redacted.
        """
        reason = reason or self.finish_reason
        reason = shown_reason(reason, self._redact) if reason else None
        content = self._has_content() if has_content is None else has_content
        kind = finish_kind(reason, has_content=content)
        error = finish_error(reason, kind, name=self._name, provider=self._provider, details=details)
        if error is not None:
            self._stop(error)
        else:
            self._done("length" if kind == "length" else "stop", out)

    def _has_content(self) -> bool:
        """Whether the reply has more than reasoning."""
        return has_content(self.builder.message()["content"])

    def _done(self, reason: StopReason, out: list[BuilderEvent]) -> None:
        """Add the `done` event. A complete reply with tool calls always has the reason `tool_use`."""
        if reason in ("stop", "tool_use"):
            calls = any(block["type"] == "tool_call" for block in self.builder.message()["content"])
            reason = "tool_use" if calls else "stop"
        out.append(self.builder.done(reason, **self._fields, **self._last_fields()))
        self.state = ReplyState.COMPLETE

    def _last_fields(self) -> dict[str, object]:
        """Return the fields of the message that are known only at its end."""
        fields: dict[str, object] = {"usage": self._usage()}
        if self.finish_reason:
            fields["finish_reason"] = shown_reason(self.finish_reason, self._redact)
        return fields

    def _add_images(self) -> None:
        """Add the images, after all other blocks."""
        for url in self._images:
            self.builder.add_image(url)
        self._images.clear()

    def _close_call(self, index: int, arguments: object = None, **fields: object) -> BuilderEvent:
        """Close a tool call. Without a name it is invalid."""
        text = self.builder.text(index)
        event = self.builder.close(index, arguments, **fields)
        if not event["tool_call"]["name"]:
            # `partial_json` marks the call as invalid.
            self.builder.update(index, arguments={}, partial_json=text)
            event["tool_call"] = self.builder.block(index)
        return event

    def _pause(self, continuation: bytes) -> None:
        """End the reply, but not its message: `continuation` is the body of the request for the rest."""
        self.state, self.continuation = ReplyState.PAUSED, continuation

    def _stop(self, error: TinyAgentError) -> None:
        """End the reply as failed, unless it has ended."""
        if not self.ended:
            self.state, self.error = ReplyState.FAILED, error

    def _invalid(self, what: str, hint: str | None = None) -> InvalidReplyError:
        return InvalidReplyError(f"{self._name}: {what}", provider=self._provider, hint=hint)

    def _reported(self, value: object) -> TinyAgentError:
        """Return the error that the provider reported inside its reply."""
        inner = value
        if isinstance(value, Mapping) and value.get("error"):
            inner = value["error"]
        if isinstance(value, Mapping) and not reported_text(inner):
            inner = value
        text = self._redact(reported_text(inner)) or "the provider reported an error without a reason"
        return provider_error(
            text,
            provider=self._provider,
            status=status_in(inner, value),
            code=self._redact(reported_codes(value if isinstance(value, Mapping) else inner)),
        )
