"""Run the items of a batch in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .interface import BatchItem, Job, Worker, WorkerSpec

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """Runs all items in the event loop of this process."""

    name = "local"

    async def run(self, spec: WorkerSpec, items: AsyncIterator[BatchItem], job: Job) -> None:
        """Run all items. See `interface.Executor`."""
        worker = spec.make_worker()
        try:
            await run_items(worker, spec.concurrency, items, job)
        finally:
            await worker.aclose()


async def run_items(worker: Worker, concurrency: int, items: AsyncIterator[BatchItem], job: Job) -> None:
    """Run items with one worker, some at a time, until they end or the job is aborted."""
    running = asyncio.create_task(_run_all(worker, concurrency, items, job))
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


async def _run_all(worker: Worker, concurrency: int, items: AsyncIterator[BatchItem], job: Job) -> None:
    room = asyncio.Semaphore(concurrency)

    async def run(item: BatchItem) -> None:
        try:
            await job.done(await worker.run(item))
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()  # before the item is taken
            item = await anext(items, None)
            if item is None:
                return
            group.create_task(run(item))
