"""Count the turns, the tool calls, the tokens, the cost and the time of recorded runs."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tinyagent._json import as_str
from tinyagent._stream.message_checks import is_assistant
from tinyagent._stream.servers import is_local_server
from tinyagent._stream.usage import add_usages
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentStartEvent,
    CompactionEndEvent,
    CompactionStartEvent,
    JsonDict,
    MessageEndEvent,
    MessageStartEvent,
    TurnEndEvent,
    TurnStartEvent,
    Usage,
)
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord, SessionRecord
from tinyagent_cli.config.files import model_label
from tinyagent_cli.exit_codes import STOPPED
from tinyagent_cli.terminal.amounts import dollar_text
from tinyagent_cli.terminal.sanitise import one_line

from .calls import Call, CallReader
from .source import Entry

__all__ = ["Collector", "Stats", "ToolStats", "collect", "cost_text", "model_text", "usage_of", "with_notes"]


class ToolStats(msgspec.Struct, kw_only=True):
    """The calls of one tool."""

    calls: int = 0
    failed: int = 0
    duration_ms: int = 0


class Stats(msgspec.Struct, kw_only=True):
    """The sums of all runs of a source. Times are Unix milliseconds, durations milliseconds.

    Attributes:
        failed_runs: The runs whose result line has an error, but not those that were interrupted.
        unfinished_runs: The runs without a result line, for example after `kill -9`.
        compactions: How often a summary has replaced the older messages.
        models: The models that replied, as PROVIDER/ID.
        usage: The tokens and the cost; None if the provider reports no usage.
        runs_without_cost: The runs with tokens but without a cost, which is then not in the sum.
        duration_ms: The time of the runs, from `agent_start` to their last event, and of compactions between
            them.
        model_ms: The time until replies and the summaries of compactions were complete.
        tools_ms: The time of all tool calls; calls that ran at the same time count in full.
    """

    runs: int = 0
    failed_runs: int = 0
    interrupted_runs: int = 0
    unfinished_runs: int = 0
    models: list[str] = []
    turns: int = 0
    tool_calls: int = 0
    failed_tool_calls: int = 0
    tools: dict[str, ToolStats] = {}
    compactions: int = 0
    usage: Usage | None = None
    runs_without_cost: int = 0
    started: int | None = None
    ended: int | None = None
    duration_ms: int = 0
    model_ms: int = 0
    tools_ms: int = 0
    errors: list[str] = []


class _Run:
    """The current run: its times, and its usage from the best source."""

    def __init__(self, started: int | None) -> None:
        self.started = self.last = started
        self.replies: list[Usage | None] = []
        self.usage: Usage | None = None
        self.is_local = True
        """Whether all replies are from servers on the user's machine, which cost nothing."""

    def sum(self) -> Usage | None:
        """Return the tokens and the cost of the run."""
        usage = self.usage or add_usages(self.replies)
        return _free_of_charge(usage) if self.is_local and self.replies else usage


def collect(entries: Iterable[Entry]) -> Stats:
    """Read all lines, and return the sums."""
    collector = Collector()
    for entry in entries:
        collector.add(entry)
    return collector.finished()


