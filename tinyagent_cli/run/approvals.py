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

from tinyagent.agent_types import CallSandbox, JsonDict, ToolCallInfo
from tinyagent.errors import ConfigurationError
from tinyagent_cli.terminal.sanitise import visible_line

from .approval_rules import first_match, parse_rule
from .terminal_questions import Question, ask_on_terminal, shortened

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


class _Bound(NamedTuple):
    """A call, and what its approvals are bound to.

    Attributes:
        call: The call.
        tool: What identifies the tool in this run. If it changes, the user is asked again.
        key: What identifies exactly this call.
        source: Where the tool comes from.
        store: The stored approvals; None if those of this tool cannot be stored.
    """

    call: ToolCallInfo
    tool: tuple[object, ...]
    key: str
    source: ToolSource | None
    store: ApprovalStore | None


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
        async with self._lock:  # one question at a time; an answer may settle the next one
            bound = self._bound(call, sandbox)
            approved = None if leaves else self._approved_before(bound)
            if approved is not None:
                return approved
            text = NO_SANDBOX if sandbox is None else sandbox.text
            asked = Asked(call, _answers(sandbox, has_store=bound.store is not None), text, leaves)
            self._before()
            try:
                answer = await self._answer(asked, bound.source)
            finally:
                self._after()
        if answer is None:
            return self._cannot_ask(tool.name, leaves=leaves)
        answer = _SHORT.get(answer, answer)
        if answer not in asked.answers:
            return Verdict(f"Refused: the user declined this call of {tool.name!r}.")
        if answer == "outside" and sandbox is not None:
            return Verdict(None, "the user, once, outside the sandbox", sandbox.outside)
        if answer == "yes":
            return Verdict(None, f"the user, once{', outside the sandbox' if leaves else ''}")
        return self._remember(answer, bound)

    def _bound(self, call: ToolCallInfo, sandbox: CallSandbox | None) -> _Bound:
        from .approval_store import current_project, fingerprint

        tool, source = call.tool, self._sources.get(call.tool.name)
        can_be_stored = source is not None and source.content() is not None
        if can_be_stored and self._store is None and self._open_store is not None:
            self._store = self._open_store()
        is_confined = sandbox is not None and sandbox.active
        return _Bound(
            call,
            (tool.description, tool.parameters, tool.origin, is_confined),
            fingerprint(current_project(), tool, source, call.arguments, sandbox),
            source,
            self._store if can_be_stored else None,
        )

    def _approved_before(self, bound: _Bound) -> Verdict | None:
        """Return the approval by an earlier answer; None without one."""
        if self._allowed_tools.get(bound.call.tool.name) == bound.tool:
            return Verdict(None, f"the user, for this tool in this {self._scope}")
        if bound.key in self._allowed_calls:
            return Verdict(None, f"the user, for this exact call in this {self._scope}")
        if bound.store is not None and bound.key in bound.store:
            return Verdict(None, "the user, for this exact call in this project")
        return None

    def _remember(self, answer: str, bound: _Bound) -> Verdict:
        """Return the approval of an answer that is also for later calls: `always`, `exact` or `project`."""
        call, store, source = bound.call, bound.store, bound.source
        if answer == "always":
            self._allowed_tools[call.tool.name] = bound.tool
            return Verdict(None, f"the user, for this tool in this {self._scope}")
        self._allowed_calls.add(bound.key)
        if answer == "exact" or store is None or source is None:
            return Verdict(None, f"the user, for this exact call in this {self._scope}")
        try:
            store.add(bound.key, call.tool, source, call.arguments)
        except ConfigurationError as error:
            self._note(f"The approval is valid for this {self._scope} only. {error}")
        return Verdict(None, "the user, for this exact call in this project")

    def _cannot_ask(self, name: str, *, leaves: bool) -> Verdict:
        """Refuse a call, and say how to allow it."""
        where = "no client is there to ask" if self._asker else "there is no terminal to ask on"
        if leaves:
            self._note(
                f"Refused {name!r} outside the sandbox: {where}. -y and --allow do not include this. "
                "To use no sandbox: TINYAGENT_SANDBOX=off"
            )
            return Verdict(
                f"Refused: only the user can allow a call outside the sandbox, and {where}. Use the sandbox."
            )
        self._note(
            f"Refused {name!r}: it can change something, and {where}. "
            f"Allow it with --allow {name}, or all tools with -y."
        )
        return Verdict(
            f"Refused: {name!r} can change something, and {where.replace('ask', 'ask the user', 1)}. "
            f"The user can allow it by running this again with --allow {name} or --yes."
        )

    async def _answer(self, asked: Asked, source: ToolSource | None) -> str | None:
        if self._asker is not None:
            return await self._asker(asked)
        from tinyagent_cli.terminal.wrapping import columns

        name = source.name if source is not None else ""
        async with self._terminal():
            shown = question(asked, source=name, paint=self._paint, width=columns(), scope=self._scope)
            return await ask_on_terminal(shown)


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
    from tinyagent_cli.terminal.wrapping import wrap_words

    from .call_view import call_view, painted

    call, leaves = asked.call, asked.leaves
    name = visible_line(call.tool.name) + (" outside the sandbox" if leaves else "")
    text = call_view(call.tool.name, call.arguments)
    short = shortened(text)
    choices = _choices(name, asked.answers, scope)
    asks = choices
    if short is not None:
        asks = f"The call is not shown completely. [v] view all of it  [yes] run {name} once anyway  [n] no: "
    shown = painted("  " + (short or text).replace("\n", "\n  "), paint)
    origin = f" ({visible_line(source)})" if source else ""

    def wrapped(text: str) -> str:
        return text if width is None else wrap_words(text, max(width - 1, 20))

    start = wrapped(f"The model wants to run {name}{origin}, which can change something:")
    return Question(
        f"{start}\n{shown}\n{wrapped(asked.sandbox)}\n{wrapped(asks)}",
        f"{name}\n{text}" if short is not None else None,
        wrapped(choices),
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


def _answers(sandbox: CallSandbox | None, *, has_store: bool) -> list[Answer]:
    """Return the answers that a question can have, besides `no`."""
    answers: list[Answer] = ["yes"]
    if sandbox is None or not sandbox.leaves:
        answers += ["always", "exact"]
        if has_store:
            answers.append("project")
    if sandbox is not None and sandbox.outside is not None:
        answers.append("outside")
    return answers
