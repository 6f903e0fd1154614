"""The executors of tinyagent itself, and how items are given to workers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping

import pytest

from tinyagent.errors import ConfigurationError, WorkerLostError
from tinyagent.executors import BatchItem, Executor, ItemResult, WorkerSpec, run_on_workers
from tinyagent.testing import ExecutorContract
from tinyagent_cli.batch.executors import FACTORIES
from tinyagent_cli.plugins.discovery import EXECUTORS


class TestLocal(ExecutorContract):
    """Items in this process."""

    is_separate = False

    def make_executor(self) -> Executor:
        return FACTORIES["local"]({})


@pytest.mark.slow
class TestProcesses(ExecutorContract):
    """Items in two processes."""

    def make_executor(self) -> Executor:
        return FACTORIES["processes"]({"workers": "2"})


def test_the_names_are_known_without_an_import() -> None:
    """Completion and messages name all executors of tinyagent."""
    assert set(EXECUTORS) == FACTORIES.keys()


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("local", {"workers": "2"}, "unknown field `workers`", "It has no options"),
        ("processes", {"workers": "many"}, "Expected `int | null`", "Its options are: workers"),
        ("processes", {"workers": "0"}, "Expected `int` >= 1", "Its options are: workers"),
        ("processes", {"worker": "2"}, "unknown field `worker`", "Its options are: workers"),
    ],
)
def test_wrong_options(name: str, options: dict[str, str], message: str, hint: str) -> None:
    """An unknown option and a wrong value are errors that name the options."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        FACTORIES[name](options)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("concurrency", "most", "workers", "shares"),
    [
        (16, 16, 1, [16]),
        (16, 16, 3, [6, 5, 5]),
        (2, 2, 4, [1, 1]),
        (16, 2, 4, [8, 8]),
    ],
)
def test_workers_divide_the_limits(concurrency: int, most: int, workers: int, shares: list[int]) -> None:
    """The parts sum to the whole, and there are not more workers than there is to divide."""
    spec = WorkerSpec(factory="m:f", recipe={}, concurrency=concurrency, most_workers=most)
    assert shares == [part.share for part in spec.divide(workers)]


def test_a_batch_needs_a_worker() -> None:
    """Zero workers are an error."""
    with pytest.raises(ValueError, match="at least one worker"):
        WorkerSpec(factory="m:f", recipe={}, concurrency=1).divide(0)


class MortalWorker:
    """A worker in this process that ends when it runs an item with the prompt `end`."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def run(self, item: BatchItem) -> ItemResult:
        """Take some time, or end."""
        ended = asyncio.create_task(self.ended.wait())
        await asyncio.wait((ended,), timeout=float(item.variables["seconds"]))  # type: ignore[arg-type]
        ended.cancel()
        if item.prompt == "end":
            self.ended.set()
        if self.ended.is_set():
            raise WorkerLostError("The worker ended.")
        return ItemResult(id=item.id, line=b"", ok=True)

    async def aclose(self) -> None:
        """Do nothing."""


class ListingJob:
    """Lists the ids of the results."""

    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.aborted = asyncio.Event()
        self.answered: list[str] = []
        self.failures: list[str] = []

    async def done(self, result: ItemResult) -> None:
        """List a result."""
        self.answered.append(result.id)

    async def failed(self, item: BatchItem, error: Exception) -> None:
        """List a failure."""
        self.failures.append(item.id)

    def note(self, text: str) -> None:
        """Do nothing."""


async def run_on_mortal_workers(
    items: list[BatchItem], job: ListingJob, concurrency: int, workers: int
) -> None:
    """Run items with workers that may end."""

    async def source() -> AsyncIterator[BatchItem]:
        for item in items:
            yield item

    async def start(spec: WorkerSpec) -> MortalWorker:
        return MortalWorker()

    spec = WorkerSpec(factory="m:f", recipe={}, concurrency=concurrency, most_workers=concurrency)
    async with asyncio.timeout(60):
        await run_on_workers(spec.divide(workers), start, source(), job)


@pytest.mark.parametrize("seed", range(30))
async def test_only_items_that_end_their_workers_fail(seed: int) -> None:
    """Whatever runs together and is lost together, each item has one result, and the right ones fail."""
    numbers, job = random.Random(seed), ListingJob()
    items = [
        BatchItem(
            id=f"{number}",
            line=number,
            prompt="end" if number > 4 and numbers.random() < 0.1 else "live",
            variables={"seconds": numbers.choice([0.0, 0.001, 0.004, 0.01])},
        )
        for number in range(40)
    ]
    await run_on_mortal_workers(items, job, numbers.randint(2, 8), numbers.randint(1, 3))
    assert sorted(item.id for item in items if item.prompt == "end") == sorted(job.failures)
    assert sorted(item.id for item in items if item.prompt == "live") == sorted(job.answered)


async def test_many_items_in_a_row_that_end_their_workers() -> None:
    """After the first result, items that end every worker become failures, and do not end the batch."""
    prompts, job = [*["live"] * 10, *["end"] * 10, *["live"] * 10], ListingJob()
    items = [
        BatchItem(id=f"{number}", line=number, prompt=prompt, variables={"seconds": 0.0})
        for number, prompt in enumerate(prompts)
    ]
    await run_on_mortal_workers(items, job, 4, 2)
    assert [f"{number}" for number in range(10, 20)] == sorted(job.failures)
    assert 20 == len(job.answered)
