"""The runs of a session, to undo them."""

from __future__ import annotations

from typing import NamedTuple

from tinyagent import jsonl
from tinyagent._stream.compaction import compacted
from tinyagent.agent_types import (
    AgentMessage,
    AgentStartEvent,
    CompactionEndEvent,
    CompactionStartEvent,
    MessageEndEvent,
    UserMessage,
)
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord

__all__ = ["Mark", "read_marks"]


class Mark(NamedTuple):
    """The state before a run, or before a compaction by the user.

    Attributes:
        messages: The conversation.
        size: The bytes of the session file.
        prompt: The prompt of the run; None for a compaction.
    """

    messages: list[AgentMessage]
    size: int
    prompt: UserMessage | None


def read_marks(data: bytes) -> list[Mark]:
    """Return the state before each run and each compaction in a session file, in order.

    Raises:
        RecordError: A line is not in the format.
    """
    decoder, reader, start = jsonl.Decoder(updates=False), _Reader(), 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        for record in decoder.decode(data[start:end]):
            reader.add(record, start)
        start = end
    return reader.marks


class _Reader:
    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self._conversation: list[AgentMessage] = []
        self._runs = False

    def add(self, record: Record, place: int) -> None:
        """Add a record, which begins at this byte."""
        match record:
            case AgentStartEvent():
                self._mark(place)
                self._runs = True
            case ResultRecord():
                self._runs = False
            case CompactionStartEvent() if not self._runs:
                self._mark(place)
            case CompactionEndEvent(summary=None):
                if not self._runs:
                    self.marks.pop()  # nothing has changed
            case CompactionEndEvent():
                self._conversation = compacted(self._conversation, record)
            case HistoryRecord(message=message):
                self._conversation.append(message)
            case MessageEndEvent(message=message):
                self._conversation.append(message)
                if self._runs and self.marks[-1].prompt is None and message["role"] == "user":
                    self.marks[-1] = self.marks[-1]._replace(prompt=message)
            case _:
                pass

    def _mark(self, place: int) -> None:
        self.marks.append(Mark(list(self._conversation), place, None))
