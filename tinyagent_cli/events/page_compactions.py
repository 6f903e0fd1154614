"""Show on a page where a summary has replaced the older messages of the conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tinyagent._json import as_dict
from tinyagent.agent_types import CompactionEndEvent, CompactionStartEvent

from .page_blocks import BlockReader
from .page_template import Template
from .page_text import shown
from .page_values import Part, known_cost

__all__ = ["Compactions"]


class Compactions:
    """Makes the parts of compactions.

    Args:
        template: Renders them.
        reader: Reads the summaries.
    """

    def __init__(self, template: Template, reader: BlockReader) -> None:
        self._render = template.render
        self._read = reader
        self._part: str | None = None
        self._start: CompactionStartEvent | None = None
        self.started: int | None = None
        """When the compaction that has not ended was started."""

    def start(self, event: CompactionStartEvent, part: str, moment: int | None) -> Part:
        """Return the part of a compaction that has started."""
        self._part, self._start, self.started = part, event, moment
        text = shown("Compacting the conversation …")
        html = self._render("note.html", id=part, kind="compacting", text=text)
        return Part(part, html, is_final=False)

    def end(self, event: CompactionEndEvent, new_part: Callable[[], str]) -> Part:
        """Return the part of a compaction that has ended. `new_part` makes an id, if its start is missing."""
        part, start = self._part or new_part(), self._start
        self._part = self._start = self.started = None
        if event.summary is None:
            return self._failed(part, event.error_message or "The summary is missing.")
        size = f"about {event.tokens:,} tokens"
        if start is not None:
            size += f" instead of {start.tokens:,}"
        facts = (size, known_cost(as_dict(event.usage)))
        html = self._render(
            "compaction.html",
            id=part,
            reason=start.reason if start is not None else "",
            replaced=event.replaced,
            content=self._read.summary(as_dict(event.summary)),
            facts=[fact for fact in facts if fact],
        )
        return Part(part, html)

    def leave(self) -> Iterator[Part]:
        """End a compaction that has no end in the record."""
        if self._part is not None:
            yield self._failed(self._part, "It was interrupted.")
        self._part = self._start = self.started = None

    def _failed(self, part: str, reason: str) -> Part:
        text = shown(f"The conversation could not be compacted: {reason}")
        return Part(part, self._render("note.html", id=part, kind="warning", text=text))
