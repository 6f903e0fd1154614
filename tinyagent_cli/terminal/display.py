"""What a person sees of a run: the reply on standard output, and what happens on standard error.

Runs and replays use it, so that a replay looks like the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinyagent.agent_types import AgentEvent, CompactionEndEvent, CompactionStartEvent
from tinyagent_cli.app_context import AppContext

from .text import TextRenderer

if TYPE_CHECKING:
    from .activity import ActivityRenderer
    from .output import Output

__all__ = ["CompactionNotes", "OutputContext", "RunDisplay", "text_renderer"]


class OutputContext(AppContext):
    """Messages on an output, among the replies that they belong to."""

    def __init__(self, app: AppContext, output: Output) -> None:
        super().__init__(app.args)
        self.verbosity: int = app.verbosity
        self.quiet: bool = app.quiet
        self.no_color: bool = app.no_color
        self._output = output

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether the messages are shown on a terminal."""
        return self._output.is_terminal

    @property
    def columns(self) -> int | None:
        """The width to which messages are wrapped; None for no limit."""
        from .wrapping import wrap_width

        return wrap_width(self._output.fd)

    def _write(self, text: str) -> None:
        self._output.write_now(f"{text}\n".encode("utf-8", "replace"))


class RunDisplay:
    """Shows the events of a run.

    Args:
        app: Writes on standard error.
        stdout: Standard output.
        model: The model, for the text of the spinner.
        shows_text: Whether the reply is shown.
        plain: Whether it is shown as it is, also on a terminal.
        clock: Returns the time in seconds, for durations.
        ended_only: Whether to show only what has ended, as for a record that is shown at once; then also
            without a terminal.

    Attributes:
        text: Shows the reply; None if it is not shown.
        activity: Shows what happens; None with -q, and without a terminal unless -v or `ended_only` is set.
        shows_summary: Whether a line at the end sums up the run.
    """

    def __init__(
        self,
        app: AppContext,
        stdout: Output,
        model: str,
        *,
        shows_text: bool,
        plain: bool,
        clock: Callable[[], float] = time.monotonic,
        ended_only: bool = False,
    ) -> None:
        self._app = app
        self._stdout = stdout
        self._ended_only = ended_only
        self.text: TextRenderer | None = text_renderer(app, stdout, plain=plain) if shows_text else None
        self.shows_summary: bool = bool(app.verbosity or app.stderr_is_terminal) and not app.quiet
        self.activity: ActivityRenderer | None = self._make_activity(model, clock)
        self._notes = CompactionNotes(app, self.end_line)

    def _make_activity(self, model: str, clock: Callable[[], float]) -> ActivityRenderer | None:
        if not self.shows_summary and (not self._ended_only or self._app.quiet):
            return None
        from .activity import ActivityRenderer

        activity = ActivityRenderer(
            self._app,
            model,
            before=self.end_line,
            before_draw=self._is_at_line_start,
            text_is_live=type(self.text) is TextRenderer,
            pending=lambda: self.text.pending if self.text is not None else "",
            clock=clock,
            ended_only=self._ended_only,
        )
        if self._stdout.is_terminal:
            self._stdout.before_write = activity.erase
        return activity

    @property
    def listeners(self) -> list[Callable[[AgentEvent], None]]:
        """What gets the events, in this order: reasoning is shown above the text that comes after it."""
        return [listener for listener in (self.activity, self.text, self._notes) if listener is not None]

    def end_line(self) -> None:
        """End an unfinished line of the reply, if something else may come below it."""
        if self.text is not None and (self._stdout.is_terminal or self._ended_only):
            self.text.end_line()

    def _is_at_line_start(self) -> bool:
        """Write the rest of the reply on a terminal. Return whether a new line starts after it."""
        if not self._stdout.is_terminal:
            return True
        self._stdout.flush()
        return self.text is None or self.text.at_line_start

    def pause(self) -> None:
        """Show nothing that changes while the user is asked."""
        self.end_line()
        if self.activity is not None:
            self.activity.pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        if self.activity is not None:
            self.activity.resume()

    def close(self) -> None:
        """Show nothing more that changes."""
        if self.activity is not None:
            self.activity.close()


_COMPACTED = {
    "limit": "Compacted near the limit",
    "overflow": "Too long, so compacted",
}


class CompactionNotes:
    """Shows a line for each compaction.

    Args:
        app: Writes the line.
        before: Called before it, to end an unfinished line of the reply.
    """

    def __init__(self, app: AppContext, before: Callable[[], None]) -> None:
        self._app = app
        self._before = before
        self._start: CompactionStartEvent | None = None

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is CompactionStartEvent:
            self._start = event
        elif type(event) is CompactionEndEvent:
            self._before()
            if event.summary is None:
                from tinyagent._stream.compaction import ABORTED, CANCELLED

                is_request = self._start is not None and self._start.reason == "request"
                if is_request or event.error_message in (ABORTED, CANCELLED):
                    return  # the end of the command or of the run says so
                self._app.warn(f"The conversation could not be compacted: {event.error_message}")
                return
            start, count = self._start, event.replaced
            what, size = "Compacted", _rounded(event.tokens)
            if start is not None:
                what, size = _COMPACTED.get(start.reason, what), f"{_rounded(start.tokens)} → {size}"
            from .amounts import counted

            messages = counted(count, "message")
            self._app.note(f"{what}: a summary replaces {messages} (~{size} tokens).")


def _rounded(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 10_000 else f"{round(tokens / 1000):,}k"


def text_renderer(app: AppContext, stdout: Output, *, plain: bool) -> TextRenderer:
    """Return what shows the reply: as Markdown on a terminal, and as it is elsewhere or if `plain` is set."""
    if plain or not stdout.is_terminal or not app.can_move_cursor:
        return TextRenderer(stdout)
    from .reply import MarkdownRenderer

    return MarkdownRenderer(stdout, color=app.allows_color)
