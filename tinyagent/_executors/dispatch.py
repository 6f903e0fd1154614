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

MOST_LOSSES_IN_A_ROW = 20
"""How many workers may end without a result in between, after the first result. An item that was alone in a
worker does not count, because it is the cause, and fails."""

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
            await _run_item(worker, item, job)
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


async def _run_item(worker: Worker, item: BatchItem, job: Job) -> None:
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
        worker: The worker; None while it is started.
        free: How many items it can take at once when it gets items again.
        running: How many items it runs.
        suspect: Whether it gets no other items, because an item has to run alone.
        changed: Set when an item ends.
        ended: Whether it is given up.
    """

    spec: WorkerSpec
    free: int
    changed: asyncio.Event
    worker: Worker | None = None
    running: int = 0
    suspect: bool = False
    ended: bool = False

    @property
    def takes_items(self) -> bool:
        """Whether it can run further items now."""
        return self.worker is not None and not self.suspect


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
        self._slots = [_Slot(spec, spec.share, asyncio.Event()) for spec in specs]
        # The slots of workers that can take an item, each as often as it can take one.
        self._room: asyncio.Queue[_Slot] = asyncio.Queue()
        self._again: deque[BatchItem] = deque()
        self._losses: Counter[str] = Counter()
        self._losses_in_a_row = 0
        self._has_results = False
        self._in_flight = 0
        self._changed = asyncio.Event()
        self._next: asyncio.Task[BatchItem | None] | None = None
        self._exhausted = False
        self._restarts: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Run all items."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                starts = [group.create_task(self._fill(slot)) for slot in self._slots]
                await self._dispatch()
                for start in [*starts, *self._restarts]:
                    start.cancel()
        finally:
            if self._next is not None:
                self._next.cancel()

    async def aclose(self) -> None:
        """End all workers."""
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        await asyncio.gather(*(worker.aclose() for worker in workers), return_exceptions=True)

    async def _dispatch(self) -> None:
        """Give all items to workers."""
        while True:
            slot = await self._room.get()
            item = await self._take() if slot.takes_items else None
            if slot.worker is None or slot.suspect:  # perhaps only now, while there was no item
                slot.free += 1
                if item is not None:
                    self._again.appendleft(item)
            elif item is None:
                return
            else:
                self._in_flight += 1
                slot.running += 1
                slot.suspect = self._losses[item.id] == MOST_LOSSES - 1
                self._group.create_task(self._run(slot, slot.worker, item, is_suspect=slot.suspect))

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

    async def _run(self, slot: _Slot, worker: Worker, item: BatchItem, *, is_suspect: bool) -> None:
        try:
            while is_suspect and slot.running > 1 and slot.worker is worker:
                slot.changed.clear()
                await slot.changed.wait()
            if is_suspect and slot.worker is not worker:
                self._again.append(item)  # it was lost by another item
            else:
                await _run_item(worker, item, self._job)
                self._losses_in_a_row = 0
                self._has_results = True
        except WorkerLostError as error:
            self._replace(slot, worker, error, alone=is_suspect)
            await self._repeat(item)
        finally:
            self._in_flight -= 1
            self._changed.set()
            slot.running -= 1
            slot.changed.set()
            slot.free += 1
            if is_suspect:
                slot.suspect = False
            self._offer(slot)

    def _offer(self, slot: _Slot) -> None:
        """Offer the room of a slot for items, if it takes some."""
        if slot.takes_items:
            for _ in range(slot.free):
                self._room.put_nowait(slot)
            slot.free = 0

    def _replace(self, slot: _Slot, worker: Worker, error: WorkerLostError, *, alone: bool) -> None:
        """Start another worker in place of a lost one. The others go on meanwhile.

        Raises:
            WorkerLostError: All workers end.
        """
        if slot.worker is not worker:
            return  # another of its items has noticed
        slot.worker = None
        most = MOST_LOSSES * len(self._slots)
        if self._has_results:
            most = max(most, MOST_LOSSES_IN_A_ROW)
        if not (alone and self._has_results):
            self._losses_in_a_row += 1
        if self._losses_in_a_row > most:
            raise WorkerLostError(
                f"The workers end again and again. The last one: {error}",
                hint="Run an item alone to see why: tinyagent run",
            ) from error
        # An item that is alone is blamed now, and not run again.
        self._job.note(str(error) if alone else f"{error} Its items are run again.")
        self._restarts.append(self._group.create_task(self._fill(slot, worker)))

    async def _repeat(self, item: BatchItem) -> None:
        """Run an item of a lost worker again: the last time alone, so that no other item can be the cause."""
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

    async def _fill(self, slot: _Slot, lost: Worker | None = None) -> None:
        """Start a worker, and offer its room for items.

        Raises:
            TinyAgentError: It cannot be started, and there is no other.
        """
        if lost is not None:
            await lost.aclose()
        for attempt in range(1, MOST_STARTS + 1):
            try:
                slot.worker = await self._start(slot.spec)
                break
            except WorkerLostError as error:
                if attempt < MOST_STARTS:
                    continue
                slot.ended = True
                if all(other.ended for other in self._slots):
                    raise
                self._job.note(f"{error} The other workers go on.")
                return
        self._offer(slot)


async def _next(items: AsyncIterator[BatchItem]) -> BatchItem | None:
    return await anext(items, None)
