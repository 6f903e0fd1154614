"""Show a recorded run at its pace, with the code that shows live runs.

Deltas have no time in a record. They are spread evenly between the lines before and after them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from tinyagent import extract_text
from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    AgentStartEvent,
    MessageEndEvent,
    MessageStartEvent,
)
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord, SessionRecord
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.events.source import Entry, Source
from tinyagent_cli.events.stats import model_text, usage_of
from tinyagent_cli.exit_codes import STOPPED
from tinyagent_cli.terminal.display import RunDisplay
from tinyagent_cli.terminal.output import Output

from .outcome import summary_line

__all__ = ["RecordClock", "Replay", "model_of", "quoted", "show_replay", "with_times"]


class RecordClock:
    """The time of the record, in seconds, which passes `speed` times as fast as real time.

    Args:
        speed: 0 shows all at once.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._line = 0.0
        self._started: tuple[float, float] | None = None
        self._is_waiting = False

    def __call__(self) -> float:
        """Return the time of the current line, or a later one while the next line is awaited."""
        if not self._is_waiting or self._started is None:
            return self._line
        recorded, real = self._started
        return max(self._line, recorded + (time.monotonic() - real) * self._speed)

    def restart(self) -> None:
        """Leave out the time until the next line, such as the one between two runs."""
        self._started = None

    async def wait_until(self, recorded: float) -> None:
        """Wait until this time of the record."""
        if self._started is None or not self._speed:
            self._started = recorded, time.monotonic()
            self._line = recorded
            await asyncio.sleep(0)  # so that Ctrl-C, which cancels the task, stops a long record
            return
        start, real = self._started
        seconds = (recorded - start) / self._speed - (time.monotonic() - real)
        self._is_waiting = True
        await asyncio.sleep(max(seconds, 0))
        self._is_waiting = False
        self._line = max(self._line, recorded)


def with_times(entries: Iterator[Entry]) -> Iterator[tuple[float | None, list[Record]]]:
    """Yield the records with their times in seconds; None if there is no time at all."""
    last: float | None = None
    waiting: list[Entry] = []
    for entry in entries:
        if entry.time is None:
            waiting.append(entry)
            continue
        now = entry.time / 1000
        begin = now if last is None else last
        for place, delta in enumerate(waiting, 1):
            yield begin + (now - begin) * place / (len(waiting) + 1), delta.records
        waiting.clear()
        last = now
        yield now, entry.records
    for entry in waiting:
        yield last, entry.records


async def show_replay(app: AppContext, source: Source, stdout: Output, *, speed: float, plain: bool) -> None:
    """Show all runs of a source.

    Args:
        app: Shows on standard error what a live run shows there.
        source: The record.
        stdout: Standard output, for the replies.
        speed: How many times as fast as recorded; 0 shows all at once.
        plain: Whether replies are shown as they are, also on a terminal.

    Raises:
        TinyAgentError: The record cannot be read, or standard output cannot be written.
    """
    clock = RecordClock(speed)
    replay: Replay | None = None
    source.before_read = stdout.flush
    try:
        for moment, records in with_times(source.entries()):
            for record in records:
                if isinstance(record, SessionRecord):
                    if replay is not None:
                        replay.display.close()
                    replay = Replay(app, stdout, model_of(record), clock, plain=plain)
                    clock.restart()
                    continue
                if isinstance(record, AgentStartEvent):
                    clock.restart()
                if moment is not None:
                    await clock.wait_until(moment)
                replay = replay or Replay(app, stdout, "the model", clock, plain=plain)
                replay.show(record)
                if stdout.error is not None:
                    raise stdout.error
    finally:
        if replay is not None:
            replay.display.end_line()
            replay.display.close()
        stdout.flush()
    stdout.flush_or_raise()


class Replay:
    """Shows the runs of one stream of lines.

    Args:
        app: Shows what happens.
        stdout: Gets the replies.
        model: The model, until a reply names its own.
        clock: The time of the record.
        plain: Whether replies are shown as they are, also on a terminal.
        ended_only: Whether to show only what has ended.
    """

    def __init__(
        self,
        app: AppContext,
        stdout: Output,
        model: str,
        clock: RecordClock,
        *,
        plain: bool,
        ended_only: bool = False,
    ) -> None:
        self._app = app
        self._stdout = stdout
        self._model: str = model
        self.display: RunDisplay = RunDisplay(
            app, stdout, model, shows_text=True, plain=plain, clock=clock, ended_only=ended_only
        )

    def show(self, record: Record) -> None:
        """Show a record."""
        if isinstance(record, ResultRecord):
            self._end(record)
        elif not isinstance(record, SessionRecord | HistoryRecord):
            if isinstance(record, MessageStartEvent) and record.message.get("role") == "user":
                self.show_prompt(record.message)
            elif isinstance(record, MessageEndEvent):
                self.note_model(record.message)
            self.show_event(record)

    def show_event(self, record: AgentEvent) -> None:
        """Show an event of a run."""
        for listener in self.display.listeners:
            listener(record)

    def note_model(self, message: AgentMessage) -> None:
        """Take the model of a reply: a session may go on with another one."""
        if is_assistant(message):
            self._model = model_text(message.get("provider"), message.get("model")) or self._model

    def show_prompt(self, message: AgentMessage) -> None:
        """Show a prompt, which is on the command line of a live run."""
        if self.display.shows_summary:
            self.display.end_line()
            self._app.dim(quoted(extract_text(message)))

    def _end(self, result: ResultRecord) -> None:
        self.display.close()
        self._stdout.flush()
        if self.display.shows_summary:
            line = summary_line(
                self._model,
                usage_of(result.usage or {}) or {},
                turns=result.turns,
                seconds=result.duration_ms / 1000,
                has_cost=False,
                app=self._app,
            )
            self._app.dim(line)
        if result.error is None:
            return
        if result.error.kind in STOPPED:
            self._app.note("Interrupted.")
        else:
            self._app.error(result.error.message, result.error.hint)


def quoted(text: str) -> str:
    """Return a prompt with a mark in front of each line."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def model_of(header: SessionRecord) -> str:
    """Return the model of a header on one line."""
    model = header.model or {}
    return model_text(model.get("provider"), model.get("id")) or "the model"
