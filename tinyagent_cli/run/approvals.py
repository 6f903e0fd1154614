"""Decide whether a tool call may run: by rules first, then by asking the user on the terminal.

    denied by name        refused, whatever the other rules are
    read-only             runs
    allowed by name, -y   runs
    stored approval       runs: this exact call was approved for this project, see `approval_store`
    otherwise             the user is asked on /dev/tty, never on standard input; refused without a terminal

An approval is not a sandbox: an approved tool can do anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tinyagent.agent_types import AgentTool, ToolCallInfo
from tinyagent.errors import ConfigurationError
from tinyagent_cli.terminal.sanitise import visible_line

from .terminal_questions import Question, ask_on_terminal, hidden_part, terminal_width, wrapped

if TYPE_CHECKING:
    from tinyagent_cli.plugins.tool_sources import ToolSource

    from .approval_store import ApprovalStore

__all__ = ["Approvals", "Asker", "Scope", "Verdict"]

SANDBOX = "There is no sandbox: the tool has all your permissions."


class Verdict(NamedTuple):
    """Whether a call may run: the reason if not, and who approved it (empty if no approval is needed)."""

    refusal: str | None
    by: str = ""


Scope: TypeAlias = Literal["run", "chat"]

Asker: TypeAlias = Callable[[ToolCallInfo, bool], Awaitable[str | None]]
"""Asks about a call, and whether to approve it for the project. Returns None if nothing can be asked."""


class Approvals:
    """The rules of one run or chat, and the answers so far.

    Args:
        allow: Names of tools (`*` and `?` match) that may run without a question; `deny` takes precedence.
        deny: Names of tools that must not run.
        yes: Whether every tool may run without a question.
        note: Called to tell the user about a refusal without a terminal.
        before: Called before a question, to end an unfinished line of the reply.
        after: Called after a question.
        paint: Returns a text in a colour of the terminal.
        open_store: Opens the stored approvals; called on first use.
        sources: The source of each tool, by name. Stored approvals are bound to it. A tool without a source
            or content hash has no stored approvals.
        ask: Asks the user. Without it, the question is asked on the terminal.
        terminal: Returns a context in which the terminal is free for the question.
        scope: What the rules and answers are for: a run or a chat.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        yes: bool = False,
        note: Callable[[str], None] = lambda text: None,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
        paint: Callable[[str, str], str] = lambda code, text: text,
        open_store: Callable[[], ApprovalStore] | None = None,
        sources: Mapping[str, ToolSource] | None = None,
        ask: Asker | None = None,
        terminal: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        scope: Scope = "run",
    ) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._yes = yes
        self._note = note
        self._before = before
        self._after = after
        self._paint = paint
        self._open_store = open_store
        self._store: ApprovalStore | None = None
        self._asker = ask
        self._terminal = terminal
        self._scope: Scope = scope
        self._sources = {} if sources is None else sources  # changes with the tools
        self._allowed_tools: dict[str, tuple[object, ...]] = {}
        self._allowed_calls: set[str] = set()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def surface(self) -> AsyncIterator[None]:
        """Wait until the terminal is free for a question that is not about a tool call."""
        async with self._lock:
            self._before()
            try:
                async with self._terminal():
                    yield
            finally:
                self._after()

    def denied(self, tool: AgentTool) -> str | None:
        """Return the reason if a rule denies the tool; None otherwise."""
        if _matches(tool.name, self._deny):
            return f"Refused: the user does not allow the tool {tool.name!r} in this {self._scope}."
        return None

    async def ask(self, call: ToolCallInfo) -> Verdict:
        """Decide whether this call may run."""
        tool = call.tool
        if tool.read_only:
            return Verdict(None)
        if self._yes:
            return Verdict(None, "--yes")
        if _matches(tool.name, self._allow):
            return Verdict(None, "--allow")
        from .approval_store import current_project, fingerprint

        source = self._sources.get(tool.name)
        key = fingerprint(current_project(), tool, source, call.arguments)
        can_be_stored = source is not None and source.content() is not None
        async with self._lock:  # one question at a time; an answer may settle the next one
            if self._allowed_tools.get(tool.name) == _identity(tool):
                return Verdict(None, f"the user, for this tool in this {self._scope}")
            if key in self._allowed_calls:
                return Verdict(None, f"the user, for this exact call in this {self._scope}")
            if can_be_stored and self._store is None and self._open_store is not None:
                self._store = self._open_store()
            store = self._store if can_be_stored else None
            if store is not None and key in store:
                return Verdict(None, "the user, for this exact call in this project")
            self._before()
            try:
                answer = await self._answer(call, source, project=store is not None)
            finally:
                self._after()
        match answer:
            case None:
                where = "no client is there to ask" if self._asker else "there is no terminal to ask on"
                self._note(
                    f"Refused {tool.name!r}: it can change something, and {where}. "
                    f"Allow it with --allow {tool.name}, or all tools with -y."
                )
                return Verdict(
                    f"Refused: {tool.name!r} can change something, and "
                    f"{where.replace('ask', 'ask the user', 1)}. The user can allow it by running this again "
                    f"with --allow {tool.name} or --yes."
                )
            case "a" | "always":
                self._allowed_tools[tool.name] = _identity(tool)
                return Verdict(None, f"the user, for this tool in this {self._scope}")
            case "e" | "exact":
                self._allowed_calls.add(key)
                return Verdict(None, f"the user, for this exact call in this {self._scope}")
            case "p" | "project" if store is not None and source is not None:
                self._allowed_calls.add(key)
                self._add_to_store(store, key, call, source)
                return Verdict(None, "the user, for this exact call in this project")
            case "y" | "yes":
                return Verdict(None, "the user, once")
        return Verdict(f"Refused: the user declined this call of {tool.name!r}.")

    async def _answer(self, call: ToolCallInfo, source: ToolSource | None, *, project: bool) -> str | None:
        if self._asker is not None:
            return await self._asker(call, project)
        name = source.name if source is not None else ""
        async with self._terminal():
            asked = question(
                call,
                project=project,
                source=name,
                paint=self._paint,
                width=terminal_width(),
                scope=self._scope,
            )
            return await ask_on_terminal(asked)

    def _add_to_store(self, store: ApprovalStore, key: str, call: ToolCallInfo, source: ToolSource) -> None:
        try:
            store.add(key, call.tool, source, call.arguments)
        except ConfigurationError as error:
            self._note(f"The approval is valid for this {self._scope} only. {error}")


