"""The server as an ASGI application: authentication, limits, and the stream of a reply.

Each event of a reply is sent before the next one is read from the provider. So a slow caller slows down the
provider. When a caller disconnects or does not read, or when the server stops, the reply and the connection
to the provider are ended at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tinyagent import Model, StreamResponse, TinyAgentError, error_fields, error_from_message
from tinyagent.agent_types import AssistantMessage, SimpleStreamOptions

from ._callers import Caller, Callers
from ._config import ServerTable
from ._log import LogLine
from ._protocol import BadRequestError, EventWriter, Failure, StreamRequest, read_request
from ._upstreams import Upstream, Upstreams

__all__ = ["Proxy"]

BODY_SECONDS = 60.0
"""Seconds for a caller to send its request."""
LAST_EVENT_SECONDS = 1.0
"""Seconds to wait for a slow caller to read the last event."""
WATCH_SECONDS = 1.0
"""Seconds between two checks for callers that do not read."""
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The request is refused; `message` is for the caller."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """Return the response, in the JSON form that providers use."""
        error = {"message": str(self), "type": self.kind, "code": self.status}
        return JSONResponse({"error": error}, self.status, self.headers)


class Proxy:
    """The state that all requests share. A server runs `app`.

    Args:
        settings: The limits of all callers together.
        callers: The callers and their tokens.
        upstreams: The providers.
        log: Is called with one line per request.
        secrets: Texts to redact, in addition to the keys of the providers.
    """

    def __init__(
        self,
        settings: ServerTable,
        callers: Callers,
        upstreams: Upstreams,
        log: Callable[[str], object] = print,
        *,
        secrets: Iterable[str] = (),
    ) -> None:
        self.settings = settings
        self.stopping = False
        self._callers = callers
        self._upstreams = upstreams
        self._log = log
        self._secrets = (*upstreams.secrets, *secrets)
        self._exchanges: set[_Exchange] = set()
        self.app = Starlette(
            routes=[
                Route("/api/stream", self._endpoint(self._stream), methods=["POST"]),
                Route("/api/models", self._endpoint(self._models), methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
            ],
            lifespan=self._lifespan,
        )

    @property
    def streams(self) -> int:
        """The number of active replies."""
        return len(self._exchanges)

    def stop(self) -> None:
        """Refuse new requests, and end every active reply with an `error` event."""
        self.stopping = True
        for exchange in self._exchanges:
            exchange.interrupt(_STOPPING)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        """End the replies of callers that do not read, because each holds a connection to a provider."""
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self.settings.stall_timeout / 4))
            long_ago = asyncio.get_running_loop().time() - self.settings.stall_timeout
            for exchange in list(self._exchanges):
                if exchange.sending_since is not None and exchange.sending_since < long_ago:
                    exchange.interrupt(_STALLED)

    # ---- requests -------------------------------------------------------------------------------------

    def _endpoint(
        self, handler: Callable[[Scope, Receive, Send, LogLine], Awaitable[None]]
    ) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Return an ASGI application for a handler. It sends refusals and logs each request."""
        return _Endpoint(handler, self._log)

    async def _health(self, request: Request) -> JSONResponse:
        return JSONResponse({"ok": not self.stopping}, 503 if self.stopping else 200)

    async def _models(self, scope: Scope, receive: Receive, send: Send, line: LogLine) -> None:
        caller = self._caller(Request(scope), line)
        line["path"] = "/api/models"
        found = []
        upstreams = list(self._upstreams)
        listed = await asyncio.gather(*(upstream.models() for upstream in upstreams))
        for upstream, infos in zip(upstreams, listed, strict=True):
            for info in infos:
                name = upstream.full_name(info.id)
                if caller.may_use(name):
                    described = {"contextWindow": info.context_window, "maxTokens": info.max_tokens}
                    known = {key: value for key, value in described.items() if value is not None}
                    found.append({"id": name, "name": info.name, "provider": upstream.name, **known})
        line["status"] = 200
        await JSONResponse({"models": found})(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, line: LogLine) -> None:
        request = Request(scope, receive)
        caller = self._caller(request, line)
        with self._reserve(caller) as exchange:
            try:
                parsed = await self._read_request(request)
                found = self._upstreams.find(parsed.provider, parsed.model_id)
                name = found[0].full_name(found[1].id) if found is not None else parsed.model_id
                line["model"] = name
                if found is None or not caller.may_use(name):
                    raise RefusedError(
                        404, "not_found_error", f"the proxy has no model {name[:200]!r} for this token; "
                        "GET /api/models lists its models as PROVIDER/ID",
                    )  # fmt: skip
                parsed.context.messages = self._upstreams.restore_origins(parsed.context.messages)
                await exchange.run(*found, parsed, _Sink(receive, send), line)
            except asyncio.CancelledError:
                if not exchange.ended_by(_STOPPING):
                    raise
                raise self._stopped() from None

    def _caller(self, request: Request, line: LogLine) -> Caller:
        if self.stopping:
            raise self._stopped()
        caller = self._callers.find(request.headers.get("authorization", ""))
        if caller is None:
            raise RefusedError(
                401, "authentication_error", "the proxy has no such token", www_authenticate="Bearer"
            )
        line["token"] = caller.name
        wait = caller.wait()
        if wait:
            raise RefusedError(
                429, "rate_limit_error", "this token has reached its rate limit",
                retry_after=str(max(1, round(wait + 0.5))),
            )  # fmt: skip
        return caller

    def _stopped(self) -> RefusedError:
        return RefusedError(503, "server_error", _STOPPING.message, retry_after="1")

    def _reserve(self, caller: Caller) -> _Exchange:
        """Reserve one of the limited replies.

        Raises:
            RefusedError: The token or the server has reached its limit.
        """
        if caller.max_streams is not None and caller.streams >= caller.max_streams:
            raise RefusedError(
                429, "rate_limit_error",
                f"this token has reached its limit of {caller.streams} replies at the same time",
                retry_after="1",
            )  # fmt: skip
        if self.streams >= self.settings.max_streams:
            raise RefusedError(503, "overloaded_error", "the proxy is at its limit", retry_after="1")
        return _Exchange(caller, self._exchanges, self._secrets)

    async def _read_request(self, request: Request) -> StreamRequest:
        """Read a request, up to the limit.

        Raises:
            RefusedError: The request is too long, takes too long, or violates the protocol.
        """
        limit = self.settings.max_request_bytes
        too_long = RefusedError(413, "request_too_large", f"the request is longer than {limit} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            raise RefusedError(408, "timeout_error", "the request did not arrive in time") from None
        try:
            return read_request(bytes(body))
        except BadRequestError as error:
            raise RefusedError(400, "invalid_request_error", str(error)) from None


class _Endpoint:
    """A route: call the handler, send refusals, and log the request."""

    def __init__(
        self,
        handler: Callable[[Scope, Receive, Send, LogLine], Awaitable[None]],
        log: Callable[[str], object],
    ) -> None:
        self._handler = handler
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = LogLine()
        if scope.get("client"):
            line["from"] = scope["client"][0]
        try:
            await self._handler(scope, receive, send, line)
        except RefusedError as refused:
            line["status"], line["error"] = refused.status, refused.kind
            await refused.response()(scope, receive, send)
        except ClientDisconnect:
            line["status"] = "disconnected"
        except BaseException as error:
            # The server is stopping, or there is a defect: the status in the log shows which.
            line["status"] = "cancelled" if isinstance(error, asyncio.CancelledError) else 500
            raise
        finally:
            self._log(str(line))


class _Sink:
    """The `receive` and `send` of an ASGI request."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def wait_disconnected(self) -> None:
        """Wait until the caller disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


_STOPPING = Failure("stream_interrupted", "the proxy is shutting down", retryable=True)
_STALLED = Failure("timeout", "the proxy ended the reply because the caller did not read it")
_DISCONNECTED = Failure("aborted", "the caller has disconnected")


class _Exchange:
    """One reply, from its reservation to its last event.

    Attributes:
        sending_since: The loop time at which the present send began; None if no send is in progress.
    """

    def __init__(self, caller: Caller, others: set[_Exchange], secrets: Iterable[str]) -> None:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        self, upstream: Upstream, model: Model, request: StreamRequest, sink: _Sink, line: LogLine
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

    async def _watch(self, sink: _Sink) -> None:
        await sink.wait_disconnected()
        self.interrupt(_DISCONNECTED)

    async def _send_last_event(self, sink: _Sink, data: bytes) -> None:
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
        sink: _Sink,
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

    async def _write(self, sink: _Sink, data: bytes, *, last: bool) -> None:
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
