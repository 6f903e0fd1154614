"""The file of results. It is complete and valid after `kill -9` at any point.

Each result is one line, written by one system call, so a new command can read which items have a successful
result. Of several lines with the same id the last one counts; the earlier ones are failures that were done
again, and they are removed at the end. The kernel releases the lock when the process ends, however it ends.

The ids are in a temporary database of SQLite, because its memory does not grow with their number.
"""

from __future__ import annotations

import enum
import os
import sqlite3
import stat

import msgspec

from tinyagent_cli.exit_codes import InputError, WriteError
from tinyagent_cli.sessions.files import is_current, try_lock, unlock

__all__ = ["Before", "ResultFile"]

_PARTIAL = ".partial"

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE results (id TEXT PRIMARY KEY, ok INTEGER, at INTEGER) WITHOUT ROWID;
CREATE TABLE inputs (id TEXT PRIMARY KEY) WITHOUT ROWID;
BEGIN;
"""
"""The cache has 16 MiB. `at` is the offset of the last line with this id."""


class Before(enum.Enum):
    """What is known about an item when it is read."""

    NEW = "it has no result"
    DONE = "it has an answer"
    FAILED = "its last result is a failure"
    REPEATED = "another item of the input has its id"


class _Result(msgspec.Struct):
    """The fields of a line that are needed here."""

    type: str
    id: str
    ok: bool


_decoder = msgspec.json.Decoder(_Result)


class ResultFile:
    """The open and locked file.

    Args:
        path: The file. It is created if it does not exist.

    Attributes:
        path: The file.

    Raises:
        InputError: It cannot be written, another process writes it, or it has other lines.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = _open_locked(path)
        self._size = 0
        self._has_replaced = False
        self._ids = sqlite3.connect("", isolation_level=None)
        try:
            self._ids.executescript(_SCHEMA)
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        """Read the results of earlier commands, and repair the end of the file."""
        line = b""
        with open(self._fd, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                whole = line.endswith(b"\n")
                found = _decode(line)
                if found is not None:
                    self._store(found.id, self._size, ok=found.ok)
                elif whole:
                    raise InputError(
                        f"-o {self.path}: line {number} is not a result of tinyagent batch.",
                        hint="Choose another file, or remove this one.",
                    )
                if whole or found is not None:
                    self._size += len(line)
        if line and not line.endswith(b"\n"):
            if _decode(line) is None:
                os.ftruncate(self._fd, self._size)  # the process was killed while it wrote
            else:
                self._append(b"\n")

    def before(self, item_id: str) -> Before:
        """Return what is known about an item of the input. Call this once for each."""
        if not self._ids.execute("INSERT OR IGNORE INTO inputs VALUES (?)", (item_id,)).rowcount:
            return Before.REPEATED
        found = self._ids.execute("SELECT ok FROM results WHERE id = ?", (item_id,)).fetchone()
        if found is None:
            return Before.NEW
        return Before.DONE if found[0] else Before.FAILED

    def write(self, item_id: str, line: bytes, *, ok: bool) -> None:
        """Write the line of a result.

        Raises:
            WriteError: It cannot be written; the file has no part of it.
        """
        at = self._size
        self._append(line)
        self._store(item_id, at, ok=ok)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            if written < len(line):
                written += os.write(self._fd, line[written:])  # raises the reason
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise WriteError(
                f"Cannot write to {self.path}: {error.strerror}.",
                hint="The results so far are in it. Run the same command again to go on.",
            ) from None
        self._size += len(line)

    def _store(self, item_id: str, at: int, *, ok: bool) -> None:
        if not self._ids.execute(
            "INSERT OR IGNORE INTO results VALUES (?, ?, ?)", (item_id, ok, at)
        ).rowcount:
            self._has_replaced = True
            self._ids.execute("UPDATE results SET ok = ?, at = ? WHERE id = ?", (ok, at, item_id))

    def remove_replaced(self) -> None:
        """Remove the lines that a later line with the same id replaces.

        Raises:
            WriteError: The new file cannot be written. The old one is unchanged.
        """
        if not self._has_replaced:
            return
        partial = os.path.realpath(self.path) + _PARTIAL
        try:
            new = os.open(partial, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _not_tidied(partial, error) from None
        try:
            try_lock(new)
            os.fchmod(new, stat.S_IMODE(os.fstat(self._fd).st_mode))
            self._copy_last(new)
            os.fsync(new)
            os.replace(partial, os.path.realpath(self.path))  # noqa: PTH105
        except OSError as error:
            os.close(new)
            os.unlink(partial)  # noqa: PTH108
            raise _not_tidied(partial, error) from None
        unlock(self._fd)
        self._fd, self._has_replaced = new, False

    def _copy_last(self, target: int) -> None:
        at = 0
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "rb", closefd=False) as old, open(target, "wb", closefd=False) as new:
            for line in old:
                found = _decode(line)
                last = (
                    found and self._ids.execute("SELECT at FROM results WHERE id = ?", (found.id,)).fetchone()
                )
                if last == (at,):
                    new.write(line)
                at += len(line)

    def close(self) -> None:
        """Release the lock and close the file."""
        self._ids.close()
        unlock(self._fd)


def _not_tidied(partial: str, error: OSError) -> WriteError:
    return WriteError(
        f"Cannot write to {partial}: {error.strerror}.",
        hint="All results are in the file. It also has replaced failures: the last line of an id counts.",
    )


def _decode(line: bytes) -> _Result | None:
    """Return what a line says about its item; None if it is not a result."""
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return found if found.type == "result" else None


def _open_locked(path: str) -> int:
    """Open and lock the file. The errors are those of `ResultFile`."""
    while True:
        try:
            # Not blocking: opening a pipe would wait for its reader.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(
                f"-o {path} is not a file.", hint="The results are read again when the command goes on."
            )
        if not try_lock(descriptor):
            os.close(descriptor)
            raise InputError(
                f"Another process writes to {path}.", hint="Wait until it ends, or choose another file."
            )
        if is_current(descriptor, os.path.realpath(path)):
            return descriptor
        os.close(descriptor)  # replaced by its last writer, between the two steps
