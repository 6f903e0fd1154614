"""Give items to workers: to one in this event loop, or to several that are elsewhere and may be lost."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

from tinyagent.errors import TinyAgentError, WorkerLostError

from .interface import BatchItem, Job, Worker, WorkerSpec

__all__ = ["run_items", "run_on_workers"]

MOST_LOSSES = 3
"""How many workers an item may lose before it fails: it may be the cause, by its use of memory."""

MOST_STARTS = 3
"""How often in a row the start of a worker may fail before the others go on without it."""


async def run_items(worker: Worker, concurrency: int, items: AsyncIterator[BatchItem], job: Job) -> None:
    """Run items with one worker, some at a time, until they end or the job is aborted.

    Args:
        worker: The worker.
        concurrency: The most items at a time.
        items: The items.
        job: Where results go.
    """
    room = asyncio.Semaphore(concurrency)

    async def run(item: BatchItem) -> None:
        try:
            await _run(worker, item, job)
        finally:
            room.release()

    async def run_all() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()  # before the item is taken
                item = await anext(items, None)
                if item is None:
                    return
                group.create_task(run(item))

    await _until_aborted(run_all(), job)


async def run_on_workers(
    specs: Sequence[WorkerSpec],
    start: Callable[[WorkerSpec], Awaitable[Worker]],
    items: AsyncIterator[BatchItem],
    job: Job,
) -> None:
    """Run items with several workers, until they end or the job is aborted.

    An item of a lost worker is run again, by any worker. A lost worker is replaced.

    Args:
        specs: The specs of the workers, from `WorkerSpec.divide`.
        start: Starts a worker, whose `run` raises `WorkerLostError` if the worker has ended. If `start`
            raises `WorkerLostError`, it is called again, up to three times. Its other errors end the batch.
        items: The items.
        job: Where results go.

    Raises:
        TinyAgentError: No worker can run.
    """
    dispatcher = _Dispatcher(specs, start, items, job)
    try:
        await _until_aborted(dispatcher.run(), job)
    finally:
        await dispatcher.aclose()


async def _until_aborted(work: Coroutine[object, object, None], job: Job) -> None:
    """Run a coroutine, and cancel it when the job is aborted. Raise its first error alone."""
    running = asyncio.create_task(work)
    aborted = asyncio.create_task(job.aborted.wait())
    try:
        await asyncio.wait((running, aborted), return_when=asyncio.FIRST_COMPLETED)
    finally:
        aborted.cancel()
        if not running.done():
            running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        if not job.aborted.is_set():
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(worker: Worker, item: BatchItem, job: Job) -> None:
    """Run an item and write its result. An exception of the worker is the result of this item."""
    try:
        result = await worker.run(item)
    except WorkerLostError:
        raise
    except Exception as error:  # noqa: BLE001 - one item must not end the others
        await job.failed(item, error)
    else:
        await job.done(result)


@dataclass(eq=False)
class _Slot:
    """The place of a worker, which gets a new one when the worker is lost.

    Attributes:
        spec: The recipe.
        worker: The worker; None if it has to be started.
        starting: Held while it is started.
        failures: How many starts have failed in a row.
        ended: Whether it is given up.
    """

    spec: WorkerSpec
    starting: asyncio.Lock
    worker: Worker | None = None
    failures: int = 0
    ended: bool = False


class _Dispatcher:
    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        start: Callable[[WorkerSpec], Awaitable[Worker]],
        items: AsyncIterator[BatchItem],
        job: Job,
    ) -> None:
        self._start = start
        self._items = items
        self._job = job
        self._slots = [_Slot(spec, asyncio.Lock()) for spec in specs]
        # The places for items, of all workers in turn, so that each gets as many items as the others.
        self._room: asyncio.Queue[_Slot] = asyncio.Queue()
        for number in range(max(spec.share for spec in specs)):
            for slot in self._slots:
                if number < slot.spec.share:
                    self._room.put_nowait(slot)
        self._again: deque[BatchItem] = deque()
        self._losses: Counter[str] = Counter()
        self._losses_in_a_row = 0
        self._in_flight = 0
        self._changed = asyncio.Event()
        self._next: asyncio.Task[BatchItem | None] | None = None
        self._exhausted = False

    async def run(self) -> None:
        """Run all items."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(self._worker(slot))  # warm before there are items
                while True:
                    slot = await self._room.get()
                    if slot.ended:
                        continue
                    item = await self._take()
                    if item is None:
                        return
                    self._in_flight += 1
                    group.create_task(self._run(slot, item))
        finally:
            if self._next is not None:
                self._next.cancel()

    async def aclose(self) -> None:
        """End all workers."""
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        await asyncio.gather(*(worker.aclose() for worker in workers), return_exceptions=True)

    async def _take(self) -> BatchItem | None:
        """Return the next item, an item of a lost worker first; None if all are done."""
        while True:
            if self._again:
                return self._again.popleft()
            if self._exhausted and not self._in_flight:
                return None
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            if self._next is None and not self._exhausted:
                self._next = asyncio.create_task(_next(self._items))
            try:
                waits = (changed,) if self._next is None else (changed, self._next)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if self._next is not None and self._next.done():
                item, self._next = self._next.result(), None
                if item is not None:
                    return item
                self._exhausted = True

    async def _run(self, slot: _Slot, item: BatchItem) -> None:
        worker: Worker | None = None
        try:
            worker = await self._worker(slot)
            if worker is None:
                self._again.append(item)
            else:
                await _run(worker, item, self._job)
                self._losses_in_a_row = 0
        except WorkerLostError as error:
            await self._lost(slot, worker, item, error)
        finally:
            self._in_flight -= 1
            self._changed.set()
            self._room.put_nowait(slot)

    async def _worker(self, slot: _Slot) -> Worker | None:
        """Return the worker of a place, started if necessary; None if the place was given up.

        Raises:
            TinyAgentError: It cannot be started, and neither can the others.
        """
        async with slot.starting:
            while slot.worker is None and not slot.ended:
                try:
                    slot.worker = await self._start(slot.spec)
                    slot.failures = 0
                except WorkerLostError as error:
                    slot.failures += 1
                    if slot.failures < MOST_STARTS:
                        continue
                    slot.ended = True
                    if all(other.ended for other in self._slots):
                        raise
                    self._job.note(f"{error} The other workers go on.")
            return slot.worker

    async def _lost(
        self, slot: _Slot, worker: Worker | None, item: BatchItem, error: WorkerLostError
    ) -> None:
        if worker is None:
            raise error  # none can be started
        if slot.worker is worker:  # the first of its items that notices
            slot.worker = None
            self._losses_in_a_row += 1
            if self._losses_in_a_row > MOST_LOSSES * len(self._slots):
                raise WorkerLostError(
                    f"The workers end again and again. The last one: {error}",
                    hint="Run an item alone to see why: tinyagent run",
                ) from error
            self._job.note(f"{error} Its items are run again.")
            await worker.aclose()
        self._losses[item.id] += 1
        if self._losses[item.id] < MOST_LOSSES:
            self._again.append(item)
            return
        await self._job.failed(
            item,
            TinyAgentError(
                f"{MOST_LOSSES} workers ended while they ran this item.",
                hint="The item may need too much memory. Run it alone: tinyagent run",
            ),
        )


async def _next(items: AsyncIterator[BatchItem]) -> BatchItem | None:
    return await anext(items, None)
