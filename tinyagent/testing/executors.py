"""The behaviours that every executor must have, as tests that its author inherits.

    from tinyagent.testing import ExecutorContract

    class TestMine(ExecutorContract):
        def make_executor(self):
            return MyExecutor(MyOptions())

pytest finds the tests in the class. They are plain functions that run their own event loop. The workers are
those of `make_worker` in this module, so other processes must be able to import `tinyagent.testing`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tinyagent.errors import ConfigurationError, TinyAgentError
from tinyagent.executors import BatchItem, Executor, ItemResult, WorkerSpec

__all__ = ["ExecutorContract", "make_worker"]

FACTORY = f"{__name__}:make_worker"
SECRET = "TINYAGENT_CONTRACT_SECRET"
CONCURRENCY = 4


class _Worker:
    """A worker whose items say what it does."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    async def run(self, item: BatchItem) -> ItemResult:
        """Do what the prompt says."""
        action, _, argument = (item.prompt or "").partition(" ")
        answer = argument
        match action:
            case "sleep":
                await asyncio.sleep(float(argument))
            case "hang":
                await asyncio.Event().wait()
            case "wait-for":
                while not _exists(argument):  # noqa: ASYNC110 - other processes share only files
                    await asyncio.sleep(0.01)
            case "raise":
                raise RuntimeError(argument)
            case "exit":
                os._exit(1)
            case "exit-once":
                if not _exists(argument):
                    _create(argument)
                    os._exit(1)
            case "secret":
                answer = os.environ.get(SECRET, "")
            case "spec":
                answer = msgspec.json.encode([os.getpid(), self._spec.part, self._spec.share]).decode()
        return ItemResult(id=item.id, line=f"{answer}\n".encode(), ok=True)

    async def aclose(self) -> None:
        """Do nothing."""


def _exists(path: str) -> bool:
    return Path(path).exists()


def _create(path: str) -> None:
    Path(path).touch()


def make_worker(spec: WorkerSpec) -> _Worker:
    """Return a worker of the contract.

    Raises:
        ConfigurationError: The recipe has a `problem`.
    """
    if "problem" in spec.recipe:
        raise ConfigurationError(str(spec.recipe["problem"]), hint="a hint")
    return _Worker(spec)


