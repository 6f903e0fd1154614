"""A page that follows a run.

A thread reads the lines, because reading may block. The event loop makes the parts of the page from them, and
each open page gets the changes since its last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

from tinyagent import _json
from tinyagent.errors import RecordError

from .page import WARNINGS
from .page_builder import PageBuilder
from .page_template import Template
from .page_values import Part
from .source import Entry, Source

__all__ = ["LivePage", "follow"]

PING_S = 15.0
"""Seconds between signs of life, which show that a page was closed."""
BATCH = 200
"""The most lines that the thread hands over at once."""
POLL_S = 0.2
"""Seconds between looks at the end of a file."""
PARTIAL_S = 0.1
"""Seconds between two versions of the reply so far, at least."""


# ---- the lines --------------------------------------------------------------------------------------------


class _Restart(Exception):
    """The file was cut: its lines are read again."""


async def follow(source: Source, live: LivePage, on_warning: Callable[[str], None]) -> None:
    """Read all lines, and add them to the page."""
    async for batch in _batches(source):
        if batch is None:
            live.restart()
            continue
        for item in batch:
            if isinstance(item, Entry):
                live.add(item)
            elif live.problem(item) <= WARNINGS:
                on_warning(item)
        live.publish()
        await asyncio.sleep(0)  # the pages get their parts
    live.end()


async def _batches(source: Source) -> AsyncIterator[list[Entry | str] | None]:
    """Yield the lines, or what is wrong with them; None if the file is read again from its start."""
    loop = asyncio.get_running_loop()
    items: queue.Queue[list[Entry | str] | BaseException | None] = queue.Queue(4)
    arrived, ended = asyncio.Event(), threading.Event()

    def hand_over(item: list[Entry | str] | BaseException | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=POLL_S)
                break
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(arrived.set)

    def read() -> None:
        try:
            while True:
                try:
                    _read_lines(source, hand_over, ended)
                    break
                except _Restart:
                    os.lseek(source.descriptor, 0, os.SEEK_SET)
                    source.reset()
                    hand_over(None)
            hand_over(EOFError())
        except BaseException as error:  # noqa: BLE001 - raised again in the loop
            hand_over(error)

    threading.Thread(target=read, name="tinyagent-events", daemon=True).start()
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            while not items.empty():
                item = items.get_nowait()
                if isinstance(item, EOFError):
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
    finally:
        ended.set()


def _read_lines(
    source: Source, hand_over: Callable[[list[Entry | str]], None], ended: threading.Event
) -> None:
    batch: list[Entry | str] = []

    def send() -> None:
        if batch:
            hand_over(batch.copy())
            batch.clear()

    def on_problem(error: RecordError) -> None:
        batch.append(str(error))

    def wait() -> bool:
        status = os.fstat(source.descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        if status.st_size < os.lseek(source.descriptor, 0, os.SEEK_CUR):
            raise _Restart
        return not ended.wait(POLL_S)

    source.before_read = send
    source.at_end = wait
    source.on_warning = batch.append
    for entry in source.entries(on_problem=on_problem):
        batch.append(entry)
        if len(batch) >= BATCH:
            send()
    send()


# ---- the page ---------------------------------------------------------------------------------------------


class _Change(NamedTuple):
    number: int
    html: str


class LivePage:
    """The parts of the page, and when each of them changed."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._template = Template()
        self._epoch = 0
        self.has_ended: bool = False
        self._changed = asyncio.Event()
        self._start()

    def _start(self) -> None:
        self._builder = PageBuilder(self._template, live=True)
        self._parts: dict[str, _Change] = {}
        self._latest: dict[str, int] = {}
        """The ids of the parts by their last change."""
        self._number = 0
        self._problems = 0
        self._published = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def cursor(self) -> str:
        """The place after the last change."""
        return f"{self._epoch}-{self._number}"

    @property
    def policy(self) -> str:
        """The Content-Security-Policy of the page."""
        return self._template.policy(live=True)

    def restart(self) -> None:
        """Forget all parts; the pages load again."""
        if self._timer is not None:
            self._timer.cancel()
        self._epoch += 1
        self._start()
        self._wake()

    def add(self, entry: Entry) -> None:
        """Add a line."""
        self._put_all(self._builder.add(entry))

    def problem(self, text: str) -> int:
        """Add a line that cannot be read, and return the number of such lines."""
        self._put_all(self._builder.problem(text))
        self._problems += 1
        return self._problems

    def end(self) -> None:
        """There are no more lines."""
        self._put_all(self._builder.close())
        self._publish()
        self.has_ended = True
        self._wake()

    def publish(self) -> None:
        """Send what has changed, also the reply so far and the summary, but not too often."""
        wait = self._published - time.monotonic()
        if wait <= 0:
            self._publish()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._publish)

    def _publish(self) -> None:
        started = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._put_all(self._builder.changes())
        self._put(Part("aside", self._builder.aside()))
        now = time.monotonic()
        # Long replies and many rows take longer to render, and are sent less often.
        self._published = now + max(PARTIAL_S, 5 * (now - started))
        self._wake()

    def _put_all(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self._put(part)

    def _put(self, part: Part) -> None:
        old = self._parts.get(part.id)
        if old is not None and old.html == part.html:
            return
        self._number += 1
        self._parts[part.id] = _Change(self._number, part.html)
        self._latest.pop(part.id, None)
        self._latest[part.id] = self._number

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def html(self) -> str:
        """Return the whole page."""
        self._publish()
        parts = [
            change.html or f'<span id="{part}" hidden></span>'
            for part, change in self._parts.items()
            if part != "aside"
        ]
        head = self._template.head(self._title, events=f"events?from={self.cursor}")
        return "".join([head, *parts, self._template.tail(self._parts["aside"].html)])

    async def events(self, cursor: str) -> AsyncIterator[bytes]:
        """Yield the changes after a place, as Server-Sent Events."""
        epoch, _, text = cursor.partition("-")
        seen = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
        yield b"retry: 1000\n\n"
        while True:
            changed = self._changed
            if epoch != str(self._epoch):
                yield b"event: reload\ndata: \n\n"
                return
            parts = []
            for part in reversed(self._latest):
                if self._latest[part] <= seen:
                    break
                parts.append({"id": part, "html": self._parts[part].html})
            if parts:
                seen = self._number
                # A new part comes after those that were there before.
                order = {part: place for place, part in enumerate(self._parts)}
                parts.sort(key=lambda part: order[part["id"]])
                data = _json.encode_lossy(parts)
                yield b"event: parts\nid: %s\ndata: %s\n\n" % (self.cursor.encode(), data)
                continue
            if self.has_ended:
                yield b"event: end\ndata: \n\n"
                return
            try:
                async with asyncio.timeout(PING_S):
                    await changed.wait()
            except TimeoutError:
                yield b": ping\n\n"
