"""When Python looks for unreachable cycles of objects: not while the modules are imported.

An import makes tens of thousands of objects that stay. Looking through them is a tenth of a short run.
"""

from __future__ import annotations

import gc

__all__ = ["collect_from_now_on", "postpone_collection"]

_DURING_START = 200_000
_AFTERWARDS = 20_000
"""New objects until the next collection. Each 10,000 take about 1 ms, in which no delta is printed."""


def postpone_collection() -> None:
    """Collect nothing while a command is started."""
    gc.set_threshold(_DURING_START, 20, 20)


def collect_from_now_on() -> None:
    """Collect as usual in a command that may run for long. What exists by now is left alone."""
    gc.freeze()
    gc.set_threshold(_AFTERWARDS, 20, 20)
