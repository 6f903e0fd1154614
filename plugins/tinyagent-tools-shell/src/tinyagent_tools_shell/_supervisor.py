"""The parent of one command: `python -I -S _supervisor.py LIFELINE STATUS COMMAND ...`.

It starts the command in a session of its own, and on Linux it adopts whatever loses its parent below it
(PR_SET_CHILD_SUBREAPER). So every process that the command starts stays a descendant of this one, also after
`setsid`, `nohup`, a double fork or `env -i`, and all of them can be found and ended.

- LIFELINE is a pipe. When its other end closes, because tinyagent closed it or has ended, all is killed.
- STATUS is a pipe. It gets the command's process id, and later its exit code (negative for a signal).
- SIGTERM is passed on to the process group of the command.

Exit code 0 means that no process is left. If this process itself is killed, the kernel kills the command
(PR_SET_PDEATHSIG). It imports little, since each command pays for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform == "linux"
END_SECONDS = 5.0
POLL_SECONDS = 0.002


def main(lifeline: int, status: int, command: list[str]) -> int:
    """Supervise a command until the lifeline closes."""
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    group = 0

    def pass_on(number: int, frame: object) -> None:
        if group:
            _signal_group(group, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group = _start(command, (lifeline, status, woken, wake))
    _send(status, group)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(lifeline, 0)  # asks for nothing: only the end is reported
    code: int | None = None
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == lifeline:
                return _end(group, status, code)
            os.read(woken, 4096)
            if code is None:
                code = _look(group)
                if code is not None:
                    _send(status, code)


def _start(command: list[str], ours: tuple[int, ...]) -> int:
    supervisor = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        # The command would inherit what is ignored: Python ignores SIGPIPE and SIGXFSZ, nohup SIGHUP.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        for descriptor in ours:
            os.close(descriptor)
        if LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(125)
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _send(status: int, number: int) -> None:
    try:
        os.write(status, b"%d\n" % number)
    except BrokenPipeError:
        pass  # tinyagent has ended, which closes the lifeline too


def _look(command: int) -> int | None:
    """Reap orphans; returns the exit code of the command, or None while it runs.

    The command is not reaped, so that its number, which is that of its group, stays its own.
    """
    if not LINUX:
        pid, status = os.waitpid(command, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        if ended.si_pid == command:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        os.waitpid(ended.si_pid, 0)


def _end(group: int, status: int, code: int | None) -> int:
    """Kill everything, and send how the command ended unless that was sent before."""
    deadline = time.monotonic() + END_SECONDS
    _signal_group(group, signal.SIGKILL)
    while True:
        for pid in _descendants(os.getpid()) if LINUX else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # gone, or run by another user (sudo)
        while True:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid == 0:
                break
            if pid == group and code is None:
                code = os.waitstatus_to_exitcode(ended)
                _send(status, code)
        if time.monotonic() > deadline:
            return 1
        time.sleep(POLL_SECONDS)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass  # all are gone, or run by another user


def _descendants(root: int) -> list[int]:
    """Every process below this one, as /proc has it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than all the rest
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
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
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
