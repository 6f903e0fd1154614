"""When a request is sent again: the policy, and the wait that a server asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from tinyagent.errors import ProviderError, TinyAgentError, shorten

__all__ = ["RetryPolicy", "random_fraction", "retry_after", "short_reason"]

MAX_SECONDS = 366 * 86400.0
"""A longer wait is ignored as a mistake."""


def random_fraction() -> float:
    """Return a random number from 0 to 1."""
    import random  # only for retries

    return random.random()


class RetryPolicy(NamedTuple):
    """When a request is sent again. All times are in seconds.

    Args:
        retries: How often.
        first_wait: The wait before the first retry. It doubles for each further one.
        longest_wait: The upper limit of this wait.
        longest_asked: If the provider asks for a longer wait than this, the request fails instead.
        sleep: Waits; tests replace it.
        random: A random number from 0 to 1, which shortens a wait by up to a quarter.
        now: The time since the epoch.
    """

    retries: int = 2
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_asked: float = 120.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random_fraction
    now: Callable[[], float] = time.time

    def wait(self, error: TinyAgentError, earlier: int) -> float | None:
        """Return the seconds to wait after a failure; None if the request is not sent again.

        Args:
            error: The failure.
            earlier: The number of earlier retries.
        """
        if not isinstance(error, ProviderError) or not error.retryable or earlier >= self.retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.longest_asked else None
        return min(self.first_wait * 2.0**earlier, self.longest_wait) * (1 - self.random() / 4)


def short_reason(error: TinyAgentError, provider: str) -> str:
    """Return why a request is sent again, in a few words."""
    if error.status is not None:
        return f"{provider or 'the provider'}: HTTP {error.status}"
    return shorten(str(error).partition("\n")[0], 200)


def retry_after(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Return the seconds of `retry-after-ms`, else of `Retry-After`: a number or a date (RFC 9110, 10.2.3).

    Anything else is ignored: `nan`, `inf`, negative numbers, and more than a year.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    value = headers.get("retry-after", "").strip()
    if milliseconds is not None:
        seconds: float | None = milliseconds / 1000
    else:
        seconds = _number(value)
    if seconds is None and value:
        import email.utils  # only for this; it takes a while to load

        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return seconds if seconds is not None and 0 <= seconds <= MAX_SECONDS else None


def _number(text: str) -> float | None:
    """Return a decimal number. `float` accepts more: signs, exponents, underscores and other digits."""
    text = text.strip()
    is_plain = text.isascii() and text.replace(".", "", 1).isdigit() and text[0] != "."
    return float(text) if is_plain and len(text) <= 22 else None
