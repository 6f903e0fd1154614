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


def nearest(name: str, known: Iterable[str], ratio: float = 0.6) -> str | None:
    """Return the known name that is most similar to `name`; None if none reaches this ratio, from 0 to 1."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), 1, ratio)), None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is most similar to `name`; empty if no name is.

    It is stricter than `nearest`, because there are many names: 'openai' is not what was meant by 'nope'.
    """
    near = nearest(name, known, 0.7)
    return f" Did you mean {one_line(near, 60)!r}?" if near else ""
