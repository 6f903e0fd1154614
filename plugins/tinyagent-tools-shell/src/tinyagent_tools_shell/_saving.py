"""The whole output of a command in a file, as long as the disk has room for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

__all__ = ["SavedOutput"]


class SavedOutput:
    """A private temporary file. An error of it never ends a command.

    Attributes:
        path: Where the file is; None if there is none.
        problem: Why the output could not be saved; None if all is well.
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
        """Finish the file; one that is not whole is removed."""
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
