"""A reply under way: drives a decoder over HTTP.

`open_stream` sends a request and returns a `ReplyStream`, which yields the events of the reply. It handles
time-outs, aborts, retries before the first output, and replies that another request continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from types import AsyncGeneratorType
from typing import Protocol, cast

from tinyagent._cancel import Aborted, require_asyncio
from tinyagent._net.request import HttpRequest
from tinyagent._net.response import HttpResponse
from tinyagent.agent_types import AssistantMessage, AssistantMessageEvent, SimpleStreamOptions
from tinyagent.errors import ProviderError, TinyAgentError

from .builder import BuilderEvent, MessageBuilder
from .decoder import ReplyDecoder, ReplyState
from .model import HttpModel, connection_options
from .request import encode_body

__all__ = ["AFTER_FINISH_S", "ReplyStream", "open_stream"]

AFTER_FINISH_S = 10.0
"""Seconds without data after a finish reason until a reply counts as complete."""
MAX_PINGED_TIMEOUTS = 10
"""Idle time-outs in a row for which pings may keep a reply without content open."""


class MakeDecoder(Protocol):
    """Creates the decoder of an attempt. Later attempts continue with the builder of the first one."""

    def __call__(
        self, *, redact: Callable[[str], str], builder: MessageBuilder | None = None, status: int = 200
    ) -> ReplyDecoder: ...


class _IdleTimeout:
    """Restarts the time-out of a response when its decoder has made progress, and for some time on pings."""

    def __init__(self, response: HttpResponse, decoder: ReplyDecoder, seconds: float) -> None:
        self._response = response
        self._decoder = decoder
        self._longest_wait = MAX_PINGED_TIMEOUTS * seconds
        self._clock = asyncio.get_running_loop().time
        self._seen, self._pings, self._active_at = decoder.seen, decoder.pings, self._clock()

    def restart_on_progress(self) -> None:
        """Call this after each read."""
        decoder = self._decoder
        if decoder.seen != self._seen:
            self._seen, self._pings, self._active_at = decoder.seen, decoder.pings, self._clock()
            self._response.restart(AFTER_FINISH_S if decoder.finish_reason is not None else None)
        elif decoder.pings != self._pings:
            self._pings = decoder.pings
            if self._clock() - self._active_at < self._longest_wait:
                self._response.restart()


class ReplyStream:
    """An active reply: iterate it for the events, await `result()` for the message.

    `aclose`, cancellation and the signal close its connection at once.
    """

    def __init__(
        self, request: HttpRequest, response: HttpResponse | None, make_decoder: MakeDecoder
    ) -> None:
        self._request = request
        self._response = response
        self._make = make_decoder
        self._decoder = make_decoder(redact=request.errors.redact)
        self._message: AssistantMessage | None = None
        self._left = asyncio.Event()
        # The events of the builder have the fields of an assistant message event.
        self._events = cast("AsyncGeneratorType[AssistantMessageEvent, None]", self._run())

    def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        return self._events

    async def __anext__(self) -> AssistantMessageEvent:
        return await self._events.__anext__()

    async def result(self) -> AssistantMessage:
        """Return the whole message, after reading the events that are left."""
        if self._events.ag_running:
            await self._left.wait()
        else:
            async for _ in self._events:
                pass
        if self._message is None:
            self._message = self._decoder.abort()["error"]
        return self._message

    async def aclose(self) -> None:
        """Close the connection. The content so far remains available."""
        if self._events.ag_running:
            if self._response is not None:
                self._response.cancel(Aborted())
            await self._left.wait()
        await self._events.aclose()
        # A generator that has not started does not run its `finally`.
        if self._response is not None:
            await self._response.aclose()

    async def _run(self) -> AsyncGenerator[BuilderEvent, None]:
        decoder = self._decoder
        try:
            yield decoder.builder.start()
            if self._response is None:
                raise Aborted
            response = self._response
            idle_timeout = _IdleTimeout(response, decoder, self._request.timeouts.idle)
            while True:
                try:
                    data = await response.read()
                    events = decoder.feed(data) if data else decoder.close()
                except ProviderError as error:
                    events = []
                    decoder.broken(error, events)
                if decoder.ended:
                    if decoder.error is not None:
                        if not decoder.shown and await self._retry(decoder.error):
                            decoder, response = self._decoder, self._response
                            idle_timeout = _IdleTimeout(response, decoder, self._request.timeouts.idle)
                            continue
                        events.append(decoder.fail())
                    elif decoder.state is ReplyState.PAUSED:
                        for event in events:
                            yield event
                        try:
                            response = await self._continue(decoder, response)
                            idle_timeout = _IdleTimeout(response, decoder, self._request.timeouts.idle)
                            continue
                        except TinyAgentError as error:
                            events = [decoder.fail(error)]
                    self._end(events[-1])
                    # Release the connection before the last events, so that the next turn can use it.
                    await response.finish()
                    for event in events:
                        yield event
                    return
                for event in events:
                    yield event
                idle_timeout.restart_on_progress()
        except Aborted:
            yield self._end(decoder.abort())
        finally:
            self._left.set()
            if self._response is not None:
                await self._response.aclose()

    async def _retry(self, error: TinyAgentError) -> bool:
        """Repeat the request, if a retry is possible and nothing was yielded yet."""
        assert self._response is not None
        await self._response.finish()
        try:
            self._response = await self._request.again(error)
        except TinyAgentError as final:
            self._decoder.error = final
            return False
        self._decoder = self._make(
            redact=self._request.errors.redact, builder=self._decoder.builder, status=self._response.status
        )
        return True

    async def _continue(self, decoder: ReplyDecoder, response: HttpResponse) -> HttpResponse:
        """Send the request that continues the message, and return its response."""
        await response.finish()
        self._request.body = decoder.continuation
        decoder.start_continuation()
        self._request.restore_retries()  # Only this stream can repeat the request.
        self._response = await self._request.open()
        return self._response

    def _end(self, event: BuilderEvent) -> BuilderEvent:
        self._message = event["message"] if event["type"] == "done" else event["error"]
        return event


async def open_stream(
    url: str,
    body: Mapping[str, object],
    *,
    model: HttpModel,
    options: SimpleStreamOptions,
    headers: Mapping[str, str],
    secrets: Iterable[str],
    decoder: MakeDecoder,
) -> ReplyStream:
    """Send a request, and return as soon as its reply starts.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    require_asyncio()
    request = HttpRequest(
        url,
        headers={"content-type": "application/json", "accept": "text/event-stream", **headers},
        body=encode_body(body),
        timeout=options.get("timeout"),
        signal=options.get("signal"),
        max_retries=options.get("max_retries"),
        on_retry=options.get("on_retry"),
        secrets=secrets,
        **connection_options(model, options),
    )
    try:
        response = await request.open()
    except Aborted:
        return ReplyStream(request, None, decoder)
    return ReplyStream(request, response, decoder)
