"""The clock of a command, and the events that end it: SIGINT, SIGTERM, SIGHUP and the time limit.

    held        our own modules are imported          a stop waits until `release`
    preparing   input is read, plugins are loaded     a stop raises `StopRun` in the main thread
    attached    the event loop runs                   a stop calls a function of the run, in the loop

After a stop the command has `ENDING_S` seconds to end. A thread checks this, because the main thread may be
stuck in C code or in a plugin that catches every exception. In this case the thread closes the records and
exits. If C code prevents Python from running at all, a kernel timer exits the process, and the records have
no end. A second signal of the same kind ends the process at once.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from tinyagent_cli.terminal.signals import Interrupted, RunTimeoutError, StopRun

from .kernel_guards import ExitTimer, kill_on_second
from .process_exit import exit_now

if TYPE_CHECKING:
    import asyncio
    from types import FrameType, TracebackType

    SignalHandler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

__all__ = ["ENDING_S", "TIMED_OUT", "Lifetime"]

ENDING_S = 3.0
"""The maximum time in seconds between a stop and the end of the process."""

CLOSING_S = 1.0
"""Seconds to close the records if the main thread is stuck; their reader may be stuck, too."""

STUCK_S = 1.5
"""Seconds after the time limit until the kernel timer assumes that C code holds the interpreter lock."""

LONGEST_S = 10 * 365 * 86400
"""Longer time limits count as no limit, because system calls do not support them."""

TIMED_OUT = 124
"""The exit code after a time-out, as with `timeout` of coreutils."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHANGED = b"\0"
"""Written into the pipe that wakes the watching thread; signals arrive there as their numbers."""


