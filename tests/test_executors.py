"""The executors of tinyagent itself, and how items are given to workers."""

from __future__ import annotations

import pytest

from tinyagent.errors import ConfigurationError
from tinyagent.executors import Executor, WorkerSpec
from tinyagent.testing import ExecutorContract
from tinyagent_cli.batch.executors import BUILT_IN
from tinyagent_cli.plugins.discovery import EXECUTORS


class TestLocal(ExecutorContract):
    """Items in this process."""

    is_separate = False

    def make_executor(self) -> Executor:
        return BUILT_IN["local"]({})


@pytest.mark.slow
class TestProcesses(ExecutorContract):
    """Items in two processes."""

    def make_executor(self) -> Executor:
        return BUILT_IN["processes"]({"workers": "2"})


def test_the_names_are_known_without_an_import() -> None:
    """Completion and messages name all executors of tinyagent."""
    assert set(EXECUTORS) == BUILT_IN.keys()


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
        BUILT_IN[name](options)
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
