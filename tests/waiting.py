"""Wait for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]

SECONDS = 60
"""How long anything may take; nothing waits this long unless it hangs."""


def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Return when the condition is true. It fails after a minute, with the name of the condition."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come true"
        time.sleep(0.005)
