"""Approvals that outlive a run: exact calls that the user allowed for one project, on request only.

Each is bound to the project's folder, to the tool with all that the model sees of it and where it comes
from, and to the exact arguments: change any of these and the question is asked again. The file belongs to
the user alone; if others can read or write it, it counts for nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tinyagent.agent_types import AgentTool

__all__ = ["Approval", "Remembered", "current_project", "fingerprint"]

_SHOWN = 500
"""Characters of the arguments that are kept for the list; what counts is their hash."""


class Approval(msgspec.Struct, frozen=True):
    """One exact call that may run without a question."""

    id: str
    project: str
    tool: str
    source: str
    arguments: str
    created: int


class _File(msgspec.Struct):
    version: int = 1
    approvals: list[Approval] = []


def current_project() -> str:
    """The folder that approvals of this run are kept for."""
    return os.path.realpath(".")


def fingerprint(project: str, tool: AgentTool, source: str, arguments: dict[str, Any]) -> str:
    """What an approval is bound to."""
    bound = [project, source, tool.name, tool.description, tool.parameters, arguments]
    text = json.dumps(bound, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Remembered:
    """The approvals in a file.

    Args:
        path: The file; it need not be there.
        warn: Told why the file is not used.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._warn = warn
        self._warned = False

    def __iter__(self) -> Iterator[Approval]:
        return iter(self._read().approvals)

    def __contains__(self, key: str) -> bool:
        return any(approval.id == key for approval in self)

    def add(self, key: str, tool: AgentTool, source: str, arguments: dict[str, Any]) -> None:
        """Allow this exact call in the current project from now on."""
        shown = json.dumps(arguments, ensure_ascii=False)
        shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
        made = Approval(key, current_project(), tool.name, source, shown, int(time.time() * 1000))
        with self._changing() as file:
            file.approvals = [*(old for old in file.approvals if old.id != key), made]

    def remove(self, keys: Iterable[str]) -> None:
        """Forget these."""
        gone = set(keys)
        with self._changing() as file:
            file.approvals = [old for old in file.approvals if old.id not in gone]

    def _read(self) -> _File:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return _File()
        except OSError as error:
            return self._unusable(f"cannot be read: {error.strerror}")
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.getuid():
                return self._unusable(f"is open to others; mend it with: chmod 600 {self.path}")
            try:
                return msgspec.json.decode(file.read(), type=_File)
            except msgspec.DecodeError as error:
                return self._unusable(f"is malformed ({error}); delete it to begin anew")

    def _unusable(self, why: str) -> _File:
        if not self._warned:
            self._warned = True
            self._warn(f"No approval is remembered, since {self.path} {why}.")
        return _File()

    @contextmanager
    def _changing(self) -> Iterator[_File]:
        """The file under a lock, written anew at the end; a reader sees the old one or the new one."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self._read()
            yield file
            new = self.path.with_suffix(f".{os.getpid()}.new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
            new.replace(self.path)
        finally:
            os.close(lock)
