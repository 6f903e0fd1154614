"""Show on standard error what a run does: what it waits for, its tool calls, and thinking with -v.

on a terminal   a spinner with the seconds, and the last lines of a tool's output, which disappear;
                one line for each tool call that has ended
elsewhere       with -v one line when a tool call starts, and one when it ends
of a record     one line for each tool call that has ended
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from tinyagent import _json
from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentToolResult,
    CompactionEndEvent,
    CompactionStartEvent,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    TurnStartEvent,
)

from .live import LiveLines
from .sanitise import one_line
from .wrapping import columns, fit

if TYPE_CHECKING:
    from tinyagent.agent_types import JsonDict
    from tinyagent_cli.app_context import AppContext

__all__ = ["ActivityRenderer", "call_line", "command_failed", "with_update"]

WIDTH = 200
"""The maximum width of a line that is not on a terminal."""
TAIL = 3
"""How many of the last lines of a running tool's output are shown."""
ERROR_LINES = 5
"""How many lines of a failed call's result are shown."""
MAX_TAIL = 4_000
"""How many characters at the end of an output are read for its last lines."""
MAX_RUNNING = 4
"""How many running tools are shown."""

MAX_ARGUMENTS = 20
"""How many arguments of a call are shown."""

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class _Running:
    """A tool call that has started."""

    def __init__(self, name: str, args: JsonDict, now: float) -> None:
        self.call = call_line(name, args)
        self.started = now
        self.output = ""


class ActivityRenderer:
    """Shows the events of a run.

    Args:
        app: Writes the lines.
        model: The model, for the text of the spinner.
        before: Called before each line, to end an unfinished line of the reply.
        before_draw: Called before the spinner is drawn, to write the rest of the reply. Returns whether the
            cursor is at the start of a line.
        pending: Returns the end of the reply that is not shown yet; its last lines are above the spinner.
        text_is_live: Whether text appears on the terminal as it arrives, so that a spinner would disturb it.
        clock: Returns the time in seconds, for durations.
        ended_only: Whether nothing is shown before it has ended, as for a record that is shown at once.
        make_live: Makes the lines that change in place.
    """

    def __init__(
        self,
        app: AppContext,
        model: str,
        *,
        before: Callable[[], None],
        before_draw: Callable[[], bool],
        text_is_live: bool,
        pending: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        ended_only: bool = False,
        make_live: Callable[[Callable[[int], list[str]], Callable[[], bool]], LiveLines] = LiveLines,
    ) -> None:
        self._app = app
        self._model = model
        self._before = before
        self._text_is_live = text_is_live
        self._pending = pending
        self._clock = clock
        self._shows_starts = not ended_only
        can_redraw = app.stderr_is_terminal and app.can_move_cursor and not ended_only
        self._live = make_live(self._lines, before_draw) if can_redraw else None
        self._phase = ""
        self._since = 0.0
        self._paused_at = 0.0
        self._thinks = False
        """Whether the reply has reasoning that is not shown yet."""
        self._thoughts = 0
        """How many blocks of reasoning of the reply were shown."""
        self._running: dict[str, _Running] = {}
        if self._live is not None:
            app.before_message = self.erase

    def __call__(self, event: AgentEvent) -> None:
        match event:
            case MessageUpdateEvent(assistant_message_event=step):
                if self._thinks and not step["type"].startswith("thinking") and event.message is not None:
                    self._show_thinking(event.message)
                self._streams(step["type"])
            case TurnStartEvent():
                self._wait(f"connecting to {self._model}")
            case MessageStartEvent(message={"role": "assistant"}):
                self._thoughts = 0
                self._wait("waiting for the first token", since=self._since)
            case MessageEndEvent(message=message) if is_assistant(message):
                self._wait("")
                self._show_thinking(message)
            case CompactionStartEvent():
                self._wait("compacting the conversation")
            case CompactionEndEvent():
                self._wait(f"connecting to {self._model}")
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                self._start(call_id, _Running(name, args, self._clock()))
            case ToolExecutionUpdateEvent(tool_call_id=call_id, partial_result=result):
                if call_id in self._running:
                    running = self._running[call_id]
                    running.output = with_update(running.output, _text(result))
            case ToolExecutionEndEvent(tool_call_id=call_id, result=result, is_error=is_error):
                if call_id in self._running:
                    running = self._running.pop(call_id)
                    seconds = self._clock() - running.started
                    self._end(running.call, result, is_error=is_error, seconds=seconds)
            case AgentEndEvent():
                self.close()

    def _show_thinking(self, message: AgentMessage) -> None:
        """Show the reasoning that was not shown yet, with -v: above the text that comes after it."""
        self._thinks = False
        if not self._app.verbosity or not is_assistant(message):
            return
        thoughts = [block["thinking"] for block in message["content"] if block["type"] == "thinking"]
        for thought in thoughts[self._thoughts :]:
            if thought.strip():
                self._line(one_line(f"∴ {thought}", self._width()))
        self._thoughts = len(thoughts)

    # ---- what is awaited --------------------------------------------------------------------------

    def _streams(self, step: str) -> None:
        if step.startswith("thinking"):
            self._thinks = True
            self._wait("thinking", since=self._since)
        elif step.startswith("tool_call"):
            self._wait("receiving a tool call", since=self._since)
        elif self._text_is_live:
            self._wait("")
        else:
            self._wait("writing", since=self._since)

    def _wait(self, phase: str, *, since: float | None = None) -> None:
        """Show what is awaited from now on; nothing if `phase` is empty."""
        if phase == self._phase:
            return
        self._phase = phase
        self._since = self._clock() if since is None else since
        self._update()

    def _update(self) -> None:
        if self._live is not None:
            if self._phase or self._running:
                self._live.show()
            else:
                self._live.hide()

    def retry(self, text: str) -> None:
        """Show that a request is sent again."""
        self._before()
        self._app.note(text)
        self._wait(f"retrying {self._model}")

    def erase(self) -> None:
        """Erase what disappears, before other output."""
        if self._live is not None:
            self._live.erase()

    def pause(self) -> None:
        """Show nothing while the user is asked."""
        self._paused_at = self._clock()
        if self._live is not None:
            self._live.hide()

    def resume(self) -> None:
        """Continue after `pause`. The time of the question is not that of the tools."""
        paused = self._clock() - self._paused_at
        for running in self._running.values():
            running.started += paused
        self._update()

    def close(self) -> None:
        """Show nothing more that changes."""
        self._phase = ""
        self._running.clear()
        self._update()

    def _lines(self, width: int) -> list[str]:
        now = self._clock()
        frame = FRAMES[int(now * 10) % len(FRAMES)]
        if not self._running:
            if not self._phase:
                return []
            pending = [self._app.paint("2", line) for line in _last_lines(self._pending(), TAIL, width)]
            return [*pending, self._spinner(frame, self._phase, now - self._since, width)]
        lines: list[str] = []
        for running in list(self._running.values())[:MAX_RUNNING]:
            lines.append(self._spinner(frame, running.call, now - running.started, width))
            lines += [
                self._app.paint("2", f"  {line}") for line in _last_lines(running.output, TAIL, width - 2)
            ]
        more = len(self._running) - MAX_RUNNING
        return [*lines, f"  and {more} more"] if more > 0 else lines

    def _spinner(self, frame: str, text: str, seconds: float, width: int) -> str:
        time_shown = f" {_duration(int(seconds))}" if seconds >= 1 else ""
        return f"{self._app.paint('36', frame)} {fit(text, width - 2 - len(time_shown))}{time_shown}"

    # ---- tool calls -------------------------------------------------------------------------------

    def _start(self, call_id: str, running: _Running) -> None:
        self._phase = ""
        self._running[call_id] = running
        if self._live is None and self._shows_starts:
            self._line(f"→ {fit(running.call, self._width() - 2)}")
        else:
            self._before()
            self._update()

    def show_ended(self, name: str, args: JsonDict, result: AgentToolResult, *, is_error: bool) -> None:
        """Show a tool call of which there are no events, such as one of an earlier run."""
        self._end(call_line(name, args), result, is_error=is_error, seconds=None)

    def _end(self, call: str, result: AgentToolResult, *, is_error: bool, seconds: float | None) -> None:
        has_failed = is_error or command_failed(result.details)
        width = self._width()
        time_shown = f" {_duration(seconds)}" if seconds is not None else ""
        call = fit(call, width - 2 - len(time_shown))
        mark = self._app.paint("31", "✗") if has_failed else self._app.paint("32", "✓")
        lines = [f"{mark} {call}{self._app.paint('2', time_shown)}"]
        if has_failed or self._app.verbosity:
            count = ERROR_LINES if has_failed else 1
            lines += self._dim(_last_lines(_text(result), count, width - 2))
        self._before()
        self._app.show("\n".join(lines))
        self._update()

    def _dim(self, lines: list[str]) -> list[str]:
        return [self._app.paint("2", f"  {line}") for line in lines]

    def _line(self, text: str) -> None:
        self._before()
        self._app.dim(text)

    def _width(self) -> int:
        return columns() - 1 if self._app.stderr_is_terminal else WIDTH


