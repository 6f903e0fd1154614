"""What every command shares: its verbosity, its colours, and the messages on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from .config.environment import variable
from .terminal.sanitise import clean

__all__ = ["AppContext"]

_SHORT = 20
"""Text that is shorter fits on a line of each terminal."""


class AppContext:
    """The verbosity and the colours of a command, and all its messages on standard error.

    Messages quote models, providers, files and plugins, so control characters and secrets are removed.
    `dim` does not remove secrets: it shows the arguments and results of tools unchanged.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args: tuple[str, ...] = tuple(args)
        self.verbosity = 0
        self.quiet = False
        self.no_color = False
        self.before_message: Callable[[], None] | None = None
        """Called before each message, to erase what is drawn below the output."""
        self._details: set[str] = set()

    def show(self, text: str) -> None:
        """Show text of tinyagent itself, such as help, even with -q."""
        self._write(self._wrapped(text))

    def note(self, text: str) -> None:
        """Show a note, unless -q is set."""
        if not self.quiet:
            self._write(self._wrapped(_shown(text)))

    def detail(self, text: str) -> None:
        """Show a detail if -v is set."""
        if self.verbosity and not self.quiet:
            self.dim(_shown(text))

    def detail_once(self, text: str) -> None:
        """Show a detail that each request of a run repeats, unless it was shown."""
        if text not in self._details:
            self._details.add(text)
            self.detail(text)

    def dim(self, text: str) -> None:
        """Show an event of a run, in grey."""
        self._write(self.paint("2", clean(text)))

    def warn(self, text: str) -> None:
        """Show a warning, unless -q is set."""
        if not self.quiet:
            self._write_labelled("33", "Warning:", text)

    def error(self, text: str, hint: str | None = None) -> None:
        """Show an error, even with -q."""
        self._write_labelled("31", "Error:", text)
        if hint:
            self._write(self._wrapped(_shown(hint)))

    def traceback(self, error: BaseException) -> None:
        """Show the traceback of an error."""
        import traceback

        self._write(_shown("".join(traceback.format_exception(error)).rstrip()))

    @property
    def color(self) -> bool:
        """Whether standard error is a terminal that shows colours."""
        return self.allows_color and self.stderr_is_terminal

    @property
    def allows_color(self) -> bool:
        """Whether a terminal may get colours."""
        return not (self.no_color or variable("NO_COLOR") or variable("TERM") == "dumb")

    @property
    def can_move_cursor(self) -> bool:
        """Whether a terminal understands more than lines of text."""
        return variable("TERM") not in (None, "", "dumb")

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether standard error is a terminal."""
        try:
            return sys.stderr is not None and sys.stderr.isatty()
        except ValueError:
            return False

    @property
    def columns(self) -> int | None:
        """The width to which messages are wrapped; None for no limit."""
        from .terminal.wrapping import wrap_width

        return wrap_width(2)

    def paint(self, code: str, text: str) -> str:
        """Return text in a colour of standard error; unchanged without colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def _write_labelled(self, code: str, label: str, text: str) -> None:
        wrapped = self._wrapped(f"{label} {_shown(text)}")
        self._write(self.paint(code, label) + wrapped[len(label) :])

    def _wrapped(self, text: str) -> str:
        """Return text for people with its lines broken at words; unchanged in a pipe or a file."""
        if len(text) < _SHORT or not self.stderr_is_terminal:
            return text
        from .terminal.wrapping import wrap_words

        width = self.columns
        return text if width is None else wrap_words(text, width)

    def _write(self, text: str) -> None:
        if sys.stderr is None:
            return
        if self.before_message is not None:
            self.before_message()
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr is closed


def _shown(text: str) -> str:
    from tinyagent._net.errors import redact

    return clean(redact(text))
