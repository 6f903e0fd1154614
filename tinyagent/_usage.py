"""Sums of usage: of the replies of a run, and of the parts of one reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from .agent_types import Usage

__all__ = ["add_usages"]


def add_usages(usages: Iterable[Usage | None]) -> Usage | None:
    """Add up tokens and cost (US dollars); None if there is no usage.

    A missing count counts as 0. `cost` is None if no usage has a cost. Values that are not numbers, which
    custom providers may report, are ignored.
    """
    reports = [usage for usage in usages if isinstance(usage, Mapping) and usage]
    if not reports:
        return None
    total: dict[str, float | None] = {"cost": None} if any("cost" in report for report in reports) else {}
    for report in reports:
        for name, value in report.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = (total.get(name) or 0) + value
    return cast(Usage, total)
