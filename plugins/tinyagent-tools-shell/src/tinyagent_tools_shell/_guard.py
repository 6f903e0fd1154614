"""For the case that tinyagent itself is killed: a second Ctrl-C, SIGKILL, no memory left.

A small shell waits for the end of a pipe whose other end only this process holds. The end comes when this
process is no more, however that came about; then it kills the command that it was made for.
"""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["Guard"]

# The group first; then, where there is /proc, what has the mark, twice for what was born meanwhile.
_SCRIPT = """
read -r _
kill -KILL -- "-$1"
for _ in 1 2; do
    for place in /proc/[0-9]*; do
        grep -qs -e "$2" "$place/environ" && kill -KILL "${place#/proc/}"
    done
done
"""


class Guard:
    """Kills a process group, and what carries a mark, if this process ends before `close` is called."""

    def __init__(self, group: int, mark: str) -> None:
        reading, self._alive = os.pipe()
        try:
            self._process = subprocess.Popen(
                [shutil.which("sh") or "/bin/sh", "-c", _SCRIPT, "guard", str(group), mark],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._alive)
            raise
        finally:
            os.close(reading)

    def close(self) -> None:
        """It is not needed any more: end it before the number of the group can become somebody else's."""
        self._process.kill()
        self._process.wait()
        os.close(self._alive)