def call_line(name: str, args: JsonDict) -> str:
    """Return a tool call on one line: `bash ls -la`, `calc expression=6*7 digits=2`."""
    parts = [one_line(name)]
    for number, (key, value) in enumerate(islice(args.items(), MAX_ARGUMENTS)):
        text = value if isinstance(value, str) else _json.encode(value).decode()
        shown = one_line(text, WIDTH)
        parts.append(shown if number == 0 and isinstance(value, str) else f"{one_line(key)}={shown}")
    return " ".join(part for part in parts if part)


def _last_lines(text: str, count: int, width: int) -> list[str]:
    lines = [one_line(line, WIDTH) for line in text[-MAX_TAIL:].splitlines()]
    return [fit(line, width) for line in lines if line][-count:]


def _text(result: AgentToolResult) -> str:
    return "\n".join(part["text"] for part in result.content if part["type"] == "text")


def command_failed(details: JsonDict) -> bool:
    """Return whether a command failed or was stopped, which is no error of its tool call."""
    return details.get("exit_code") not in (None, 0) or details.get("ended_by") not in (None, "exit")


def with_update(output: str, update: str) -> str:
    """Return the end of a running tool's output. An update has all of it so far, or only what is new."""
    if not update.startswith(output):
        separator = "" if output.endswith("\n") else "\n"
        update = f"{output}{separator}{update}"
    return update[-MAX_TAIL:]


def _duration(seconds: float) -> str:
    if seconds >= 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
