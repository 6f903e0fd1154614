"""What every command shares: how much to say, in which colours, and the one way to standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .config.environment import variable
from .terminal.sanitise import clean

__all__ = ["AppContext"]


class AppContext:
    """Verbosity and colour, and everything that is written to standard error.

    All text goes through the sanitiser: messages quote models, providers, files and plugins. Secrets in it
    are removed, but for what `dim` shows: the arguments and results of tools.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args: tuple[str, ...] = tuple(args)
        self.verbosity = 0
        self.quiet = False
        self.no_color = False

    def show(self, text: str) -> None:
        """Text of our own, such as help; printed even with -q."""
        self._write(text)

    def note(self, text: str) -> None:
        """Something worth knowing; silenced by -q."""
        if not self.quiet:
            self._write(_shown(text))

    def detail(self, text: str) -> None:
        """Something for who asked for it with -v."""
        if self.verbosity and not self.quiet:
            self.dim(_shown(text))

    def dim(self, text: str) -> None:
        """What goes on, in grey."""
        self._write(self._paint("2", clean(text)))

    def warn(self, text: str) -> None:
        """Something that is probably not meant; silenced by -q."""
        if not self.quiet:
            self._write(f"{self._paint('33', 'Warning:')} {_shown(text)}")

    def error(self, text: str, hint: str | None = None) -> None:
        """Why the command failed; always said."""
        self._write(f"{self._paint('31', 'Error:')} {_shown(text)}")
        if hint:
            self._write(_shown(hint))

    def traceback(self, error: BaseException) -> None:
        """Where an error came from."""
        import traceback

        self._write(_shown("".join(traceback.format_exception(error)).rstrip()))

    @property
    def color(self) -> bool:
        """Whether standard error is a terminal that shows colours."""
        if self.no_color or variable("NO_COLOR") or variable("TERM") == "dumb":
            return False
        return self.stderr_is_terminal

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether a person reads standard error."""
        try:
            return sys.stderr is not None and sys.stderr.isatty()
        except ValueError:
            return False

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    @staticmethod
    def _write(text: str) -> None:
        if sys.stderr is None:
            return
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # whoever closed it does not want to know


def _shown(text: str) -> str:
    from tinyagent._net.errors import redact

    return clean(redact(text))
