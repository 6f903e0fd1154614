"""How long to wait before a request is repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff"]

_MOST_DOUBLINGS = 60


@dataclass(frozen=True)
class Backoff:
    """Waits that double, with a random part, so that requests that failed together do not return together.

    Attributes:
        first: The first wait in seconds.
        longest: The upper limit in seconds.
        random: A random number from 0 to 1.
    """

    first: float
    longest: float
    random: Callable[[], float]

    def wait(self, earlier: int) -> float:
        """Return the seconds to wait after `earlier` waits, less up to a half of them."""
        doubled: float = self.first * 2.0 ** min(earlier, _MOST_DOUBLINGS)
        return min(doubled, self.longest) * (1 - self.random() / 2)
