"""Calls that end before their reply."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Unpack

from tinyagent.agent_types import (
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    ModelIdentity,
    SimpleStreamOptions,
    StreamResponse,
)
from tinyagent.testing.server import FakeReply
from tinyagent.testing.wires import Script

from .case import CallOutcome, ContractCase, ProviderUnderTest, check_closed, text_block
from .checks import expect, expect_equal, within
from .failures import SILENT_REPLY

__all__ = ["LeavingTests"]

STALLED_SCRIPT = Script([text_block("Half")], ending="stall")


class LeavingTests(ContractCase):
    """A call can be left at any time."""

    def _waiting_replies(self) -> list[tuple[Script | FakeReply, str]]:
        """Return replies that never end, each with the text before the wait."""
        replies: list[tuple[Script | FakeReply, str]] = [(STALLED_SCRIPT, "Half")]
        return replies if self.wire is None else [*replies, (SILENT_REPLY, "")]

    def test_aborts(self) -> None:
        """The signal ends a call and its connection at once; the text is kept."""
        self._require("waiting", "content")
        for reply, text in self._waiting_replies():
            self._run(self._check_abort(reply, text))

    async def _check_abort(self, reply: Script | FakeReply, text: str) -> None:
        async with self.serve(reply) as provider:
            signal, first_delta = asyncio.Event(), asyncio.Event()
            call = asyncio.create_task(self._observed_call(provider, first_delta, signal=signal))
            await self._wait_until_stalled(provider, first_delta, call, text)
            signal.set()
            async with within(2, "the signal has no effect"):
                outcome = await call
            expect_equal(("aborted", text), (outcome.stop_reason, outcome.text), "stop reason and text")
            await check_closed(provider)

    def test_cancellation(self) -> None:
        """The cancellation of the reading task ends the call and its connection at once."""
        self._require("waiting", "content")
        for reply, text in self._waiting_replies():
            self._run(self._check_cancellation(reply, text))

    async def _check_cancellation(self, reply: Script | FakeReply, text: str) -> None:
        async with self.serve(reply) as provider:
            first_delta = asyncio.Event()
            call = asyncio.create_task(self._observed_call(provider, first_delta))
            await self._wait_until_stalled(provider, first_delta, call, text)
            call.cancel()
            async with within(2, "cancellation does not end it"):
                await asyncio.wait([call])
            expect(call.cancelled(), "cancellation is passed on")
            await check_closed(provider)

    def test_leaving_early(self) -> None:
        """A reply that is closed after its first event leaves nothing open."""

        async def test() -> None:
            async with self.serve(STALLED_SCRIPT) as provider:
                response = await self._start(provider)
                close: Callable[[], Awaitable[None]] | None = getattr(response, "aclose", None)
                events = aiter(response)
                await anext(events)
                close = close or getattr(events, "aclose", None)
                if close is None:
                    raise unittest.SkipTest("its replies have no aclose()")
                await close()
                await check_closed(provider)

        self._run(test())

    async def _observed_call(
        self, provider: ProviderUnderTest, first_delta: asyncio.Event, **options: Unpack[SimpleStreamOptions]
    ) -> CallOutcome:
        """Make a call that sets `first_delta` at its first delta."""

        async def stream_fn(
            model: ModelIdentity, context: Context, options: SimpleStreamOptions
        ) -> StreamResponse:
            return _ObservedResponse(await provider.stream_fn(model, context, options), first_delta)

        return await self._call(ProviderUnderTest(stream_fn, provider.model, provider.server), **options)

    async def _wait_until_stalled(
        self,
        provider: ProviderUnderTest,
        first_delta: asyncio.Event,
        call: asyncio.Task[CallOutcome],
        text: str,
    ) -> None:
        """Wait until the call waits for its server."""
        if text:
            waiting = asyncio.create_task(first_delta.wait())
            await asyncio.wait([waiting, call], return_when="FIRST_COMPLETED")
            waiting.cancel()
            if call.done():
                call.result()
            expect(first_delta.is_set(), "the reply ended before its first delta was read")
        elif provider.server is not None:
            await provider.server.wait_requests(1)


class _ObservedResponse:
    """A reply that sets an event at its first delta."""

    def __init__(self, response: StreamResponse, first_delta: asyncio.Event) -> None:
        self._response = response
        self._first_delta = first_delta

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        async for event in self._response:
            if "delta" in event:
                self._first_delta.set()
            yield event

    async def result(self) -> AssistantMessage:
        return await self._response.result()
