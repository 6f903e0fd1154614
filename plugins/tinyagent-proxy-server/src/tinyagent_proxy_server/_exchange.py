"""One reply, from its reservation to its last event.

Each event of a reply is sent before the next one is read from the provider. So a slow caller slows down the
provider. When a caller disconnects or does not read, or when the server stops, the reply and the connection
to the provider are ended at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Self

from starlette.types import Receive, Send

from tinyagent import Model, StreamResponse, TinyAgentError, error_fields, error_from_message
from tinyagent.agent_types import AssistantMessage, SimpleStreamOptions

from ._callers import Caller
from ._log import LogLine
from ._protocol import EventWriter, Failure, StreamRequest
from ._upstreams import Upstream

__all__ = ["STALLED", "STOPPING", "Exchange", "Sink"]

LAST_EVENT_SECONDS = 1.0
"""Seconds to wait for a slow caller to read the last event."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

_log = logging.getLogger(__name__)


class Sink:
    """The `receive` and `send` of an ASGI request."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def wait_disconnected(self) -> None:
        """Wait until the caller disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self) -> None:
        """Send the head of the response."""
        await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


STOPPING = Failure("stream_interrupted", "the proxy is shutting down", retryable=True)
STALLED = Failure("timeout", "the proxy ended the reply because the caller did not read it")
_DISCONNECTED = Failure("aborted", "the caller has disconnected")


class Exchange:
    """One reply, from its reservation to its last event.

    Attributes:
        sending_since: The loop time at which the present send began; None if no send is in progress.
    """

    def __init__(self, caller: Caller, others: set[Exchange], secrets: Iterable[str]) -> None:
        self.sending_since: float | None = None
        self._caller = caller
        self._others = others
        self._secrets = secrets
        self._task: asyncio.Task[object] | None = None
        self._reason: Failure | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._caller.streams += 1
        self._others.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._task = None
        self._caller.streams -= 1
        self._others.discard(self)

    def interrupt(self, reason: Failure) -> None:
        """End the reply at any point. The first reason counts."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def ended_by(self, reason: Failure) -> bool:
        """Return whether `interrupt` caused the cancellation, for this reason. If so, clear it."""
        if self._reason is not reason or self._task is None:
            return False
        return self._task.uncancel() == 0

    async def run(
        self, upstream: Upstream, model: Model, request: StreamRequest, sink: Sink, line: LogLine
    ) -> None:
        """Stream the provider's reply to the caller."""
        writer = EventWriter()
        await sink.begin()
        watching = asyncio.create_task(self._watch(sink))
        try:
            await self._pump(upstream, model, request, sink, writer, line)
        except asyncio.CancelledError:
            reason = self._reason
            if reason is None or not self.ended_by(reason):
                raise
            line["status"], line["error"] = "aborted" if reason is _DISCONNECTED else "error", reason.kind
            if reason is not _DISCONNECTED:
                await self._send_last_event(sink, writer.error(reason))
        finally:
            self._task = None
            watching.cancel()
            line.add_usage(writer.usage)

    async def _watch(self, sink: Sink) -> None:
        await sink.wait_disconnected()
        self.interrupt(_DISCONNECTED)

    async def _send_last_event(self, sink: Sink, data: bytes) -> None:
        try:
            async with asyncio.timeout(LAST_EVENT_SECONDS):
                await sink.write(data, last=True)
        except TimeoutError:
            pass  # the caller does not read; closing the connection is enough

    async def _pump(
        self,
        upstream: Upstream,
        model: Model,
        request: StreamRequest,
        sink: Sink,
        writer: EventWriter,
        line: LogLine,
    ) -> None:
        retries = 0

        def note_retry(_: str) -> None:
            nonlocal retries
            retries += 1
            line["retries"] = retries

        reply: StreamResponse | None = None
        held = b""
        try:
            options: SimpleStreamOptions = {**request.options, "on_retry": note_retry}
            reply = await upstream.stream(model, request.context, options)
            async for event in reply:
                if event["type"] == "start":
                    # Send `start` with the first content: callers restart their time-outs at each event.
                    held = writer.event(event)
                    continue
                if event["type"] == "error":
                    data = self._failed(event["error"], upstream, writer, line)
                else:
                    data = writer.event(event)
                if data:
                    await self._write(sink, held + data, last=bool(writer.finish))
                    held = b""
                if writer.finish:
                    line["status"] = line.get("status", "ok")
                    line["finish"] = writer.finish
                    return
            raise TinyAgentError("the provider's reply ended without a last event")
        except TinyAgentError as error:
            failure = self._failure(error, upstream)
            self._log_failure(failure, str(error), line)
            await self._write(sink, held + writer.error(failure), last=True)
        except Exception as error:  # noqa: BLE001
            # The provider raised for a message that passed our checks. Its error may quote the message.
            _log.debug("a provider failed", exc_info=error)
            text = "the proxy could not build a request from the conversation"
            failure = Failure("internal", text, ours=True)
            self._log_failure(failure, type(error).__name__, line)
            await self._write(sink, held + writer.error(failure), last=True)
        finally:
            close = getattr(reply, "aclose", None)
            if close is not None:
                await close()

    async def _write(self, sink: Sink, data: bytes, *, last: bool) -> None:
        self.sending_since = asyncio.get_running_loop().time()
        await sink.write(data, last=last)
        self.sending_since = None
        if last:
            self._task = None  # complete: a disconnect has no effect from here

    # ---- failures -------------------------------------------------------------------------------------

    def _failed(
        self, message: AssistantMessage, upstream: Upstream, writer: EventWriter, line: LogLine
    ) -> bytes:
        """Return the `error` event for a reply that failed after it began."""
        text = str(message.get("error_message") or "the provider gave no reason")
        failure = self._failure(error_from_message(message), upstream)
        self._log_failure(failure, text, line)
        return writer.error(failure, message)

    def _log_failure(self, failure: Failure, text: str, line: LogLine) -> None:
        line["status"], line["error"] = "error", failure.kind
        if failure.ours:
            line["why"] = self._redact(text)

    def _failure(self, error: TinyAgentError, upstream: Upstream) -> Failure:
        """Return the failure for the caller. It is not retryable, because the proxy has already retried."""
        fields = error_fields(error)
        category = fields.get("error_category") or fields.get("error_kind", "")
        if category in _OURS:
            # Keys and addresses are for the operator of the proxy only, so the text goes to the log.
            text = f"the proxy {_OURS[category]} {upstream.name!r}; its log shows the reason"
            return Failure("provider", text, ours=True)
        return Failure(
            error.kind,
            self._redact(str(error)),
            self._redact(error.hint) if error.hint and category in _HINTS else None,
            retry_after=error.retry_after,
            category=fields.get("error_category"),
            status=error.status,
        )

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


_OURS = {
    "authentication": "was refused by the provider",
    "missing_key": "was refused by the provider",
    "configuration": "is not configured for the provider",
    "connection": "cannot reach the provider",
}
_HINTS = frozenset({"context_overflow", "rate_limit", "content_filter"})
