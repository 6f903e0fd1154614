"""Standard output and files, as bytes, one write for each batch that the event loop hands over.

A delta is only put aside; when the task that produced it waits for more, the loop calls `flush`. What
cannot be written is remembered, so that a full disk or a reader who left ends the run in an orderly way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .failures import InputError, OutputClosedError, WriteError

__all__ = ["Output", "open_file", "private_stdout"]

_BATCH = 512
"""Pieces that are put aside at most; a replay that never waits must not pile up."""


class Output:
    """Bytes to a file descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.error: WriteError | None = None
        self.on_error: Callable[[WriteError], None] | None = None
        self._pieces: list[bytes] = []
        self._scheduled = False

    @property
    def is_terminal(self) -> bool:
        """Whether a person is looking at it."""
        return os.isatty(self.fd)

    def write(self, data: bytes) -> None:
        """Put `data` aside until the loop is free."""
        self._pieces.append(data)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(self._pieces) >= _BATCH:
            self._send()

    def flush(self) -> None:
        """Write everything that was put aside."""
        self._scheduled = False
        if self._pieces:
            self._send()

    def write_now(self, data: bytes) -> None:
        """Write, after everything that was put aside; works without a loop."""
        self._pieces.append(data)
        self.flush()

    def _send(self) -> None:
        data = memoryview(b"".join(self._pieces))
        self._pieces.clear()
        if self.error is not None:
            return
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except BlockingIOError:
            os.set_blocking(self.fd, True)
            self._pieces.insert(0, bytes(data))
            self._send()
        except OSError as error:
            self.error = _explain(error, self.name)
            if self.on_error is not None:
                self.on_error(self.error)

    def close(self) -> None:
        """Flush and close; an error that a file system reports only now is taken note of."""
        self.flush()
        try:
            os.close(self.fd)
        except OSError as error:
            self.error = self.error or _explain(error, self.name)


def _explain(error: OSError, name: str) -> WriteError:
    if error.errno == errno.EPIPE:
        return OutputClosedError(f"{name} was closed by its reader.")
    return WriteError(f"Cannot write to {name}: {error.strerror}.")


def open_file(path: str) -> Output:
    """A file that is written from its beginning."""
    try:
        fd = os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
    return Output(fd, path)


@contextmanager
def private_stdout() -> Iterator[Output]:
    """Standard output for us alone: what tools and their children print goes to standard error meanwhile."""
    if sys.stdout is None:
        raise InputError("Standard output is closed.", hint="Redirect it: > /dev/null")
    sys.stdout.flush()
    fd = sys.stdout.fileno()
    own, printed = os.dup(fd), sys.stdout
    try:
        error_fd = sys.stderr.fileno() if sys.stderr is not None else None
        if error_fd is not None:
            os.dup2(error_fd, fd)
        else:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, fd)
            os.close(devnull)
        output = Output(own, "standard output")
        yield output
        output.flush()
    finally:
        try:
            printed.flush()
        except (OSError, ValueError):
            pass  # a tool's own printing
        os.dup2(own, fd)
        os.close(own)
