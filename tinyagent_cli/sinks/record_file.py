"""The file of `-o`: a complete record takes the place of the older one, or the older one stays.

    a file, or a free name     written beside it as NAME.PID.partial, renamed when the record is complete
    a device, FIFO, /dev/fd/N  written as it is
    a file whose folder is     written in place once the run starts
    not writable

After a crash the partial file holds what was written so far, line by line.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from tinyagent_cli.exit_codes import InputError, WriteError
from tinyagent_cli.terminal.output import Output

__all__ = ["RecordFile", "refuse_inputs", "refuse_standard_output"]

_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

_LONGEST_NAME = 200
"""Bytes of NAME in the partial file's name; file systems allow 255 in all."""


class RecordFile:
    """Opens the file; `output` takes the lines, `start` and `finish` decide what becomes of an older record.

    Args:
        path: The file, a device or a FIFO.
        wait: Wait until a FIFO has a reader.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str, *, wait: bool = True) -> None:
        self._path = path
        self._flags = os.O_WRONLY if wait else os.O_WRONLY | os.O_NONBLOCK
        self._target = os.path.realpath(path)
        self._partial: str | None = None
        self._in_place = False
        self._older = _status(path)
        try:
            fd = self._open()
        except OSError as error:
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        self.output: Output = Output(fd, path)

    def _open(self) -> int:
        older, path = self._older, os.path.abspath(self._path)  # noqa: PTH100 - not resolved
        if older is not None and (not stat.S_ISREG(older.st_mode) or path.startswith(("/dev/", "/proc/"))):
            return os.open(self._path, self._flags | os.O_APPEND)
        try:
            return self._open_partial()
        except OSError as error:
            if older is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        self._in_place = True
        return os.open(self._target, os.O_WRONLY)

    def _open_partial(self) -> int:
        if self._older is not None and not os.access(self._target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        folder, name = os.path.split(os.fsencode(self._target))
        for number in range(1000):
            again = f"-{number}" if number else ""
            suffix = f".{os.getpid()}{again}.partial"
            partial = os.fsdecode(os.path.join(folder, name[:_LONGEST_NAME] + suffix.encode()))  # noqa: PTH118
            try:
                fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            self._partial = partial
            if self._older is not None:
                os.fchmod(fd, stat.S_IMODE(self._older.st_mode))
            return fd
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    @property
    def has_older_record(self) -> bool:
        """Whether something is there that a run which does not start must leave alone."""
        return self._older is not None and stat.S_ISREG(self._older.st_mode) and self._older.st_size > 0

    def start(self) -> None:
        """The run starts, so its record replaces the older one."""
        if self._in_place:
            os.ftruncate(self.output.fd, 0)

    def finish(self, keep: bool) -> None:
        """Close the file. With `keep` the record takes its place, otherwise it is removed.

        Raises:
            WriteError: it is not complete, or cannot take its place; the message says where it is.
        """
        size = os.fstat(self.output.fd).st_size if self._partial else 0
        self.output.close()
        if self._partial is None:
            return
        if not keep or (self.output.error is not None and not size):
            Path(self._partial).unlink()
        elif self.output.error is not None:
            raise WriteError(str(self.output.error), hint=f"What was written is in {self._partial}.")
        else:
            self._replace(self._partial)

    def _replace(self, partial: str) -> None:
        try:
            Path(partial).replace(self._target)
        except OSError:
            import shutil

            try:  # the target cannot be renamed over, as a file that is mounted into a container
                shutil.copyfile(partial, self._target)
                Path(partial).unlink()
            except OSError as error:
                raise WriteError(
                    f"Cannot write to {self._path}: {error.strerror}.", hint=f"The record is in {partial}."
                ) from None


def refuse_standard_output(path: str, descriptor: int | None = None) -> None:
    """Refuse a record that goes where the reply goes; /dev/null takes both.

    Args:
        path: The file of `-o`.
        descriptor: Standard output, if the command has taken it.

    Raises:
        InputError: `path` is standard output.
    """
    same = path == "-" or os.path.abspath(path) in _STANDARD_OUTPUT  # noqa: PTH100 - not resolved
    target = None if same else _status(path)
    if target is not None and descriptor is not None and not _is_null(target):
        same = os.path.samestat(target, os.fstat(descriptor))
    if same:
        raise InputError(
            f"-o {path} is standard output, where the reply goes.",
            hint="For JSON lines on standard output: --jsonl",
        )


def _is_null(target: os.stat_result) -> bool:
    return stat.S_ISCHR(target.st_mode) and os.path.samestat(target, os.stat(os.devnull))  # noqa: PTH116


def _status(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}.") from None


def refuse_inputs(path: str, inputs: Iterable[tuple[str, str | int | None]]) -> None:
    """Refuse a record that would replace a file that the run reads, under whatever name.

    Args:
        path: The file of `-o`.
        inputs: What the user calls each input, with its path or descriptor; None for one that is closed.

    Raises:
        InputError: one of them is the same regular file, by device and inode.
    """
    target = _status(path)
    if target is None or not stat.S_ISREG(target.st_mode):
        return
    for name, place in inputs:
        if place is None:
            continue
        try:
            same = os.path.samestat(target, os.stat(place))  # noqa: PTH116 - or a descriptor
        except (OSError, ValueError):
            continue  # an error when it is read
        if same:
            raise InputError(f"-o {path} would replace the file that {name} uses.", hint="Name another file.")
