"""The types between `tinyagent batch` and its executors. `tinyagent.executors` is their public module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.errors import ConfigurationError

__all__ = [
    "BatchItem",
    "Executor",
    "ExecutorFactory",
    "ItemResult",
    "Job",
    "Worker",
    "WorkerSpec",
    "read_options",
]

T = TypeVar("T")


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
    variables: JsonDict = {}
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
        """Run an item. A failure is a result, too; only a cancellation raises.

        A handle of a worker in another process or on another machine may raise `WorkerLostError`.
        """
        ...

    async def aclose(self) -> None:
        """End the worker."""
        ...


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The recipe for workers. It has no key.

    Attributes:
        factory: `MODULE:FUNCTION`. The function returns the worker of a spec.
        recipe: What the function reads.
        concurrency: The most items at a time, and the most requests in flight to each provider. This and the
            other limits hold for all workers together.
        rpm: The most requests in a minute to each provider; None for no limit.
        tpm: The most tokens in a minute of each provider; None for no limit.
        most_workers: The most workers; more of them would exceed a limit of a provider.
        directory: The working directory of the command. Paths of the recipe and of items are relative to it.
        shared: Absolute paths of folders to which workers write, and which all of them must share.
        requirements: The distributions that workers need, each with its version on this machine: that of
            tinyagent, and those of the plugins that the batch uses.
        part: Which of the parts this worker has, from 0.
        parts: The number of workers among which the limits are divided.
    """

    factory: str
    recipe: JsonDict
    concurrency: int
    rpm: float | None = None
    tpm: float | None = None
    most_workers: int = 1
    directory: str = ""
    shared: tuple[str, ...] = ()
    requirements: dict[str, str] = {}
    part: int = 0
    parts: int = 1

    def divide(self, workers: int) -> list[WorkerSpec]:
        """Return the specs of several workers, each with its part of the limits.

        Args:
            workers: The number that is wanted; it becomes lower if there is not enough to divide.

        Raises:
            ValueError: The number is less than 1.
        """
        if workers < 1:
            raise ValueError(f"There must be at least one worker, not {workers}.")
        parts = min(workers, self.most_workers, self.concurrency)
        return [msgspec.structs.replace(self, part=part, parts=parts) for part in range(parts)]

    @property
    def share(self) -> int:
        """How many items this worker runs at a time."""
        each, more = divmod(self.concurrency, self.parts)
        return each + (self.part < more)

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
        environment: Environment variables for workers in other processes: the key of the batch's model, and
            the user's settings. They are secret: they must not be shown, logged or stored.
    """

    draining: asyncio.Event
    aborted: asyncio.Event

    @property
    def environment(self) -> Mapping[str, str]: ...

    async def done(self, result: ItemResult) -> None:
        """Write a result. An item may have only one."""
        ...

    async def failed(self, item: BatchItem, error: Exception) -> None:
        """Write the result of an item that no worker can run."""
        ...

    def note(self, text: str) -> None:
        """Show a message to the user."""
        ...


class Executor(Protocol):
    """Runs items."""

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items, and return when each has its result or was cancelled.

        It takes an item only when it can start, so that memory is bounded by the concurrency. If a worker is
        lost, its items are run again.

        Args:
            spec: The recipe for workers; `spec.concurrency` items may be in flight.
            items: The items. They are taken by one task at a time.
            job: Where results go.

        Raises:
            TinyAgentError: No worker can run.
        """
        ...


ExecutorFactory: TypeAlias = Callable[[Mapping[str, JsonValue]], Executor]
"""Makes an executor from its options: those of the table `[executors.NAME]` and of `--executor-option`."""


def read_options(name: str, options: Mapping[str, JsonValue], kind: type[T]) -> T:
    """Return the options of an executor as a value of a type.

    Args:
        name: The name of the executor, for messages.
        options: The options, as the factory gets them.
        kind: The type, such as a `msgspec.Struct` with `forbid_unknown_fields`. Text is converted to numbers
            and truth values.

    Raises:
        ConfigurationError: An option is unknown or has a wrong value.
    """
    try:
        return msgspec.convert(dict(options), kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(getattr(kind, "__struct_fields__", ()))
        raise ConfigurationError(
            f"The options of the executor {name!r} are wrong: {error}.",
            hint=f"Its options are: {known}." if known else "It has no options.",
        ) from None