def question(
    call: ToolCallInfo,
    *,
    project: bool = True,
    source: str = "",
    paint: Callable[[str, str], str] = lambda code, text: text,
    width: int | None = None,
    scope: Scope = "run",
) -> Question:
    """Return the question for a call.

    Args:
        call: The call.
        project: Whether to offer an approval for the project.
        source: Where the tool comes from.
        paint: Colours the lines of a diff.
        width: The columns of the terminal, for the text around the call; None for no limit.
        scope: What an answer with `always` is for.
    """
    from .call_view import call_view, painted

    name = visible_line(call.tool.name)
    text = call_view(call.tool.name, call.arguments)
    begin, end = hidden_part(text)
    choices = (
        f"Run {name}? [y] once  [a] always in this {scope}  [n] no\n"
        f"This exact call: [e] always in this {scope}{'  [p] always in this project' if project else ''}: "
    )
    if begin < end:
        gap = f"⟨… {end - begin:,} of {len(text):,} characters are not shown here …⟩"
        shown = f"{text[:begin]}\n{gap}\n{text[end:]}"
        asked = (
            f"The call is not shown completely. [v] view all of it  [yes] run {name} once anyway  [n] no: "
        )
    else:
        shown, asked = text, choices
    shown = painted("  " + shown.replace("\n", "\n  "), paint)
    origin = f" ({visible_line(source)})" if source else ""
    start = wrapped(f"The model wants to run {name}{origin}, which can change something:", width)
    return Question(
        f"{start}\n{shown}\n{wrapped(SANDBOX, width)}\n{wrapped(asked, width)}",
        f"{name}\n{text}" if begin < end else None,
        wrapped(choices, width),
    )


def _identity(tool: AgentTool) -> tuple[object, ...]:
    """Return what identifies an approved tool in this run. If it changes, the user is asked again."""
    return tool.description, tool.parameters, tool.origin


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
