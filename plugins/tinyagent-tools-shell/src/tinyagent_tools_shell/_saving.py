"""Save the complete output of a command in a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

__all__ = ["SavedOutput"]


class SavedOutput:
    """A private temporary file. A write error never ends the command.

    Attributes:
        path: The path of the file; None if no file was written.
        problem: Why the output could not be saved; None if it was saved.
    """

    def __init__(self) -> None:
        self.path: str | None = None
        self.problem: str | None = None
        self._file: IO[bytes] | None = None
        try:
            descriptor, self.path = tempfile.mkstemp(prefix="tinyagent-bash-", suffix=".log")
            self._file = os.fdopen(descriptor, "wb")
        except OSError as error:
            self.problem = error.strerror or str(error)

    def write(self, data: bytes) -> None:
        """Append the next bytes."""
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Close the file. Remove it if it is incomplete."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        self.close()
        if self.path is not None:
            try:
                Path(self.path).unlink()
            except OSError:
                pass  # removed by another program
            self.path = None
