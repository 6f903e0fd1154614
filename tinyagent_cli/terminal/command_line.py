"""Command lines as messages show them, ready to be copied into a shell."""

from __future__ import annotations

import re

from .sanitise import one_line

__all__ = ["command_line", "run_command"]

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
