"""Show long output in the user's pager, as git does."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from tinyagent_cli.config.environment import set_variable, variable

from .output import Output

__all__ = ["has_pager", "open_pager"]


def has_pager() -> bool:
    """Return whether there is a terminal, and a pager that is not `cat`."""
    if variable("TERM") in (None, "dumb"):
        return False
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        return False
    try:
        command = shlex.split(variable("PAGER") or "less")
    except ValueError:
        return False  # an unpaired quotation mark
    return command[0] != "cat" and shutil.which(command[0]) is not None


@contextmanager
def open_pager(*, color: bool) -> Iterator[Output]:
    """Return the output that `$PAGER` or `less` shows, and wait until the user has left it.

    `less` ends at once if everything fits on the screen, and shows colours, unless the user has set `LESS`.
    Ctrl-C is for the pager. When the user leaves it, writing raises BrokenPipeError, which ends the context.

    Args:
        color: Whether the pager may get colours.
    """
    if variable("LESS") is None:
        set_variable("LESS", "-FRX")
    before = signal.getsignal(signal.SIGINT)
    try:
        with click.get_pager_file(color=None if color else False) as pager:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            yield _PagerOutput(pager)
    finally:
        signal.signal(signal.SIGINT, before)


class _PagerOutput(Output):
    """A pager, which has the width of the terminal on which it runs."""

    def __init__(self, pager: TextIO) -> None:
        super().__init__(sys.stdout.fileno(), "the pager")
        self._pager = pager

    @property
    def is_terminal(self) -> bool:
        """Whether it is shown on a terminal: always."""
        return True

    def _send(self) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._pager.write(data.decode("utf-8", "replace"))
        self._pager.flush()
