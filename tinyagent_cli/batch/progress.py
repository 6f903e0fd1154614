"""The progress of a batch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tinyagent._net.errors import format_duration
from tinyagent.executors import ItemResult
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.amounts import dollar_text
from tinyagent_cli.terminal.live import LiveLines
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.wrapping import fit

__all__ = ["Counts", "ProgressDisplay", "status", "summary"]

LINE_S = 10.0
"""Seconds between two lines where there is no terminal."""
BAR = 20
"""Columns of the bar."""


class Counts:
    """What has happened so far.

    Attributes:
        answered: Items with an answer.
        skipped: Items that had an answer before.
        ignored: Items without a failure, with --retry-failed.
        total: The number of lines with items; None if it is unknown.
        failures: Failures by kind; lines without an item have the kind `bad_line`.
        examples: The first failure of each kind; bad lines have been shown.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: US dollars; None while no cost is known.
    """

    def __init__(self) -> None:
        self.answered: int = 0
        self.skipped: int = 0
        self.ignored: int = 0
        self.total: int | None = None
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.tokens_in: int = 0
        self.tokens_out: int = 0
        self.cost: float | None = None
        self._last_failure: tuple[str | None, str] | None = None
        self._same_failures: int = 0
        self._started = time.monotonic()

    @property
    def failed(self) -> int:
        """Items without an answer, and lines without an item."""
        return self.failures.total()

    @property
    def same_failures(self) -> int:
        """How many results in a row are the same failure; 0 if any item has an answer."""
        return 0 if self.answered or self.skipped else self._same_failures

    @property
    def is_empty(self) -> bool:
        """Whether the input had no line at all."""
        return not (self.answered or self.failed or self.skipped or self.ignored)

    @property
    def left(self) -> int | None:
        """Items that are not done; None if it is unknown."""
        if self.total is None:
            return None
        return max(self.total - self.answered - self.failed - self.skipped - self.ignored, 0)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def add(self, result: ItemResult) -> None:
        """Count a result."""
        if result.ok:
            self.answered += 1
        else:
            kind = result.kind or "error"
            self.failures[kind] += 1
            self.examples.setdefault(kind, f"{result.id}: {result.message}")
            failure = (result.kind, result.message)
            self._same_failures = 1 + (self._same_failures if failure == self._last_failure else 0)
            self._last_failure = failure
        self.tokens_in += result.input_tokens
        self.tokens_out += result.output_tokens
        if result.cost is not None:
            self.cost = (self.cost or 0.0) + result.cost


class ProgressDisplay:
    """Shows the progress on standard error: a bar on a terminal, and a line every 10 s elsewhere.

    Args:
        app: Shows the lines.
        counts: What to show.
    """

    def __init__(self, app: AppContext, counts: Counts) -> None:
        self._app = app
        self._counts = counts
        self._timer: asyncio.TimerHandle | None = None
        self._live: LiveLines | None = None

    def start(self) -> None:
        """Show the progress from now on, in the running event loop."""
        if self._app.quiet:
            return
        if self._app.stderr_is_terminal and self._app.can_move_cursor:
            self._live = LiveLines(lambda width: [self.line(width)], lambda: True)
            self._app.before_message = self._live.erase
            self._live.show()
        else:
            self._later()

    def stop(self) -> None:
        """Show nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._live is not None:
            self._live.hide()
            self._app.before_message = None

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LINE_S, self._line)

    def _line(self) -> None:
        self._app.note(status(self._counts))
        self._later()

    def line(self, width: int) -> str:
        """Return the line for a terminal of this width."""
        counts = self._counts
        texts = [status(counts), status(counts, short=True)]
        if counts.total:
            full = round(BAR * (counts.total - (counts.left or 0)) / counts.total)
            texts = [f"{'█' * full}{'░' * (BAR - full)} {text}" for text in texts] + texts[1:]
        # What is left matters more than the speed and the bar, which go first on a narrow terminal.
        return next((text for text in texts if len(text) <= width), fit(texts[-1], width))


def status(counts: Counts, *, short: bool = False) -> str:
    """Return the progress in one line; if `short`, without the speed and the cost."""
    parts = [f"{counts.answered:,} answered"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    left, seconds = counts.left, counts.seconds
    if left is not None:
        parts.append(f"{left:,} left")
    if not short:
        parts.append(f"{round(counts.tokens_out / max(seconds, 0.001)):,} tokens/s")
        if counts.cost:
            parts.append(dollar_text(counts.cost, estimated=False))
    done = counts.answered + counts.failed
    if left and done:
        rest = format_duration(round(left * seconds / done))
        parts.append(f"{rest} to go" if short else f"about {rest} to go")
    return " · ".join(parts)


def summary(counts: Counts) -> str:
    """Return a line with the numbers, and one for each kind of failure."""
    parts = [f"{counts.answered:,} answered"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.skipped:
        parts.append(f"{counts.skipped:,} had an answer before")
    parts.append(f"{counts.tokens_in:,} tokens in, {counts.tokens_out:,} out")
    if counts.cost:
        parts.append(dollar_text(counts.cost, estimated=False))
    parts.append(f"{counts.seconds:.1f} s")
    lines = [" · ".join(parts)]
    for kind, number in counts.failures.most_common():
        example = counts.examples.get(kind)
        lines.append(f"  {kind}: {number:,}" + (f", such as {one_line(example, 200)}" if example else ""))
    return "\n".join(lines)