class Collector:
    """Adds up lines that arrive one by one."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._calls = CallReader()
        self._run: _Run | None = None
        self._usages: list[Usage | None] = []
        self._since: int | None = None
        """When the model was asked: the line before its message."""
        self._compacts_since: int | None = None
        self._is_local = False
        """Whether the last reply is from a server on the user's machine."""

    def add(self, entry: Entry) -> None:
        """Count a line."""
        for record in entry.records:
            self._add(record, entry.time)
        if entry.time is not None and self._run is not None:
            self._run.last = entry.time
            self._stats.ended = entry.time
        for call in self._calls.read(entry):
            self._add_call(call)

    def _add_call(self, call: Call) -> None:
        stats = self._stats
        tool = stats.tools.setdefault(call.name, ToolStats())
        tool.calls += 1
        tool.failed += call.is_error is True
        tool.duration_ms += call.duration_ms or 0
        stats.tool_calls += 1
        stats.failed_tool_calls += call.is_error is True
        stats.tools_ms += call.duration_ms or 0

    def _add(self, record: Record, time: int | None) -> None:
        stats, run = self._stats, self._run
        match record:
            case AgentStartEvent():
                self._end_run(is_finished=False)
                stats.runs += 1
                self._run = _Run(time)
                stats.started = time if stats.started is None else stats.started
            case SessionRecord():
                self._end_run(is_finished=False)
            case HistoryRecord():
                pass
            case ResultRecord():
                if run is None:
                    stats.runs += 1  # it failed before its first request
                elif record.usage is not None:
                    run.usage = usage_of(record.usage) or run.usage
                if record.error is not None and record.error.kind in STOPPED:
                    stats.interrupted_runs += 1
                elif record.error is not None:
                    stats.failed_runs += 1
                    stats.errors.append(record.error.message)
                self._end_run(is_finished=True)
            case TurnStartEvent():
                stats.turns += 1
                self._since = time
            case MessageStartEvent(message=message) if is_assistant(message):
                self._since = time if self._since is None else self._since
            case MessageEndEvent(message=message) if is_assistant(message):
                if time is not None and self._since is not None:
                    stats.model_ms += max(time - self._since, 0)
                name = model_label(as_str(message.get("provider")), as_str(message.get("model")))
                if name and name not in stats.models:
                    stats.models.append(name)
                self._is_local = is_local_server(as_str(message.get("provider")))
                if run is not None:
                    run.replies.append(message.get("usage"))
                    run.is_local = run.is_local and self._is_local
            case MessageEndEvent():
                self._since = time
            case TurnEndEvent():
                self._since = None
            case CompactionStartEvent():
                self._compacts_since = time
            case CompactionEndEvent():
                self._end_compaction(record, time)
            case AgentEndEvent(usage=usage) if run is not None:
                run.usage = usage
            case _:
                pass

    def _end_compaction(self, end: CompactionEndEvent, time: int | None) -> None:
        """Count the request for a summary, in a run or between two runs."""
        stats, run, since = self._stats, self._run, self._compacts_since
        taken = max(time - since, 0) if time is not None and since is not None else 0
        stats.compactions += end.summary is not None
        stats.model_ms += taken
        self._compacts_since = None
        if run is None:
            stats.duration_ms += taken
            self._usages.append(_free_of_charge(end.usage) if self._is_local else end.usage)
        else:
            self._since = time
            run.replies.append(end.usage)

    def _end_run(self, *, is_finished: bool) -> None:
        run, self._run = self._run, None
        self._compacts_since = None
        if run is None:
            return
        self._stats.unfinished_runs += not is_finished
        self._usages.append(run.sum())
        if run.started is not None and run.last is not None:
            self._stats.duration_ms += max(run.last - run.started, 0)

    def finished(self) -> Stats:
        """Return the sums at the end of the lines. Call this last."""
        for call in self._calls.close():
            self._add_call(call)
        self._end_run(is_finished=False)
        self._stats.usage = add_usages(self._usages)
        if self._stats.usage and any(usage and usage.get("cost_estimated") for usage in self._usages):
            self._stats.usage["cost_estimated"] = True
        self._stats.runs_without_cost = sum(each.get("cost") is None for each in self._usages if each)
        return self._stats


def _free_of_charge(usage: Usage | None) -> Usage | None:
    """Return the usage with a cost of 0, if it has no other cost: short runs in pipes do not look it up."""
    return {**usage, "cost": 0.0} if usage and usage.get("cost") is None else usage


def model_text(provider: object, model_id: object) -> str:
    """Return the name of a model in a record, which may be from anywhere, on one line."""
    return one_line(model_label(as_str(provider), as_str(model_id)), 100)


def usage_of(fields: JsonDict) -> Usage | None:
    """Return the usage of a result line; None if another program wrote other values."""
    try:
        return msgspec.convert(fields, Usage)
    except msgspec.ValidationError:
        return None


def cost_text(usage: Usage, runs_without_cost: int = 0) -> str:
    """Return the cost for people: `$0.0123`, `about $0.0123`, or `unknown`."""
    cost = usage.get("cost")
    if cost is None:
        return "unknown"
    shown = dollar_text(cost, estimated=usage.get("cost_estimated", False))
    return f"{shown}, and the unknown cost of {runs_without_cost} of the runs" if runs_without_cost else shown


def with_notes(count: int, notes: list[tuple[int, str]]) -> str:
    """Return a number with those of its parts, such as `12 (1 failed)`."""
    found = ", ".join(f"{number:,} {what}" for number, what in notes if number)
    return f"{count:,} ({found})" if found else f"{count:,}"
