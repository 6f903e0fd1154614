"""A command and everything it started: finding it, ending it.

A command runs in a session and process group of its own, and carries a mark in its environment. On Linux
/proc then shows what belongs to it: what is in its session or group, what has the mark, what descends from
any of those, and what did when somebody looked earlier. That finds background jobs, `setsid`, `nohup` and
daemons. It does not find a process that threw its environment away, left the session *and* lost its parents
between two looks, nor what another program, such as cron, systemd or a container engine, was asked to start.
Elsewhere it is the group alone.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Family", "Member"]

_PROC = Path("/proc")
_ROUNDS = 50


@dataclass(frozen=True)
class Member:
    """A process, by what does not change while it lives."""

    pid: int
    started: str
    name: str

    @property
    def key(self) -> tuple[int, str]:
        """A program may change its name, but not this."""
        return self.pid, self.started


@dataclass(frozen=True)
class _Seen:
    member: Member
    parent: int
    group: int
    session: int


class Family:
    """The processes of one command.

    Args:
        leader: The shell, which leads the session and the group.
        mark: What stands in the environment of all of them.
    """

    def __init__(self, leader: int, mark: str) -> None:
        self._leader = leader
        self._mark = mark.encode()
        self._known: set[tuple[int, str]] = set()

    def members(self) -> list[Member]:
        """Who is alive; without the shell itself."""
        if not (_PROC / "self" / "stat").exists():
            return []
        seen = [entry for pid in _pids() if (entry := _look(pid)) is not None]
        ours = {
            entry.member.pid
            for entry in seen
            if self._leader in (entry.group, entry.session)
            or entry.member.key in self._known
            or self._is_marked(entry.member.pid)
        }
        ours.add(self._leader)
        grown = True
        while grown:
            children = {entry.member.pid for entry in seen if entry.parent in ours} - ours
            ours |= children
            grown = bool(children)
        found = [entry.member for entry in seen if entry.member.pid in ours - {self._leader}]
        self._known |= {member.key for member in found}
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of them, the shell included."""
        try:
            os.killpg(self._leader, number)
        except (ProcessLookupError, PermissionError):
            pass  # all of the group are gone, or are somebody else's now (sudo)
        for member in self.members():
            _send(member, number)

    def kill(self) -> list[Member]:
        """Kill all of them, also those that are born meanwhile; returns who did not die."""
        left: list[Member] = []
        for number in range(_ROUNDS):
            self.signal(signal.SIGKILL)
            left = self.members()
            if not left:
                break
            time.sleep(number * 0.001)  # a large process takes a moment to go
        return left

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # gone, or somebody else's


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - names alone are faster


def _look(pid: int) -> _Seen | None:
    """What /proc says; None for what is gone, and for a zombie, which is as good as gone."""
    try:
        # The name is in brackets and may contain anything, so what follows is counted from the last one.
        before, _, after = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = after.split()
    if fields[0] in ("Z", "X"):
        return None
    member = Member(pid, fields[19], before.partition("(")[2])
    return _Seen(member, int(fields[1]), int(fields[2]), int(fields[3]))


def _send(member: Member, number: signal.Signals) -> None:
    """Signal this very process, never another one that got its number meanwhile."""
    try:
        descriptor = os.pidfd_open(member.pid)
    except (OSError, AttributeError):
        return
    try:
        seen = _look(member.pid)
        if seen is not None and seen.member.started == member.started:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass  # it ended at this moment, or is somebody else's
    finally:
        os.close(descriptor)
