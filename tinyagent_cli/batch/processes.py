"""Run the items of a batch in several processes of this machine, each with an event loop of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from tinyagent.errors import ConfigurationError, TinyAgentError, WorkerLostError
from tinyagent.executors import BatchItem, ItemResult, Job, Worker, WorkerSpec, run_on_workers
from tinyagent_cli.config.environment import environment_with
from tinyagent_cli.terminal.amounts import counted

from .process_messages import Finished, Message, Raised, Ready, Refused, frame, read_frame

__all__ = ["ProcessOptions", "ProcessesExecutor"]

MODULE = "tinyagent_cli.batch.process_worker"
END_S = 3.0
"""Seconds for a worker to end the records of what was in flight, before it is killed."""
POLL_S = 0.05
"""Seconds between two looks at whether a process has ended."""
REST_S = 0.5
"""Seconds for reading the rest of a pipe that a program which a tool has left running holds open."""
_START_HINT = (
    "What it has printed is above. Try fewer workers, if memory runs out: --executor-option workers=N   "
    "To see the cause in this process: --executor local"
)
MOST_NOTES = 20
"""The most lines of a worker's standard error that are shown."""


class ProcessOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the executor.

    Attributes:
        workers: The number of processes; None for one for each processor.
    """

    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None


class ProcessesExecutor:
    """Runs items in processes of this machine.

    Args:
        options: Its options.
    """

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items. See `tinyagent.executors.Executor`."""
        wanted = self._options.workers
        specs = spec.divide(wanted or _processors())
        if wanted is not None and len(specs) < wanted:
            job.note(
                f"{counted(len(specs), 'worker')}, not {wanted}: -j and batch.limits.NAME.concurrency "
                "allow no more requests at a time."
            )

        async def start(part: WorkerSpec) -> Worker:
            return await ProcessWorker.start(part, job)

        await run_on_workers(specs, start, items, job)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessWorker:
    """A worker in another process. Use `start`.

    Args:
        process: The process.
        job: Gets what the process writes to standard error.
    """

    def __init__(self, process: Process, job: Job) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._job = job
        self._waiting: dict[str, asyncio.Future[ItemResult]] = {}
        self._lost = False
        self._notes = asyncio.create_task(self._show(process.stderr))
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, spec: WorkerSpec, job: Job) -> ProcessWorker:
        """Start a process, and wait until its worker is set up.

        Raises:
            TinyAgentError: It cannot be set up.
            WorkerLostError: The process ended.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE, str(os.getpid())),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment_with(job.environment),
                process_group=0,  # Ctrl-C is for this process alone
            )
        except OSError as error:
            raise WorkerLostError(
                f"A worker process cannot be started: {error.strerror}.", hint=_START_HINT
            ) from error
        worker = cls(process, job)
        try:
            await worker._set_up(spec)
        except BaseException:
            await worker.aclose()
            raise
        return worker

    async def _set_up(self, spec: WorkerSpec) -> None:
        self._input.write(frame(spec))
        payload = await read_frame(self._output)
        match None if payload is None else msgspec.json.decode(payload, type=Message):
            case Ready():
                self._watching = asyncio.create_task(self._watch())
            case Refused(message, hint):
                raise ConfigurationError(message, hint=hint)
            case _:
                raise WorkerLostError(await self._how_it_ended(), hint=_START_HINT)

    async def run(self, item: BatchItem) -> ItemResult:
        """Run an item in the process.

        Raises:
            TinyAgentError: The worker could not run the item.
            WorkerLostError: The process has ended.
        """
        if self._lost:
            raise WorkerLostError(await self._how_it_ended())
        future: asyncio.Future[ItemResult] = asyncio.get_running_loop().create_future()
        self._waiting[item.id] = future
        try:
            try:
                self._input.write(frame(item))
                await self._input.drain()
            except ConnectionError:
                pass  # the reader of its output reports how it ended
            return await future
        finally:
            self._waiting.pop(item.id, None)

    async def aclose(self) -> None:
        """End the process: by the end of its input, or else by signals."""
        self._input.close()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                await asyncio.wait_for(self._exit_code(), END_S)
                break
            except TimeoutError:
                self._process.send_signal(signum)
        await self._exit_code()
        await asyncio.wait((self._notes,), timeout=REST_S)  # the last lines have the reason
        self._notes.cancel()
        if self._watching is not None:
            self._watching.cancel()
        # A program that a tool has left may hold the pipes open. There is no public way to get the transport.
        transport: object = getattr(self._process, "_transport", None)
        if isinstance(transport, asyncio.BaseTransport):
            transport.close()

    async def _watch(self) -> None:
        """Read results until the process ends."""
        reading, exiting = asyncio.create_task(self._read()), asyncio.create_task(self._exit_code())
        try:
            await asyncio.wait((reading, exiting), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((reading,), timeout=REST_S)
            await asyncio.wait((exiting,), timeout=END_S)
            if not exiting.done():
                self._process.kill()  # it has closed its output, or sent something else
        finally:
            reading.cancel()
            exiting.cancel()
        self._lost = True
        reason = await self._how_it_ended()
        for item_id in list(self._waiting):
            self._settle(item_id, WorkerLostError(reason))

    async def _read(self) -> None:
        """Read results until the output ends or has something else."""
        while (payload := await read_frame(self._output)) is not None:
            try:
                message = msgspec.json.decode(payload, type=Message)
            except msgspec.MsgspecError:
                return
            match message:
                case Finished(result):
                    self._settle(result.id, result)
                case Raised(item_id, text):
                    self._settle(item_id, TinyAgentError(text))

    def _settle(self, item_id: str, result: ItemResult | TinyAgentError) -> None:
        future = self._waiting.get(item_id)
        if future is None or future.done():
            return
        if isinstance(result, ItemResult):
            future.set_result(result)
        else:
            future.set_exception(result)

    async def _exit_code(self) -> int:
        """Wait until the process has ended. `Process.wait` also waits for others that hold its pipes."""
        while (code := self._process.returncode) is None:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(POLL_S)
        return code

    async def _how_it_ended(self) -> str:
        code = await self._exit_code()
        if code >= 0:
            return f"Worker process {self._process.pid} ended with exit code {code}."
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        cause = ", as happens when memory runs out" if name == "SIGKILL" else ""
        return f"Worker process {self._process.pid} was ended by {name}{cause}."

    async def _show(self, stream: asyncio.StreamReader) -> None:
        """Show what plugins print, which would otherwise write over the progress."""
        shown = 0
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit of the reader, which drops it
                continue
            if not line:
                return
            shown += 1
            name = f"Worker process {self._process.pid}"
            if shown <= MOST_NOTES:
                self._job.note(f"{name}: {line.decode(errors='replace').rstrip()}")
            elif shown == MOST_NOTES + 1:
                self._job.note(f"{name} prints more, which is not shown.")
