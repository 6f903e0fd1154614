"""Replace `sys.stdout` for commands that print lists and texts, so that a failed write has its own error.

With PYTHONUNBUFFERED, as in most containers, Python writes at once. It then raises a plain OSError, which is
not distinguishable from one of a file, and it loses the rest of a short write. A run uses `output` instead.
"""

from __future__ import annotations

import errno
import io
import os
import sys

TYPE_CHECKING = False  # part of --version
if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["StandardOutputError", "flush", "guard"]


class StandardOutputError(Exception):
    """Standard output cannot be written. `reader_left` is True if it is a pipe that its reader has closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"Cannot write to standard output: {error.strerror}.")
        self.reader_left: bool = error.errno == errno.EPIPE


class _Descriptor(io.FileIO):
    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise StandardOutputError(error) from None


def guard() -> None:
    """Replace `sys.stdout` by a buffered stream that raises `StandardOutputError`."""
    old = sys.stdout
    if old is None or old is not sys.__stdout__ or not isinstance(old, io.TextIOWrapper):
        return
    raw = _Descriptor(old.fileno(), "w", closefd=False)
    # As for standard error: no encoding makes a command fail.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), old.encoding, "backslashreplace", line_buffering=raw.isatty()
    )


def flush(code: int, text: str = "") -> int:
    """Write `text` and flush both streams. Return `code`, or 1 if standard output cannot be written."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:  # a plugin may have closed it after the output
            sys.stdout.write(text)
            sys.stdout.flush()
    except (StandardOutputError, OSError, ValueError) as error:
        _discard(1)  # Python would try again at exit, and print an error
        if code == 0 and not (isinstance(error, StandardOutputError) and error.reader_left):
            code = 1
            _write_error(f"Error: {error}\n")
    _write_error("")
    return code


def _write_error(text: str) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except (OSError, ValueError):
        _discard(2)


def _discard(fd: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, fd)
    os.close(devnull)
