"""The parent of one program: `python -I -S _supervisor.py LIFELINE STATUS PROGRAM ...`.

`tinyagent.supervisor` describes it. It imports little, because every start of a program runs it.

On Linux it adopts the processes below it that lose their parent (PR_SET_CHILD_SUBREAPER). So everything that
the program starts stays a descendant, even after `setsid`, `nohup`, a double fork or `env -i`. If the
supervisor is killed, the kernel kills the program (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform == "linux"
KILL_TIMEOUT_S = 5.0
EXIT_GRACE_S = 1.0
TERM_GRACE_S = 0.5
KILL_POLL_S, TERM_POLL_S = 0.002, 0.005


class _Events:
    """Waits for signals, and for the end of the lifeline."""

    def __init__(self, lifeline: int) -> None:
        self.lifeline = lifeline
        self.woken, self.wake = os.pipe()
        for end in (self.woken, self.wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll = select.poll()
        self._poll.register(self.woken, select.POLLIN)
        self._poll.register(lifeline, 0)  # requests no events, so only the end is reported

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a signal or the end of the lifeline. Return whether the lifeline has ended."""
        ended = False
        for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self.lifeline:
                ended = True
                self._poll.unregister(descriptor)
            else:
                os.read(self.woken, 4096)
        return ended


def main(lifeline: int, status: int | None, command: list[str]) -> int:
    """Supervise a program until it and everything that it started has ended."""
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    events = _Events(lifeline)
    return _stand_in(command, events) if status is None else _report(command, events, status)


def _start(command: list[str], *, session: bool, close: tuple[int, ...] = ()) -> int:
    supervisor = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        # The program would inherit ignored signals: SIGPIPE and SIGXFSZ from Python, SIGHUP from nohup.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if session:
            os.setsid()
        for descriptor in close:
            os.close(descriptor)
        if LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(125)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


# ---- with a status pipe: report, and wait for the end of the lifeline -----------------------------------


def _report(command: list[str], events: _Events, status: int) -> int:
    group = 0

    def pass_on(number: int, frame: object) -> None:
        if group:
            _signal_group(group, number)

    signal.signal(signal.SIGTERM, pass_on)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group = _start(command, session=True, close=(events.lifeline, status, events.woken, events.wake))
    _send(status, group)
    code: int | None = None
    while not events.wait():
        if code is None:
            code = _exit_code(group)
            if code is not None:
                _send(status, code)
    return _kill_all(group, status, code)


def _send(status: int, number: int) -> None:
    try:
        os.write(status, b"%d\n" % number)
    except BrokenPipeError:
        pass  # tinyagent has ended, which closes the lifeline, too


def _exit_code(program: int) -> int | None:
    """Reap orphans. Return the exit code of the program, or None while it runs.

    The program is not reaped, so that no other process gets its id, which is also that of its group.
    """
    if not LINUX:
        pid, status = os.waitpid(program, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        if ended.si_pid == program:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        os.waitpid(ended.si_pid, 0)


def _kill_all(group: int, status: int, code: int | None) -> int:
    """Kill everything, and report the exit code if that was not done before."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    _signal_group(group, signal.SIGKILL)
    while True:
        _signal_each(_descendants(os.getpid()), signal.SIGKILL)
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
        time.sleep(KILL_POLL_S)


# ---- without a status pipe: replace the program ---------------------------------------------------------


def _stand_in(command: list[str], events: _Events) -> int:
    requests: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: requests.append(number))
    program = _start(command, session=False)
    # Only the program holds its output, so its reader sees when the program closes it.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    code: int | None = None
    deadline: float | None = None
    while not requests:
        code = _reap(program, code)
        left = None if deadline is None else deadline - time.monotonic()
        if code is not None or (left is not None and left <= 0):
            break
        if events.wait(left):
            deadline = time.monotonic() + EXIT_GRACE_S
    return _end_all(program, code)


def _reap(program: int, code: int | None) -> int | None:
    """Reap every child that has ended. Return the exit code of the program once it has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == program:
            code = os.waitstatus_to_exitcode(status)


def _end_all(program: int, code: int | None) -> int:
    """Send SIGTERM to all processes, then SIGKILL. Return the exit code in the form of a shell."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + TERM_GRACE_S
    group = os.getpgrp()
    if group == os.getpid():
        _signal_group(group, signal.SIGTERM)
    _signal_each([pid for pid in _descendants(os.getpid()) if _group(pid) != group], signal.SIGTERM)
    while _has_children() and time.monotonic() < deadline:
        code = _reap(program, code)
        time.sleep(TERM_POLL_S)
    if not LINUX:
        # Orphans are not adopted here, so only the group is known. It includes the supervisor.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.killpg(group, signal.SIGKILL)
    while _has_children():
        _signal_each(_descendants(os.getpid()), signal.SIGKILL)
        code = _reap(program, code)
        time.sleep(TERM_POLL_S)
    if code is None:
        return 0
    return code if code >= 0 else 128 - code


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


# ---- processes ------------------------------------------------------------------------------------------


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass  # all have ended, or run as another user


def _signal_each(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass  # it has ended, or runs as another user (sudo)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _descendants(root: int) -> list[int]:
    """Return every process below `root`, from /proc; empty on other systems."""
    if not LINUX:
        return []
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
        pass  # not supported by the C library: only the process group is ended


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), None if sys.argv[2] == "-" else int(sys.argv[2]), sys.argv[3:]))
