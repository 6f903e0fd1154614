"""Print tables for people and JSON for programs, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .sanitise import one_line

if TYPE_CHECKING:
    from .output import Output

__all__ = ["print_json", "print_table"]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], output: Output | None = None) -> None:
    """Print aligned columns. The header is printed only on a terminal.

    Args:
        header: The names of the columns.
        rows: The cells of each row.
        output: Standard output, if the command has taken it.
    """
    is_terminal = output.is_terminal if output is not None else sys.stdout.isatty()
    echo = output.print if output is not None else click.echo
    lines = [[one_line(cell, 500) for cell in row] for row in rows]
    if is_terminal:
        lines.insert(0, list(header))
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))] if lines else []
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: object, output: Output | None = None) -> None:
    """Print indented JSON; `output` as in `print_table`."""
    import msgspec

    echo = output.print if output is not None else click.echo
    echo(msgspec.json.format(msgspec.json.encode(value).decode(), indent=2))
