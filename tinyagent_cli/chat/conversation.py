"""The agent of a chat, its session, and what has been used so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from tinyagent import Agent
from tinyagent._answer import answer_error
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    AgentTool,
    CompactionEndEvent,
    ThinkingLevel,
    UserMessage,
)
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import sessions_directory
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.agent import make_agent, time_limit
from tinyagent_cli.run.outcome import add_cost, in_terms_of_options
from tinyagent_cli.run.plan import Plan
from tinyagent_cli.run.progress import Progress
from tinyagent_cli.run.record_lines import header, result
from tinyagent_cli.run.session_choice import choose_session, open_session
from tinyagent_cli.run.tool_guards import ToolGuards
from tinyagent_cli.run.user_questions import UserQuestions
from tinyagent_cli.sessions.files import working_folder
from tinyagent_cli.sessions.marks import Mark, read_marks
from tinyagent_cli.sessions.session import Session
from tinyagent_cli.sessions.store import SessionStore
from tinyagent_cli.sessions.writer import SessionWriter, new_session

__all__ = ["Conversation", "Outcome"]


class Outcome(NamedTuple):
    """The end of a run: its progress, and the error if it has no answer."""

    progress: Progress
    error: TinyAgentError | None


class Conversation:
    """The runs of a chat.

    Args:
        app: Shows warnings.
        plan: The model, the tools, the conversation so far and the limits.
        guards: Decide about tool calls.
        on_retry: Called with the reason of a retry.
    """

    def __init__(
        self,
        app: AppContext,
        plan: Plan,
        guards: ToolGuards,
        on_retry: Callable[[str], None],
    ) -> None:
        self.plan: Plan = plan
        self.spent: list[Progress] = []
        self.compactions: list[Progress] = []
        self._app = app
        self._guards = guards
        self._is_late = False
        self._marks: list[Mark] = []
        """What can be undone. The session has the runs before those of this chat."""
        questions = UserQuestions(guards.approvals, app.note, lambda: self.plan, "chat")
        self.agent: Agent = make_agent(
            plan, guards, on_retry=on_retry, on_note=app.detail_once, interaction=questions
        )
        self.agent.options.get_api_key = lambda _: self.plan.api_key
        self._unsubscribe = self._subscribe(plan.session)

    def _subscribe(self, session: SessionWriter | None) -> Callable[[], None]:
        return (lambda: None) if session is None else self.agent.subscribe(session)

    # ---- runs ---------------------------------------------------------------------------------------

    async def ask(self, message: UserMessage) -> Outcome:
        """Prompt the agent, and save the run. An error of the run is part of the outcome."""
        plan, session = self.plan, self.plan.session
        self._marks.append(self._mark(message))
        progress = Progress()
        self._guards.refused.clear()
        self._begin()
        unsubscribe = self.agent.subscribe(progress)
        error: TinyAgentError | None = None
        try:
            with time_limit(plan.timeout, self._stop_late):
                await self.agent.prompt(message)
            error = answer_error(progress.messages, progress.limit)
        except TinyAgentError as failed:
            error = failed
        finally:
            unsubscribe()
            add_cost(plan, progress)
            if self._is_late:
                error = InputError(f"The reply took longer than {plan.timeout:g} s (--timeout).")
            elif error is not None:
                error = in_terms_of_options(error, plan, tools_refused=bool(self._guards.refused))
            if session is not None:
                session.end_run(result(progress, error, session.id, progress.seconds))
        self.spent.append(progress)
        return Outcome(progress, error)

    async def compact(self, instructions: str) -> TinyAgentError | None:
        """Compact the conversation. Return why that has failed; the conversation is then as it was."""
        plan = self.plan
        mark, progress = self._mark(None), Progress()

        def add(event: AgentEvent) -> None:
            if type(event) is CompactionEndEvent:
                progress.usage = event.usage
                self.compactions.append(progress)

        self._begin()
        unsubscribe = self.agent.subscribe(add)
        try:
            with time_limit(plan.timeout, self._stop_late):
                await self.agent.compact(instructions)
            self._marks.append(mark)
        except TinyAgentError as error:
            if self._is_late:
                return InputError(f"The summary took longer than {plan.timeout:g} s (--timeout).")
            return error
        finally:
            unsubscribe()
            add_cost(plan, progress)
        return None

    def _mark(self, prompt: UserMessage | None) -> Mark:
        session = self.plan.session
        return Mark(list(self.agent.state["messages"]), 0 if session is None else session.size, prompt)

    def _begin(self) -> None:
        self._is_late = False
        session = self.plan.session
        if session is not None:
            session.begin(header(self.plan), self.agent.state["messages"])

    def _stop_late(self, _: BaseException) -> None:
        self._is_late = True
        self.agent.abort()

    def undo(self) -> Mark | None:
        """Remove the last run or compaction, also from the session. Return the state before it.

        Raises:
            TinyAgentError: The session cannot be read or changed.
        """
        session = self.plan.session
        if not self._marks and session is not None and session.size:
            store, _, saved = self.saved()
            self._marks = read_marks(store.read(saved))
        if not self._marks:
            return None
        mark = self._marks[-1]
        if self.plan.session is not None:
            try:
                self.plan.session.undo(mark.size)
            except OSError as error:
                raise InputError(f"The session cannot be changed: {error.strerror}.") from None
        self._marks.pop()
        self.agent.replace_messages(mark.messages)
        return mark

    # ---- settings -----------------------------------------------------------------------------------

    def set_model(self, name: str) -> None:
        """Go on with another model. The errors are those of `-m`."""
        provider, model, api_key = self.plan.load_model(name)
        self.plan = replace(self.plan, provider=provider, model=model, api_key=api_key)
        self.agent.options.stream_fn = provider.stream_fn
        self.agent.set_model(model)

    def set_tools(self, names: Sequence[str]) -> list[AgentTool]:
        """Use other tools from the next request on. The errors are those of `-t`."""
        tools = self.plan.load_tools(names)
        self.agent.set_tools(tools)
        self.plan = replace(self.plan, tools=tools)
        return tools

    def set_system(self, text: str) -> None:
        """Set the system prompt."""
        self.plan = replace(self.plan, system=text)
        self.agent.set_system_prompt(text)

    def set_thinking(self, level: ThinkingLevel) -> None:
        """Set the thinking level."""
        self.plan = replace(self.plan, thinking=level)
        self.agent.set_thinking_level(level)

    # ---- the session --------------------------------------------------------------------------------

    def saved(self) -> tuple[SessionStore, SessionWriter, Session]:
        """Return the session of this chat.

        Raises:
            InputError: The chat is not saved, or has no prompt yet.
        """
        writer, store = self.plan.session, SessionStore(sessions_directory())
        if writer is None:
            raise InputError("This chat is not saved as a session.")
        if not writer.size:
            raise InputError("There is nothing to save yet: the session starts with the first prompt.")
        return store, writer, store.find(writer.id)

    def all_messages(self) -> list[AgentMessage]:
        """Return the conversation, as far as possible with the messages that a summary has replaced."""
        if self.plan.session is None or not self.plan.session.size:
            return self.agent.state["messages"]
        store, _, session = self.saved()
        return store.messages(session, whole=True)

    def save(self, name: str) -> None:
        """Give the session a name. The errors are those of `saved` and of a rename."""
        store, writer, session = self.saved()
        writer.path = store.rename(session, name)

    def fork(self, name: str | None) -> str:
        """Go on in a copy of the session. Return its id. The errors are those of `saved` and of a copy."""
        store, writer, session = self.saved()
        new_id, _ = store.fork(session, name, working_folder())
        opened = open_session(self._app, choose_session(sessions_directory(), new_id), [])
        self._unsubscribe()
        writer.end()
        self.plan = replace(self.plan, session=opened.writer)
        self._unsubscribe = self._subscribe(opened.writer)
        self._marks = []  # the places in the copy are others
        return new_id

    def start_again(self) -> None:
        """Start a new conversation in a new session, with the same model, tools and system prompt."""
        if self.plan.session is not None:
            keeps = self.plan.sessions.keep
            self._unsubscribe()
            self.plan.session.end()
            session = new_session(sessions_directory(), self._app.warn) if keeps else None
            self.plan = replace(self.plan, session=session)
            self._unsubscribe = self._subscribe(session)
        self.agent.clear_messages()
        self._marks = []

    def close(self) -> None:
        """End the session."""
        if self.plan.session is not None:
            self.plan.session.end()
