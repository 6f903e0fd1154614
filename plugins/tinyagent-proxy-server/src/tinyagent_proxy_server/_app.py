"""The server as an ASGI application: its routes, authentication and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ._callers import Caller, Callers
from ._config import ServerTable
from ._exchange import STALLED, STOPPING, Exchange, Sink
from ._log import LogLine
from ._protocol import BadRequestError, StreamRequest, read_request
from ._upstreams import Upstreams

__all__ = ["Proxy"]

BODY_SECONDS = 60.0
"""Seconds for a caller to send its request."""
WATCH_SECONDS = 1.0
"""Seconds between two checks for callers that do not read."""


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
        self._secrets = (*upstreams.secrets, *secrets)
        self._exchanges: set[Exchange] = set()
        self.app = Starlette(
            routes=[
                Route("/api/stream", _Endpoint(self._stream, log), methods=["POST"]),
                Route("/api/models", _Endpoint(self._models, log), methods=["GET"]),
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
            exchange.interrupt(STOPPING)

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
                    exchange.interrupt(STALLED)

    # ---- requests -------------------------------------------------------------------------------------

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
                await exchange.run(*found, parsed, Sink(receive, send), line)
            except asyncio.CancelledError:
                if not exchange.ended_by(STOPPING):
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
        return RefusedError(503, "server_error", STOPPING.message, retry_after="1")

    def _reserve(self, caller: Caller) -> Exchange:
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
        return Exchange(caller, self._exchanges, self._secrets)

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
    """A route as an ASGI application: call the handler, send refusals, and log the request."""

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
