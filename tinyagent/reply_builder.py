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
from contextlib import aclosing

from ._cancel import Aborted, CancelScope
from ._stream.builder import BuilderEvent, MessageBuilder
from ._stream.generator_reply import GeneratorReply
from .agent_types import SimpleStreamOptions, StopReason
from .errors import ErrorFields, StreamInterruptedError, error_fields

__all__ = ["BuilderEvent", "GeneratorReply", "MessageBuilder", "stream_reply"]


def stream_reply(
    builder: MessageBuilder, events: AsyncGenerator[BuilderEvent, None], options: SimpleStreamOptions
) -> GeneratorReply:
    """Return a reply with these events. It adds `start`, and an end if they are aborted or fail.

    Args:
        builder: The builder of the events.
        events: The events of the blocks, and `builder.done(…)` as the last one.
        options: Those of the call: `signal` aborts it, and `api_key` is removed from the texts of errors.
    """
    return GeneratorReply(_complete(builder, events, options))


async def _complete(
    builder: MessageBuilder, events: AsyncGenerator[BuilderEvent, None], options: SimpleStreamOptions
) -> AsyncGenerator[BuilderEvent, None]:
    started = False
    reason: StopReason
    try:
        async with aclosing(events):
            while True:
                async with CancelScope(options.get("signal")):
                    event = await anext(events, None)
                if event is None:
                    raise StreamInterruptedError(
                        "The reply of the provider ended without `done`, so it may be incomplete.",
                        retryable=True,
                    )
                if not started and event["type"] != "start":
                    yield builder.start()
                started = True
                yield event
                if event["type"] in ("done", "error"):
                    return
    except Aborted:
        reason, fields = "aborted", ErrorFields(error_message="The call was aborted.")
    except Exception as error:  # noqa: BLE001 - each failure is an event
        reason, fields = "error", _without_key(error_fields(error), options.get("api_key"))
    if not started:
        yield builder.start()
    yield builder.fail(reason, **fields)


def _without_key(fields: ErrorFields, key: str | None) -> ErrorFields:
    """Remove the API key from the texts of an error, because a server may repeat it."""
    if key and "error_message" in fields:
        fields["error_message"] = fields["error_message"].replace(key, "[key]")
    if key and "error_hint" in fields:
        fields["error_hint"] = fields["error_hint"].replace(key, "[key]")
    return fields
