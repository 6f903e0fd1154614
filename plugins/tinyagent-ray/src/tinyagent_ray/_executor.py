"""Connect to Ray, check its nodes, and run the items with one actor for each worker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TextIO, TypeVar

import msgspec

from tinyagent.errors import ConfigurationError, TinyAgentError
from tinyagent.executors import BatchItem, Job, Worker, WorkerSpec, run_on_workers

from ._cluster import Cluster, Node, RayWorker

__all__ = ["RayExecutor", "RayOptions"]

T = TypeVar("T")


class RayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the executor.

    Attributes:
        address: The address of a cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`. Unset, RAY_ADDRESS has
            it; without both, Ray is started on this machine, and ended with the batch.
        workers: The number of workers. Unset, there are as many as the processors of the cluster allow.
        cpus: The processors that Ray reserves for each worker.
        working_dir: A folder that Ray copies to the nodes, as the working directory. Unset, each node must
            have the working directory of the command, at the same path.
    """

    address: str | None = None
    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cpus: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    working_dir: str | None = None


class RayExecutor:
    """Runs items on a Ray cluster. The results come back to the command, which writes them.

    Args:
        options: Its options.
    """

    def __init__(self, options: RayOptions) -> None:
        self._options = options

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items. See `tinyagent.executors.Executor`."""
        options = self._options
        with _without_output_of_ray():
            cluster = await _unless_ended(job, self._connect(spec))
            if cluster is None:
                return
            try:
                room = cluster.room_for(options.cpus)
                specs = spec.divide(options.workers or room)
                directory = self._directory(spec)

                async def start(part: WorkerSpec) -> Worker:
                    return await RayWorker.start(cluster, part, job.environment, directory, options.cpus)

                await _while_watched(run_on_workers(specs, start, items, job), cluster.watch_head())
            finally:
                await cluster.close()

    def _directory(self, spec: WorkerSpec) -> str | None:
        """Return the working directory that each node must have; None if Ray copies one."""
        return None if self._options.working_dir is not None else spec.directory or None

    async def _connect(self, spec: WorkerSpec) -> Cluster:
        """Connect, and check the nodes.

        Raises:
            ConfigurationError: There is no such cluster, or a node lacks something.
        """
        folder = self._options.working_dir
        if folder is not None and not _is_folder(folder):
            raise ConfigurationError(f"working_dir: {folder} is not a folder.")
        cluster = await Cluster.connect(self._options.address, self._options.working_dir)
        try:
            await self._check(cluster, spec)
        except BaseException:
            await cluster.close()
            raise
        return cluster

    async def _check(self, cluster: Cluster, spec: WorkerSpec) -> None:
        """Check that each node can run workers.

        Raises:
            ConfigurationError: A node lacks something, or has another version of it.
        """
        nodes = cluster.nodes()
        with _markers(spec.shared) as markers:
            found = await asyncio.gather(*(self._problems(cluster, node, spec, markers) for node in nodes))
        problems = [problem for of_node in found for problem in of_node]
        if problems:
            wanted = " ".join(f"{name}=={version}" for name, version in spec.requirements.items())
            raise ConfigurationError(
                "\n".join(problems),
                hint=f"On each node: pip install {wanted}\nFolders must be on storage that the nodes share; "
                "--executor-option working_dir=. copies the working directory.",
            )

    async def _problems(
        self, cluster: Cluster, node: Node, spec: WorkerSpec, markers: Sequence[str]
    ) -> list[str]:
        directory = self._directory(spec)
        try:
            return await cluster.find_problems(node, spec.requirements, directory, list(markers))
        except TinyAgentError as error:
            # Ray lists a lost node for up to half a minute. The check of such a node fails when Ray notices.
            if node not in cluster.nodes():
                return []
            return [f"{node.name} cannot be checked: {error}"]


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


async def _unless_ended(job: Job, work: Coroutine[object, object, T]) -> T | None:
    """Return the result of a coroutine; None if the job ends before."""
    ended = asyncio.create_task(job.draining.wait())
    running = asyncio.create_task(work)
    try:
        await asyncio.wait((ended, running), return_when=asyncio.FIRST_COMPLETED)
        return await running if running.done() else None
    finally:
        ended.cancel()
        running.cancel()


async def _while_watched(
    work: Coroutine[object, object, None], watch: Coroutine[object, object, None]
) -> None:
    """Run a coroutine to its end, unless the one that watches raises an error before."""
    tasks = [asyncio.create_task(work), asyncio.create_task(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await done.pop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _markers(folders: Sequence[str]) -> Iterator[list[str]]:
    """Write a file into each folder, by which a node shows that it shares the folder."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".tinyagent-")).name
            for folder in folders
        ]


@contextlib.contextmanager
def _without_output_of_ray() -> Iterator[None]:
    """Drop what Ray prints about its own processes: pages of internal state when a node is lost.

    The executor reports lost workers itself.
    """
    with contextlib.redirect_stdout(_Filter(sys.stdout)):
        yield


class _Filter:
    """Standard output without the lines of Ray."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drops = False

    def write(self, text: str) -> int:
        """Write a text that is not Ray's. Ray writes a message, and then its line feed."""
        if "(raylet" in text or "(autoscaler" in text:
            self._drops = not text.endswith("\n")
        elif self._drops:
            self._drops = False
        else:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return False, so that Ray uses no colours."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()
