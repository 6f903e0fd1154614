"""Read whole streams of lines: all records, the events, or the conversation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

from tinyagent._stream.compaction import compacted
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    CompactionEndEvent,
    MessageEndEvent,
    MessageUpdateEvent,
)
from tinyagent.errors import RecordError

from .decoder import Decoder
from .lines import Lines, cut_last_line, is_torn, whole_lines
from .records import HistoryRecord, Record, ResultRecord, SessionRecord

__all__ = ["messages", "read", "read_records"]

Warn: TypeAlias = Callable[[str], None]


def read_records(lines: Lines, *, on_warning: Warn | None = None) -> Iterator[Record]:
    """Read the records and events of one stream, or of several in sequence.

    Args:
        lines: A binary file, or whole lines with or without their LF.
        on_warning: Called with a warning if the last line is incomplete; it is then left out.
            `warnings.warn` if None.

    Raises:
        RecordError: A line is not in this format.
    """
    return _read(Decoder(), lines, on_warning or _warn)


def read(lines: Lines, *, on_warning: Warn | None = None) -> Iterator[AgentEvent]:
    """Read only the events; see `read_records`."""
    for record in _read(Decoder(), lines, on_warning or _warn):
        # The first check is faster, and nearly every record passes it.
        if type(record) is MessageUpdateEvent or not isinstance(
            record, SessionRecord | HistoryRecord | ResultRecord
        ):
            yield record


def messages(lines: Lines, *, whole: bool = False, on_warning: Warn | None = None) -> list[AgentMessage]:
    """Read the conversation: the history and every complete message, as the next request would have them.

    Several streams in sequence are one conversation. If the history of a stream starts with the conversation
    so far, those messages are not repeated.

    Args:
        lines: A binary file, or whole lines with or without their LF.
        whole: Whether the messages that a summary has replaced are returned, and not the summary.
        on_warning: See `read_records`.
    """
    conversation: list[AgentMessage] = []
    history: list[AgentMessage] = []
    new: list[AgentMessage] = []

    def add() -> None:
        continues = history[: len(conversation)] == conversation
        conversation[:] = [*([] if continues else conversation), *history, *new]
        history.clear()
        new.clear()

    for record in _read(Decoder(updates=False), lines, on_warning or _warn):
        if isinstance(record, SessionRecord):
            add()
        elif isinstance(record, HistoryRecord):
            history.append(record.message)
        elif isinstance(record, MessageEndEvent):
            new.append(record.message)
        elif isinstance(record, CompactionEndEvent) and not whole:
            add()
            conversation[:] = compacted(conversation, record)
    add()
    return conversation


def _read(decoder: Decoder, lines: Lines, warn: Warn) -> Iterator[Record]:
    """Yield all records. A line without LF may be incomplete, so it waits until the next one is there."""
    waiting: bytes | str | None = None
    for chunk in whole_lines(lines):
        if waiting is not None:
            yield from decoder.decode(waiting)
        complete, waiting = cut_last_line(chunk)
        if complete:
            yield from decoder.decode_chunk(complete)
    if waiting is not None:
        try:
            last = decoder.decode(waiting)
        except RecordError:
            if not is_torn(waiting):
                raise
            number = decoder.line_number
            warn(f"line {number} is incomplete and was left out; all lines before it were read")
            last = []
        yield from last
    yield from decoder.close()


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
