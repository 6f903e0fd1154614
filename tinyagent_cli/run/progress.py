"""The state of a run so far."""

from __future__ import annotations

import time
from typing import Protocol

from msgspec import UNSET, UnsetType

from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AssistantMessage,
    JsonValue,
    RunLimit,
    Usage,
)

__all__ = ["Clock", "Progress"]


class Clock(Protocol):
    """Measures the time of a run."""

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        ...


class _Stopwatch:
    """The seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


class Progress:
    """A listener that collects the data for the result line and the summary.

    Args:
        clock: The clock of the command; without it, the time starts now.

    Attributes:
        messages: The messages of the run, once it has ended.
        limit: The limit that ended the run, if one did.
        usage: The tokens and the cost of the run; None if the provider reports no usage.
        value: The validated answer of a run with a schema.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.messages: list[AgentMessage] = []
        self.limit: RunLimit | None = None
        self.usage: Usage | None = None
        self.value: JsonValue | UnsetType = UNSET
        self._clock: Clock = clock or _Stopwatch()

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is AgentEndEvent:
            self.messages, self.limit, self.usage = event.messages, event.limit, event.usage

    @property
    def replies(self) -> list[AssistantMessage]:
        """The assistant's messages."""
        return [message for message in self.messages if is_assistant(message)]

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return self._clock.seconds
