"""May this tool call run? Rules first, then the person at the terminal.

    denied by name        refused, whatever else was said
    read-only             runs
    allowed by name, -y   runs
    otherwise             asked through /dev/tty, never through standard input; refused without a terminal

This is a question, not a sandbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from tinyagent.agent_types import AgentTool, ToolCallInfo

from .terminal_text import visible

__all__ = ["Approvals", "ask_on_terminal"]


class Approvals:
    """The rules of one run, and what was answered so far.

    Args:
        allow: Names of tools (`*` and `?` match) that may run without a question; `deny` wins over it.
        yes: Every tool may.
        note: Where a refusal without a terminal is told to the user.
        before: Called before a question, so that it does not end up in the middle of the reply.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        yes: bool = False,
        note: Callable[[str], None] = lambda text: None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._allow = set(allow)
        self._deny = tuple(deny)
        self._yes = yes
        self._note = note
        self._before = before
        self._lock = asyncio.Lock()

    def denied(self, tool: AgentTool) -> str | None:
        """Why the tool must never run, if so."""
        if _matches(tool.name, self._deny):
            return f"Refused: the user does not allow the tool {tool.name!r} in this run."
        return None

    async def ask(self, call: ToolCallInfo) -> str | None:
        """Why this very call must not run; None if it may."""
        tool = call.tool
        if tool.read_only or self._yes or _matches(tool.name, self._allow):
            return None
        async with self._lock:
            if _matches(tool.name, self._allow):  # "always" was the answer to the question before
                return None
            self._before()
            answer = await ask_on_terminal(question(call))
        match answer:
            case None:
                self._note(
                    f"Refused {tool.name!r}: it can change things, and there is no terminal to ask on. "
                    f"Allow it with --allow {tool.name}, or everything with -y."
                )
                return (
                    f"Refused: {tool.name!r} can change things, and there is no terminal to ask the user on. "
                    f"The user can allow it by running this again with --allow {tool.name} or --yes."
                )
            case "a" | "always":
                self._allow.add(tool.name)
                return None
            case "y" | "yes":
                return None
        return f"Refused: the user said no to this call of {tool.name!r}."


def question(call: ToolCallInfo) -> str:
    """What is shown: the whole call, with everything that a terminal would hide written out."""
    arguments = visible(json.dumps(call.arguments, indent=2, ensure_ascii=False)).replace("\n", "\n  ")
    name = visible(call.tool.name)
    return (
        f"The model wants to run a tool that can change things:\n  {name} {arguments}\n"
        f"Run {name}? [y] once  [a] always in this run  [n] no: "
    )


async def ask_on_terminal(text: str) -> str | None:
    """Ask on the controlling terminal; None if there is none. Cancelling takes the question back."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(fd) != os.getpgrp():
            return None  # a background job would be stopped, not answered
        _forget_typed_ahead(fd)
        os.write(fd, text.encode("utf-8", "replace"))
        return (await _read_line(fd)).strip().lower()
    except OSError:
        return None
    finally:
        os.close(fd)


def _forget_typed_ahead(fd: int) -> None:
    """A key that was hit before the question is no answer to it."""
    import termios

    termios.tcflush(fd, termios.TCIFLUSH)


async def _read_line(fd: int) -> str:
    """One line. A thread waits, since not every system lets an event loop watch a terminal."""
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


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
