"""Exit within a time limit and with the right exit code, even if threads of plugins still run.

At exit Python waits without limit for non-daemon threads and `atexit` functions. Here threads get
`THREADS_S` seconds and functions `ATEXIT_S`; then the process exits. Output is flushed before.

After the `atexit` functions, Python would take the interpreter apart. A thread that wakes up then can crash
the process (seen with Python 3.11.2), and the threads here do. So the process exits before.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

__all__ = [
    "ATEXIT_S",
    "THREADS_S",
    "exit_after_atexit",
    "exit_now",
    "limit_exit",
    "runner_closed_at_exit",
]

THREADS_S = 2.0
"""Seconds for threads of plugins to end after the last line was written."""

ATEXIT_S = 4.0
"""Seconds for `atexit` functions after that, including the one that closes MCP servers."""

_stuck = False
_code: int | None = None


def exit_now(code: int) -> None:
    """Exit without Python's clean-up. Worker processes of `multiprocessing` are killed."""
    try:
        multiprocessing = sys.modules.get("multiprocessing")
        if multiprocessing is not None:
            for child in multiprocessing.active_children():
                child.kill()
    finally:
        os._exit(code)


def exit_after_atexit() -> None:
    """Let the process exit after the last `atexit` function, if `limit_exit` is called. Call this first."""
    atexit.register(_exit)  # Python calls the last registered function first


def _exit() -> None:
    if _code is not None:
        _flush()
        exit_now(_code)


def limit_exit(code: int) -> None:
    """Limit the rest of the process to `THREADS_S` plus `ATEXIT_S` seconds. Call this last."""
    global _code
    _code = code
    locks = [_thread.allocate_lock(), _thread.allocate_lock()]
    for lock in locks:
        lock.acquire()
    # Python runs these functions when the threads have ended, the last one registered first.
    atexit.register(_on_threads_ended, locks)
    # The threads start now: from Python 3.12 on none can start while the interpreter shuts down.
    _thread.start_new_thread(_run_atexit_functions_anyway, (locks[0], code))
    _thread.start_new_thread(_exit_in_time, (locks[1], code))
    if "tinyagent_cli.run.kernel_guards" in sys.modules:
        from .kernel_guards import ExitTimer

        ExitTimer(code).set(THREADS_S + ATEXIT_S + 1)  # for C code that prevents Python from running


def runner_closed_at_exit() -> asyncio.Runner:
    """Return a runner whose loop is closed after the `atexit` functions of plugins.

    Closing the loop waits for tasks and threads that tools left behind. The result of a run must not wait.
    """
    import asyncio

    runner = asyncio.Runner()

    def close() -> None:
        if not _stuck:
            runner.close()

    atexit.register(close)
    return runner


def _on_threads_ended(locks: list[_thread.LockType]) -> None:
    for lock in locks:
        if lock.locked():
            lock.release()


def _run_atexit_functions_anyway(threads_ended: _thread.LockType, code: int) -> None:
    """Run the `atexit` functions if the main thread waits for other threads for too long."""
    global _stuck
    if threads_ended.acquire(timeout=THREADS_S):
        return
    _stuck = True
    atexit._run_exitfuncs()
    _flush()
    exit_now(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed


def _exit_in_time(threads_ended: _thread.LockType, code: int) -> None:
    threads_ended.acquire(timeout=THREADS_S)
    time.sleep(ATEXIT_S)
    exit_now(code)
