"""May this tool call run? Rules first, then the person at the terminal.

    denied by name        refused, whatever else was said
    read-only             runs
    allowed by name, -y   runs
    remembered            runs: this exact call was allowed for this project, see `remembered`
    otherwise             asked through /dev/tty, never through standard input; refused without a terminal

This is a question, not a sandbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.agent_types import AgentTool, ToolCallInfo

from .terminal_text import visible

if TYPE_CHECKING:
    from .remembered import Remembered

__all__ = ["Approvals", "Verdict", "ask_on_terminal"]


class Verdict(NamedTuple):
    """Whether a call may run: why not, or else who said so (empty for a tool that needs nobody's word)."""

    refusal: str | None
    by: str = ""


class Approvals:
    """The rules of one run, and what was answered so far.

    Args:
        allow: Names of tools (`*` and `?` match) that may run without a question; `deny` wins over it.
        yes: Every tool may.
        note: Where a refusal without a terminal is told to the user.
        before: Called before a question, so that it does not end up in the middle of the reply.
        remembered: Gives what was allowed in earlier runs, once that matters.
        sources: Where each tool comes from, by name; remembered approvals are bound to it.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        yes: bool = False,
        note: Callable[[str], None] = lambda text: None,
        before: Callable[[], None] = lambda: None,
        remembered: Callable[[], Remembered] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._yes = yes
        self._note = note
        self._before = before
        self._open_remembered = remembered
        self._remembered: Remembered | None = None
        self._sources = sources or {}
        self._allowed_tools: set[str] = set()
        self._allowed_calls: set[str] = set()
        self._lock = asyncio.Lock()

    def denied(self, tool: AgentTool) -> str | None:
        """Why the tool must never run, if so."""
        if _matches(tool.name, self._deny):
            return f"Refused: the user does not allow the tool {tool.name!r} in this run."
        return None

    async def ask(self, call: ToolCallInfo) -> Verdict:
        """Whether this very call may run."""
        tool = call.tool
        if tool.read_only:
            return Verdict(None)
        if self._yes:
            return Verdict(None, "--yes")
        if _matches(tool.name, self._allow):
            return Verdict(None, "--allow")
        from .remembered import current_project, fingerprint

        source = self._sources.get(tool.name, "")
        key = fingerprint(current_project(), tool, source, call.arguments)
        async with self._lock:  # one question at a time; an answer may settle the next one
            if tool.name in self._allowed_tools:
                return Verdict(None, "the user, for this tool in this run")
            if key in self._allowed_calls:
                return Verdict(None, "the user, for this exact call in this run")
            if self._remembered is None and self._open_remembered is not None:
                self._remembered = self._open_remembered()
            if self._remembered is not None and key in self._remembered:
                return Verdict(None, "the user, for this exact call in this project")
            self._before()
            answer = await ask_on_terminal(question(call, project=self._remembered is not None))
        match answer:
            case None:
                self._note(
                    f"Refused {tool.name!r}: it can change things, and there is no terminal to ask on. "
                    f"Allow it with --allow {tool.name}, or everything with -y."
                )
                return Verdict(
                    f"Refused: {tool.name!r} can change things, and there is no terminal to ask the user on. "
                    f"The user can allow it by running this again with --allow {tool.name} or --yes."
                )
            case "a" | "always":
                self._allowed_tools.add(tool.name)
                return Verdict(None, "the user, for this tool in this run")
            case "e" | "exact":
                self._allowed_calls.add(key)
                return Verdict(None, "the user, for this exact call in this run")
            case "p" | "project" if self._remembered is not None:
                self._allowed_calls.add(key)
                self._remember(key, call, source)
                return Verdict(None, "the user, for this exact call in this project")
            case "y" | "yes":
                return Verdict(None, "the user, once")
        return Verdict(f"Refused: the user said no to this call of {tool.name!r}.")

    def _remember(self, key: str, call: ToolCallInfo, source: str) -> None:
        assert self._remembered is not None
        try:
            self._remembered.add(key, call.tool, source, call.arguments)
        except OSError as error:
            self._note(f"It could not be remembered: {self._remembered.path}: {error.strerror}.")


def question(call: ToolCallInfo, *, project: bool = True) -> str:
    """What is shown: the whole call, with everything that a terminal would hide written out."""
    arguments = visible(json.dumps(call.arguments, indent=2, ensure_ascii=False)).replace("\n", "\n  ")
    name = visible(call.tool.name)
    return (
        f"The model wants to run a tool that can change things:\n  {name} {arguments}\n"
        f"Run {name}? [y] once  [a] always in this run  [n] no\n"
        f"This exact call: [e] always in this run{'  [p] always in this project' if project else ''}: "
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
