"""Write standard output and files as bytes, with one system call for each batch of deltas.

`write` only adds to a buffer. The event loop calls `flush` when the task that produces the deltas waits for
more. A failed write is stored as an error, so that a full disk or a closed pipe ends the run in order.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable

from tinyagent_cli.exit_codes import InputError, OutputClosedError, WriteError

__all__ = ["BatchedOutput", "Output", "take_stdin", "take_stdout"]

_MAX_PIECES = 512
"""The maximum number of pieces in the buffer; a replay never waits for the loop."""


class Output:
    """Bytes to a file descriptor.

    Attributes:
        error: The first failed write; the rest of the output is dropped.
        on_error: Called with it.
        before_write: Called before each system call, to erase what is drawn below the output.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.error: WriteError | None = None
        self.on_error: Callable[[WriteError], None] | None = None
        self.before_write: Callable[[], None] | None = None
        self._pieces: list[bytes] = []
        self._scheduled = False

    @property
    def is_terminal(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fd)

    def write(self, data: bytes) -> None:
        """Add `data` to the buffer until the loop is free."""
        self._pieces.append(data)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(self._pieces) >= _MAX_PIECES:
            self._send()

    def flush(self) -> None:
        """Write the buffer."""
        self._scheduled = False
        if self._pieces:
            self._send()

    def write_now(self, data: bytes) -> None:
        """Write the buffer and `data`. Works without a loop."""
        self._pieces.append(data)
        self.flush()

    def write_or_raise(self, data: bytes) -> None:
        """Write the buffer and `data`. Works without a loop. The error is that of `flush_or_raise`."""
        self._pieces.append(data)
        self.flush_or_raise()

    def flush_or_raise(self) -> None:
        """Write the buffer.

        Raises:
            WriteError: It cannot be written, now or before.
        """
        self.flush()
        if self.error is not None:
            raise self.error

    def print(self, text: str = "") -> None:
        """Write a line of text.

        Raises:
            WriteError: Standard output cannot be written.
        """
        self.write_or_raise(f"{text}\n".encode("utf-8", "replace"))

    def _send(self) -> None:
        data = memoryview(b"".join(self._pieces))
        self._pieces.clear()
        if self.error is not None:
            return
        if self.before_write is not None:
            self.before_write()
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
        """Flush and close. Some file systems report an error only now."""
        self.flush()
        try:
            os.close(self.fd)
        except OSError as error:
            self.error = self.error or _explain(error, self.name)


def _explain(error: OSError, name: str) -> WriteError:
    if error.errno == errno.EPIPE:
        return OutputClosedError(f"{name} was closed by its reader.")
    return WriteError(f"Cannot write to {name}: {error.strerror}.")


class BatchedOutput(Output):
    """Bytes to a file descriptor without an event loop; `flush_or_raise` writes the buffer."""

    def write(self, data: bytes) -> None:
        """Add `data` to the buffer; a full buffer is written."""
        self._pieces.append(data)
        if len(self._pieces) >= _MAX_PIECES:
            self._send()


def take_stdout() -> Output:
    """Reserve standard output for this command, until the process exits.

    From now on, plugins and their child processes print to standard error, also at exit.

    Raises:
        InputError: Standard output is closed.
    """
    if sys.stdout is None:
        raise InputError("Standard output is closed.", hint="Redirect it: > /dev/null")
    sys.stdout.flush()
    fd = sys.stdout.fileno()
    output = Output(os.dup(fd), "standard output")
    if sys.stderr is not None:
        os.dup2(sys.stderr.fileno(), fd)
    else:
        _point_at_devnull(fd, os.O_WRONLY)
    return output


def take_stdin() -> int | None:
    """Reserve standard input. Plugins and their child processes get an empty one.

    Returns:
        A descriptor that child processes do not inherit; None if standard input is closed.
    """
    taken = os.dup(0) if sys.stdin is not None else None
    _point_at_devnull(0, os.O_RDONLY)
    return taken


def _point_at_devnull(fd: int, flags: int) -> None:
    devnull = os.open(os.devnull, flags)
    os.dup2(devnull, fd)
    if devnull != fd:
        os.close(devnull)
