"""Lists for people and for programs, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from .terminal_text import one_line

__all__ = ["print_json", "print_table"]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them; the header only for a terminal, so that a pipe gets rows alone."""
    lines = [[one_line(cell, 500) for cell in row] for row in rows]
    if sys.stdout.isatty():
        lines.insert(0, list(header))
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))] if lines else []
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
