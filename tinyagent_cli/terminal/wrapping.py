"""Wrap messages at words, for terminals that would break them inside of words."""

from __future__ import annotations

import os

__all__ = ["indented", "terminal_width", "wrap_words"]

_NARROWEST = 20
"""In fewer columns, a terminal breaks the lines by itself."""


def terminal_width(fd: int) -> int | None:
    """Return the columns of a terminal; None if it is no terminal, or too narrow to wrap lines."""
    try:
        width = os.get_terminal_size(fd).columns
    except (OSError, ValueError):
        return None
    return width if width >= _NARROWEST else None


def wrap_words(text: str, width: int) -> str:
    """Break lines at blanks, so that no line is wider than a number of columns.

    A longer word, such as a path, stays whole. Indented lines are commands to copy, so they are not changed.

    Args:
        text: Text without control characters, except line breaks.
        width: The columns of the terminal.
    """
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def indented(text: str, width: int | None, first: str, rest: str) -> list[str]:
    """Return the lines of a text behind an indentation, wrapped at words.

    Args:
        text: Text without control characters, except line breaks.
        width: The columns of the terminal; None if the text is not for one, and is not wrapped.
        first: What comes before the first line.
        rest: What comes before the others. It is not narrower than `first`.
    """
    lines = (text if width is None else wrap_words(text, max(width - len(rest), 1))).split("\n")
    return [f"{rest if number else first}{line}".rstrip() for number, line in enumerate(lines)]


def _wrapped(line: str, width: int) -> str:
    if len(line) * 2 <= width or line.startswith(" ") or _columns(line) <= width:
        return line
    lines = [""]
    for word in line.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _columns(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
