"""Print tables for people and JSON for programs, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .sanitise import one_line
from .wrapping import cell_width, columns, fit

if TYPE_CHECKING:
    from .output import Output

__all__ = ["print_json", "print_table", "table_lines"]


_NARROWEST = 10
"""If the last column has less room than this, its cells are on lines of their own."""


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    output: Output | None = None,
    *,
    cut: bool = False,
) -> None:
    """Print aligned columns; on a terminal with a header, and in its width.

    Args:
        header: The names of the columns.
        rows: The cells of each row.
        output: Standard output, if the command has taken it.
        cut: Whether a long last cell is cut on a terminal, instead of wrapped.
    """
    is_terminal = output.is_terminal if output is not None else sys.stdout.isatty()
    echo = output.print if output is not None else click.echo
    lines = [[one_line(cell, 500) for cell in row] for row in rows]
    width = None
    if is_terminal:
        lines.insert(0, list(header))
        width = columns(output.fd if output is not None else sys.stdout.fileno())
    for line in table_lines(lines, width, cut=cut):
        echo(line)


def table_lines(rows: Sequence[Sequence[str]], width: int | None, *, cut: bool = False) -> list[str]:
    """Return the lines of aligned columns.

    Args:
        rows: The cells of each row, which are single lines.
        width: The columns of the terminal; None for no limit.
        cut: Whether a long last cell is cut, instead of wrapped.
    """
    if not rows:
        return []
    widths = [max(map(cell_width, column)) for column in zip(*rows, strict=True)]
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = sys.maxsize if width is None else width - before
    found: list[str] = []
    for *cells, last in rows:
        start = "".join(_padded(cell, width) for cell, width in zip(cells, widths, strict=False))
        if room < _NARROWEST and cell_width(last) > room:
            found.append(start)
            found += [f"  {part}" for part in _fitted(last, max(room + before, _NARROWEST) - 2, cut=cut)]
        else:
            first, *others = _fitted(last, room, cut=cut)
            found += [start + first, *(" " * before + other for other in others)]
    return [line.rstrip() for line in found]


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - cell_width(cell) + 2)


def _fitted(text: str, width: int, *, cut: bool) -> list[str]:
    """Return lines of at most this number of columns."""
    if cell_width(text) <= width:
        return [text]
    if cut:
        return [fit(text, width)]
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width)]


def print_json(value: object, output: Output | None = None) -> None:
    """Print indented JSON; `output` as in `print_table`."""
    import msgspec

    echo = output.print if output is not None else click.echo
    echo(msgspec.json.format(msgspec.json.encode(value).decode(), indent=2))
