"""The actor of a worker: one warm agent in a process of a node. Its messages are MessagePack."""

from __future__ import annotations

import os

import msgspec

from tinyagent.errors import TinyAgentError
from tinyagent.executors import BatchItem, ItemResult, Worker, WorkerSpec

__all__ = ["WorkerActor"]


class WorkerActor:
    """Runs items in the event loop of its process. Ray makes an actor of it.

    The key of the model is an argument of `set_up`. In a runtime environment of Ray it would be shown by the
    dashboard and written to logs.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    async def set_up(
        self, spec: bytes, environment: dict[str, str], directory: str | None
    ) -> tuple[str, str | None] | None:
        """Set up the worker.

        Args:
            spec: The encoded `WorkerSpec`.
            environment: Variables for this process; they are secret.
            directory: The working directory; None to keep that of Ray.

        Returns:
            The message and the hint of the error, if it cannot be set up.
        """
        os.environ.update(environment)
        if directory is not None:
            os.chdir(directory)
        try:
            self._worker = msgspec.msgpack.decode(spec, type=WorkerSpec).make_worker()
        except TinyAgentError as error:
            return str(error), error.hint
        return None

    async def run(self, item: bytes) -> bytes:
        """Run an encoded `BatchItem`, and return the encoded `ItemResult`."""
        assert self._worker is not None
        result: ItemResult = await self._worker.run(msgspec.msgpack.decode(item, type=BatchItem))
        return msgspec.msgpack.encode(result)

    async def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            await self._worker.aclose()
