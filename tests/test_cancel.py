# ruff: noqa: PT012 - what a block raises as it is left needs the block
"""CancelScope: aborts, time-outs and closing end their own block and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tinyagent._cancel import (
    Aborted,
    AbortSignal,
    CallbackCancelledError,
    CancelScope,
    invoke,
    is_awaited_by,
    resolve,
    shielded,
    spawn,
)

SIGNALS: list[Callable[[], asyncio.Event]] = [AbortSignal, asyncio.Event]


async def _forever() -> None:
    await asyncio.Event().wait()


async def _steps(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_a_signal_ends_the_block(signal_type: Callable[[], asyncio.Event]) -> None:
    """The signal raises Aborted at the end of the block, and the task is not cancelled."""
    signal = signal_type()
    asyncio.get_running_loop().call_soon(signal.set)
    with pytest.raises(Aborted):
        async with CancelScope(signal):
            await _forever()
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    await _steps()  # no stray cancellation comes later


@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_a_set_signal_prevents_the_block(
    signal_type: Callable[[], asyncio.Event],
) -> None:
    """If the signal is set, the block does not run."""
    signal = signal_type()
    signal.set()
    ran = False
    with pytest.raises(Aborted):
        async with CancelScope(signal):
            ran = True
    assert not ran


@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_a_block_that_ends_by_itself_is_left_alone(signal_type: Callable[[], asyncio.Event]) -> None:
    """A later signal interrupts nothing, and no watcher remains."""
    signal = signal_type()
    async with CancelScope(signal):
        await asyncio.sleep(0)
    signal.set()
    await _steps()


@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_the_exceptions_of_the_block_pass(signal_type: Callable[[], asyncio.Event]) -> None:
    """Exceptions of the block are raised unchanged."""
    with pytest.raises(LookupError, match="mine"):
        async with CancelScope(signal_type()):
            raise LookupError("mine")


async def test_the_first_reason_counts() -> None:
    """`cancel` ends the block with its exception; later calls have no effect."""
    async with asyncio.timeout(60):
        with pytest.raises(LookupError, match="first"):
            async with CancelScope() as scope:
                loop = asyncio.get_running_loop()
                loop.call_soon(scope.cancel, LookupError("first"))
                loop.call_soon(scope.cancel, LookupError("second"))
                await _forever()


async def test_cancel_after_the_block_does_nothing() -> None:
    """A late timer cannot affect later code."""
    async with CancelScope() as scope:
        pass
    scope.cancel(LookupError("late"))
    await _steps()


async def test_a_scope_may_be_entered_again() -> None:
    """A scope whose block ended by itself can be entered again, and `cancel` in between ends that block."""
    scope = CancelScope(AbortSignal())
    for _ in range(2):
        async with scope:
            assert scope.is_active
            await asyncio.sleep(0)
        assert not scope.is_active
    scope.cancel(LookupError("between"))
    ran = False
    with pytest.raises(LookupError, match="between"):
        async with scope:
            ran = True
    assert not ran


@pytest.mark.parametrize("signal_type", [None, *SIGNALS])
async def test_the_task_may_cancel_its_own_scope(signal_type: Callable[[], asyncio.Event] | None) -> None:
    """`cancel` inside the block ends it without a pause, and leaves no cancellation."""
    with pytest.raises(LookupError, match="self"):
        async with CancelScope(signal_type() if signal_type else None) as scope:
            scope.cancel(LookupError("self"))
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    await _steps()


async def test_an_exception_after_cancel_leaves_no_cancellation() -> None:
    """The next await of the task is not cancelled."""
    signal = AbortSignal()
    with pytest.raises(LookupError, match="mine"):
        async with CancelScope(signal):
            signal.set()
            raise LookupError("mine")
    await _steps()
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


async def test_a_block_that_swallows_the_cancellation_still_ends_with_the_reason() -> None:
    """Code that swallows a cancellation cannot turn an abort into a success."""
    signal = AbortSignal()
    asyncio.get_running_loop().call_soon(signal.set)
    with pytest.raises(Aborted):
        async with CancelScope(signal):
            try:
                await _forever()
            except asyncio.CancelledError:
                pass


@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_a_real_cancellation_stays_one(signal_type: Callable[[], asyncio.Event]) -> None:
    """A cancellation from outside is never reported as the signal."""

    async def work() -> None:
        async with CancelScope(signal_type()):
            await _forever()

    task = asyncio.create_task(work())
    await _steps()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("signal_type", SIGNALS)
async def test_a_real_cancellation_beats_the_signal(
    signal_type: Callable[[], asyncio.Event], swallow: bool
) -> None:
    """If both happen at once, the task is cancelled, because the canceller waits for that."""
    signal = signal_type()

    async def work() -> None:
        async with CancelScope(signal) as scope:
            try:
                await asyncio.sleep(0)
                scope.cancel(LookupError("fired"))
                task.cancel()
                if not swallow:
                    await _forever()
            finally:
                pass

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_scopes_nest() -> None:
    """A reason ends its own block; the outer signal ends both."""
    signal = AbortSignal()
    seen = []
    with pytest.raises(Aborted):
        async with CancelScope(signal):
            try:
                async with CancelScope(signal) as inner:
                    asyncio.get_running_loop().call_soon(inner.cancel, LookupError("inner"))
                    await _forever()
            except LookupError:
                seen.append("inner")
            asyncio.get_running_loop().call_soon(signal.set)
            await _forever()
    assert ["inner"] == seen


async def test_it_works_inside_a_timeout() -> None:
    """`asyncio.timeout` works around a scope and inside one."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            async with CancelScope(AbortSignal()):
                await _forever()
    with pytest.raises(TimeoutError):
        async with CancelScope(AbortSignal()), asyncio.timeout(0.01):
            await _forever()


