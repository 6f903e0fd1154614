"""The output of a command: store its head and its tail, and count the rest."""

from __future__ import annotations

import codecs

__all__ = ["HEAD_CHARACTERS", "LIMIT", "TAIL_CHARACTERS", "Output"]

HEAD_CHARACTERS = 12_000
"""Characters to store from the beginning."""

TAIL_CHARACTERS = 24_000
"""Characters to store from the end, where errors usually are."""

LIMIT = 50_000_000
"""Bytes after which a command is ended."""

_NEWS_CHARACTERS = 2_000


class Output:
    """Collects the output. It stores at most `HEAD_CHARACTERS` and twice `TAIL_CHARACTERS`."""

    def __init__(self) -> None:
        self.bytes = 0
        self._characters = 0
        self._lines = 0
        self._head = ""
        self._tail = ""
        self._news = ""
        self._skipped = 0
        # A character may be split between two pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Take the next bytes."""
        self.bytes += len(data)
        text = self._decoder.decode(data, final)
        self._characters += len(text)
        self._lines += text.count("\n")
        self._news += text
        if len(self._news) > _NEWS_CHARACTERS:
            self._skipped += len(self._news) - _NEWS_CHARACTERS
            self._news = self._news[-_NEWS_CHARACTERS:]
        room = HEAD_CHARACTERS - len(self._head)
        if room > 0:
            self._head += text[:room]
            text = text[room:]
        self._tail += text
        if len(self._tail) > 2 * TAIL_CHARACTERS:
            self._tail = self._tail[-TAIL_CHARACTERS:]

    @property
    def truncated(self) -> bool:
        """Whether part of the output is omitted."""
        return self._characters > HEAD_CHARACTERS + TAIL_CHARACTERS

    def text(self) -> str:
        """Return the complete output, or the head and the tail with a mark for the omitted part."""
        if not self.truncated:
            return self._head + self._tail
        tail = self._tail[-TAIL_CHARACTERS:]
        missing = self._characters - len(self._head) - len(tail)
        lines = self._lines - self._head.count("\n") - tail.count("\n")
        return f"{self._head}\n[… {missing:,} characters, {lines:,} lines omitted …]\n{tail}"

    def news(self) -> str:
        """Return the end of the output since the last call."""
        text, skipped = self._news, self._skipped
        self._news, self._skipped = "", 0
        return f"[… {skipped:,} characters …]{text}" if skipped else text
