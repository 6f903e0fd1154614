"""Tables of the figures, and the verdict for each goal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.clients import CLIENTS
from bench.measure import Figure

Results = dict[str, Any]
Row = dict[str, Figure]


@dataclass(frozen=True)
class Goal:
    """A figure with its maximum and its unit."""

    what: str
    value: float
    most: float
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.value <= self.most

    def __str__(self) -> str:
        verdict = "pass" if self.met else "MISS"
        return f"| {self.what} | {self.value:.3g} {self.unit} | ≤ {self.most:g} {self.unit} | {verdict} |"


def _ratio(rows: dict[str, Row], own: str, other: str, key: str) -> float | None:
    if own not in rows or other not in rows or key not in rows[own] or key not in rows[other]:
        return None
    return rows[own][key].median / (rows[other][key].median or 1e-9)


def _ratios(results: Results) -> Iterator[tuple[str, float | None, float, str]]:
    start = results.get("start", {})
    version = start.get("version", {})
    for option in ("--version", "--help"):
        own = f"tinyagent {option}"
        yield f"`{own}` / `llm --version`, wall", _ratio(version, own, "llm --version", "wall ms"), 0.10, "×"
    for key in ("wall ms", "first ms"):
        ratio = _ratio(start.get("one-shot 1", {}), "tinyagent run", "llm", key)
        yield f"one-shot, 1 token: `tinyagent run` / `llm`, {key[:-3]}", ratio, 0.16, "×"
    lines = start.get("one-shot 1000", {}).get("tinyagent run --jsonl")
    bare = start.get("one-shot 1", {}).get("tinyagent run --jsonl")
    if lines and bare:
        each = (lines["bytes"].median - bare["bytes"].median) / 999
        yield "JSONL of one-word deltas, a delta", each, 130, "bytes"

    tokens = results.get("tokens", {})
    yield from _token_goals(tokens)

    rows = results.get("streams", {}).get(500, {})
    if "agent" in rows:
        own = rows["agent"]
        yield "500 streams, Agent: wall / their pace", own["wall s"].median, 1.35, "×"
        yield "500 streams, CPU: Agent / openai client", _ratio(rows, "agent", "openai", "CPU s"), 0.5, "×"
        for key in ("wall s", "CPU s", "lag p99 ms"):
            ratio = _ratio(rows, "agent", "pi (Node.js)", key)
            yield f"500 streams, {key.rpartition(' ')[0]}: Agent / pi", ratio, 1, "×"
        yield "500 streams, Agent: lag p99", own["lag p99 ms"].median, 100, "ms"
        yield "500 streams, Agent: memory above the start", own["MiB"].median, 60, "MiB"
    turns = results.get("turns", {})
    yield "tool turns, CPU: Agent / httpx by hand", _ratio(turns, "agent", "httpx", "ms a turn"), 1.0, "×"
    if "agent" in turns:
        growth = turns["agent"]["last tenth"].median / turns["agent"]["first tenth"].median
        yield "tool turns, Agent: last tenth / first tenth", growth, 1.3, "×"
    yield from _history_goals(results.get("histories", {}))
    yield from _batch_goals(results.get("batch", {}))


def _batch_goals(rows: dict[str, Row]) -> Iterator[tuple[str, float | None, float, str]]:
    named = {title.partition(" (")[0]: row for title, row in rows.items()}
    many, few = "tinyagent batch -j 500", "tinyagent batch -j 16"
    if many in named:
        yield f"`{many}`: wall / pace of the replies", named[many]["wall / pace"].median, 1.3, "×"
    script, xargs, loop = "script on openai, semaphore of 500", "xargs -P 16 tinyagent run", "llm in a loop"
    for key, name in (("s for 10,000", "wall"), ("CPU ms a prompt", "CPU")):
        yield f"`{many}` / {script}, {name}", _ratio(named, many, script, key), 1.0, "×"
    yield f"`{few}` / `{xargs}`, wall", _ratio(named, few, xargs, "s for 10,000"), 1.0, "×"
    yield f"`{few}` / `{xargs}`, CPU", _ratio(named, few, xargs, "CPU ms a prompt"), 0.1, "×"
    yield f"`{many}` / {loop}, wall", _ratio(named, many, loop, "s for 10,000"), 0.01, "×"


def _history_goals(groups: dict[str, dict[str, Row]]) -> Iterator[tuple[str, float | None, float, str]]:
    for title, rows in groups.items():
        if title.startswith("a turn"):
            yield (
                f"{title}, CPU: Agent / httpx by hand",
                _ratio(rows, "agent", "httpx", "ms a turn"),
                2.0,
                "×",
            )
        elif "tinyagent run --history -" in rows:
            ours = rows["tinyagent run --history -"]["CPU ms"].median - rows["tinyagent run"]["CPU ms"].median
            theirs = (
                rows["msgspec: decode, encode"]["CPU ms"].median - rows["python -c pass"]["CPU ms"].median
            )
            yield f"{title}: what it adds to a run / msgspec decode and encode", ours / theirs, 1.15, "×"
        elif "JSON lines" in rows:
            row = rows["JSON lines"]
            # The inverse of the rate, so that less is better, as for all goals.
            yield (
                "reading JSON lines, time / msgspec",
                row["msgspec decode"].median / row["read"].median,
                2.0,
                "×",
            )


def _token_goals(tokens: dict[str, Row]) -> Iterator[tuple[str, float | None, float, str]]:
    if "agent" not in tokens:
        return
    lengths = sorted(int(key[5:]) for key in tokens["agent"] if key.startswith("text-"))
    for n in lengths:
        yield (
            f"{n:,} tokens: Agent / httpx + msgspec",
            _ratio(tokens, "agent", "httpx", f"text-{n}"),
            0.42,
            "×",
        )
    long, short = lengths[-1], lengths[0]
    yield (
        f"{long:,} tokens: Agent / openai client",
        _ratio(tokens, "agent", "openai", f"text-{long}"),
        0.12,
        "×",
    )
    for client in ("agent", "listener"):
        row = tokens.get(client, {})
        for kind in ("text", "thinking"):
            if f"{kind}-{long}" in row and f"{kind}-{short}" in row:
                flat = row[f"{kind}-{long}"].median / row[f"{kind}-{short}"].median
                what = "text" if kind == "text" else "thinking, then text"
                yield f"flat, {client}, {what}: {long:,} / {short:,}", flat, 1.15, "×"
        if "MiB" in row and long >= 100_000:
            yield f"memory at {long:,}, {client}", row["MiB"].median, 15, "MiB"
    row = tokens["agent"]
    flat = row["arguments-1048576-64"].median / row["arguments-65536-64"].median
    yield "flat, agent, 1 MiB tool argument / 64 KiB, a piece", flat, 1.15, "×"
    if "jsonl" in tokens:
        more = tokens["jsonl"][f"text-{long}"].median - row[f"text-{long}"].median
        yield "JSONL to a file beside it, a token", more, 4, "µs"


def goals(results: Results) -> list[Goal]:
    """Return every goal for which the run has figures."""
    return [
        Goal(what, value, most, unit) for what, value, most, unit in _ratios(results) if value is not None
    ]


def _table(title: str, rows: dict[str, Row], keys: list[str], digits: int = 0) -> str:
    def cell(row: Row, key: str) -> str:
        if key not in row:
            return "–"
        figure = row[key]
        return f"{figure.median:,.{digits}f} ({figure.low:,.{digits}f}–{figure.high:,.{digits}f})"

    lines = [f"| {title} | {' | '.join(keys)} |", f"|---|{'---:|' * len(keys)}"]
    for name, row in rows.items():
        title = CLIENTS[name].title if name in CLIENTS else name
        lines.append(f"| {title} | {' | '.join(cell(row, key) for key in keys)} |")
    return "\n".join(lines)


def text(results: Results) -> str:
    """Return the report as Markdown: medians, with the lowest and the highest round."""
    parts = []
    for group, rows in results.get("start", {}).items():
        keys = (
            ["wall ms", "CPU ms", "MiB"] if group == "version" else ["wall ms", "first ms", "CPU ms", "MiB"]
        )
        parts.append(_table(group.replace("one-shot", "one-shot, tokens:"), rows, keys))
    if tokens := results.get("tokens"):
        keys = [key for key in next(iter(tokens.values())) if key != "MiB"]
        parts.append(_table("µs of CPU a delta", tokens, [*keys, "MiB"], 1))
    for number, rows in results.get("streams", {}).items():
        parts.append(_table(f"{number} streams", rows, ["wall s", "CPU s", "lag p99 ms", "MiB"], 2))
    if turns := results.get("turns"):
        parts.append(_table("tool turns, CPU", turns, ["ms a turn", "first tenth", "last tenth"], 2))
    for title, rows in results.get("histories", {}).items():
        keys = list(next(iter(rows.values())))
        parts.append(_table(title, rows, keys, 1))
    if batch := results.get("batch"):
        parts.append(_table("10,000 prompts", batch, list(next(iter(batch.values()))), 2))
    verdicts = [str(goal) for goal in goals(results)]
    if verdicts:
        parts.append("\n".join(["| goal | measured | wanted | |", "|---|---:|---:|---|", *verdicts]))
    return "\n\n".join(parts)


BEGIN, END = "<!-- figures: written by `python -m bench --write` -->", "<!-- end of figures -->"


def write(path: Path, results: Results) -> None:
    """Replace the part of a document between the markers by the tables of a run.

    Raises:
        ValueError: The document has no markers.
    """
    document = path.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no markers for the figures")
    machine = " · ".join(f"{key} {value}" for key, value in results["machine"].items() if value)
    path.write_text(f"{before}{BEGIN}\n\n{machine}\n\n{text(results)}\n\n{END}{after}", encoding="utf-8")
