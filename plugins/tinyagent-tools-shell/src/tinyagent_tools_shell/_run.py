"""Running one command: start, read, wait, and end everything that it started."""

# Nobody says when processes of others end, so they are asked again and again.
# ruff: noqa: ASYNC110
from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from ._environment import MARK, clean
from ._guard import Guard
from ._output import LIMIT, Output
from ._processes import Family, Member

__all__ = ["Ended", "run"]

PIECE = 1 << 16
GRACE = 0.4
"""Seconds between SIGTERM and SIGKILL; the agent cancels a tool a second after an abort."""

AFTERWARDS = 0.3
"""Seconds that what is left has to end by itself when the shell is through, as `>(tee log)` does."""

_FIRST_UPDATE, _UPDATE_FACTOR, _SLOWEST_UPDATE = 0.1, 1.2, 2.0
_POLL = 0.02
_LOOK = 0.25
_LAST = 2.0  # seconds that a killed shell has to be gone


@dataclass
class Ended:
    """How a command ended.

    `why` is `exit` if it ended by itself, else what ended it: `timeout`, `aborted`, `output`. `lost` says
    that somebody still holds the output open, though all that could be found are gone.
    """

    output: Output
    code: int = 0
    why: str = "exit"
    lost: bool = False
    killed: list[Member] = field(default_factory=list)
    survived: list[Member] = field(default_factory=list)
    saved: str | None = None


async def run(
    command: str,
    *,
    cwd: str,
    timeout: float,
    stop: asyncio.Event | None,
    on_output: Callable[[str, int], None],
    more_environment: frozenset[str] = frozenset(),
    save: bool = False,
) -> Ended:
    """Run a command to its end, or to one of the ends that are set to it.

    However this is left, by a cancellation too, nothing that the command started and that can be found
    goes on.
    """
    saving: IO[bytes] | None = None
    if save:
        saving = tempfile.NamedTemporaryFile(prefix="tinyagent-bash-", suffix=".log", delete=False)  # noqa: SIM115
    try:
        return await _Command(command, cwd, more_environment, saving).run(timeout, stop, on_output)
    finally:
        if saving is not None:
            saving.close()


class _Command:
    def __init__(
        self, command: str, cwd: str, more_environment: frozenset[str], saving: IO[bytes] | None
    ) -> None:
        self._output = Output()
        self._saving = saving
        self._ended = asyncio.Event()
        self._closed = False
        mark = secrets.token_hex(16)
        environment = clean(os.environ, more_environment)
        environment[MARK] = ",".join(filter(None, [environment.get(MARK), mark]))
        environment["PWD"] = cwd
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        try:
            # At once and not awaited: a cancellation in between would lose the process.
            self._process = subprocess.Popen(
                _shell(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._reading)
            raise
        finally:
            os.close(writing)
        self._family = Family(self._process.pid, mark)
        try:
            self._guard = Guard(self._process.pid, mark)
        except BaseException:
            self._family.kill()
            self._process.wait()
            os.close(self._reading)
            raise

    async def run(
        self, timeout: float, stop: asyncio.Event | None, on_output: Callable[[str, int], None]
    ) -> Ended:
        loop = asyncio.get_running_loop()
        ended = Ended(self._output, saved=self._saving.name if self._saving else None)
        helpers: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._report(on_output)),
            asyncio.create_task(self._look()),
        ]
        loop.add_reader(self._reading, self._read)
        try:
            watching = asyncio.create_task(self._watch())
            helpers.append(watching)
            ends: dict[asyncio.Task[Any], str] = {
                watching: "exit",
                asyncio.create_task(self._ended.wait()): "output",
            }
            if stop is not None:
                ends[asyncio.create_task(stop.wait())] = "aborted"
            helpers += ends
            done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            ended.why = next((why for task, why in ends.items() if task in done), "timeout")
            if ended.why == "exit":
                ended.killed = await self._clear_up()
            else:
                await self._end(watching)
        finally:
            # Whatever happened, and without waiting for anything: this also runs while being cancelled.
            self._guard.close()
            ended.survived = self._family.kill()
            try:
                ended.code = self._process.wait(_LAST)
            except subprocess.TimeoutExpired:
                ended.survived.append(Member(self._process.pid, "", "the shell"))
            loop.remove_reader(self._reading)
            ended.lost = not self._drain()
            os.close(self._reading)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return ended

    # ---- output -----------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Take what there is; False if there is nothing now, or nothing more."""
        try:
            data = os.read(self._reading, PIECE)
        except BlockingIOError:
            return False
        if not data:
            # Closed by all who had it, which says nothing about whether they go on.
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._reading)
            return False
        if self._output.bytes + len(data) > LIMIT:
            data = data[: LIMIT - self._output.bytes]
            self._ended.set()
        self._output.feed(data)
        if self._saving is not None:
            self._saving.write(data)
        return not self._ended.is_set()

    def _drain(self) -> bool:
        """Take the rest; whether that was the end."""
        while self._read():
            pass
        self._output.feed(b"", final=True)
        return self._closed or self._ended.is_set()

    async def _report(self, on_output: Callable[[str, int], None]) -> None:
        """Say what is new, soon at first and then less often, so that a long run makes no long record."""
        pause, reported = _FIRST_UPDATE, 0
        while True:
            await asyncio.sleep(pause)
            if self._output.bytes != reported:
                reported = self._output.bytes
                on_output(self._output.news(), reported)
                pause = min(pause * _UPDATE_FACTOR, _SLOWEST_UPDATE)

    async def _look(self) -> None:
        """See who is born, before they can lose what shows where they come from."""
        while True:
            await asyncio.sleep(_LOOK)
            self._family.members()

    # ---- the end ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait until the shell is over; it is not reaped, so that its number stays its own."""
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except (OSError, AttributeError):
            while self._process.poll() is None:
                await asyncio.sleep(_POLL)
            return
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def _clear_up(self) -> list[Member]:
        """Give what outlives the shell a moment; returns who has to be killed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + AFTERWARDS
        while left := self._family.members():
            if loop.time() > deadline:
                return left
            await asyncio.sleep(_POLL)
        return []

    async def _end(self, watching: asyncio.Task[None]) -> None:
        """Ask all to end; they are killed if they have not done so in time."""
        self._family.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE
        while loop.time() < deadline and (not watching.done() or self._family.members()):
            await asyncio.sleep(_POLL)


def _shell(command: str) -> list[str]:
    bash = shutil.which("bash")
    if bash is not None:
        return [bash, "--noprofile", "--norc", "-c", command]
    return [shutil.which("sh") or "/bin/sh", "-c", command]
