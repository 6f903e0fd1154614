"""Decide whether a tool call may run: by rules first, then by asking the user on the terminal.

    denied by a rule      refused, whatever the other rules are
    read-only             runs
    leaves the sandbox    the user is asked, whatever the following rules are
    allowed by a rule, -y runs; see `approval_rules`
    stored approval       runs: this exact call was approved for this project, see `approval_store`
    otherwise             the user is asked on /dev/tty, never on standard input; refused without a terminal

An approval is not a sandbox: a tool without one can do anything once it is approved. With one, its question
says what holds, and can approve the call once outside the sandbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tinyagent.agent_types import AgentTool, CallSandbox, JsonDict, ToolCallInfo
from tinyagent.errors import ConfigurationError
from tinyagent_cli.terminal.sanitise import visible_line

from .approval_rules import first_match, parse_rule
from .terminal_questions import Question, ask_on_terminal, hidden_part, terminal_width, wrapped

if TYPE_CHECKING:
    from tinyagent_cli.plugins.tool_sources import ToolSource

    from .approval_store import ApprovalStore

__all__ = ["Answer", "Approvals", "Asked", "Asker", "Scope", "Verdict"]

_SHORT = {"y": "yes", "a": "always", "e": "exact", "p": "project", "o": "outside"}

NO_SANDBOX = "There is no sandbox: the tool has all your permissions."


class Verdict(NamedTuple):
    """Whether a call may run.

    Attributes:
        refusal: The reason if not.
        by: Who approved it; empty if no approval is needed.
        arguments: Other arguments with which the user has approved it; None for its own.
    """

    refusal: str | None
    by: str = ""
    arguments: JsonDict | None = None


class Asked(NamedTuple):
    """A question about a call.

    Attributes:
        call: The call.
        answers: The answers that it can have, besides `no`.
        sandbox: What confines the call, in a sentence.
        leaves: Whether the call leaves a sandbox.
    """

    call: ToolCallInfo
    answers: Sequence[Answer]
    sandbox: str
    leaves: bool = False


Scope: TypeAlias = Literal["run", "chat"]

Answer: TypeAlias = Literal["yes", "always", "exact", "project", "outside", "no"]
"""An answer. `outside` approves the call once, outside the sandbox."""

Asker: TypeAlias = Callable[["Asked"], Awaitable[str | None]]
"""Asks about a call. Returns None if nothing can be asked."""


class Approvals:
    """The rules of one run or chat, and the answers so far.

    Args:
        allow: Rules for calls that may run without a question, see `approval_rules`; `deny` takes precedence.
        deny: Rules for calls that must not run.
        yes: Whether every tool may run without a question.
        outside: Whether `yes` includes calls that leave a sandbox: the user has typed the call.
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
        outside: bool = False,
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
        self._allow = tuple(map(parse_rule, allow))
        self._deny = tuple(map(parse_rule, deny))
        self._yes = yes
        self._outside = outside
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

    def denied(self, call: ToolCallInfo) -> str | None:
        """Return the reason if a rule denies the call; None otherwise."""
        name = call.tool.name
        for rule in self._deny:
            if rule.denies(name, call.arguments):
                what = f"the tool {name!r}" if rule.words is None else repr(rule.text)
                return f"Refused: the user does not allow {what} in this {self._scope}."
        return None

    async def ask(self, call: ToolCallInfo) -> Verdict:
        """Decide whether this call may run."""
        tool = call.tool
        if (reason := self.denied(call)) is not None:  # a hook may have changed the arguments
            return Verdict(reason)
        if tool.read_only:
            return Verdict(None)
        try:
            sandbox = None if tool.sandbox is None else tool.sandbox(call.arguments)
        except Exception as error:  # noqa: BLE001 - a plugin's function; without its answer nothing runs
            return Verdict(f"Refused: what confines {tool.name!r} is not known: {error}")
        leaves = sandbox is not None and sandbox.leaves
        if self._yes and (not leaves or self._outside):
            return Verdict(None, "--yes")
        allowed = None if leaves else first_match(self._allow, tool.name, call.arguments)
        if allowed is not None:
            return Verdict(None, "--allow" if allowed.words is None else f"--allow {allowed.text}")
        from .approval_store import current_project, fingerprint

        source = self._sources.get(tool.name)
        key = fingerprint(current_project(), tool, source, call.arguments, sandbox)
        identity = _identity(tool, sandbox)
        can_be_stored = not leaves and source is not None and source.content() is not None
        async with self._lock:  # one question at a time; an answer may settle the next one
            if not leaves and self._allowed_tools.get(tool.name) == identity:
                return Verdict(None, f"the user, for this tool in this {self._scope}")
            if not leaves and key in self._allowed_calls:
                return Verdict(None, f"the user, for this exact call in this {self._scope}")
            if can_be_stored and self._store is None and self._open_store is not None:
                self._store = self._open_store()
            store = self._store if can_be_stored else None
            if store is not None and key in store:
                return Verdict(None, "the user, for this exact call in this project")
            answers: list[Answer] = ["yes"]
            if not leaves:
                answers += ["always", "exact"]
                if store is not None:
                    answers.append("project")
            if sandbox is not None and sandbox.outside is not None:
                answers.append("outside")
            text = NO_SANDBOX if sandbox is None else sandbox.text
            self._before()
            try:
                answer = await self._answer(Asked(call, answers, text, leaves), source)
            finally:
                self._after()
        answer = _SHORT.get(answer, answer) if answer else answer
        if answer is not None and answer not in answers:
            return Verdict(f"Refused: the user declined this call of {tool.name!r}.")
        match answer:
            case None if leaves:
                where = "no client is there to ask" if self._asker else "there is no terminal to ask on"
                self._note(
                    f"Refused {tool.name!r} outside the sandbox: {where}. -y and --allow do not include "
                    "this. To use no sandbox: TINYAGENT_SANDBOX=off"
                )
                return Verdict(
                    f"Refused: only the user can allow a call outside the sandbox, and {where}. "
                    "Use the sandbox."
                )
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
            case "always":
                self._allowed_tools[tool.name] = identity
                return Verdict(None, f"the user, for this tool in this {self._scope}")
            case "exact":
                self._allowed_calls.add(key)
                return Verdict(None, f"the user, for this exact call in this {self._scope}")
            case "project" if store is not None and source is not None:
                self._allowed_calls.add(key)
                self._add_to_store(store, key, call, source)
                return Verdict(None, "the user, for this exact call in this project")
            case "outside" if sandbox is not None:
                return Verdict(None, "the user, once, outside the sandbox", sandbox.outside)
            case "yes":
                return Verdict(None, f"the user, once{', outside the sandbox' if leaves else ''}")
        return Verdict(f"Refused: the user declined this call of {tool.name!r}.")

    async def _answer(self, asked: Asked, source: ToolSource | None) -> str | None:
        if self._asker is not None:
            return await self._asker(asked)
        name = source.name if source is not None else ""
        async with self._terminal():
            shown = question(
                asked,
                source=name,
                paint=self._paint,
                width=terminal_width(),
                scope=self._scope,
            )
            return await ask_on_terminal(shown)

    def _add_to_store(self, store: ApprovalStore, key: str, call: ToolCallInfo, source: ToolSource) -> None:
        try:
            store.add(key, call.tool, source, call.arguments)
        except ConfigurationError as error:
            self._note(f"The approval is valid for this {self._scope} only. {error}")


