"""A few lines at the end of the output that change in place: what a run waits for.

The cursor rests at the start of these lines, so that erasing them needs no count of rows: the terminal clears
everything after the cursor. So the output is never erased, whatever a terminal does when its window is
resized.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

__all__ = ["LiveLines"]

START_S = 0.3
"""Seconds until the lines appear; shorter waits show nothing."""
INTERVAL_S = 0.1
"""Seconds between two redraws."""
NARROWEST = 16
"""In fewer columns nothing is shown."""

ERASE = "\r \x1b[J\r"
"""Clears everything from this line on. The space is for tmux: it saves a screen that is cleared entirely."""


class LiveLines:
    """Draws lines on standard error while something is awaited.

    Args:
        lines: Returns the lines for a number of columns. They must not contain control characters, except
            colours, and must not be wider.
        before_draw: Called before the lines are drawn, to write the output that comes before them. It returns
            whether the cursor is at the start of a line.
    """

    def __init__(self, lines: Callable[[int], list[str]], before_draw: Callable[[], bool]) -> None:
        self._lines = lines
        self._before_draw = before_draw
        self._timer: asyncio.TimerHandle | None = None
        self._drawn = False

    def show(self) -> None:
        """Show the lines after a short time, and redraw them until `hide` is called."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(START_S, self._tick)

    def hide(self) -> None:
        """Erase the lines, and stop redrawing them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.erase()

    def erase(self) -> None:
        """Erase the lines before other output; the next redraw shows them again below it."""
        if self._drawn:
            self._drawn = False
            _write(ERASE)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        if self._before_draw():
            self._draw()

    def _draw(self) -> None:
        width, rows = _size()
        lines = self._lines(width - 1)[: max(rows - 2, 1)] if width >= NARROWEST and _in_foreground() else []
        if lines:
            up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
            _write(ERASE + "\r\n".join(lines) + up + "\r")
            self._drawn = True
        else:
            self.erase()


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(2)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


def _in_foreground() -> bool:
    """Return whether this process may draw. A background job would disturb the program in the foreground."""
    try:
        return os.tcgetpgrp(2) == os.getpgrp()
    except OSError:
        return True


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # standard error is closed