async def test_it_works_in_a_task_that_was_cancelled_before() -> None:
    """A scope can be used for cleanup after a cancellation."""
    signal = AbortSignal()
    result = []

    async def work() -> None:
        try:
            await _forever()
        finally:
            asyncio.get_running_loop().call_soon(signal.set)
            try:
                async with CancelScope(signal):
                    await _forever()
            except Aborted:
                result.append("aborted")

    task = asyncio.create_task(work())
    await _steps()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["aborted"] == result


async def test_a_signal_calls_back_in_order_and_once() -> None:
    """`AbortSignal.set` calls each callback once; late ones at once, and removed ones never."""
    signal, seen = AbortSignal(), []
    signal.subscribe("a", lambda: seen.append("a"))
    signal.subscribe("b", lambda: seen.append("b"))
    signal.subscribe("c", lambda: seen.append("c"))
    signal.unsubscribe("b")
    signal.unsubscribe("nobody")
    signal.set()
    signal.set()
    signal.subscribe("d", lambda: seen.append("d"))
    assert ["a", "c", "d"] == seen
    await signal.wait()


async def test_resolve_takes_values_and_awaitables() -> None:
    """A callback may be sync or async."""

    async def later() -> int:
        return 2

    assert 1 == await resolve(1)
    assert 2 == await resolve(later())


async def test_a_callback_that_cancels_itself_raises_an_ordinary_error() -> None:
    """CancelledError from a callback is a failure of the callback, unless the calling task is cancelled."""

    def sync() -> None:
        raise asyncio.CancelledError

    async def awaits_a_cancelled_task() -> None:
        task = asyncio.create_task(_forever())
        task.cancel()
        await task

    for callback in (sync, awaits_a_cancelled_task):
        with pytest.raises(CallbackCancelledError, match=callback.__name__):
            await invoke(callback)


async def test_invoke_passes_a_real_cancellation_on() -> None:
    """A cancellation of the calling task is not a failure of the callback."""
    task = asyncio.create_task(invoke(_forever))
    await _steps()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_to_completion_waits_within_its_grace() -> None:
    """A cancellation waits for work that is nearly done, and is then raised."""
    gate, ended = asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        ended.append(True)

    task = asyncio.create_task(shielded(work(), 60))
    await _steps()
    task.cancel()
    await _steps()
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [True] == ended


@pytest.mark.parametrize("again", [False, True])
async def test_run_to_completion_cancels_slow_work(again: bool) -> None:
    """After the grace, or at a second cancellation, the work is cancelled, too."""
    ended = []

    async def work() -> None:
        try:
            await _forever()
        finally:
            ended.append(True)

    task = asyncio.create_task(shielded(work(), 60 if again else 0.01))
    await _steps()
    task.cancel()
    await _steps()
    if again:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _steps()
    assert [True] == ended


async def test_run_to_completion_returns_results_and_errors() -> None:
    """Without a cancellation it is a plain await."""

    async def value() -> int:
        return 1

    async def error() -> int:
        raise LookupError("mine")

    assert 1 == await shielded(value(), 1)
    with pytest.raises(LookupError, match="mine"):
        await shielded(error(), 1)


async def test_is_awaited_by_follows_spawned_tasks() -> None:
    """Spawned tasks have parents; asyncio's own tasks have none."""
    outer = asyncio.current_task()

    async def inside() -> bool:
        return is_awaited_by(outer)

    async def nested() -> bool:
        return await spawn(inside())

    assert await spawn(nested())
    assert await shielded(nested(), 1)
    assert not await asyncio.create_task(inside())
