"""All calls of Ray. It has few types that a checker can use, so they end in this module."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from types import ModuleType
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from tinyagent.errors import ConfigurationError, TinyAgentError, WorkerLostError
from tinyagent.executors import BatchItem, ItemResult, WorkerSpec

from . import _node
from ._actor import WorkerActor

__all__ = ["Cluster", "Node", "RayWorker"]

T = TypeVar("T")

START_S = 120.0
"""Seconds for a worker to get its processors and to be set up."""
CONNECT_S = 120.0
"""Seconds for a cluster to answer, or for Ray to start on this machine."""
PORT_S = 5.0
"""Seconds for the port of a cluster to accept a connection."""
SHUTDOWN_S = 10.0
"""Seconds to disconnect from Ray, and to end it if it was started for the batch."""
CHECK_S = 60.0
"""Seconds for a node to answer the check."""
HEAD_S = 3.0
"""Seconds between two looks at the head of the cluster."""
CLOSE_S = 3.0
"""Seconds for a worker to end the records of what was in flight."""
SPARE_CALLS = 8
"""Calls of an actor beside its items."""

_HINT = (
    "Show the cluster: ray status. Start one: ray start --head. If it has token authentication: export "
    "RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or ~/.ray/auth_token. If the path of a socket is "
    "too long, set RAY_TMPDIR to a shorter one."
)


class Node(NamedTuple):
    """A node of the cluster.

    Attributes:
        id: Ray's id.
        name: The host name and a part of the id, for messages.
    """

    id: str
    name: str


class Cluster:
    """The connection of this process to Ray. Use `connect`.

    Args:
        ray: The module.
        thread: Calls what may block. It has connected to Ray if the program was not connected before.
        owned: Whether the thread has connected, so that it disconnects.
    """

    def __init__(self, ray: ModuleType, thread: _Thread, *, owned: bool) -> None:
        self.ray = ray
        self._thread = thread
        self._owned = owned

    @classmethod
    async def connect(cls, address: str | None, working_dir: str | None) -> Cluster:
        """Connect to a cluster, or start Ray on this machine.

        Args:
            address: The address; None for RAY_ADDRESS, or for a new cluster on this machine.
            working_dir: A folder to copy to the nodes.

        Raises:
            ConfigurationError: Ray is not installed, or there is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on loopback only
        try:
            import ray  # pyright: ignore[reportMissingImports] - it is not in .venv
        except ImportError as error:
            raise ConfigurationError(
                f"Ray cannot be imported: {error}.", hint="Install it: pip install tinyagent-ray"
            ) from error
        ray.cloudpickle.register_pickle_by_value(_node)
        if ray.is_initialized():
            return cls(ray, _Thread(), owned=False)
        arguments: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if working_dir is not None:
            arguments["runtime_env"] = {"working_dir": working_dir}
        arguments |= {"address": address} | ({"include_dashboard": False} if address == "local" else {})
        try:
            await _check_port(address)
            thread = _Thread()
            await thread.run(lambda: ray.init(**arguments), CONNECT_S)
        except TimeoutError:
            raise ConfigurationError(
                f"Ray at {address} did not answer within {CONNECT_S:g} s.", hint=_HINT
            ) from None
        except Exception as error:  # Ray raises this class if a node does not start in time
            raise ConfigurationError(
                f"There is no Ray cluster at {address}: {_first_line(error)}"
                if address != "local"
                else f"Ray cannot be started: {_first_line(error)}",
                hint=_HINT,
            ) from error
        return cls(ray, thread, owned=True)

    async def close(self) -> None:
        """Disconnect. A cluster that was started for the batch is ended."""
        if self._owned:
            try:
                await self._thread.run(self.ray.shutdown, SHUTDOWN_S)
            except TimeoutError:
                pass  # the exit of the process disconnects it
        self._thread.end()

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function of Ray that blocks while the head of the cluster cannot be reached.

        Raises:
            TimeoutError: It takes too long.
        """
        return await self._thread.run(function, START_S)

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        return [
            Node(node["NodeID"], f"Node {node['NodeManagerHostname']} ({node['NodeID'][:8]})")
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def room_for(self, cpus: float) -> int:
        """Return how many workers the processors of the nodes allow.

        Raises:
            ConfigurationError: No node has enough processors for one.
        """
        found = [float(node["Resources"].get("CPU", 0)) for node in self.ray.nodes() if node["Alive"]]
        if not any(number >= cpus for number in found):
            raise ConfigurationError(
                f"No node of the cluster has {cpus:g} processors for a worker.",
                hint=f"The largest has {max(found, default=0):g}: --executor-option cpus=1",
            )
        return sum(int(number // cpus) for number in found)

    async def watch_head(self) -> NoReturn:
        """Raise an error when the head of the cluster is lost. Ray waits a minute for it, and then exits.

        Raises:
            TinyAgentError: It cannot be reached.
        """
        if self.ray.util.client.ray.is_connected():
            await asyncio.Future()  # only the server of ray:// has to reach the head
        address = str(self.ray.get_runtime_context().gcs_address)
        while True:
            try:
                await _check_port(address)
            except (OSError, TimeoutError) as error:
                raise TinyAgentError(
                    f"The head of the Ray cluster at {address} is lost: {_first_line(error)}.",
                    hint="Start the cluster, and then the same command again. It goes on with what is left.",
                ) from error
            await asyncio.sleep(HEAD_S)

    async def find_problems(
        self, node: Node, requirements: Mapping[str, str], directory: str | None, markers: list[str]
    ) -> list[str]:
        """Return what a node lacks. See `_node.find_problems`.

        Raises:
            TinyAgentError: The check fails.
        """
        from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
            NodeAffinitySchedulingStrategy,
        )

        check = self.ray.remote(_node.find_problems).options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        reference = check.remote(node.name, sys.version_info[:2], dict(requirements), directory, markers)
        try:
            return msgspec.convert(await asyncio.wait_for(_result(reference), CHECK_S), list[str])
        except TimeoutError:
            raise TinyAgentError(f"it did not answer within {CHECK_S:g} s") from None
        except self.ray.exceptions.RayError as error:
            raise TinyAgentError(_first_line(error)) from error


class RayWorker:
    """A worker in an actor. Use `start`."""

    def __init__(self, cluster: Cluster, actor: object) -> None:
        self._cluster = cluster
        self._ray = cluster.ray
        self._actor = actor

    @classmethod
    async def start(
        cls,
        cluster: Cluster,
        spec: WorkerSpec,
        environment: Mapping[str, str],
        directory: str | None,
        cpus: float,
    ) -> RayWorker:
        """Start an actor, and wait until its worker is set up.

        Args:
            cluster: Where to start it.
            spec: The recipe.
            environment: Secret variables for the process.
            directory: Its working directory; None for that of Ray.
            cpus: The processors that Ray reserves.

        Raises:
            TinyAgentError: The worker cannot be set up.
            WorkerLostError: The actor cannot be started.
        """
        ray = cluster.ray
        options = ray.remote(WorkerActor).options(
            num_cpus=cpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=spec.share + SPARE_CALLS,
        )
        try:
            actor = await cluster.call(options.remote)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise WorkerLostError(f"A worker cannot be started: {_first_line(error)}") from error
        worker = cls(cluster, actor)
        try:
            reference = actor.set_up.remote(msgspec.msgpack.encode(spec), dict(environment), directory)
            problem = await asyncio.wait_for(_result(reference), START_S)
        except TimeoutError:
            ray.kill(actor)
            raise WorkerLostError(
                f"A worker did not start within {START_S:g} s. Ray has no {cpus:g} free processors for it, "
                "or the node hangs.",
            ) from None
        except ray.exceptions.RayTaskError as error:
            ray.kill(actor)
            raise TinyAgentError(f"A worker cannot be set up: {_first_line(error.cause)}") from error
        except ray.exceptions.RayError as error:
            raise WorkerLostError(f"A worker cannot be started: {_first_line(error)}") from error
        except BaseException:
            ray.kill(actor)
            raise
        if problem is not None:
            ray.kill(actor)
            message, hint = msgspec.convert(problem, tuple[str, str | None])
            raise ConfigurationError(message, hint=hint)
        return worker

    async def run(self, item: BatchItem) -> ItemResult:
        """Run an item in the actor.

        Raises:
            TinyAgentError: The worker could not run the item.
            WorkerLostError: The actor, its process or its node has ended.
        """
        reference = self._actor.run.remote(msgspec.msgpack.encode(item))  # type: ignore[attr-defined]
        try:
            answer = await _result(reference)
            assert isinstance(answer, bytes)
            return msgspec.msgpack.decode(answer, type=ItemResult)
        except asyncio.CancelledError:
            self._ray.cancel(reference)
            raise
        except self._ray.exceptions.RayTaskError as error:
            raise TinyAgentError(_first_line(error.cause)) from error
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(f"A worker was lost: {_first_line(error)}") from error

    async def aclose(self) -> None:
        """End the actor, after the records of what was in flight."""
        try:
            await asyncio.wait_for(_result(self._actor.close.remote()), CLOSE_S)  # type: ignore[attr-defined]
        except (TimeoutError, self._ray.exceptions.RayError):
            pass  # it is lost, or it hangs
        try:
            await self._cluster.call(lambda: self._ray.kill(self._actor))
        except (TimeoutError, self._ray.exceptions.RayError):
            pass  # the head is lost, and the workers with it


async def _check_port(address: str) -> None:
    """Connect to the port of an address, because Ray itself waits for minutes if nothing listens there.

    Raises:
        OSError: It cannot be connected.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto` and `local`
    _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), PORT_S)
    writer.close()


class _Thread:
    """A thread that calls functions of Ray, and does not delay the exit of the process.

    In the main thread, Ray would replace the signal handlers of the command. The thread lives as long as the
    connection, because the kernel ends a local cluster together with the thread that started it.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="ray").start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    async def run(self, function: Callable[[], T], seconds: float) -> T:
        """Call a function in the thread, and return its result.

        Raises:
            TimeoutError: It takes longer.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(call: Future[T]) -> None:
            if done.done():
                return
            if (error := call.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(call.result())

        def call() -> None:
            called: Future[T] = Future()
            try:
                called.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is raised in the event loop
                called.set_exception(error)
            try:
                loop.call_soon_threadsafe(settle, called)
            except RuntimeError:
                pass  # the event loop is closed

        self._calls.put(call)
        return await asyncio.wait_for(done, seconds)

    def end(self) -> None:
        """End the thread after its last call."""
        self._calls.put(None)


async def _result(reference: object) -> object:
    """Wait for a reference of Ray."""
    return await asyncio.wrap_future(reference.future())  # type: ignore[attr-defined]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
