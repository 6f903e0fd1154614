"""Ask on the controlling terminal: a question with all that it is about, and answers in a line.

Questions are asked on /dev/tty, never on standard input, and only in the foreground. What is asked about may
come from elsewhere, so the text must be made safe before.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = [
    "Question",
    "ask_on_terminal",
    "confirm",
    "opened_terminal",
    "read_answer",
    "shortened",
]

MAX_SHOWN = 8_000
MAX_SHOWN_LINES = 100
"""Limits of a question in characters and lines. Of a longer call it shows the beginning and the end."""


class Question(NamedTuple):
    """A question to the user.

    Attributes:
        text: The call and the choices, with invisible characters as escapes.
        whole: The whole call if `text` shows only its beginning and its end; None otherwise.
        choices: The choices to show after the whole call was viewed.
    """

    text: str
    whole: str | None
    choices: str


def shortened(text: str) -> str | None:
    """Return the beginning and the end of a long text; None for a text that is shown completely."""
    half, lines = MAX_SHOWN // 2, MAX_SHOWN_LINES // 2
    begin, end = min(half, len(text)), max(len(text) - half, 0)
    if text.count("\n") > MAX_SHOWN_LINES:
        begin = min(begin, len("\n".join(text.split("\n", lines)[:lines])))
        end = max(end, len(text) - len("\n".join(text.rsplit("\n", lines)[-lines:])))
    if begin >= end:
        return None
    gap = f"⟨… {end - begin:,} of {len(text):,} characters are not shown here …⟩"
    return f"{text[:begin]}\n{gap}\n{text[end:]}"


async def ask_on_terminal(asked: Question) -> str | None:
    """Ask on the controlling terminal. A cancellation withdraws the question.

    Returns:
        The answer in lower case; None without a terminal. If the question does not show the whole call, only
        a full `yes` approves it, until all of it was viewed.
    """
    with opened_terminal() as fd:
        if fd is None:
            return None
        try:
            return await confirm(fd, asked)
        except OSError:
            return None


@contextmanager
def opened_terminal() -> Iterator[int | None]:
    """Open the controlling terminal; None without one, or in the background."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield fd if _is_foreground(fd) else None
    finally:
        os.close(fd)


def _is_foreground(fd: int) -> bool:
    """Return whether a question can be answered. A background job would be stopped."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


async def confirm(fd: int, asked: Question) -> str:
    """Ask on an open terminal. The answer is that of `ask_on_terminal`."""
    answer = await _answer(fd, asked.text)
    if asked.whole is None:
        return answer
    while answer in ("v", "view", "y"):
        if answer != "y" and await _show_all(fd, asked.whole):
            return await _answer(fd, asked.choices)
        answer = await _answer(fd, "Not all of it was shown. [v] view it all  [yes] run it  [n] no: ")
    return answer if answer == "yes" else "no"


async def _answer(fd: int, text: str) -> str:
    return (await read_answer(fd, text) or "").strip().lower()


async def read_answer(fd: int, text: str) -> str | None:
    """Show a text, and return the line that the user types after it. None if it is ended by Ctrl-D."""
    _discard_typed_ahead(fd)
    _write(fd, text)
    line = ""
    try:
        line = await _read_line(fd)
    finally:
        if not line.endswith("\n"):  # Ctrl-C or Ctrl-D: what comes next starts a line
            _write(fd, "\n")
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else None


async def _show_all(fd: int, text: str) -> bool:
    """Show a text page by page. Return whether its end was reached."""
    columns, rows = os.get_terminal_size(fd)
    width, page = columns or 80, max((rows or 24) - 1, 1)
    lines = [
        line[start : start + width]
        for line in text.split("\n")
        for start in range(0, max(len(line), 1), width)
    ]
    shown = 0
    while True:
        _write(fd, "\n".join(lines[shown : shown + page]) + "\n")
        shown += page
        if shown >= len(lines):
            return True
        answer = await _answer(fd, f"-- {shown:,} of {len(lines):,} lines: [Enter] more  [a] all  [q] stop: ")
        if answer == "q":
            return False
        if answer == "a":
            page = len(lines)


def _write(fd: int, text: str) -> None:
    data = memoryview(text.encode("utf-8", "replace"))
    while data:
        data = data[os.write(fd, data) :]


def _discard_typed_ahead(fd: int) -> None:
    """Discard keys that were pressed before the question."""
    import termios

    termios.tcflush(fd, termios.TCIFLUSH)


async def _read_line(fd: int) -> str:
    """Read one line in a thread, because not every system supports terminals in an event loop."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    stop_read, stop_write = os.pipe()

    def settle(data: bytes | OSError) -> None:
        if answer.done():
            return
        if isinstance(data, OSError):
            answer.set_exception(data)
        else:
            answer.set_result(data)

    def wait() -> None:
        data = b""
        try:
            while not data.endswith(b"\n"):
                ready, _, _ = select.select([fd, stop_read], [], [])
                if stop_read in ready:
                    return
                if not (more := os.read(fd, 1024)):
                    break
                data += more
        except OSError as error:
            loop.call_soon_threadsafe(settle, error)
        else:
            loop.call_soon_threadsafe(settle, data)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        return (await answer).decode("utf-8", "replace")
    finally:
        os.write(stop_write, b"x")
        thread.join()
        os.close(stop_read)
        os.close(stop_write)
