"""Write a page of recorded runs: the conversation, the tool calls, a time line, tokens and cost.

    page_text      untrusted text as safe HTML
    page_values    what the templates show
    page_template  the templates
    page_blocks, page_compactions
                   parts of messages and of the conversation
    page_builder   lines to parts of the page, in its order
    page           a complete page, which is written while the record is read
    live_page      a page that follows a run
    serve          its server

The memory of a page does not grow with the record, apart from one row of the time line for each model call
and each tool call.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyagent.errors import RecordError

from .page_builder import PageBuilder
from .page_template import Template
from .page_values import Part
from .source import Source

__all__ = ["write_page"]

WRITE_BYTES = 64 * 1024
"""Pieces of about this size are written at once."""
WARNINGS = 3
"""The most unreadable lines that are reported one by one; the page names more."""


class _Writer:
    """Writes final parts in the order in which they were started."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._waiting: dict[str, Part] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def put(self, part: Part) -> None:
        """Write a part as soon as those before it are final."""
        self._waiting[part.id] = part
        while self._waiting and (first := next(iter(self._waiting.values()))).is_final:
            self.text(first.html)
            del self._waiting[first.id]

    def text(self, html: str) -> None:
        """Write text."""
        piece = html.encode("utf-8", "replace")
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rest."""
        if self._pieces:
            self._write(b"".join(self._pieces))
        self._pieces.clear()
        self._size = 0


def write_page(
    source: Source,
    write: Callable[[bytes], None],
    on_warning: Callable[[str], None],
    *,
    on_start: Callable[[], None] = lambda: None,
) -> int:
    """Write a page, and return the number of lines that could not be read; the page names them.

    Args:
        source: The lines.
        write: Writes a piece of the page.
        on_warning: Called with each of the first lines that cannot be read, and with a last line that is
            incomplete.
        on_start: Called before the first piece, after the first line that can be read.

    Raises:
        RecordError: No line can be read.
        InputError: The source is empty, or cannot be read.
        WriteError: The page cannot be written.
    """
    template = Template()
    builder = PageBuilder(template)
    writer = _Writer(write)
    problems: list[RecordError] = []
    waiting: list[Part] = []

    def on_problem(error: RecordError) -> None:
        problems.append(error)
        if len(problems) <= WARNINGS:
            on_warning(str(error))
        waiting.extend(builder.problem(str(error)))

    def on_torn(text: str) -> None:
        on_warning(text)
        waiting.extend(builder.problem(text))

    source.on_warning = on_torn
    has_begun = False
    for entry in source.entries(on_problem=on_problem):
        parts = list(builder.add(entry))
        if not has_begun and builder.has_records:
            has_begun = True
            on_start()
            writer.text(template.head(source.name))
        if has_begun:
            for part in (*waiting, *parts):
                writer.put(part)
            waiting.clear()
    if not has_begun:
        raise problems[0] if problems else source.nothing()
    for part in (*waiting, *builder.close()):
        writer.put(part)
    writer.text(template.tail(builder.aside()))
    writer.flush()
    return len(problems)
