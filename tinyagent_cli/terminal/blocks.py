"""Find the ends of Markdown blocks in a stream, so that each block can be shown as soon as it is complete.

The rules are those of CommonMark and of GitHub's tables, as far as they decide where a block ends. A parser
reads the content of a block. Lines are judged one by one, so a cut of the text into deltas makes no
difference.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["Block", "BlockSplitter", "Kind"]

Kind = Literal["blank", "paragraph", "heading", "rule", "fence", "code", "quote", "item", "html"]

_FENCE = r" {0,3}(`{3,}(?=[^`]*$)|~{3,})"
_ITEM = r"( {0,3})([-+*]|\d{1,9}[.)])(?:([ \t]+)(?=\S)|[ \t]*$)"
_RULE = r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$"
_HEADING = r" {0,3}#{1,6}(?:[ \t]|$)"
_UNDERLINE = r" {0,3}(?:=+|-+)[ \t]*$"
_QUOTE = r" {0,3}>"
_HTML_UNTIL: tuple[tuple[str, str], ...] = (
    (r" {0,3}<(?:script|pre|style|textarea)(?:[ \t>]|$)", r"</(?:script|pre|style|textarea)>"),
    (r" {0,3}<!--", "-->"),
    (r" {0,3}<\?", r"\?>"),
    (r" {0,3}<!\[CDATA\[", r"\]\]>"),
    (r" {0,3}<![A-Za-z]", ">"),
)
"""HTML that may contain blank lines, with its end."""
_HTML = (
    r" {0,3}</?(?:address|article|aside|blockquote|body|center|details|dialog|dd|div|dl|dt|fieldset"
    r"|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|iframe|legend|li|link|main|menu|nav|ol|p"
    r"|section|summary|table|tbody|td|tfoot|th|thead|title|tr|ul)(?:[ \t]|/?>|$)"
)
"""HTML that ends at a blank line."""
_TAG = r" {0,3}</?[A-Za-z][A-Za-z0-9-]*(?:[ \t][^<>]*)?/?>[ \t]*$"
"""Any other tag alone on a line. It ends at a blank line, and does not end a paragraph."""


class Block(NamedTuple):
    """A block: its source with the blank lines around it.

    Attributes:
        number: The number of an item of an ordered list, counted from the first item; None otherwise.
        continues: Whether it is an item of the same list as the block before.
    """

    text: str
    kind: Kind
    number: int | None = None
    continues: bool = False


class BlockSplitter:
    """Takes text in any pieces and returns the blocks that are complete."""

    def __init__(self) -> None:
        self._rest: list[str] = []
        self._done: list[Block] = []
        self._lines: list[str] = []
        self._kind: Kind = "blank"
        self._until = ""
        self._closing = ""
        self._indent = 0
        self._no_lazy_line = False
        self._empty = False
        self._after_fence = False
        self._table = False
        self._number: int | None = None
        self._last_number = 0
        self._marker = ""
        self._continues = False

    def feed(self, text: str) -> list[Block]:
        """Add text. Return the blocks that are now complete."""
        lines = text.split("\n")
        if len(lines) == 1:
            self._rest.append(text)
            return []
        lines[0] = "".join(self._rest) + lines[0]
        self._rest = [lines.pop()]
        for line in lines:
            self._take(line, "\n")
        return self._completed()

    def end(self) -> list[Block]:
        """Return the rest. The text has ended."""
        rest = "".join(self._rest)
        self._rest = []
        if rest:
            self._take(rest, "")
        if self._lines:
            self._close()
        return self._completed()

    @property
    def pending(self) -> str:
        """The end of the text that is not yet part of a complete block."""
        return "".join([*self._lines[-20:], *self._rest[-500:]])[-2000:]

    def _completed(self) -> list[Block]:
        done, self._done = self._done, []
        return done

    # ---- one line -----------------------------------------------------------------------------------

    def _take(self, line: str, end: str) -> None:
        blank = not line or line.isspace()
        if self._ends_before(line, blank):
            self._close()
        if self._kind == "blank" and not blank:
            self._open(line)
        elif self._kind == "item":
            self._inside_item(line, blank)
            self._empty = self._empty and blank
        self._lines.append(line + end)
        if self._kind == "paragraph" and _is_delimiter_row(line):
            header = self._lines[-2] if not self._is_first() else ""
            self._table = self._table or _columns(header) == _columns(line)
        if self._ends_after(line, blank):
            self._close()
        # Only a paragraph goes on in a line without the indentation or the mark.
        self._no_lazy_line = (
            blank or self._empty or self._after_fence or (self._kind == "quote" and not line.strip(" \t>"))
        )

    def _ends_before(self, line: str, blank: bool) -> bool:
        """Return whether the line does not belong to the block."""
        if blank:
            return False
        match self._kind:
            case "paragraph":
                return _ends_lazy_lines(line) if self._table else _interrupts(line)
            case "quote":
                return not re.match(_QUOTE, line) and (self._no_lazy_line or _ends_lazy_lines(line))
            case "code":
                return not line.startswith(("    ", "\t"))
            case "item":
                return self._ends_item(line)
        return False

    def _ends_item(self, line: str) -> bool:
        if _indentation(line) >= self._indent:
            return False
        if self._closing or self._no_lazy_line:
            return True
        return re.match(_ITEM, line) is not None or _ends_lazy_lines(line)

    def _ends_after(self, line: str, blank: bool) -> bool:
        """Return whether the line is the last one of the block."""
        match self._kind:
            case "heading" | "rule":
                return True
            case "paragraph":
                return blank or (re.match(_UNDERLINE, line) is not None and not self._is_first())
            case "quote":
                return blank
            case "item":
                return blank and self._empty  # an item begins with at most one blank line
            case "fence":
                return _closes(line, self._closing) and not self._is_first()
            case "html":
                return re.search(self._until, line, re.IGNORECASE) is not None if self._until else blank
        return False

    def _is_first(self) -> bool:
        """Return whether only blank lines are before the last one."""
        return all(not before.strip() for before in self._lines[:-1])

    def _open(self, line: str) -> None:
        previous = self._marker
        self._marker = ""
        self._continues = False
        self._closing = self._until = ""
        self._number = None
        if _indentation(line) >= 4:
            self._kind = "code"
        elif found := re.match(_FENCE, line):
            self._kind, self._closing = "fence", found[1]
        elif re.match(_HEADING, line):
            self._kind = "heading"
        elif re.match(_RULE, line):
            self._kind = "rule"
        elif re.match(_QUOTE, line):
            self._kind = "quote"
        elif found := re.match(_ITEM, line):
            self._open_item(found, previous)
        elif (until := _html_until(line)) is not None:
            self._kind, self._until = "html", until
        elif re.match(_TAG, line):
            self._kind = "html"
        else:
            self._kind = "paragraph"

    def _open_item(self, found: re.Match[str], previous: str) -> None:
        marker = found[2]
        blanks = len(found[3].expandtabs(4)) if found[3] else 1
        self._kind = "item"
        self._indent = len(found[1]) + len(marker) + (blanks if blanks <= 4 else 1)
        self._empty = not found[3]
        self._marker = marker[-1]
        self._continues = previous == self._marker
        if marker[:-1]:
            self._number = self._last_number + 1 if self._continues else int(marker[:-1])
            self._last_number = self._number
        self._inside_item(" " * self._indent + found.string[found.end() :], blank=False)

    def _inside_item(self, line: str, blank: bool) -> None:
        """Note the fences inside an item: blank lines and markers in them do not end it."""
        if blank:
            return
        text = line.lstrip()
        if self._closing:
            self._after_fence = _closes(text, self._closing)
            if self._after_fence:
                self._closing = ""
            return
        self._after_fence = False
        while found := re.match(_ITEM, text):  # items in this item
            text = text[found.end() :]
            if not text:
                return
        if found := re.match(_FENCE, text):
            self._closing = found[1]

    def _close(self) -> None:
        number = self._number if self._kind == "item" else None
        continues = self._kind == "item" and self._continues
        self._done.append(Block("".join(self._lines), self._kind, number, continues))
        self._lines = []
        self._kind = "blank"
        self._closing = self._until = ""
        self._no_lazy_line = self._empty = self._after_fence = self._table = False


def _indentation(line: str) -> int:
    blanks = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blanks.expandtabs(4))


def _closes(line: str, fence: str) -> bool:
    text = line.strip()
    return bool(fence) and len(text) >= len(fence) and not text.strip(fence[0]) and _indentation(line) <= 3


def _columns(row: str) -> int:
    return len(row.strip().strip("|").split("|"))


def _is_delimiter_row(line: str) -> bool:
    """Return whether the line may be the second one of a table."""
    return "|" in line and "-" in line and not line.strip("|:- \t")


def _html_until(line: str) -> str | None:
    """Return the pattern that ends the HTML block that starts here; None if none starts.

    An empty pattern means a blank line.
    """
    if "<" not in line[:4]:
        return None
    for start, end in _HTML_UNTIL:
        if re.match(start, line, re.IGNORECASE):
            return end
    return "" if re.match(_HTML, line, re.IGNORECASE) else None


def _is_rule(line: str) -> bool:
    return re.match(_RULE, line) is not None


def _ends_lazy_lines(line: str) -> bool:
    """Return whether the line cannot continue a paragraph in a quote or an item without their mark."""
    item = re.match(_ITEM, line)
    return _interrupts(line) or _is_rule(line) or (item is not None and not item[3])


def _interrupts(line: str) -> bool:
    """Return whether the line starts a block, even directly after a line of a paragraph."""
    if _indentation(line) >= 4:
        return False
    if any(re.match(pattern, line) for pattern in (_FENCE, _HEADING, _QUOTE)):
        return True
    if _is_rule(line) and not re.match(_UNDERLINE, line):
        return True
    if (found := re.match(_ITEM, line)) and found[3]:
        return not found[2][:-1] or found[2][:-1] == "1"
    return _html_until(line) is not None
