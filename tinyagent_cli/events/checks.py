"""Check lines against the format and the grammar of events.

The format is the JSON Schema of `tinyagent schema events`, and the grammar is that of `tinyagent.testing`.
After a problem in a run, the grammar is checked again from the next run on, because nearly every later event
would be a problem, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from tinyagent import _json, jsonl
from tinyagent._jsonl.lines import is_torn
from tinyagent._tool_schemas import validator
from tinyagent.agent_types import AgentStartEvent, CompactionEndEvent, CompactionStartEvent
from tinyagent.errors import RecordError
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord, SessionRecord
from tinyagent.testing.grammar import GrammarError, RunChecker
from tinyagent_cli.terminal.sanitise import one_line

from .source import Source

if TYPE_CHECKING:
    from jsonschema_rs import Validator

__all__ = ["Checker", "Problem"]


class Problem(NamedTuple):
    """A problem in a line; `line` is its number, from 1."""

    line: int
    text: str


class Checker:
    """Checks all lines of a source.

    Attributes:
        lines: The number of lines so far.
        runs: The number of runs so far.
        unknown: The unknown types of lines, which readers ignore, with the first line of each.
    """

    def __init__(self) -> None:
        self.lines: int = 0
        self.runs: int = 0
        self.unknown: dict[str, int] = {}
        self._decoder = jsonl.Decoder()
        self._schema = _Schema()
        self._order = _Order()

    def problems(self, source: Source) -> Iterator[Problem]:
        """Yield each problem as soon as its line has arrived."""
        for line in source.lines():
            self.lines += 1
            yield from self._check(line)
            self.runs = self._order.runs
        for text in self._order.at_end():
            yield Problem(self.lines, text)

    def _check(self, line: bytes | str) -> Iterator[Problem]:
        number = self.lines
        faults = []
        for text in self._format_faults(line):
            faults.append(text)
            yield Problem(number, text)
        records: list[Record] = []
        try:
            records = self._decoder.decode(line)
        except RecordError as error:
            if not faults:
                faults.append(str(error))
                yield Problem(number, str(error).partition(": ")[2])
        if faults:
            self._order.skip_run()
        for place, record in enumerate(records, number - len(records) + 1):
            # A user's message_start is complete only with the next line.
            for text in self._order.check(record):
                yield Problem(place, text)

    def _format_faults(self, line: bytes | str) -> Iterator[str]:
        """Yield what is wrong with a line, whatever comes before it."""
        if isinstance(line, str):
            line = line.encode("utf-8", "replace")
            if self.lines == 1:
                yield "the encoding is not UTF-8"
        if not line.endswith(b"\n"):
            yield "the line is incomplete: it has no LF"
            if is_torn(line):
                return
        text = line.removesuffix(b"\n")
        if text.endswith(b"\r"):
            yield "the line ends with CR LF, not LF"
        yield from self._faults(text)

    def _faults(self, text: bytes) -> Iterator[str]:
        if not text.strip():
            yield "the line is blank"
            return
        try:
            value = _json.decode(text)
        except (ValueError, RecursionError) as error:
            yield f"this is not JSON: {one_line(str(error))}"
            return
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            yield "this is not an object with a `type`"
            return
        kind = str(value["type"])
        if next(iter(value)) != "type":
            yield "`type` is not the first key"
        if kind not in self._schema.types:
            self.unknown.setdefault(kind, self.lines)
            return
        fault = self._schema.fault(kind, value)
        if fault is not None:
            yield f"{kind}: {fault}"
        elif isinstance(seq := value.get("seq"), int):
            self._order.number = seq


class _Schema:
    """The JSON Schema of the lines, with a validator for each type of line.

    The schema of a line is a choice of its types. Its validator would only report that no choice fits.
    """

    def __init__(self) -> None:
        schema = jsonl.schema(custom_roles=True)
        self._definitions = _json.as_dict(schema["$defs"])
        self._validators: dict[str, Validator] = {}
        self.types = {
            kind: _json.as_str(reference)
            for kind, reference in _json.as_dict(schema["discriminator"]["mapping"]).items()
        }

    def fault(self, kind: str, value: object) -> str | None:
        """Return how the line differs from its schema; None if it does not."""
        if kind not in self._validators:
            self._validators[kind] = self._validator(kind)
        error = next(iter(self._validators[kind].iter_errors(value)), None)
        if error is None:
            return None
        place = ".".join(str(part) for part in error.instance_path)
        return one_line(f"{place}: {error.message}" if place else error.message, 300)

    def _validator(self, kind: str) -> Validator:
        rules = {"$ref": self.types[kind], "$defs": self._definitions}
        return validator(_json.encode(rules))


class _Order:
    """The order of records: header, history, and runs with their result."""

    def __init__(self) -> None:
        self.runs = 0
        self._has_header = False
        self._has_result = False
        self._run: RunChecker | None = None
        self._skips = False
        self._is_open = False
        """Whether a run has started, and has no result line yet."""
        self._compacts = False
        """Whether a compaction between two runs has started."""
        self.number = 0
        """The `seq` of the current line."""
        self._last_number = 0

    def skip_run(self) -> None:
        """Check no more events of this run."""
        self._run, self._skips = None, True

    def check(self, record: Record) -> Iterator[str]:
        """Check the next record."""
        if isinstance(record, SessionRecord):
            if self._has_header:
                yield from self._end_stream()
            self._has_header, self._has_result = True, False
            self._run, self._skips, self._is_open = None, False, False
            return
        if not self._has_header:
            self._has_header = True
            yield "there is no `session` line before this line"
        if isinstance(record, HistoryRecord):
            if self._run is not None or self._is_open or self._has_result:
                yield "a `history` line comes after events"
        elif isinstance(record, ResultRecord):
            if self._run is not None:
                yield from self._grammar(self._run.finish)
            self._run, self._skips, self._is_open, self._has_result = None, False, False, True
        else:
            if isinstance(record, AgentStartEvent):
                self.runs += 1
                if self._is_open and (self._run is None or self._run.is_complete):
                    yield "the run before this line has no `result` line"
                elif self._is_open:
                    yield "the run before this line has not ended"
                self._run, self._skips, self._is_open = RunChecker(), False, True
                self._last_number = 0
            if self.number < self._last_number and not isinstance(record, CompactionStartEvent):
                yield f"{record.type}: seq is {self.number}, after {self._last_number}"
            self._last_number = self.number
            if isinstance(record, CompactionStartEvent | CompactionEndEvent) and not self._is_open:
                yield from self._compaction(record)
            elif self._run is not None:
                checker, event = self._run, record
                yield from self._grammar(lambda: checker.check(event))
            elif not self._skips:
                self._skips = True
                yield f"{record.type} comes before agent_start"

    def _compaction(self, record: CompactionStartEvent | CompactionEndEvent) -> Iterator[str]:
        """Check a compaction between two runs, as the user starts it."""
        starts = isinstance(record, CompactionStartEvent)
        if starts:
            self._last_number = self.number
        if starts == self._compacts:
            yield f"{record.type} comes {'before the end of another' if starts else 'without its start'}"
        self._compacts = starts

    def _grammar(self, check: Callable[[], None]) -> Iterator[str]:
        try:
            check()
        except GrammarError as error:
            self.skip_run()
            yield one_line(f"{error.name}: {error.expected}", 300)
        except AssertionError as error:
            self.skip_run()
            yield f"the run has not ended: {error}"

    def at_end(self) -> Iterator[str]:
        """Check that the last run is complete."""
        if not self._has_header:
            yield "there is no line of a run"
        else:
            yield from self._end_stream()

    def _end_stream(self) -> Iterator[str]:
        if self._compacts:
            yield "the compaction has no end: it was interrupted, or it is still running"
        if self._is_open or not self._has_result:
            yield "the run has no `result` line: it was interrupted, or it is still running"
