"""A `StreamResponse` from an async generator of assistant message events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Self, cast

from .agent_types import AssistantMessage, AssistantMessageEvent
from .errors import StreamInterruptedError

__all__ = ["Response"]


class Response:
    """The reply that a generator makes: iterate it, or await `result()` for the whole message."""

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        self._events = events
        self._message: AssistantMessage | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AssistantMessageEvent:
        event = await self._events.__anext__()
        kind = event["type"]
        if kind in ("done", "error"):
            self._message = event["message" if kind == "done" else "error"]
        return cast(AssistantMessageEvent, event)

    async def result(self) -> AssistantMessage:
        """The whole message; reads on to the end if nobody else did.

        Raises:
            StreamInterruptedError: if the events end without `done` or `error`.
        """
        async for _ in self:
            pass
        if self._message is None:
            raise StreamInterruptedError("the stream ended without `done` or `error`")
        return self._message

    async def aclose(self) -> None:
        """Leave the reply; nothing of it goes on."""
        await self._events.aclose()
