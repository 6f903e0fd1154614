"""Measure, cut and wrap text for a terminal, which would break lines inside of words."""

from __future__ import annotations

import os

__all__ = ["cell_width", "columns", "fit", "indented", "wrap_parts", "wrap_width", "wrap_words"]

_NARROWEST = 20
"""In fewer columns, a terminal breaks the lines by itself."""


def columns(fd: int = 2) -> int:
    """Return the columns of a terminal, by default that of standard error; 80 without one."""
    try:
        return os.get_terminal_size(fd).columns or 80
    except (OSError, ValueError):
        return 80


def wrap_width(fd: int) -> int | None:
    """Return the columns to which lines are wrapped; None if it is no terminal, or too narrow."""
    try:
        width = os.get_terminal_size(fd).columns
    except (OSError, ValueError):
        return None
    return width if width >= _NARROWEST else None


def wrap_words(text: str, width: int) -> str:
    """Break lines at blanks, so that no line is wider than a number of columns.

    A longer word, such as a path, stays whole. Indented lines are commands to copy, so they are not changed.
    Blanks at the end of a line stay there, where the user types the answer to a question.

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
    if len(line) * 2 <= width or line.startswith(" ") or cell_width(line) <= width:
        return line
    lines = [""]
    words = line.rstrip(" ")
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_width(longer) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines) + line[len(words) :]


def cell_width(text: str) -> int:
    """Return the columns of a text. Wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int) -> str:
    """Return a line cut to a number of columns, with an ellipsis."""
    if text.isascii():
        return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def wrap_parts(text: str, separator: str, width: int) -> str:
    """Return a text with line breaks instead of some separators, if it is wider than the terminal."""
    first, *others = text.split(separator)
    lines = [first]
    for part in others:
        if len(lines[-1]) + len(separator) + len(part) < width:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return "\n".join(lines)
