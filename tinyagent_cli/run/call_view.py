"""Show a tool call as what will happen, for approvals: a command, a diff, or its arguments line by line.

Everything that would run is shown. Characters that cannot be seen are written as `⟨\\x1b⟩`, and long runs of
blanks as their length. Each line of a value has a mark in front of it, so that no value can look like the
question.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Callable, Mapping

from tinyagent_cli.terminal.sanitise import exact, visible_line

__all__ = ["call_view", "painted"]

MAX_FILE = 200_000
"""The largest file that is compared, in bytes."""
MAX_LINES = 3_000
"""The most lines of a file that are compared."""
DEEPEST = 5
"""Deeper values are shown as JSON."""

View = tuple[list[str], set[str]]
"""The lines of a view, and the names of the arguments that they show."""


def call_view(name: str, arguments: Mapping[str, object]) -> str:
    """Return the lines that show a call, without the name of the tool."""
    lines, shown = [], set()
    match name, arguments:
        case "bash" | "shell", {"command": str(command)}:
            lines, shown = _command(command), {"command"}
        case "write", {"path": str(path), "content": str(content)}:
            lines, shown = _write(path, content)
        case "edit", {"path": str(path), "old_text": str(old), "new_text": str(new)}:
            lines, shown = _edit(path, old, new, everywhere=arguments.get("replace_all") is True)
    rest = {key: value for key, value in arguments.items() if key not in shown}
    return "\n".join([*lines, *_values(rest, 0)]) or "(no arguments)"


def _command(command: str) -> list[str]:
    first, *more = exact(command).split("\n")
    return [f"$ {first}", *(f"> {line}" for line in more)]


def _write(path: str, content: str) -> View:
    try:
        before = _read(path)
        changes = _diff(before or "", content)
    except _NotComparableError:
        return [], set()
    title = "Create the file" if before is None else "Replace the content of"
    return _titled(f"{title} {_bare(path)}:", changes), {"path", "content"}


def _edit(path: str, old: str, new: str, *, everywhere: bool) -> View:
    try:
        before = _read(path)
        if before is not None and old and old in before:
            changes = _diff(before, before.replace(old, new, -1 if everywhere else 1))
        else:
            changes = _diff(old, new)
    except _NotComparableError:
        return [], set()
    return _titled(f"Change the file {_bare(path)}:", changes), {"path", "old_text", "new_text"}


def _titled(title: str, changes: list[str]) -> list[str]:
    return [title, *(changes or ["(its content stays the same)"])]


class _NotComparableError(Exception):
    """The file is no text file, or too long to compare."""


def _read(path: str) -> str | None:
    """Return the text of a file; None if it does not exist.

    Raises:
        _NotComparableError: It is not a text file of moderate size.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
                raise _NotComparableError
            return file.read(MAX_FILE).decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _NotComparableError from error


def _diff(before: str, after: str) -> list[str]:
    """Return the changed lines with those around them.

    Raises:
        _NotComparableError: The texts are too long.
    """
    old, new = _lines(before), _lines(after)
    if max(len(old), len(new)) > MAX_LINES or max(len(before), len(after)) > MAX_FILE:
        raise _NotComparableError
    found = list(difflib.unified_diff(old, new, lineterm=""))[2:]
    return [line if line.startswith("@@") else line[0] + exact(line[1:]) for line in found]


def _lines(text: str) -> list[str]:
    """Return the lines of a text; a missing line break at its end is a difference."""
    if not text:
        return []
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += " ⟨no line break at the end⟩"
        return lines
    return lines[:-1]


def _values(values: Mapping[str, object], depth: int) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        lines += _value(f"{visible_line(key)}:", value, depth)
    return lines


def _value(label: str, value: object, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, str):
        text = exact(value)
        if "\n" in text:
            return [f"{indent}{label}", *(f"{indent}  │ {line}" for line in text.split("\n"))]
        return [f"{indent}{label} {_bare(value)}"]
    if depth < DEEPEST and isinstance(value, dict) and value:
        return [f"{indent}{label}", *_values(value, depth + 1)]
    if depth < DEEPEST and isinstance(value, list) and value:
        items = [line for item in value for line in _value("•", item, depth + 1)]
        return [f"{indent}{label}", *items]
    return [f"{indent}{label} {visible_line(json.dumps(value, ensure_ascii=False))}"]


def _bare(text: str) -> str:
    """Return a text on one line; in quotes if it could be taken for another value or for no text."""
    shown = exact(text).replace("\n", "⟨\\n⟩")
    if not text or text != text.strip() or _is_json(text):
        return f'"{shown}"'
    return shown


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text[0] in "\"'"
    return True


def painted(lines: str, paint: Callable[[str, str], str]) -> str:
    """Return the lines of a question with the changed lines of a diff in colours."""
    colours = {"  +": "32", "  -": "31", "  @": "36"}
    return "\n".join(
        paint(colours[line[:3]], line) if line[:3] in colours else line for line in lines.split("\n")
    )
