"""Run one command: start it, read its output, wait, and end every process that it started."""

# The system does not report the end of processes that are not our children, so /proc is polled.
# ruff: noqa: ASYNC110
from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from tinyagent.sandbox import Launch
from tinyagent.supervisor import supervised_command

from ._environment import MARK, command_environment
from ._output import LIMIT, Output
from ._processes import ProcessInfo, ProcessTree
from ._sandbox import CommandSandbox
from ._saving import SavedOutput

__all__ = ["DEFAULT_TIMEOUT", "MAX_TIMEOUT", "CommandResult", "run"]

DEFAULT_TIMEOUT = 120
MAX_TIMEOUT = 600
"""Seconds after which a command is ended: by default, and at most."""

READ_BYTES = 1 << 16
TERM_GRACE_S = 0.4
"""Seconds between SIGTERM and SIGKILL; the agent cancels a tool a second after an abort."""

EXIT_GRACE_S = 0.3
"""Seconds for other processes, such as `>(tee log)`, to end by themselves after the shell has ended."""

_NUMBER = re.compile(rb"^(-?\d{1,10})\n", re.MULTILINE)
_FIRST_UPDATE, _UPDATE_FACTOR, _SLOWEST_UPDATE = 0.1, 1.2, 2.0
_POLL_S = 0.02
_END_TIMEOUT_S = 2.0
"""Seconds for the supervisor to end everything."""


@dataclass
class CommandResult:
    """How a command ended.

    Attributes:
        output: Its output.
        code: The exit code, negative for a signal.
        why: `exit` if it ended by itself, otherwise the cause: `timeout`, `aborted` or `output`.
        lost: Whether a process that cannot be found still holds the output open.
        killed: Processes that outlived the shell and were killed.
        survived: Processes that could not be killed.
        saved: The file with the complete output, if it was requested.
    """

    output: Output
    code: int = 0
    why: str = "exit"
    lost: bool = False
    killed: list[ProcessInfo] = field(default_factory=list)
    survived: list[ProcessInfo] = field(default_factory=list)
    saved: SavedOutput | None = None


async def run(
    command: str,
    *,
    cwd: str,
    timeout: float,
    stop: asyncio.Event | None,
    on_output: Callable[[str, int], None],
    more_environment: frozenset[str] = frozenset(),
    save: bool = False,
    sandbox: CommandSandbox | None = None,
) -> CommandResult:
    """Run a command until it ends, times out, is aborted or exceeds the output limit.

    When this returns or raises, also by a cancellation, every process of the command that can be found has
    ended.
    """
    saved = SavedOutput() if save else None
    try:
        return await _Command(command, cwd, more_environment, saved, sandbox).run(timeout, stop, on_output)
    finally:
        if saved is not None:
            saved.close()


