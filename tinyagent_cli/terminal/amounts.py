"""Amounts and times as people write them."""

from __future__ import annotations

import time

__all__ = ["counted", "dollar_text", "time_text"]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 turn` or `1,200 turns`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def dollar_text(cost: float, *, estimated: bool) -> str:
    """Return a cost in US dollars with at least two decimals, such as `about $0.10`; `$0` for no cost."""
    if not cost:
        return "$0"
    whole, _, part = f"{cost:.6f}".rstrip("0").partition(".")
    return f"{'about ' if estimated else ''}${whole}.{part:0<2}"


def time_text(milliseconds: int) -> str:
    """Return a time, in milliseconds since 1970, in the time zone of this computer: `2026-01-31 17:05:00`."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"  # another program wrote it
