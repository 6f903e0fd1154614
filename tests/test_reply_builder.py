"""`stream_reply` completes the replies of other authors' providers: their start, end and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tinyagent import AssistantMessage, Model, RateLimitError, SimpleStreamOptions
from tinyagent.reply_builder import BuilderEvent, MessageBuilder, stream_reply
from tinyagent.testing import check_reply, collect

MODEL = Model("acme", "small", "acme")
KEY = "sk-test-12345678"


class Answer:
    """The text "Half", and what follows it.

    Args:
        end: An exception to raise; `done` to complete the reply; `wait` to hang; `stop` to end before `done`.
    """

    def __init__(self, end: str | Exception) -> None:
        self.end = end
        self.builder = MessageBuilder(MODEL)
        self.waiting = asyncio.Event()
        self.closed = False

    async def events(self) -> AsyncGenerator[BuilderEvent, None]:
        """Yield the events."""
        try:
            index, opened = self.builder.open_text()
            yield opened
            yield self.builder.delta(index, "Half")
            if isinstance(self.end, Exception):
                raise self.end
            if self.end == "wait":
                self.waiting.set()
                await asyncio.Event().wait()
            yield self.builder.close(index)
            if self.end == "done":
                yield self.builder.done("stop", finish_reason="end")
        finally:
            self.closed = True

    async def read(self, options: SimpleStreamOptions | None = None) -> AssistantMessage:
        """Read and check the reply. Return its message."""
        reply = stream_reply(self.builder, self.events(), options or {})
        events = await collect(reply)
        check_reply(events)
        assert self.closed
        message = await reply.result()
        assert [{"type": "text", "text": "Half"}] == message["content"]
        return message


async def test_a_complete_reply() -> None:
    """The reply begins with `start`, and `result` is the message of `done`."""
    message = await Answer("done").read()
    assert ("stop", "end") == (message["stop_reason"], message["finish_reason"])


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        ("stop", "stream_interrupted", "without `done`"),
        (ValueError("no"), "internal", "ValueError: no"),
        (RateLimitError("wait", status=429, retryable=True), "rate_limit", "wait"),
        (
            RateLimitError(f"the key {KEY} has no credit", hint=f"Check {KEY}."),
            "rate_limit",
            "the key [key] has",
        ),
    ],
)
async def test_a_failure_is_the_last_event(end: str | Exception, kind: str, text: str) -> None:
    """The message has the content so far and the fields of the error, without the key."""
    message = await Answer(end).read({"api_key": KEY})
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert text in message["error_message"]
    assert KEY not in repr(message)


async def test_a_short_key_stays_in_the_texts_of_errors() -> None:
    """The placeholder keys of local servers are parts of words, so they are not removed."""
    message = await Answer(ValueError("no text")).read({"api_key": "x"})
    assert "ValueError: no text" == message["error_message"]


async def test_the_first_event_has_no_content() -> None:
    """A generator may build several events before it yields them. `start` shows the message without them."""
    builder = MessageBuilder(MODEL)

    async def events() -> AsyncGenerator[BuilderEvent, None]:
        index, opened = builder.open_text()
        for event in (opened, builder.delta(index, "Hi"), builder.close(index), builder.done("stop")):
            yield event

    start, *others = await collect(stream_reply(builder, events(), {}))
    assert ("start", []) == (start["type"], start["partial"]["content"])
    check_reply([start, *others])


async def test_a_failure_before_the_first_event() -> None:
    """The reply still begins with `start`, and its message is empty."""
    builder = MessageBuilder(MODEL)

    async def failing() -> AsyncGenerator[BuilderEvent, None]:
        raise RateLimitError("wait")
        yield builder.done("stop")

    reply = stream_reply(builder, failing(), {})
    events = await collect(reply)
    check_reply(events)
    assert ["start", "error"] == [event["type"] for event in events]
    assert [] == (await reply.result())["content"]


async def test_an_abort_cancels_the_generator() -> None:
    """The signal ends a generator where it waits, and the message is `aborted`."""
    answer, signal = Answer("wait"), asyncio.Event()
    reading = asyncio.create_task(answer.read({"signal": signal}))
    await answer.waiting.wait()
    signal.set()
    assert "aborted" == (await reading)["stop_reason"]


async def test_a_cancellation_is_passed_on() -> None:
    """A cancelled reader gets `CancelledError`, and the generator has ended."""
    answer = Answer("wait")
    reading = asyncio.create_task(answer.read())
    await answer.waiting.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert answer.closed


async def test_a_reply_that_is_left() -> None:
    """`aclose` ends the generator."""
    answer = Answer("wait")
    reply = stream_reply(answer.builder, answer.events(), {})
    assert "start" == (await anext(reply))["type"]
    await anext(reply)
    await reply.aclose()
    assert answer.closed


class UncleanAnswer(Answer):
    """An answer whose connection fails while it is closed."""

    async def events(self) -> AsyncGenerator[BuilderEvent, None]:
        """Yield the events."""
        try:
            async with aclosing(super().events()) as events:
                async for event in events:
                    yield event
        finally:
            raise OSError("cannot be closed")


async def test_a_complete_reply_whose_connection_fails() -> None:
    """A reply has one end. What fails after `done` changes nothing."""
    answer = UncleanAnswer("done")
    reply = stream_reply(answer.builder, answer.events(), {})
    events = await collect(reply)
    check_reply(events)
    assert "done" == events[-1]["type"]
    assert "stop" == (await reply.result())["stop_reason"]


async def test_a_reply_that_is_left_and_cannot_be_closed() -> None:
    """`aclose` raises no error."""
    answer = UncleanAnswer("wait")
    reply = stream_reply(answer.builder, answer.events(), {})
    assert "start" == (await anext(reply))["type"]
    await anext(reply)
    await reply.aclose()


async def test_an_aborted_reply_whose_connection_fails() -> None:
    """The message is `aborted` if closing the connection fails because of that."""
    answer, signal = UncleanAnswer("wait"), asyncio.Event()
    reply = stream_reply(answer.builder, answer.events(), {"signal": signal})
    reading = asyncio.create_task(collect(reply))
    await answer.waiting.wait()
    signal.set()
    check_reply(await reading)
    assert "aborted" == (await reply.result())["stop_reason"]
