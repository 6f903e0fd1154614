"""An even rate: so many units a minute."""

from __future__ import annotations

__all__ = ["Rate"]

BURST_S = 1.0
"""Seconds of the rate that may be used at once. Some servers check a limit per minute each second."""

_ROUNDING = 1e-9


class Rate:
    """A token bucket. It may go into debt, because the size of a request is known only after it.

    Args:
        per_minute: The units that are added in a minute.
        now: The present time in seconds.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_second = per_minute / 60
        self._capacity = max(self._per_second * BURST_S, 1.0)
        self._level = self._capacity
        self._filled_at = now

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; 0 if it may be taken now.

        An amount above the capacity may be taken when the bucket is full, and is then a debt.
        """
        self._level = min(self._level + (now - self._filled_at) * self._per_second, self._capacity)
        self._filled_at = now
        missing = min(amount, self._capacity) - self._level
        return missing / self._per_second if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Take `amount`. A negative amount is given back."""
        self._level -= amount