class Lifetime:
    """The signals and the time limit of this command. A context manager that is used once."""

    def __init__(self) -> None:
        self.started: float = time.monotonic()
        self.cause: StopRun | None = None
        self._held = True
        self._signalled = False
        self._signal: int | None = None
        self._closed = False
        self._limit: tuple[float, RunTimeoutError] | None = None
        self._ends_by: float | None = None
        self._exit_timer: ExitTimer | None = None
        self._attached: tuple[asyncio.AbstractEventLoop, Callable[[StopRun], None]] | None = None
        self._last_resorts: list[Callable[[StopRun], object]] = []
        self._previous: dict[int, SignalHandler] = {}
        self._masks = threading.local()
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    @property
    def seconds(self) -> float:
        """Return the seconds since the command started."""
        return time.monotonic() - self.started

    def __enter__(self) -> Self:
        self._wake, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        if self._in_main_thread:
            for signum in (*SIGNALS, signal.SIGALRM):
                # A signal that the parent ignores (nohup, a background job of a shell) stays ignored.
                if signal.getsignal(signum) != signal.SIG_IGN:
                    self._previous[signum] = signal.signal(signum, self._handle)
                    if signum != signal.SIGALRM:
                        kill_on_second(signum)
            self._previous_wakeup = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._forked
            )
        self._previous_unraisable = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        threading.Thread(target=self._watch, name="tinyagent-lifetime", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._restore()
        if self._exit_timer is not None:
            self._exit_timer.set(0)
        sys.unraisablehook = self._previous_unraisable
        os.close(self._wakes)  # the thread reads the end, and closes its side

    def _restore(self) -> None:
        if self._in_main_thread:
            signal.set_wakeup_fd(self._previous_wakeup)
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)

    # A child process that a tool forks shares our pipe and has our handlers, which must not get its signals.
    # So signals are blocked until the child has its own handlers.

    def _before_fork(self) -> None:
        if not self._closed:
            self._masks.before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def _after_fork(self) -> None:
        mask = self._masks.__dict__.pop("before_fork", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _forked(self) -> None:
        if not self._closed:
            self._closed = True
            self._restore()
            self._after_fork()

    # ---- calls of the command --------------------------------------------------------------------------

    def limit(self, seconds: float, source: str) -> None:
        """End the command `seconds` after its start. Infinity means no limit.

        Args:
            seconds: The time limit.
            source: The name of the setting, for the message.

        Raises:
            InputError: `seconds` is NaN.
        """
        if math.isnan(seconds):
            from tinyagent_cli.exit_codes import InputError

            raise InputError(f"The time limit is not a number of seconds ({source}).")
        if seconds > LONGEST_S:
            return
        message = f"The run took longer than {seconds:g} s ({source})."
        self._limit = (self.started + seconds, RunTimeoutError(message))
        if self._exit_timer is None:
            self._exit_timer = ExitTimer(TIMED_OUT)
        self._exit_timer.set(max(0.0, seconds - self.seconds) + STUCK_S)
        self._wake_up()

    def release(self) -> None:
        """Let a stop raise in the main thread from now on. An earlier stop is raised here."""
        self._held = False
        if self.cause is not None:
            raise self.cause

    def attach(self, loop: asyncio.AbstractEventLoop, call: Callable[[StopRun], None]) -> None:
        """Let the loop call `call` on a stop from now on. A stop that a plugin swallowed is raised here."""
        if self.cause is not None:
            raise self.cause
        self._attached = (loop, call)

    def detach(self) -> None:
        """Let a stop raise again: the loop has ended."""
        self._attached = None

    @contextmanager
    def abort_signal(self) -> Iterator[asyncio.Event]:
        """Attach the running loop to an event that a stop sets. The stop is raised at the end."""
        import asyncio

        event = asyncio.Event()
        self.attach(asyncio.get_running_loop(), lambda _: event.set())
        try:
            yield event
        finally:
            self.detach()
            if self.cause is not None:
                raise self.cause

    def at_last_resort(self, call: Callable[[StopRun], object]) -> None:
        """Register a function to call, in another thread, if the main thread is stuck."""
        self._last_resorts.append(call)

    # ---- stopping ----------------------------------------------------------------------------------------

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGALRM:
            if self._limit is not None and self._ends_by is not None:
                self._stop(self._limit[1])
        elif self._signalled:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        else:
            self._signalled = True
            self._stop(Interrupted(signum))

    def _stop(self, cause: StopRun) -> None:
        if self.cause is not None:
            return
        self.cause = cause
        if self._held:
            return
        if self._attached is None:
            raise cause
        loop, call = self._attached
        loop.call_soon_threadsafe(call, cause)

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Print no traceback for a stop that was raised in a finalizer; Python ignores such exceptions."""
        if not issubclass(unraisable.exc_type, (StopRun, KeyboardInterrupt)):
            self._previous_unraisable(unraisable)

    # ---- the watching thread -----------------------------------------------------------------------------

    def _wake_up(self) -> None:
        try:
            os.write(self._wakes, _CHANGED)
        except BlockingIOError:
            pass  # the pipe is full, so the thread wakes up anyway

    def _watch(self) -> None:
        while True:
            due = self._ends_by
            if due is None and self._limit is not None:
                due = self._limit[0]
            wait = None if due is None else max(0.0, due - time.monotonic())
            if select.select([self._wake], [], [], wait)[0]:
                received = os.read(self._wake, 512)
                if not received:
                    os.close(self._wake)
                    return
                signals = [number for number in received if number in SIGNALS]
                if signals:
                    self._signal = self._signal or signals[0]
                    self._end_within(CLOSING_S if self._ends_by is not None else ENDING_S)
            elif self._closed:
                pass  # the pipe is closed next
            elif self._ends_by is None:
                self._end_within(ENDING_S)
                self._interrupt_main_thread()
            else:
                self._give_up()

    def _end_within(self, seconds: float) -> None:
        self._ends_by = min(self._ends_by or float("inf"), time.monotonic() + seconds)
        if self._exit_timer is not None:
            self._exit_timer.set(ENDING_S + 2 * CLOSING_S)

    def _interrupt_main_thread(self) -> None:
        """Run the handler in the main thread, even during a blocking system call."""
        main = threading.main_thread().ident
        if signal.SIGALRM in self._previous and main is not None:
            signal.pthread_kill(main, signal.SIGALRM)
        elif self._attached is not None and self._limit is not None:
            self._stop(self._limit[1])

    def _give_up(self) -> None:
        """Close the records and exit, because the main thread did not end in time."""
        from tinyagent_cli.exit_codes import describe

        cause = self.cause
        if cause is None and self._signal is not None:
            cause = Interrupted(self._signal)
        elif cause is None:
            assert self._limit is not None
            cause = self._limit[1]

        def close() -> None:
            for call in self._last_resorts:
                call(cause)

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        closing.join(CLOSING_S)
        exit_now(describe(cause).exit_code)
