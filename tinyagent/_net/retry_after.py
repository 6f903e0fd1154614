"""Read how long a server asks to wait before the next request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["retry_after"]

MAX_SECONDS = 366 * 86400.0
"""A longer wait is ignored as a mistake."""


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
