"""SIGINT, SIGTERM and SIGHUP: the first one asks the run to end, the second one ends the process.

Plain signal handlers, not the event loop's: a process that is stuck writing to a reader that does not read
can then still be ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupted", "Signals"]


class Interrupted(BaseException):
    """A signal asked for the end; not an `Exception`, so that nothing on the way swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Signals:
    """Until `attach`, a signal raises `Interrupted` where it finds the program; after it, it calls."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._attached: tuple[asyncio.AbstractEventLoop, Callable[[int], None]] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                signum = getattr(signal, name, None)
                # What our parent ignores (nohup, a shell's background job) we ignore as well.
                if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                    self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def attach(self, loop: asyncio.AbstractEventLoop, call: Callable[[int], None]) -> None:
        """From now on a signal has `call` called by the loop."""
        self._attached = (loop, call)

    def detach(self) -> None:
        """The loop is over; a signal raises again."""
        self._attached = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.received = signum
        if self._attached is None:
            raise Interrupted(signum)
        loop, call = self._attached
        loop.call_soon_threadsafe(call, signum)
