"""The values that the templates of a page show: blocks, the rows of the time line, numbers and times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from markupsafe import Markup

from tinyagent import _json
from tinyagent.agent_types import JsonDict
from tinyagent_cli.terminal.amounts import time_text
from tinyagent_cli.terminal.sanitise import one_line

from .page_text import Shown
from .stats import Stats, cost_text, usage_of, with_notes

__all__ = [
    "Argument",
    "Block",
    "Moment",
    "Part",
    "Row",
    "RunRows",
    "State",
    "duration",
    "known_cost",
    "local_time",
    "summary",
    "time_of",
    "tokens",
]

MAX_ROWS = 2_000
"""The most rows of the time line of a run."""
_NARROWEST = 0.6
"""The smallest width of a bar, in percent."""

State: TypeAlias = Literal["running", "ok", "failed", "open", "skipped"]
"""The state of a tool call. `open` has started and has no result, `skipped` has not started."""


class Part(NamedTuple):
    """A part of the page.

    Attributes:
        id: Its id; a later part with the same id replaces it.
        html: Empty for a part that is not shown (any more).
        is_final: Whether no later part replaces it.
    """

    id: str
    html: str
    is_final: bool = True


class Block(NamedTuple):
    """A block of a message or of a result."""

    kind: Literal["markdown", "text", "thinking", "image", "link", "json", "error", "sources"]
    text: Shown = Shown("")
    html: Markup = Markup("")
    title: str = ""
    url: str | None = None
    sources: tuple[tuple[str, str | None], ...] = ()


class Argument(NamedTuple):
    """An argument of a tool call."""

    name: str
    value: Shown


class Row(NamedTuple):
    """A row of the time line. `left` and `width` are percent of its run."""

    label: str
    kind: Literal["model", "tool"]
    href: str
    state: State
    note: str
    started: int | None
    ended: int | None
    left: float = 0.0
    width: float = 0.0


class RunRows:
    """The time line of a run."""

    def __init__(self, label: str, href: str) -> None:
        self.label = label
        self.href = href
        self.rows: list[Row] = []
        self.omitted: int = 0

    def add(self, row: Row) -> None:
        """Add a row, up to `MAX_ROWS`."""
        if len(self.rows) < MAX_ROWS:
            self.rows.append(row)
        else:
            self.omitted += 1

    def scaled(self) -> tuple[list[Row], str]:
        """Return the rows by their start, with their places, and the duration of all."""
        starts = [row.started for row in self.rows if row.started is not None]
        ends = [row.ended for row in self.rows if row.ended is not None]
        if not starts or not ends:
            return self.rows, ""
        first, span = min(starts), max(max(ends) - min(starts), 1)
        found = []
        for row in sorted(self.rows, key=lambda row: row.started or first):
            start = row.started if row.started is not None else first
            end = row.ended if row.ended is not None else start
            width = min(max((end - start) * 100 / span, _NARROWEST), 100)
            left = min(max((start - first) * 100 / span, 0), 100 - width)
            found.append(row._replace(left=round(left, 2), width=round(width, 2)))
        return found, duration(span)


# ---- numbers and times ------------------------------------------------------------------------------------


class Moment:
    """A time for a template: for machines, and for people in the time zone of this computer."""

    def __init__(self, milliseconds: int) -> None:
        self.iso: str = ""
        self.text: str = time_text(milliseconds)
        try:
            self.iso = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(milliseconds / 1000))
        except (OverflowError, ValueError, OSError):
            pass


def local_time(text: str) -> str:
    """Return the time of a header in the time zone of this computer."""
    try:
        return Moment(int(datetime.fromisoformat(text).timestamp() * 1000)).text
    except (ValueError, OverflowError, OSError):
        return text


def time_of(fields: dict[str, object], moment: int | None) -> int | None:
    if moment is not None:
        return moment
    found = _json.as_int(fields.get("timestamp"))
    return found if found and 0 < found < 1 << 53 else None


def duration(milliseconds: int) -> str:
    seconds = milliseconds / 1000
    if seconds < 0.1:
        return f"{milliseconds} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def tokens(usage: Mapping[str, object]) -> str:
    counts = _json.count(usage.get("input")), _json.count(usage.get("output"))
    return f"{counts[0]:,} in, {counts[1]:,} out" if any(counts) else ""


def known_cost(usage: JsonDict) -> str:
    known = usage_of(usage)
    return "" if known is None or known.get("cost") is None else cost_text(known)


def summary(stats: Stats, *, is_live: bool) -> list[tuple[str, str]]:
    unfinished = stats.unfinished_runs - is_live
    notes = [
        (stats.failed_runs, "failed"),
        (stats.interrupted_runs, "interrupted"),
        (unfinished, "not finished"),
        (int(is_live), "running"),
    ]
    rows = [("Runs", with_notes(stats.runs, notes))]
    if stats.models:
        rows.append(("Model" if len(stats.models) == 1 else "Models", one_line(", ".join(stats.models), 300)))
    rows.append(("Turns", f"{stats.turns:,}"))
    rows += _if_any("Compactions", stats.compactions)
    rows.append(("Tool calls", with_notes(stats.tool_calls, [(stats.failed_tool_calls, "failed")])))
    if stats.started is not None:
        rows.append(("Started", Moment(stats.started).text))
    rows.append(("Time", duration(stats.duration_ms)))
    rows.append(("· the model", duration(stats.model_ms)))
    rows.append(("· tools", duration(stats.tools_ms)))
    usage = stats.usage
    if usage is not None:
        rows.append(("Tokens in", f"{usage.get('input', 0):,}"))
        rows += _if_any("· from the cache", usage.get("cache_read"))
        rows += _if_any("· to the cache", usage.get("cache_write"))
        rows.append(("Tokens out", f"{usage.get('output', 0):,}"))
        rows += _if_any("· reasoning", usage.get("reasoning"))
        rows.append(("Cost", cost_text(usage, stats.runs_without_cost)))
    return rows


def _if_any(label: str, count: int | None) -> list[tuple[str, str]]:
    return [(label, f"{count:,}")] if count else []
