"""Between the command and an executor, which decides where the items of a batch run.

`BatchItem`, `ItemResult` and `WorkerSpec` can be sent to other processes and machines: `msgspec.json` encodes
and decodes them, and pickle does, too. None of them contains a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Protocol

import msgspec

from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.errors import ConfigurationError

__all__ = ["BatchItem", "Executor", "ItemResult", "Job", "Worker", "WorkerSpec"]


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input.

    Attributes:
        id: Its id, which no other item has.
        line: The number of its line in the input, from 1.
        prompt: The prompt; None if a template or the history has it.
        system: The system prompt, instead of that of the batch.
        model: The model as that of `-m`, instead of that of the batch.
        files: Files for the prompt, inside the working directory.
        history: Messages before the prompt.
        variables: All other fields: the variables of templates.
        settings: Settings of the request, instead of those of the batch: `temperature`, `max_tokens`, and
            `extra_body` with fields for the body of the request.
    """

    id: str
    line: int
    prompt: str | None = None
    system: str | None = None
    model: str | None = None
    files: tuple[str, ...] = ()
    history: tuple[JsonDict, ...] = ()
    variables: dict[str, JsonValue] = {}
    settings: JsonDict = {}


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one item.

    Attributes:
        id: The id of the item.
        line: The complete line for the output file, with its line feed.
        ok: Whether the item has an answer.
        kind: The kind of the error, as in `error.kind` of the line; None if there is an answer.
        message: The message of the error.
        stops: Whether the items that follow would fail in the same way: the key is refused, for example.
        input_tokens: The tokens of the requests.
        output_tokens: The tokens of the replies.
        cost: US dollars; None if unknown.
        seconds: How long it took.
    """

    id: str
    line: bytes
    ok: bool
    kind: str | None = None
    message: str = ""
    stops: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0


class Worker(Protocol):
    """A warm agent set-up, which runs any number of items at a time in its event loop."""

    async def run(self, item: BatchItem) -> ItemResult:
        """Run an item. A failure is a result, too; only a cancellation raises."""
        ...

    async def aclose(self) -> None:
        """End the worker."""
        ...


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The recipe for workers. It has no key.

    Attributes:
        factory: `MODULE:FUNCTION`. The function returns the worker of a spec.
        recipe: What the function reads.
        concurrency: The most items at a time, and the most requests in flight to each provider.
        rpm: The most requests in a minute to each provider; None for no limit.
        tpm: The most tokens in a minute of each provider; None for no limit.
    """

    factory: str
    recipe: JsonDict
    concurrency: int
    rpm: float | None = None
    tpm: float | None = None

    def make_worker(self) -> Worker:
        """Return a new worker for the event loop of this thread.

        Raises:
            TinyAgentError: It cannot be set up: a plugin or a key is missing, for example.
        """
        module, _, name = self.factory.partition(":")
        make: object = getattr(import_module(module), name)
        if not callable(make):
            raise ConfigurationError(f"{self.factory} is not a function that makes workers.")
        worker: Worker = make(self)
        return worker


class Job(Protocol):
    """The side of the command: what an executor gets, and where results go.

    Attributes:
        draining: Set when no more items are wanted. The items end by themselves then, and what is in
            flight is finished. An executor that waits for anything else must wait for this event, too.
        aborted: Set when the items in flight are to be cancelled. They have no result then.
    """

    draining: asyncio.Event
    aborted: asyncio.Event

    async def done(self, result: ItemResult) -> None:
        """Write a result. An item may have only one."""
        ...

    def note(self, text: str) -> None:
        """Show a message to the user."""
        ...


class Executor(Protocol):
    """Runs items.

    Attributes:
        name: The name for `--executor`.
    """

    name: str

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items, and return when each has its result or was cancelled.

        It takes an item only when it can start, so that memory is bounded by the concurrency. If a worker is
        lost, its items are run again.

        Args:
            spec: The recipe for workers; `spec.concurrency` items may be in flight.
            items: The items. They are taken by one task.
            job: Where results go.

        Raises:
            TinyAgentError: No worker can run.
        """
        ...
