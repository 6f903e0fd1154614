"""Show a session as one text, with the code that shows live runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent.agent_types import (
    AgentMessage,
    AgentStartEvent,
    AgentToolResult,
    JsonDict,
    MessageEndEvent,
    MessageStartEvent,
)
from tinyagent.jsonl import HistoryRecord, Record, SessionRecord
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.events.source import Entry
from tinyagent_cli.sessions.files import SHOWN_ID
from tinyagent_cli.sessions.markdown import is_prompt, prompt_text
from tinyagent_cli.terminal.amounts import counted
from tinyagent_cli.terminal.display import OutputContext
from tinyagent_cli.terminal.output import Output
from tinyagent_cli.terminal.sanitise import clean

from .replay import RecordClock, Replay, model_of, quoted, with_times

__all__ = ["show_transcript"]


class _Transcript(Replay):
    """Shows a session on standard output, with its prompts and with the conversation that it continues."""

    def __init__(
        self, app: AppContext, stdout: Output, clock: RecordClock, *, plain: bool, left_out: int
    ) -> None:
        super().__init__(OutputContext(app, stdout), stdout, "the model", clock, plain=plain, ended_only=True)
        self._calls: dict[str, JsonDict] = {}
        self._left_out = left_out

    def show(self, record: Record) -> None:
        """Show a record."""
        if isinstance(record, SessionRecord):
            self._model = model_of(record)
            parts = record.id[:SHOWN_ID], record.created[:16].replace("T", " "), self._model
            self._app.dim(" · ".join(filter(None, parts)))
            if self._left_out:
                self._app.dim(f"({counted(self._left_out, 'earlier prompt')})")
        elif isinstance(record, HistoryRecord):
            self._show_earlier(record.message)
        else:
            super().show(record)

    def show_prompt(self, message: AgentMessage) -> None:
        self.display.end_line()
        text = prompt_text(message)
        shown = quoted(clean(text) if self._stdout.is_terminal else text)
        self._stdout.write_now(f"\n{shown}\n\n".encode("utf-8", "replace"))

    def _show_earlier(self, message: AgentMessage) -> None:
        """Show a message that is not part of a run, as if it were."""
        self.note_model(message)
        if message.get("role") == "user":
            self.show_prompt(message)
        elif is_assistant(message):
            self.show_event(MessageStartEvent(message=message))
            self.show_event(MessageEndEvent(message=message))
            for block in message["content"]:
                if block["type"] == "tool_call":
                    self._calls[block["id"]] = block["arguments"]
        elif is_tool_result(message) and self.display.activity is not None:
            args = self._calls.pop(message["tool_call_id"], {})
            result = AgentToolResult(message["content"])
            self.display.activity.show_ended(message["tool_name"], args, result, is_error=message["is_error"])


class _Selection(NamedTuple):
    entries: Iterator[Entry]
    left_out: int = 0
    """How many prompts before these lines are not shown."""


def _last_prompts(entries: Iterator[Entry], count: int) -> _Selection:
    """Return the header, and the lines from the last prompts on."""
    header: list[Entry] = []
    parts: deque[list[Entry]] = deque(maxlen=count)
    found = 0
    for entry in entries:
        if any(map(_is_prompt, entry.records)):
            found += 1
            parts.append([])
        (parts[-1] if parts else header).append(entry)
    if found <= count:
        return _Selection(chain(header, *parts))
    header = [each for each in header if any(isinstance(record, SessionRecord) for record in each.records)]
    return _Selection(chain(header, *parts), found - count)


def _is_prompt(record: Record) -> bool:
    if isinstance(record, HistoryRecord):
        return is_prompt(record.message)
    return isinstance(record, AgentStartEvent)


async def show_transcript(
    app: AppContext, entries: Iterator[Entry], stdout: Output, *, plain: bool, limit: int | None
) -> None:
    """Show a session at once on standard output: prompts, replies, tool calls and errors.

    Args:
        app: Has the verbosity and the colours.
        entries: The lines of the session.
        stdout: Standard output.
        plain: Whether replies are shown as they are, also on a terminal.
        limit: How many of the last prompts are shown; None for all.

    Raises:
        TinyAgentError: The session cannot be read, or standard output cannot be written.
    """
    clock = RecordClock(0)
    selected = _Selection(entries) if limit is None else _last_prompts(entries, limit)
    shown = _Transcript(app, stdout, clock, plain=plain, left_out=selected.left_out)
    try:
        for moment, found in with_times(selected.entries):
            for record in found:
                if moment is not None:
                    await clock.wait_until(moment)
                shown.show(record)
                if stdout.error is not None:
                    raise stdout.error
    finally:
        shown.display.end_line()
        stdout.flush()
    stdout.flush_or_raise()
