"""What error messages propose: command lines, ready to be copied into a shell, and similar names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .sanitise import one_line

__all__ = ["command_line", "nearest", "run_command", "suggestion"]

_NEEDS_NO_QUOTES = r"--|-{1,2}[a-zA-Z][a-z-]*|[A-Z]+|[\w./:-]*[./:][\w./:-]*"
"""Options, placeholders, paths and models."""


def run_command(*args: str) -> str:
    """Return `tinyagent run` with these arguments for a message, shortened to one line."""
    return command_line("run", *args)


def command_line(command: str, *args: str) -> str:
    """Return a command of tinyagent with these arguments for a message, shortened to one line."""
    shown = (one_line(arg, 60) for arg in args)
    quoted = (arg if re.fullmatch(_NEEDS_NO_QUOTES, arg) else _quoted(arg) for arg in shown)
    return " ".join(("tinyagent", command, *quoted))


def _quoted(text: str) -> str:
    return f'"{text}"' if not set(text) & set('"$`\\!') else "'" + text.replace("'", "'\\''") + "'"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`; None if no name is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), 1)), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is most similar to `name`; empty if no name is."""
    near = nearest(name, known)
    return f" Did you mean {one_line(near, 60)!r}?" if near else ""
