"""Lock a folder during a write, and remove left-over temporary files."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["TEMPORARY", "lock_folder", "remove_stale"]

TEMPORARY = ".tinyagent-"
"""The prefix of a temporary file's name."""

_TEMPORARY_NAME = re.compile(r"\.tinyagent-[0-9a-f]{16}\.tmp")
_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.01
_OLD_SECONDS = 3_600.0


@contextmanager
def lock_folder(folder: int) -> Iterator[bool]:
    """Hold the lock of a folder (`flock` on its descriptor). Yield whether it was acquired.

    The lock prevents a change between the last check of a file and its replacement, by tools in one or
    several processes. If locks are not supported, as on some network file systems, or if another process
    holds the lock for more than 5 s, the write proceeds without it.
    """
    locked = _lock(folder)
    try:
        yield locked
    finally:
        if locked and fcntl is not None:
            fcntl.flock(folder, fcntl.LOCK_UN)


def _lock(folder: int) -> bool:
    if fcntl is None:
        return False
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        except OSError:
            return False
        else:
            return True


def remove_stale(folder: int, locked: bool) -> None:
    """Remove the temporary files of writes that were killed. The lock excludes other writes."""
    oldest = time.time() - _OLD_SECONDS
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _TEMPORARY_NAME.fullmatch(entry.name)]
    for name in names:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and (locked or status.st_mtime < oldest):
                os.unlink(name, dir_fd=folder)
        except OSError:
            pass  # already removed, or not permitted
