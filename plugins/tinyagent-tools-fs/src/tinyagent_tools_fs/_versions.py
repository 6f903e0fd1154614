"""The versions of files that the model has read, so that `write` does not replace what it does not know."""

from __future__ import annotations

import os
from collections import OrderedDict

__all__ = ["Parts", "SeenVersions", "identity", "version"]

_REMEMBERED = 10_000

Parts = tuple[str, ...]
"""A path below the root."""

_Version = tuple[int, int, int, int, int]


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return device and inode."""
    return status.st_dev, status.st_ino


def version(status: os.stat_result) -> _Version:
    """Return what changes when a file changes or is replaced."""
    return (*identity(status), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class SeenVersions:
    """Remembers the versions of the last files."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Parts, _Version] = OrderedDict()

    def add(self, parts: Parts, status: os.stat_result) -> None:
        """Remember the version of a file that the model has read or written."""
        self._seen[parts] = version(status)
        self._seen.move_to_end(parts)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def is_last(self, parts: Parts, status: os.stat_result) -> bool | None:
        """Return whether a file is unchanged since the model read or wrote it; None if it did neither."""
        seen = self._seen.get(parts)
        # The last field, ctime, is not compared, because a change of the mode does not matter.
        return None if seen is None else seen[:-1] == version(status)[:-1]
