"""Guarantees by the operating system: no other process reads our memory, and the process can be ended.

Python runs signal handlers and threads only while it has the interpreter lock. C code that keeps the lock,
such as `re` on a hard pattern, stops all of them. So the kernel must help: with a timer that exits the
process, and with signals that kill it on their second arrival. Both use `ctypes` on 64-bit Linux. Elsewhere
`Lifetime` does as much as Python can.

The numbers and layouts are those of <sys/prctl.h>, <signal.h> and <time.h>, the same in glibc and musl.
"""

from __future__ import annotations

import ctypes
import resource
import struct
import sys

__all__ = ["ExitTimer", "kill_on_second", "protect_memory"]

_PR_SET_DUMPABLE = 4
_SIGEV_THREAD = 2
_CLOCK_MONOTONIC = 1
_SA_RESETHAND = 0x80000000
_SIGACTION = "=Q128sI4xQ"  # handler, mask, flags, restorer

_libc = ctypes.CDLL(None) if sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 else None


def protect_memory() -> None:
    """Disable core files, and prevent other processes of this user from reading our memory, which holds keys.

    Child processes inherit the limit for core files, and can raise it again.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def kill_on_second(signum: int) -> None:
    """Let the second arrival of a signal kill the process, whatever its handler does on the first."""
    if _libc is None:
        return
    action = ctypes.create_string_buffer(struct.calcsize(_SIGACTION))
    if _libc.sigaction(signum, None, action) == 0:
        handler, mask, flags, restorer = struct.unpack(_SIGACTION, action.raw)
        action.raw = struct.pack(_SIGACTION, handler, mask, flags | _SA_RESETHAND, restorer)
        _libc.sigaction(signum, action, None)


class ExitTimer:
    """Exits the process with `code` after a time, without Python."""

    def __init__(self, code: int) -> None:
        self._timer: ctypes.c_void_p | None = None
        if _libc is None or not hasattr(_libc, "timer_create"):
            return
        timer = ctypes.c_void_p()
        exit_function = ctypes.cast(_libc._exit, ctypes.c_void_p).value or 0
        event = struct.pack("=QiiQ40x", code, 0, _SIGEV_THREAD, exit_function)
        if _libc.timer_create(_CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0:
            self._timer = timer

    def set(self, seconds: float) -> None:
        """Exit in `seconds` from now; 0 disables the timer. Replaces an earlier setting."""
        if _libc is not None and self._timer is not None:
            whole = int(seconds)
            _libc.timer_settime(
                self._timer, 0, struct.pack("=qqqq", 0, 0, whole, int((seconds - whole) * 1e9)), None
            )
