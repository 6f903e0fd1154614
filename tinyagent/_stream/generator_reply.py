"""The reply of a provider without HTTP, such as the demo: an async generator of assistant message events.

`reply.ReplyStream` is the reply of a provider that sends requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self, cast

from tinyagent.agent_types import AssistantMessage, AssistantMessageEvent
from tinyagent.errors import StreamInterruptedError

from .builder import StreamEvent

__all__ = ["GeneratorReply"]


class GeneratorReply:
    """A reply: iterate it for its events, or await `result()` for the whole message.

    Args:
        events: Yields the events of the reply; the last one is `done` or `error`.
    """

    def __init__(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        self._events = events
        self._message: AssistantMessage | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AssistantMessageEvent:
        event = cast(AssistantMessageEvent, await self._events.__anext__())
        if event["type"] == "done":
            self._message = event["message"]
        elif event["type"] == "error":
            self._message = event["error"]
        return event

    async def result(self) -> AssistantMessage:
        """Return the whole message, after reading the events that are left.

        Raises:
            StreamInterruptedError: The events end without `done` or `error`.
        """
        async for _ in self:
            pass
        if self._message is None:
            raise StreamInterruptedError("the stream ended without `done` or `error`")
        return self._message

    async def aclose(self) -> None:
        """Close the reply and end its generator."""
        await self._events.aclose()
