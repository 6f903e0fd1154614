"""Build the replies of a provider of your own: write a generator of events, and get a `StreamResponse`.

    async def stream_acme(model: AcmeModel, context: Context, options: SimpleStreamOptions) -> StreamResponse:
        builder = MessageBuilder(model)
        return stream_reply(builder, answer(builder, context), options)

    async def answer(builder: MessageBuilder, context: Context) -> AsyncGenerator[BuilderEvent, None]:
        async with ask_acme(context) as words:
            index, opened = builder.open_text()
            yield opened
            async for word in words:
                yield builder.delta(index, word)
            yield builder.close(index)
            yield builder.done("stop", usage={"input": 12, "output": 3, "total": 15})

The generator may raise: an error of `tinyagent.errors`, or any other exception, becomes the last event of the
reply, with the content so far. When the call is aborted, the generator is cancelled where it waits, so that
`async with` closes its connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

from ._cancel import Aborted, CancelScope
from ._stream.builder import BuilderEvent, MessageBuilder
from ._stream.generator_reply import GeneratorReply
from .agent_types import SimpleStreamOptions
from .errors import StreamInterruptedError, error_fields, without_key

__all__ = ["BuilderEvent", "GeneratorReply", "MessageBuilder", "stream_reply"]


def stream_reply(
    builder: MessageBuilder, events: AsyncGenerator[BuilderEvent, None], options: SimpleStreamOptions
) -> GeneratorReply:
    """Return a reply with these events. It adds `start`, and an end if they are aborted or fail.

    Args:
        builder: The builder of the events.
        events: The events of the blocks, and `builder.done(…)` as the last one.
        options: Those of the call: `signal` aborts it, and `api_key` is removed from the texts of errors (a
            short one is not, because it could be a part of a word).
    """
    return GeneratorReply(_complete(builder, events, options))


async def _complete(
    builder: MessageBuilder, events: AsyncGenerator[BuilderEvent, None], options: SimpleStreamOptions
) -> AsyncGenerator[BuilderEvent, None]:
    first, started = builder.start(), False  # before the events, whose content it must not have
    try:
        while True:
            event = await _next_event(builder, events, options)
            if not started and event["type"] != "start":
                yield first
            started = True
            yield event
            if event["type"] in ("done", "error"):
                return
    finally:
        with suppress(Exception):  # The reply has its end, or is not read any more.
            await events.aclose()


async def _next_event(
    builder: MessageBuilder, events: AsyncGenerator[BuilderEvent, None], options: SimpleStreamOptions
) -> BuilderEvent:
    """Return the next event. An abort and a failure are events, too."""
    signal, key = options.get("signal"), options.get("api_key")
    try:
        async with CancelScope(signal):
            event = await anext(events, None)
        if event is not None:
            return event
        raise StreamInterruptedError(
            "The reply of the provider ended without `done`, so it may be incomplete.", retryable=True
        )
    except Exception as error:  # noqa: BLE001 - each failure is an event
        # A generator may replace its cancellation by an exception while it closes its connection.
        if isinstance(error, Aborted) or (signal is not None and signal.is_set()):
            return builder.fail("aborted", "The call was aborted.")
        fields = error_fields(error)
        fields["error_message"] = without_key(fields["error_message"], key)
        if "error_hint" in fields:
            fields["error_hint"] = without_key(fields["error_hint"], key)
        return builder.fail("error", **fields)
