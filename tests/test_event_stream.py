# ruff: noqa: PT012 - what a block raises as it is left needs the block
"""A stream owns the task of its run: errors are raised, and closing it ends the task."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tinyagent import create_agent_stream
from tinyagent._event_stream import LIMIT, Channel, EventStream
from tinyagent.errors import AgentStateError
from tinyagent.testing import collect


class Run:
    """A run of `count` events that records its progress and its end."""

    def __init__(self, count: int, error: BaseException | None = None, *, hang: bool = False) -> None:
        self.count, self.error, self.hang = count, error, hang
        self.pushed = 0
        self.ended: str | None = None

    async def __call__(self, channel: Channel[int, str]) -> str:
        try:
            for number in range(self.count):
                self.pushed += 1
                waiting = channel.push(number)
                if waiting is not None:
                    await waiting
                await asyncio.sleep(0)
            if self.hang:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        return "result"


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Check that no task outlives its stream."""
    before = asyncio.all_tasks()
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    assert set() == asyncio.all_tasks() - before - {asyncio.current_task()}


async def test_events_then_the_result() -> None:
    """Every event arrives in order, and the result can be read repeatedly."""
    stream = EventStream(Run(3))
    assert [0, 1, 2] == await collect(stream)
    assert "result" == await stream.result()
    assert "result" == await stream.result()
    assert [] == await collect(stream)


async def test_the_result_before_the_events() -> None:
    """`result()` runs to the end without a reader; the events can be read later."""
    stream = EventStream(Run(3 * LIMIT))
    assert "result" == await stream.result()
    assert list(range(3 * LIMIT)) == await collect(stream)


async def test_nothing_runs_before_it_is_read() -> None:
    """A stream that is never read starts nothing."""
    run = Run(1)
    stream = EventStream(run)
    await asyncio.sleep(0)
    assert 0 == run.pushed
    del stream


async def test_the_run_waits_for_a_slow_reader() -> None:
    """The run is at most the limit ahead of its reader, and no event is lost."""
    run = Run(5 * LIMIT)
    stream = EventStream(run)
    read = 0
    async for number in stream:
        assert read == number
        read += 1
        if read % LIMIT == 1:
            for _ in range(2 * LIMIT):
                await asyncio.sleep(0)
        assert run.pushed - read <= LIMIT
    assert 5 * LIMIT == read


async def test_two_readers_are_refused() -> None:
    """A second task that reads a stream gets an error, and the first one continues."""
    gate = asyncio.Event()

    async def run(channel: Channel[int, str]) -> str:
        await gate.wait()
        channel.push(1)
        return "result"

    stream = EventStream(run)
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(AgentStateError, match="two tasks"):
        await anext(stream)
    gate.set()
    assert 1 == await first
    assert [] == await collect(stream)


async def test_a_cancelled_reader_loses_no_event() -> None:
    """The next reader gets the event."""
    gate = asyncio.Event()

    async def run(channel: Channel[int, str]) -> str:
        await gate.wait()
        channel.push(1)
        reader.cancel()
        return "result"

    stream = EventStream(run)
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert [1] == await collect(stream)


@pytest.mark.parametrize("first", ["events", "result"])
async def test_errors_are_raised_to_readers(first: str) -> None:
    """The error is raised after the last event, and by `result()` each time."""
    stream = EventStream(Run(2, LookupError("mine")))
    seen = []
    if first == "result":
        with pytest.raises(LookupError, match="mine"):
            await stream.result()
    with pytest.raises(LookupError, match="mine"):
        async for number in stream:
            seen.append(number)
    assert [0, 1] == seen
    with pytest.raises(LookupError, match="mine"):
        await stream.result()
    assert [] == await collect(stream)


async def test_leaving_the_block_ends_the_run() -> None:
    """After `async with` the run has ended, whether it was read or not."""
    run = Run(3, hang=True)
    async with EventStream(run) as stream:
        assert 0 == await anext(stream)
    assert "cancelled" == run.ended


async def test_leaving_the_block_by_an_exception_ends_the_run() -> None:
    """The exception is raised after the run has ended."""
    run = Run(3, hang=True)
    with pytest.raises(LookupError, match="body"):
        async with EventStream(run) as stream:
            await anext(stream)
            raise LookupError("body")
    assert "cancelled" == run.ended


async def test_leaving_a_block_whose_run_waits_for_its_reader() -> None:
    """A run that waits for a full queue ends, too."""
    run = Run(3 * LIMIT)
    async with EventStream(run):
        for _ in range(2 * LIMIT):
            await asyncio.sleep(0)
        assert LIMIT == run.pushed
    assert "cancelled" == run.ended


