"""The progress of a batch."""

from __future__ import annotations

import time
from collections import Counter

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.batch.interface import ItemResult

__all__ = ["Counts", "summary"]


class Counts:
    """What has happened so far.

    Attributes:
        answered: Items with an answer.
        skipped: Items that had an answer before.
        failures: Failures by kind; lines without an item have the kind `bad_line`.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: US dollars; None while no cost is known.
    """

    def __init__(self) -> None:
        self.answered: int = 0
        self.skipped: int = 0
        self.failures: Counter[str] = Counter()
        self.tokens_in: int = 0
        self.tokens_out: int = 0
        self.cost: float | None = None
        self._started = time.monotonic()

    @property
    def failed(self) -> int:
        """Items without an answer, and lines without an item."""
        return self.failures.total()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def add(self, result: ItemResult) -> None:
        """Count a result."""
        if result.ok:
            self.answered += 1
        else:
            self.failures[result.kind or "error"] += 1
        self.tokens_in += result.input_tokens
        self.tokens_out += result.output_tokens
        if result.cost is not None:
            self.cost = (self.cost or 0.0) + result.cost


def summary(counts: Counts) -> str:
    """Return a line with the numbers, and one for each kind of failure."""
    parts = [f"{counts.answered:,} answered"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.skipped:
        parts.append(f"{counts.skipped:,} had an answer before")
    parts.append(f"{counts.tokens_in:,} tokens in, {counts.tokens_out:,} out")
    if counts.cost:
        parts.append(f"${counts.cost:.6f}".rstrip("0"))
    parts.append(f"{counts.seconds:.1f} s")
    lines = [" · ".join(parts)]
    lines += [f"  {kind}: {number:,}" for kind, number in counts.failures.most_common()]
    return "\n".join(lines)


def show_summary(app: AppContext, counts: Counts) -> None:
    """Show the summary on standard error."""
    app.note(summary(counts))
