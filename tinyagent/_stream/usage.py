"""Sums of usage: of the replies of a run, and of the parts of one reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from tinyagent.agent_types import Usage
from tinyagent.errors import as_amount

__all__ = ["add_usages", "total_tokens"]


def add_usages(usages: Iterable[Usage | None]) -> Usage | None:
    """Add up tokens and cost (US dollars); None if there is no usage.

    A missing count counts as 0. `cost` is None if no usage has a cost. Values that are no amounts (text, NaN,
    negative numbers), which custom providers may report, are ignored.
    """
    reports = [usage for usage in usages if isinstance(usage, Mapping) and usage]
    if not reports:
        return None
    total: dict[str, float | None] = {"cost": None} if any("cost" in report for report in reports) else {}
    for report in reports:
        for name, value in report.items():
            amount = as_amount(value)
            if amount is not None:
                total[name] = (total.get(name) or 0) + amount
    return cast(Usage, total)


def total_tokens(usage: object) -> float | None:
    """Return the tokens of a request and its reply; None if they are not reported."""
    counts = usage if isinstance(usage, Mapping) else {}
    total, *parts = (as_amount(counts.get(name)) for name in ("total", "input", "output"))
    known = [part for part in parts if part is not None]
    return total or (sum(known) if known else total)