async def test_break_ends_the_run() -> None:
    """`break` drops the stream, which ends the run."""
    run = Run(3, hang=True)
    async for _ in EventStream(run):
        break
    for _ in range(3):
        await asyncio.sleep(0)
    assert "cancelled" == run.ended


async def test_dropping_the_last_reference_ends_the_run() -> None:
    """A stream without references ends its run."""
    run = Run(3, hang=True)
    stream = EventStream(run)
    await anext(stream)
    del stream
    for _ in range(3):
        await asyncio.sleep(0)
    assert "cancelled" == run.ended


async def test_cancelling_the_reader_ends_the_run() -> None:
    """Cancelling the reading task ends the run."""
    run = Run(3, hang=True)

    async def read() -> None:
        async for _ in EventStream(run):
            pass

    reader = asyncio.create_task(read())
    while run.pushed < 3:
        await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    del reader
    gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)
    assert "cancelled" == run.ended


async def test_a_closed_stream_is_at_its_end() -> None:
    """After `aclose` all readers get the end, and `result()` raises."""
    run = Run(2, hang=True)
    stream = EventStream(run)
    waiting = asyncio.create_task(collect(stream))
    results = asyncio.create_task(stream.result())
    while run.pushed < 2:
        await asyncio.sleep(0)
    await stream.aclose()
    assert [0, 1] == await waiting
    with pytest.raises(AgentStateError, match="closed"):
        await results
    with pytest.raises(AgentStateError, match="closed"):
        await stream.result()
    assert [] == await collect(stream)
    await stream.aclose()


async def test_a_stream_closed_before_it_began_never_runs() -> None:
    """`aclose` on a new stream prevents its run."""
    run = Run(2)
    stream = EventStream(run)
    await stream.aclose()
    assert [] == await collect(stream)
    with pytest.raises(AgentStateError, match="closed"):
        await stream.result()
    assert 0 == run.pushed


async def test_closing_at_once_after_entering() -> None:
    """A task that has not run a step yet is cancelled, too."""
    run = Run(2)
    async with EventStream(run) as stream:
        pass
    assert 0 == run.pushed
    assert [] == await collect(stream)


async def test_closing_a_finished_stream_keeps_its_result() -> None:
    """`async with` does not remove the result of a finished stream."""
    async with EventStream(Run(2)) as stream:
        await collect(stream)
    assert "result" == await stream.result()


async def test_the_run_may_close_its_own_stream() -> None:
    """Code of the run that closes the stream does not wait for itself."""
    stream: EventStream[int, str]

    async def run(channel: Channel[int, str]) -> str:
        channel.push(1)
        await stream.aclose()
        await asyncio.Event().wait()
        return "never"

    stream = EventStream(run)
    assert [1] == await collect(stream)


async def test_a_stream_dropped_after_its_loop_was_closed() -> None:
    """Dropping a stream of a closed loop is silent."""

    async def leave() -> Any:
        stream = EventStream(Run(1, hang=True))
        await anext(stream)
        return stream

    def in_its_own_loop() -> Any:
        return asyncio.run(leave())

    stream = await asyncio.to_thread(in_its_own_loop)
    del stream
    gc.collect()


async def test_feeding_a_stream_by_hand() -> None:
    """`push` and `end` make a stream; after the first end, further calls have no effect."""
    stream: Any = create_agent_stream()
    stream.push("a")
    reader = asyncio.create_task(collect(stream))
    await asyncio.sleep(0)
    stream.push("b")
    await asyncio.sleep(0)
    stream.end(["result"])
    stream.push("late")
    stream.end(["other"])
    assert ["a", "b"] == await reader
    assert ["result"] == await stream.result()


async def test_a_hand_fed_stream_is_not_bounded() -> None:
    """`push` cannot wait for the reader, so events pushed by hand are not limited."""
    stream: Any = create_agent_stream()
    for number in range(3 * LIMIT):
        stream.push(number)
    stream.end([])
    assert list(range(3 * LIMIT)) == await collect(stream)


async def test_waiting_for_the_result_of_a_hand_fed_stream() -> None:
    """`result()` waits for `end()` in every task."""
    stream: Any = create_agent_stream()
    waiting = [asyncio.create_task(stream.result()) for _ in range(2)]
    await asyncio.sleep(0)
    stream.end(["result"])
    assert [["result"], ["result"]] == await asyncio.gather(*waiting)
