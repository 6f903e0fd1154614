"""Find and signal every process that one command started.

A command runs below a supervisor (see `tinyagent.supervisor`), in its own session and process group, and with
a mark in its environment. On Linux, its processes are the descendants of the supervisor, according to /proc;
no process can leave that tree. If the command kills its supervisor, its processes are found by session, group
and mark. Processes that another program starts for it (cron, systemd, a container engine) are not found. On
other systems the supervisor signals the process group.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessInfo", "ProcessTree"]

_PROC = Path("/proc")
_ROUNDS, _EMPTY_ROUNDS, _ROUND_S = 100, 5, 0.01


@dataclass(frozen=True)
class ProcessInfo:
    """A process. Its id and its start time identify it."""

    pid: int
    started: str
    name: str


@dataclass(frozen=True)
class _Entry:
    process: ProcessInfo
    parent: int
    group: int
    session: int


class ProcessTree:
    """The processes of one command.

    Attributes:
        supervisor: The process id of the supervisor; None once it has ended.
        shell: The process id of the shell, which leads the session and the group; None if not known.
    """

    def __init__(self, supervisor: int, mark: str) -> None:
        self.supervisor: int | None = supervisor
        self.shell: int | None = None
        self._mark = mark.encode()

    def members(self) -> list[ProcessInfo]:
        """Return the live processes that the command started, without the shell."""
        found = self._all()
        return [process for process in found if process.pid != self.shell]

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal once to each process, including the shell. Return whether there was any."""
        found = self._all()
        for process in found:
            _send(process, number)
        return bool(found)

    def kill(self) -> list[ProcessInfo]:
        """Kill all processes, including those that start meanwhile. Return those that survived.

        It looks several times, because the environment of a process is empty during `execve`.
        """
        left: list[ProcessInfo] = []
        empty = 0
        for _ in range(_ROUNDS):
            left = self._all()
            empty = 0 if left else empty + 1
            if empty == _EMPTY_ROUNDS:
                break
            for process in left:
                _send(process, signal.SIGKILL)
            time.sleep(_ROUND_S)
        return left

    def _all(self) -> list[ProcessInfo]:
        if not (_PROC / "self" / "stat").exists():
            return []
        entries = [entry for pid in _pids() if (entry := _look(pid)) is not None]
        ours = {
            entry.process.pid
            for entry in entries
            if (self.shell is not None and self.shell in (entry.group, entry.session))
            or self._is_marked(entry.process.pid)
        }
        if self.supervisor is not None:
            ours.add(self.supervisor)
        grown = True
        while grown:
            children = {entry.process.pid for entry in entries if entry.parent in ours} - ours
            ours |= children
            grown = bool(children)
        return [entry.process for entry in entries if entry.process.pid in ours - {self.supervisor}]

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # gone, or run by another user


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - names alone are faster


def _look(pid: int) -> _Entry | None:
    """Read a process from /proc; None if it has ended, also if it is a zombie."""
    try:
        # The name is in brackets and may contain brackets, so fields are counted from the last one.
        before, _, after = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = after.split()
    if fields[0] in ("Z", "X"):
        return None
    process = ProcessInfo(pid, fields[19], before.partition("(")[2])
    return _Entry(process, int(fields[1]), int(fields[2]), int(fields[3]))


def _send(process: ProcessInfo, number: signal.Signals) -> None:
    """Signal this process, never another one that has reused its process id."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        return
    try:
        entry = _look(process.pid)
        if entry is not None and entry.process.started == process.started:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass  # it ended at this moment, or is run by another user
    finally:
        os.close(descriptor)
