"""The files of sessions, and how they are opened and locked. Every saved run imports this, so it is small.

    sessions/2026-11/ID.jsonl     a session without a name; the folder is the month of its first run
    sessions/named/NAME.jsonl     a session with a name, which is never removed by itself

The lock is `flock` on the session file itself, the system call that filelock uses as well. filelock takes
longer to import than a whole session may cost, and it needs a second file for each session. The kernel
releases the lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "NAMED",
    "SHOWN_ID",
    "SUFFIX",
    "create_file",
    "created_now",
    "is_current",
    "is_pruning_due",
    "month",
    "open_folder",
    "try_lock",
    "unlock",
    "working_folder",
]

NAMED = "named"
"""The folder of the sessions with a name."""

SUFFIX = ".jsonl"
SHOWN_ID = 8
"""Digits of the id of a session that are shown. A user may type any unique prefix."""

_MARKER = ".pruned"
_PRUNING_S = 86400
"""Seconds between two removals of old sessions."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def created_now() -> str:
    """Return the time as RFC 3339 with milliseconds."""
    now = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000)) + f".{now % 1000:03}Z"


def month() -> str:
    """Return the folder of a session that starts now."""
    return time.strftime("%Y-%m", time.gmtime())


def working_folder() -> str:
    """Return the working directory without symbolic links; an empty text if it was removed."""
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except OSError:
        return ""


def open_folder(directory: Path, name: str) -> int:
    """Return a descriptor of a folder of the sessions' directory. Both are created with mode 0700.

    The directory may be a symbolic link; the folder may not.

    Raises:
        OSError: A directory cannot be created or opened, or others could change what is in it.
    """
    try:
        parent = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        parent = os.open(directory, _DIRECTORY)
    try:
        _refuse_others(parent)
        try:
            folder = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            try:
                os.mkdir(name, mode=0o700, dir_fd=parent)
            except FileExistsError:
                pass  # another run was faster
            folder = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        _refuse_others(folder)
    except OSError:
        os.close(folder)
        raise
    return folder


def _refuse_others(descriptor: int) -> None:
    """Refuse a directory of another user, or one that others can write; root uses every user's directory."""
    found, user = os.fstat(descriptor), os.geteuid()
    if user and found.st_uid not in (0, user):
        raise PermissionError(0, f"the directory belongs to another user (uid {found.st_uid})")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, f"others can write the directory (mode {stat.S_IMODE(found.st_mode):04o})")


def create_file(directory: Path, folder: str, name: str) -> int:
    """Create, open and lock a session file with mode 0600.

    Raises:
        OSError: It cannot be created.
    """
    opened = open_folder(directory, folder)
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name + SUFFIX, flags, 0o600, dir_fd=opened)
    finally:
        os.close(opened)
    try_lock(descriptor)
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Lock a session file for writing. Return whether no other process has the lock.

    A file system without locks counts as one on which only this process writes.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def unlock(descriptor: int) -> None:
    """Release the lock and close the file. A forked child process may still have the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        pass
    os.close(descriptor)


def is_current(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Return whether the opened file is still at its path: it may have been renamed or removed since."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def is_pruning_due(directory: Path) -> bool:
    """Return whether old sessions were last removed more than a day ago. If so, they count as removed now.

    A file records the time. The first run only creates it.
    """
    marker, now = directory / _MARKER, time.time()
    try:
        if now - os.lstat(marker).st_mtime < _PRUNING_S:
            return False
        os.utime(marker, (now, now), follow_symlinks=False)
    except FileNotFoundError:
        try:
            os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError:
            pass
        return False
    except OSError:
        return False
    return True
