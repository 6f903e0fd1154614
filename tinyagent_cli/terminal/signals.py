"""Exceptions that end a run from outside: a signal, or the time limit."""

from __future__ import annotations

import signal
import threading

__all__ = ["Interrupted", "RunTimeoutError", "StopRun", "raise_on_sigint"]


class StopRun(BaseException):
    """The run must end now. Not an `Exception`, so that no `except Exception` of a plugin swallows it."""


class Interrupted(StopRun):
    """A signal asked the run to end.

    Attributes:
        hint: What the user can do next; None if there is nothing to continue.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.hint: str | None = None


class RunTimeoutError(StopRun):
    """The time limit of the run was reached."""


def raise_on_sigint() -> None:
    """Let Ctrl-C raise KeyboardInterrupt. Before this call it exits the process, see `main`."""
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
