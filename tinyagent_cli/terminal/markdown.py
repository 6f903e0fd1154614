"""Render Markdown blocks for a terminal: wrapped by words, with tables, highlighted code and links.

markdown-it-py parses a block, and rich measures, wraps and colours it. Only the 16 colours of the terminal
are used, which its user has chosen to be readable on a dark or on a light background. Text is sanitised after
it is parsed, because an entity such as `&#x202e;` becomes a character only then. A block that would take too
long to parse is shown as it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from rich import box
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .blocks import Block
from .highlighting import Kind, highlighted
from .sanitise import clean

__all__ = ["MarkdownPrinter"]

MAX_PARSED = 16_000
"""The longest block that is parsed; code blocks may be longer. Characters."""
MAX_CODE = 100_000
"""The longest code block that is parsed."""
DEEPEST = 16
"""The deepest nesting that is rendered; each list counts two."""
MAX_CELLS = 2_000
"""The largest table that is rendered."""
PROSE_COLUMNS = 100
"""The maximum width of text; longer lines are hard to read."""
NARROWEST = 20
"""The width that text gets at least."""
TAB = 4

_LINK = r"(?:https?://|mailto:)[!-~]{1,2000}"
_INLINE = {"strong": "bold", "em": "italic", "s": "strike"}
_HEADINGS = {"h1": "bold underline", "h2": "bold", "h3": "bold italic"}
_CODE = "cyan"
_MARK = "dim"

_COLOURS: dict[Kind, str] = {
    "comment": "dim italic",
    "keyword": "magenta",
    "definition": "bold",
    "name": "cyan",
    "string": "green",
    "number": "cyan",
    "deleted": "red",
    "inserted": "green",
    "heading": "bold",
    "subheading": "cyan",
}


@cache
def _parser() -> MarkdownIt:
    """Return the parser of all replies: making one takes as long as parsing a short reply."""
    return MarkdownIt("commonmark", {"maxNesting": 2 * DEEPEST}).enable(["table", "strikethrough"])


class MarkdownPrinter:
    """Renders the blocks of one reply.

    Args:
        color: Whether colours are shown. Bold and italic are always shown.
    """

    def __init__(self, *, color: bool) -> None:
        self._parser = _parser()
        self._references: dict[str, object] = {}
        self._color = color
        self._last: Block | None = None

    def render(self, block: Block, width: int) -> str:
        """Return a block for a terminal with this number of columns; empty for a blank one."""
        source = block.text.strip("\n")
        if not source.strip():
            return ""
        lines = self._parsed(block, width)
        if lines == []:  # such as the definition of a link
            return ""
        gap = "\n" if self._needs_gap(block) else ""
        self._last = block
        return gap + (f"{clean(source)}\n" if lines is None else self._ansi(lines, width))

    def _needs_gap(self, block: Block) -> bool:
        last = self._last
        return last is not None and (not block.continues or last.text.endswith("\n\n"))

    def _parsed(self, block: Block, width: int) -> list[Text] | None:
        """Return the lines of a block; None if its source is shown."""
        if len(block.text) > (MAX_CODE if block.kind in ("fence", "code") else MAX_PARSED):
            return None
        tokens = self._parser.parse(block.text, self._references)
        if max((token.level for token in tokens), default=0) > DEEPEST:
            return None
        layout = _Layout(width, block.number)
        try:
            return layout.blocks(SyntaxTreeNode(tokens).children, min(width, PROSE_COLUMNS))
        except _TooLargeError:
            return None

    def _ansi(self, lines: Sequence[Text], width: int) -> str:
        """Return the lines as text with ANSI codes. `Console.print` takes twice as long."""
        console = _console(width, color=self._color)
        parts = []
        for text, style, _ in Text("\n").join(lines).render(console, end="\n"):
            shown = style.without_color if style is not None and not self._color else style
            parts.append(shown.render(text, color_system=ColorSystem.STANDARD) if shown else text)
        return "".join(parts)


class _TooLargeError(Exception):
    """The table is too large or too wide."""


@lru_cache(maxsize=4)
def _console(width: int, *, color: bool) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        no_color=not color,
        width=max(width, NARROWEST),
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )


class _Layout:
    """Turns the nodes of a block into lines.

    Args:
        columns: The width of the terminal.
        number: The number of the outermost item, if it is an item of an ordered list.
    """

    def __init__(self, columns: int, number: int | None) -> None:
        self._columns = columns
        self._number = number

    def blocks(self, nodes: Sequence[SyntaxTreeNode], width: int, *, tight: bool = False) -> list[Text]:
        """Return the lines of blocks, with a blank line between them unless they are tight."""
        width = max(width, NARROWEST)
        lines: list[Text] = []
        for node in nodes:
            more = self._block(node, width)
            if lines and more and not tight:
                lines.append(Text())
            lines += more
        return lines

    def _block(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        match node.type:
            case "paragraph":
                return self._wrapped(_inline(node), width)
            case "heading":
                return self._wrapped(_inline(node, _HEADINGS.get(node.tag, "italic")), width)
            case "hr":
                return [Text("─" * min(width, 40), _MARK)]
            case "fence":
                return self._code(node.content, node.info)
            case "code_block":
                return self._code(node.content, "")
            case "html_block":
                return self._code(node.content, "html")
            case "blockquote":
                inner = self.blocks(node.children, width - 2)
                return [Text.assemble(("│ ", _MARK), line) for line in inner]
            case "bullet_list" | "ordered_list":
                return self._list(node, width)
            case "table":
                return self._table(node)
        return [Text(line) for line in clean(node.content).split("\n")] if node.content else []

    def _wrapped(self, text: Text, width: int) -> list[Text]:
        text.expand_tabs(TAB)
        lines = list(text.wrap(_MEASURE, width))
        for line in lines:
            line.rstrip()
        return lines

    def _list(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        start = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
        if start is not None and self._number is not None:
            start, self._number = self._number, None
        tight = all(
            child.hidden for item in node.children for child in item.children if child.type == "paragraph"
        )
        lines: list[Text] = []
        for count, item in enumerate(node.children):
            mark = "• " if start is None else f"{start + count}. "
            inner = self.blocks(item.children, width - len(mark), tight=tight) or [Text()]
            if lines and not tight:
                lines.append(Text())
            lines.append(Text.assemble((mark, "bold"), inner[0]))
            lines += [Text.assemble(" " * len(mark), line) if line.plain else line for line in inner[1:]]
        return lines

    def _code(self, content: str, info: str) -> list[Text]:
        """Return code between two rules. Its lines are not wrapped, so that they can be copied."""
        code = clean(content).rstrip("\n").expandtabs(TAB)
        name = clean(info).split(maxsplit=1)[0][:30] if clean(info).split() else ""
        pieces = ((piece.text, _COLOURS.get(piece.kind, "")) for piece in highlighted(code, name))
        lines = list(Text.assemble(*pieces).split("\n", allow_blank=True))
        longest = min(max((line.cell_len for line in lines), default=0), self._columns, 80)
        end = max(longest, len(name) + 6, 8)
        end = min(end, self._columns)
        top = f"── {name} ".ljust(end, "─") if name else "─" * end
        return [Text(top, _MARK), *lines, Text("─" * end, _MARK)]

    def _table(self, node: SyntaxTreeNode) -> list[Text]:
        rows = [row.children for part in node.children for row in part.children]
        columns = len(rows[0])
        if columns * len(rows) > MAX_CELLS or columns * 5 > self._columns:
            raise _TooLargeError
        table = Table(box=box.SIMPLE_HEAD, border_style=_MARK, pad_edge=False, show_edge=False)
        for cell in rows[0]:
            table.add_column(_inline(cell, "bold"), justify=_justification(cell))
        for row in rows[1:]:
            table.add_row(*(_inline(cell) for cell in row))
        console = _console(self._columns, color=True)
        found: list[Text] = []
        for segments in console.render_lines(table, console.options, pad=False):
            line = Text.assemble(*(_piece(segment) for segment in segments))
            line.rstrip()
            found.append(line)
        return found


def _justification(cell: SyntaxTreeNode) -> Literal["left", "center", "right"]:
    style = str(cell.attrs.get("style", ""))
    return "right" if style.endswith("right") else "center" if style.endswith("center") else "left"


def _piece(segment: Segment) -> tuple[str, Style]:
    return segment.text, segment.style or Style()


_MEASURE = _console(80, color=False)


def _inline(node: SyntaxTreeNode, style: str = "") -> Text:
    """Return the text of a paragraph, a heading or a cell."""
    text = Text(style=style)
    for child in node.children:
        _add(text, child, Style())
    return text


def _add(text: Text, node: SyntaxTreeNode, style: Style) -> None:
    match node.type:
        case "inline":
            for child in node.children:
                _add(text, child, style)
        case "softbreak":
            text.append(" ", style)
        case "hardbreak":
            text.append("\n", style)
        case "code_inline":
            text.append(_safe(node.content), style + Style.parse(_CODE))
        case "link":
            _add_link(text, node, style)
        case "image":
            text.append(f"[image: {_safe(_plain(node))}] ({_safe(str(node.attrs.get('src', '')))})", style)
        case kind if kind in _INLINE:
            for child in node.children:
                _add(text, child, style + Style.parse(_INLINE[kind]))
        case _:
            text.append(_safe(node.content), style)


def _add_link(text: Text, node: SyntaxTreeNode, style: Style) -> None:
    """Add a link with its address, which a terminal cannot show otherwise, and which the text may hide."""
    url = _safe(str(node.attrs.get("href", "")))
    target = Style(link=url) if re.fullmatch(_LINK, url) else Style()
    before = len(text)
    for child in node.children:
        _add(text, child, style + Style(underline=True) + target)
    if text.plain[before:] not in (url, url.removeprefix("mailto:")):
        text.append(" (", style)
        text.append(url, style + Style(dim=True) + target)
        text.append(")", style)


def _plain(node: SyntaxTreeNode) -> str:
    return "".join(_contents(node))


def _contents(node: SyntaxTreeNode) -> Iterator[str]:
    for child in node.children:
        yield from _contents(child)
    if not node.children:
        yield node.content


def _safe(text: str) -> str:
    """Return text of the model that is safe inside a line."""
    return clean(text).replace("\n", " ")
