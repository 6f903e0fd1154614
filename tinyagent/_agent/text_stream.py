"""The text of a run, piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from tinyagent._answer import check_answer
from tinyagent._event_stream import EventStream, Iteration
from tinyagent.agent_types import AgentEndEvent, AgentEvent, AgentMessage, MessageUpdateEvent

__all__ = ["TextStream"]


class TextStream:
    """The text of a run, piece by piece. It is closed in the same way as an event stream.

    If the run has no complete answer, reading raises the same error as `prompt_text` after the last piece.
    """

    def __init__(self, events: EventStream[AgentEvent, list[AgentMessage]]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[str]:
        return Iteration(self)

    async def __anext__(self) -> str:
        while True:
            event = await self._events.__anext__()
            if type(event) is MessageUpdateEvent:
                step = event.assistant_message_event
                if step["type"] == "text_delta":
                    return step["delta"]
            elif type(event) is AgentEndEvent:
                check_answer(event.messages, event.limit)

    async def __aenter__(self) -> Self:
        await self._events.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run if it is still active, and wait for its end."""
        await self._events.aclose()

    def abandon(self) -> None:
        """End the run without waiting for it."""
        self._events.abandon()
