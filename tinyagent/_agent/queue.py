"""The messages that wait for a run: steering and follow-ups."""

from __future__ import annotations

from typing import Literal

from tinyagent.agent_types import AgentMessage

__all__ = ["MessageQueue", "QueueMode"]

QueueMode = Literal["one-at-a-time", "all"]


class MessageQueue:
    """A queue of messages. They stay in it until they are in the history, so none gets lost."""

    def __init__(self) -> None:
        self._messages: list[AgentMessage] = []

    def __bool__(self) -> bool:
        return bool(self._messages)

    def append(self, message: AgentMessage) -> None:
        """Add a message."""
        self._messages.append(message)

    def next(self, mode: QueueMode) -> list[AgentMessage]:
        """Return the messages for the next turn. They stay in the queue."""
        return list(self._messages) if mode == "all" else self._messages[:1]

    def discard(self, message: AgentMessage) -> None:
        """Remove a message that is in the history now, if this queue has it."""
        for position, queued in enumerate(self._messages):
            if queued is message:
                del self._messages[position]
                return

    def clear(self) -> None:
        """Remove all messages."""
        self._messages.clear()