class _Job:
    """Collects the results."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.aborted = asyncio.Event()
        self.environment: Mapping[str, str] = {SECRET: "sk-test-CANARY"}
        self.results: list[ItemResult] = []
        self.failures: dict[str, Exception] = {}
        self.notes: list[str] = []
        self.taken = 0
        self.most_in_flight = 0
        self.on_result: Callable[[], None] = lambda: None

    async def items(self, *prompts: str) -> AsyncIterator[BatchItem]:
        """Yield an item for each prompt, until the job drains."""
        for number, prompt in enumerate(prompts, 1):
            if self.draining.is_set():
                return
            self.taken += 1
            self.most_in_flight = max(self.most_in_flight, self.taken - self.ended)
            yield BatchItem(id=f"item-{number}", line=number, prompt=prompt)

    @property
    def ended(self) -> int:
        """How many items have a result."""
        return len(self.results) + len(self.failures)

    @property
    def answers(self) -> dict[str, str]:
        """The lines of the results, by the ids of their items."""
        assert {} == {name: count for name, count in Counter(self._ids()).items() if count > 1}
        return {result.id: result.line.decode().rstrip("\n") for result in self.results}

    def _ids(self) -> list[str]:
        return [*(result.id for result in self.results), *self.failures]

    async def done(self, result: ItemResult) -> None:
        """Keep a result."""
        self.results.append(result)
        self.on_result()

    async def failed(self, item: BatchItem, error: Exception) -> None:
        """Keep a failure."""
        assert item.id not in self.failures, f"{item.id} has two results"
        self.failures[item.id] = error

    def note(self, text: str) -> None:
        """Keep a message."""
        self.notes.append(text)


class ExecutorContract:
    """Inherit from it in a test module; see the documentation of `tinyagent.testing.executors`.

    Attributes:
        is_separate: Whether the workers are in other processes, which can be lost.
        patience: The most seconds of a test.
    """

    is_separate: bool = True
    patience: float = 60.0

    def make_executor(self) -> Executor:
        """Return a new executor. Override it."""
        raise NotImplementedError

    def test_each_item_has_one_result(self) -> None:
        """Each item has exactly one result, whatever their order."""
        job = self._run(*(f"echo {number}" for number in range(40)))
        assert {f"item-{number + 1}": str(number) for number in range(40)} == job.answers
        assert {} == job.failures

    def test_no_items_are_no_results(self) -> None:
        """An input without items ends at once."""
        assert {} == self._run().answers

    def test_items_are_taken_when_they_can_start(self) -> None:
        """Not more items are taken than may be in flight, so a long input needs no memory."""
        job = self._run(*["sleep 0.01"] * 40)
        assert 40 == len(job.answers)
        assert job.most_in_flight <= CONCURRENCY

    def test_a_slow_item_delays_no_other(self) -> None:
        """The items behind a slow one are done while it runs."""
        with TemporaryDirectory() as folder:
            job, file = _Job(), f"{folder}/others-are-done"

            def end_the_slow_one() -> None:
                if len(job.results) == 20:
                    _create(file)

            job.on_result = end_the_slow_one
            self._run(f"wait-for {file}", *["echo x"] * 20, job=job)
        assert 21 == len(job.answers)
        assert "item-1" == job.results[-1].id

    def test_an_error_of_a_worker_is_that_of_its_item(self) -> None:
        """A worker that raises fails its item, and the others are done."""
        job = self._run("echo a", "raise broken", "echo b")
        assert {"item-1": "a", "item-3": "b"} == job.answers
        assert ["item-2"] == list(job.failures)
        assert "broken" in str(job.failures["item-2"])

    def test_a_worker_that_cannot_be_set_up_ends_the_batch(self) -> None:
        """The error of the set-up is that of the batch, with its message and hint."""
        error = self._error("echo a", recipe={"problem": "a plugin is missing"})
        assert "a plugin is missing" in str(error)
        assert "a hint" == error.hint

    def test_draining_finishes_what_is_in_flight(self) -> None:
        """When the job drains, each item that was taken gets its result, and no other is taken."""
        job = _Job()
        job.on_result = job.draining.set
        self._run(*["sleep 0.1"] * 100, job=job)
        assert job.taken == len(job.answers) < 100

    def test_an_abort_ends_what_is_in_flight(self) -> None:
        """When the job is aborted, the executor returns, and the cancelled items have no result."""
        job = _Job()
        job.on_result = job.aborted.set
        self._run("hang", "hang", "echo x", *["hang"] * 10, job=job)
        assert {"item-3": "x"} == job.answers
        assert {} == job.failures

    def test_workers_share_the_limits(self) -> None:
        """Each worker has another part of the limits, and all together have the whole."""
        job = self._run(*["spec"] * 40)
        seen = {tuple(msgspec.json.decode(answer)) for answer in job.answers.values()}
        assert len(seen) == len({part for _, part, _ in seen})
        assert sum(share for _, _, share in seen) <= CONCURRENCY

    def test_a_limit_of_one_is_one_worker(self) -> None:
        """If a provider allows one request at a time, there is one worker."""
        job = self._run(*["spec"] * 10, most_workers=1)
        assert 1 == len(set(job.answers.values()))

    def test_workers_elsewhere_get_the_environment(self) -> None:
        """The key of the model reaches workers in other processes."""
        if self.is_separate:
            assert {"item-1": "sk-test-CANARY"} == self._run("secret").answers

    def test_items_of_a_lost_worker_are_run_again(self) -> None:
        """If a worker ends while it runs items, they are run again, and no item is done twice."""
        if not self.is_separate:
            return
        with TemporaryDirectory() as folder:
            prompts = [f"exit-once {folder}/lost", *["sleep 0.05"] * 30]
            job = self._run(*prompts)
        assert 31 == len(job.answers)
        assert {} == job.failures
        assert [] != job.notes

    def test_an_item_that_ends_each_worker_fails(self) -> None:
        """An item that ends every worker becomes a failure, and the others are done."""
        if self.is_separate:
            job = self._run("exit", *["echo x"] * 20)
            assert ["item-1"] == list(job.failures)
            assert 20 == len(job.answers)

    def test_an_item_that_ends_each_worker_fails_alone(self) -> None:
        """The items that run beside one that ends every worker have their results."""
        if self.is_separate:
            job = self._run("exit", *["sleep 0.1"] * 7)
            assert ["item-1"] == list(job.failures)
            assert 7 == len(job.answers)

    def test_workers_that_always_end_do_not_run_forever(self) -> None:
        """If each worker ends, the batch ends with an error, long before each item has failed."""
        if self.is_separate:
            assert "again and again" in str(self._error(*["exit"] * 1000))

    def _error(self, *prompts: str, recipe: dict[str, str] | None = None) -> TinyAgentError:
        """Run items, and return the error that ends the batch."""
        try:
            job = self._run(*prompts, recipe=recipe)
        except TinyAgentError as error:
            return error
        raise AssertionError(f"the batch did not end with an error, but with {job.ended} results")

    def _run(
        self,
        *prompts: str,
        job: _Job | None = None,
        recipe: dict[str, str] | None = None,
        most_workers: int = CONCURRENCY,
    ) -> _Job:
        """Run items to their end."""
        spec = WorkerSpec(
            factory=FACTORY, recipe=recipe or {}, concurrency=CONCURRENCY, most_workers=most_workers
        )

        async def run() -> _Job:
            used = job or _Job()
            async with asyncio.timeout(self.patience):
                await self.make_executor().run(spec, used.items(*prompts), used)
            return used

        try:
            return asyncio.run(run())
        except TimeoutError:
            raise AssertionError(f"the batch did not end within {self.patience:g} s") from None