def question(
    asked: Asked,
    *,
    source: str = "",
    paint: Callable[[str, str], str] = lambda code, text: text,
    width: int | None = None,
    scope: Scope = "run",
) -> Question:
    """Return the question for a call.

    Args:
        asked: The call, and the answers to offer.
        source: Where the tool comes from.
        paint: Colours the lines of a diff.
        width: The columns of the terminal, for the text around the call; None for no limit.
        scope: What an answer with `always` is for.
    """
    from .call_view import call_view, painted

    call, leaves = asked.call, asked.leaves
    name = visible_line(call.tool.name) + (" outside the sandbox" if leaves else "")
    text = call_view(call.tool.name, call.arguments)
    begin, end = hidden_part(text)
    choices = _choices(name, asked.answers, scope)
    if begin < end:
        gap = f"⟨… {end - begin:,} of {len(text):,} characters are not shown here …⟩"
        shown = f"{text[:begin]}\n{gap}\n{text[end:]}"
        asks = f"The call is not shown completely. [v] view all of it  [yes] run {name} once anyway  [n] no: "
    else:
        shown, asks = text, choices
    shown = painted("  " + shown.replace("\n", "\n  "), paint)
    origin = f" ({visible_line(source)})" if source else ""
    start = wrapped(f"The model wants to run {name}{origin}, which can change something:", width)
    return Question(
        f"{start}\n{shown}\n{wrapped(asked.sandbox, width)}\n{wrapped(asks, width)}",
        f"{name}\n{text}" if begin < end else None,
        wrapped(choices, width),
    )


def _choices(name: str, answers: Sequence[Answer], scope: Scope) -> str:
    """Return the answers to choose from, with their keys."""
    always = f"  [a] always in this {scope}" if "always" in answers else ""
    choices = f"Run {name}? [y] once{always}  [n] no"
    if "outside" in answers:
        choices += "\nOutside the sandbox: [o] once"
    if "exact" in answers:
        project = "  [p] always in this project" if "project" in answers else ""
        choices += f"\nThis exact call: [e] always in this {scope}{project}"
    return f"{choices}: "


def _identity(tool: AgentTool, sandbox: CallSandbox | None) -> tuple[object, ...]:
    """Return what identifies an approved tool in this run. If it changes, the user is asked again."""
    confined = sandbox is not None and sandbox.active
    return tool.description, tool.parameters, tool.origin, confined