class _Command:
    def __init__(
        self,
        command: str,
        cwd: str,
        more_environment: frozenset[str],
        saved: SavedOutput | None,
        sandbox: CommandSandbox | None,
    ) -> None:
        self._output = Output()
        self._saved = saved
        self._full = asyncio.Event()
        self._over = asyncio.Event()
        self._closed = False
        self._received = b""
        mark = secrets.token_hex(16)
        environment = command_environment(os.environ, more_environment)
        environment[MARK] = ",".join(filter(None, [environment.get(MARK), mark]))
        environment["PWD"] = cwd
        if sandbox is None:
            launch = Launch(_shell(command), environment, (), "none", "")
        else:
            # Below the supervisor, which ends everything.
            launch = sandbox.launch(_shell(command), cwd=cwd, environment=environment, die=False)
        self._wrapper = "bwrap" if launch.mechanism == "bubblewrap" else None
        self._reading, writing = os.pipe()
        self._status, status = os.pipe()
        lifeline, self._lifeline = os.pipe()
        for descriptor in (self._reading, self._status):
            os.set_blocking(descriptor, False)
        try:
            # Not awaited, because a cancellation in between would lose the process.
            self._process = subprocess.Popen(
                supervised_command(launch.command, lifeline=lifeline, status=status),
                cwd=cwd,
                env=launch.environment,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=(lifeline, status, *launch.descriptors),
                start_new_session=True,
            )
        except BaseException:
            for descriptor in (self._reading, self._status, self._lifeline):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (writing, status, lifeline):
                os.close(descriptor)
            launch.close()
        self._processes = ProcessTree(self._process.pid, mark)

    async def run(
        self, timeout: float, stop: asyncio.Event | None, on_output: Callable[[str, int], None]
    ) -> CommandResult:
        loop = asyncio.get_running_loop()
        ended = CommandResult(self._output, saved=self._saved)
        helpers: list[asyncio.Task[object]] = [asyncio.create_task(self._report(on_output))]
        loop.add_reader(self._reading, self._read)
        loop.add_reader(self._status, self._read_status)
        try:
            ends: dict[asyncio.Task[object], str] = {
                asyncio.create_task(self._over.wait()): "exit",
                asyncio.create_task(self._full.wait()): "output",
            }
            if stop is not None:
                ends[asyncio.create_task(stop.wait())] = "aborted"
            helpers += ends
            done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            ended.why = next((why for task, why in ends.items() if task in done), "timeout")
            if ended.why == "exit":
                ended.killed = await self._wait_for_background()
            else:
                await self._end()
        finally:
            # Nothing is awaited here, because this also runs during a cancellation.
            loop.remove_reader(self._status)
            ended.survived = self._kill()
            ended.code = self._code()
            loop.remove_reader(self._reading)
            ended.lost = not self._drain()
            for descriptor in (self._reading, self._status):
                os.close(descriptor)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return ended

    # ---- output -----------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Read the next bytes. Return False if there are none at present, or no more."""
        try:
            data = os.read(self._reading, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            # Every process has closed it; they may still run.
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._reading)
            return False
        if self._output.bytes + len(data) > LIMIT:
            data = data[: LIMIT - self._output.bytes]
            self._full.set()
        self._output.feed(data)
        if self._saved is not None:
            self._saved.write(data)
        return not self._full.is_set()

    def _drain(self) -> bool:
        """Read the rest. Return whether the end was reached."""
        while self._read():
            pass
        self._output.feed(b"", final=True)
        return self._closed or self._full.is_set()

    async def _report(self, on_output: Callable[[str, int], None]) -> None:
        """Report new output, at first often and then less often, so that records of long runs stay short."""
        pause, reported = _FIRST_UPDATE, 0
        while True:
            await asyncio.sleep(pause)
            if self._output.bytes != reported:
                reported = self._output.bytes
                on_output(self._output.news(), reported)
                pause = min(pause * _UPDATE_FACTOR, _SLOWEST_UPDATE)

    # ---- the end ----------------------------------------------------------------------------------

    def _read_status(self) -> None:
        """Read the process id and then the exit code of the shell from the supervisor."""
        try:
            data = os.read(self._status, READ_BYTES)
        except BlockingIOError:
            return
        self._received = (self._received + data)[-READ_BYTES:]
        numbers = self._numbers()
        if numbers and self._processes.shell is None:
            self._processes.shell = numbers[0]
        if len(numbers) > 1 or not data:  # without a code, the supervisor was killed
            self._over.set()
            asyncio.get_running_loop().remove_reader(self._status)

    def _code(self) -> int:
        """Return the exit code of the shell, or the signal that killed its supervisor."""
        self._read_status()
        numbers = self._numbers()
        return numbers[-1] if len(numbers) > 1 else self._process.returncode or -signal.SIGKILL

    def _numbers(self) -> list[int]:
        """Return the numbers on separate lines. A command can write other bytes to its parent's pipe."""
        return [int(number) for number in _NUMBER.findall(self._received)]

    def _kill(self) -> list[ProcessInfo]:
        """Kill all processes, and return those that survived."""
        self._process.send_signal(signal.SIGCONT)  # a command can stop its parent
        os.close(self._lifeline)
        try:
            all_ended = self._process.wait(_END_TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            all_ended = False
            self._processes.kill()  # first, because killing the supervisor would orphan them
            self._process.kill()
            self._process.wait()
        self._processes.supervisor = None
        if all_ended:
            return []
        return self._processes.kill()

    async def _wait_for_background(self) -> list[ProcessInfo]:
        """Wait `EXIT_GRACE_S` for processes that outlive the shell, and return those that still run."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + EXIT_GRACE_S
        while left := self._processes.members():
            if loop.time() > deadline:
                return [process for process in left if process.name != self._wrapper]
            await asyncio.sleep(_POLL_S)
        return []

    async def _end(self) -> None:
        """Ask all processes to end, and kill those that do not in time."""
        if not self._processes.signal(signal.SIGTERM):
            self._process.send_signal(signal.SIGTERM)  # the supervisor signals the group
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TERM_GRACE_S
        while loop.time() < deadline and not (self._over.is_set() and not self._processes.members()):
            await asyncio.sleep(_POLL_S)


def _shell(command: str) -> list[str]:
    bash = shutil.which("bash")
    if bash is not None:
        return [bash, "--noprofile", "--norc", "-c", command]
    return [shutil.which("sh") or "/bin/sh", "-c", command]
