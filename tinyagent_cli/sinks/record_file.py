"""The file of `-o`. Only a complete record replaces an older one.

    a file, or a new name      written as NAME.PID.partial beside it, and renamed when it is complete
    a device, FIFO, /dev/fd/N  written directly
    a file whose folder is     written in place once the run has started
    not writable

After a crash, the partial file has all lines up to the crash.
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
"""The maximum bytes of NAME in the name of the partial file; file systems allow 255 bytes in total."""


class RecordFile:
    """The open file. `output` takes the lines; `start` and `finish` replace or preserve an older record.

    Args:
        path: The file, a device or a FIFO.
        wait: Wait until a FIFO has a reader.

    Raises:
        InputError: The file cannot be written.
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
        """Whether the file has an older record, which stays if the run does not start."""
        return self._older is not None and stat.S_ISREG(self._older.st_mode) and self._older.st_size > 0

    def start(self) -> None:
        """Let the record replace the older one: the run has started."""
        if self._in_place:
            os.ftruncate(self.output.fd, 0)

    def finish(self, keep: bool) -> None:
        """Close the file. With `keep` the record replaces the older one; otherwise it is removed.

        Raises:
            WriteError: The record is incomplete, or cannot be renamed. The hint names the file that has it.
        """
        size = os.fstat(self.output.fd).st_size if self._partial else 0
        self.output.close()
        if self._partial is None:
            return
        if not keep or (self.output.error is not None and not size):
            Path(self._partial).unlink()
        elif self.output.error is not None:
            raise WriteError(str(self.output.error), hint=f"The incomplete record is in {self._partial}.")
        else:
            self._replace(self._partial)

    def _replace(self, partial: str) -> None:
        try:
            Path(partial).replace(self._target)
        except OSError:
            import shutil

            try:  # a file that is mounted into a container cannot be replaced by a rename
                shutil.copyfile(partial, self._target)
                Path(partial).unlink()
            except OSError as error:
                raise WriteError(
                    f"Cannot write to {self._path}: {error.strerror}.", hint=f"The record is in {partial}."
                ) from None


def refuse_standard_output(path: str, descriptor: int | None, option: str) -> None:
    """Refuse a record on standard output, which has the reply; /dev/null is allowed for both.

    Args:
        path: The file of `-o`.
        descriptor: Standard output, if the command has taken it.
        option: The option that names the file.

    Raises:
        InputError: The file is standard output.
    """
    same = path == "-" or os.path.abspath(path) in _STANDARD_OUTPUT  # noqa: PTH100 - not resolved
    target = None if same else _status(path)
    if target is not None and descriptor is not None and not _is_null(target):
        same = os.path.samestat(target, os.fstat(descriptor))
    if same:
        raise InputError(
            f"{option} {path} is standard output, which has the reply.",
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


def refuse_inputs(path: str, inputs: Iterable[tuple[str, str | int | None]], option: str = "-o") -> None:
    """Refuse a record that would replace a file that the run reads, also under another name.

    Args:
        path: The file of `-o`.
        inputs: The name of each input for messages, with its path or descriptor; None if it is closed.
        option: The option that names the file.

    Raises:
        InputError: An input is the same regular file, by device and inode.
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
            continue  # reading it reports the error
        if same:
            raise InputError(
                f"{option} {path} would replace the file that {name} uses.", hint="Choose another file."
            )
