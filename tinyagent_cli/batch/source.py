"""Take items from a reader without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, TypeAlias

from tinyagent.executors import BatchItem

from .items import BadLine

__all__ = ["Entry", "entries"]

Entry: TypeAlias = BatchItem | BadLine

_AHEAD = 64
"""The most entries that are read before they are needed."""


async def entries(file: BinaryIO, reader: Iterator[Entry], stop: asyncio.Event) -> AsyncIterator[Entry]:
    """Yield what a reader of `file` yields, until its end or until `stop` is set.

    A file is read here. Reading a pipe may wait, so a thread does that.
    """
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        for number, entry in enumerate(reader):
            if not number % _AHEAD:
                await asyncio.sleep(0)
            if stop.is_set():
                return
            yield entry
        return
    pump = _Pump(reader)
    stopped = asyncio.create_task(stop.wait())
    try:
        while True:
            taken = asyncio.create_task(pump.get())
            await asyncio.wait((taken, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not taken.done():
                taken.cancel()
                return
            found = taken.result()
            if found is None or stop.is_set():
                return
            yield found
    finally:
        stopped.cancel()


class _Pump:
    """A thread that reads ahead. It does not keep the process from exiting."""

    def __init__(self, reader: Iterator[Entry]) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(_AHEAD)
        self._queue: asyncio.Queue[Entry | Exception | None] = asyncio.Queue()
        threading.Thread(target=self._read, name="tinyagent-input", daemon=True).start()

    async def get(self) -> Entry | None:
        """Return the next entry; None at the end."""
        found = await self._queue.get()
        self._room.release()
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self) -> None:
        try:
            for entry in self._reader:
                self._put(entry)
        except Exception as error:  # noqa: BLE001 - it is raised in the event loop
            self._put(error)
        else:
            self._put(None)

    def _put(self, entry: Entry | Exception | None) -> None:
        self._room.acquire()
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, entry)
        except RuntimeError:
            pass  # the loop is closed
