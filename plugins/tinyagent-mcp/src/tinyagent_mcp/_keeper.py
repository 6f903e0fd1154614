"""Runs a command and sees to it that nothing of it is left: `python -I -S _keeper.py COMMAND ...`.

It stands between us and a server, with the server's standard streams untouched. The end comes when

- the server exits: whatever it started and left behind is ended;
- the other end of standard input is closed: the server has a second to exit by itself. That end is
  held by our process alone, so it closes however we die, SIGKILL included;
- SIGTERM.

The end is SIGTERM for all, half a second, then SIGKILL. All are the process group; on Linux also what left
the group by becoming a daemon, since orphans come to the keeper (PR_SET_CHILD_SUBREAPER), and should
the keeper itself be killed, the kernel kills the server (PR_SET_PDEATHSIG). Imports little: this is paid by
each start of a server.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

EXIT_GRACE = 1.0
TERM_GRACE = 0.5
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform == "linux"


def main(command: list[str]) -> int:
    """Keep the command; its exit code."""
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    asked: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    server = _start(command)
    # The server alone holds its output: when it closes that, we see the end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    code: int | None = None
    deadline: float | None = None
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(0, 0)  # asks for nothing: only the end is reported
    while not asked:
        code = _reap(server, code)
        left = None if deadline is None else deadline - time.monotonic()
        if code is not None or (left is not None and left <= 0):
            break
        for descriptor, _ in poll.poll(None if left is None else left * 1000):
            if descriptor == woken:
                os.read(woken, 4096)
            else:
                poll.unregister(0)
                deadline = time.monotonic() + EXIT_GRACE
    return _end(server, code)


def _start(command: list[str]) -> int:
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        if LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(125)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _reap(server: int, code: int | None) -> int | None:
    """Take note of children that have ended; the server's exit code, once it has one."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == server:
            code = os.waitstatus_to_exitcode(status)


def _end(server: int, code: int | None) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + TERM_GRACE
    _signal_all(signal.SIGTERM)
    while _has_children() and time.monotonic() < deadline:
        code = _reap(server, code)
        time.sleep(0.005)
    if not LINUX:
        # Orphans do not come to us here, so the group is all there is; we are part of it.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.killpg(os.getpgrp(), signal.SIGKILL)
    while _has_children():
        _signal_all(signal.SIGKILL)
        code = _reap(server, code)
        time.sleep(0.005)
    if code is None:
        return 0
    return code if code >= 0 else 128 - code


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _signal_all(signum: int) -> None:
    if signum == signal.SIGTERM and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signum)
    for pid in _descendants(os.getpid()) if LINUX else ():
        if signum != signal.SIGTERM or _group(pid) != os.getpgrp():
            try:
                os.kill(pid, signum)
            except OSError:
                pass


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _descendants(root: int) -> list[int]:
    """Every process below this one, from what the kernel tells."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than all the rest
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(name))
    found, pending = [], [root]
    while pending:
        below = parents.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _prctl(option: int, value: int) -> None:
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # a C library without it: the process group remains


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
