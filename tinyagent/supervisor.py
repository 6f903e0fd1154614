"""End a program together with every process that it starts.

A program that a tool starts can start other programs in separate groups and sessions, and these do not end
with the tool. So it runs below a small supervisor process:

    command = supervised_command(["/usr/bin/make"], lifeline=read_end, status=status_end)
    subprocess.Popen(command, pass_fds=(read_end, status_end), start_new_session=True)

On Linux the supervisor adopts the processes below it that lose their parent. So it finds and ends everything
that the program starts, and the kernel ends the program if the supervisor is killed. On other systems it ends
the process group. When this process ends, even by SIGKILL, the lifeline closes, and the supervisor ends all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["supervised_command"]

_SCRIPT = Path(__file__).with_name("_supervisor.py")


def supervised_command(command: Sequence[str], *, lifeline: int = 0, status: int | None = None) -> list[str]:
    """Return the command that runs `command` below a supervisor. Start it in a new session.

    With `status`, the supervisor reports on the program and waits for you to end it. The program gets a
    session of its own. SIGTERM to the supervisor is passed on to the program's process group. When the
    lifeline closes, every process is killed. The supervisor's exit code is 0 if no process is left.

    Without `status`, the supervisor replaces the program: it exits when the program exits, with its exit code
    (128 + N for signal N), and also on SIGTERM, SIGINT or SIGHUP. When the lifeline closes, the program has a
    second to exit. Then, and in all other cases, every process gets SIGTERM, and half a second later SIGKILL.

    Args:
        command: The program, as a path, and its arguments.
        lifeline: The file descriptor of the read end of a pipe, in the supervisor. You hold the other end.
        status: The file descriptor of the write end of a pipe, in the supervisor. It gets a line with the
            process id of the program, and a line with its exit code (negative for a signal) once it ended.

    Returns:
        The command; `command` itself if there is no supervisor for this system (Windows).
    """
    if os.name != "posix" or not sys.executable:
        return list(command)
    descriptors = [str(lifeline), "-" if status is None else str(status)]
    return [sys.executable, "-I", "-S", str(_SCRIPT), *descriptors, *command]
