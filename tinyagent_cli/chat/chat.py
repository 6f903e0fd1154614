"""The loop of a chat: it reads lines, and sends each to the model, to the running reply or to a command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit.application import in_terminal
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output as TerminalOutput

from tinyagent.agent_types import AgentEvent, AgentMessage, MessageEndEvent, ThinkingLevel, UserMessage
from tinyagent.errors import ContextOverflowError, RunAbortedError, TinyAgentError
from tinyagent_cli.config.environment import has_home, state_directory
from tinyagent_cli.exit_codes import describe
from tinyagent_cli.plugins.discovery import find
from tinyagent_cli.run.agent import make_guards
from tinyagent_cli.run.outcome import model_name, summary
from tinyagent_cli.run.plan import Plan
from tinyagent_cli.run.prompt_input import (
    StandardInput,
    build_prompt,
    find_mentions,
    note_missing_files,
    read_files,
)
from tinyagent_cli.sessions.files import NAMED, SHOWN_ID
from tinyagent_cli.sessions.markdown import is_prompt, prompt_text
from tinyagent_cli.sinks.plugin import PluginSinks
from tinyagent_cli.terminal.activity import ActivityRenderer
from tinyagent_cli.terminal.amounts import counted
from tinyagent_cli.terminal.display import CompactionNotes, text_renderer
from tinyagent_cli.terminal.live import LiveLines
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.signals import Interrupted
from tinyagent_cli.terminal.text import TextRenderer
from tinyagent_cli.terminal.wrapping import columns, fit

from .commands import COMMANDS, Commands
from .conversation import Conversation
from .output import ChatContext, ChatOutput
from .prompt import ChatCompleter, FollowUp, Status, make_prompt, open_history
from .template_commands import TemplateCommands

if TYPE_CHECKING:
    from tinyagent_cli.config.settings import Settings

__all__ = ["Chat"]

HISTORY_FILE = "chat-history"

_TOO_LONG = (
    "/undo removes the last prompt, /compact shortens the conversation, "
    "and /model chooses a model with a larger context window."
)


class Chat:
    """A chat.

    Args:
        app: Shows messages.
        plan: The plan of the runs.
        settings: The configuration, for completion.
        terminal: The terminal of the prompt.
        output: The terminal above the prompt.
        plain: Whether to show replies as they are.
    """

    def __init__(
        self,
        app: ChatContext,
        plan: Plan,
        settings: Settings,
        terminal: tuple[Input, TerminalOutput],
        output: ChatOutput,
        *,
        plain: bool,
    ) -> None:
        self._app = app
        self._settings = settings
        self._output = output
        # Between two prompts, too: in the other mode of a terminal, Enter becomes Ctrl-J.
        self._raw_mode = terminal[0].raw_mode
        self._plain = plain
        self._reply: asyncio.Task[None] | None = None
        self._activity: ActivityRenderer | None = None
        self._status: Status | None = None
        self._leaves = False
        self._stopped = False
        """Whether the user has stopped the running reply or compaction."""
        self._cause: BaseException | None = None
        self._compacts = False
        self._unread: list[UserMessage] = []
        """Messages to the running reply that are not in a request yet."""
        guards = make_guards(
            app,
            plan,
            before=self._before_question,
            after=self._after_question,
            terminal=self._free_terminal,
            scope="chat",
        )
        self._chat = Conversation(app, plan, guards, self._retries)
        self._templates = TemplateCommands(app, self._begin, self._send, self._resend_after_template)
        self._commands = Commands(
            app,
            self._chat,
            self._templates,
            works=self._works,
            ask_again=self._ask_again,
            compact=self._compact,
            leave=self._leave,
        )
        history = state_directory() / HISTORY_FILE if plan.session is not None and has_home() else None
        self._prompt = make_prompt(
            terminal,
            open_history(history, app.warn),
            ChatCompleter(self._completed_commands, self._arguments),
            label=lambda: "> " if self._works() else self._templates.label,
            status=lambda: [] if self._status is None else self._status.lines(),
            works=self._works,
            interrupt=self._interrupt,
        )

    # ---- the loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Chat until the user leaves.

        Raises:
            Interrupted: A signal has ended the chat.
        """
        loop = asyncio.get_running_loop()
        self._app.loop = loop
        loop.add_signal_handler(signal.SIGINT, self._interrupt)  # only while the user is asked
        for signum in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self.stop, Interrupted(signum))
        try:
            sinks = PluginSinks(
                self._chat.plan.sinks,
                self._chat.agent,
                self._app.warn,
                lambda: self._chat.plan.session_id(),  # `/fork` changes the plan
            )
            with self._raw_mode(), sinks:
                self._greet()
                while not self._leaves:
                    try:
                        await self._take(await self._prompt.prompt_async(handle_sigint=False))
                    except EOFError:
                        self._leaves = True
                await self._end_reply()
        finally:
            session = self._chat.plan.session
            if session is not None and session.size:
                is_named = session.path.parent.name == NAMED
                label = session.path.stem if is_named else session.id[:SHOWN_ID]
                self._app.note(f"Session {label}, to continue: tinyagent chat -c")
            self._chat.close()
            self._output.flush()
        if self._cause is not None:
            raise self._cause

    def _greet(self) -> None:
        plan = self._chat.plan
        parts = [model_name(plan)]
        if plan.session is not None and plan.session.continues:
            parts.append(f"session {plan.session.id[:SHOWN_ID]} with {counted(len(plan.history), 'message')}")
        self._app.note(" · ".join(parts))
        prompts = [message for message in plan.history if is_prompt(message)]
        if prompts:
            text = f"Last prompt: {one_line(prompt_text(prompts[-1]), 500)}"
            self._app.dim(fit(text, columns() - 1))
        self._app.note("/help shows the commands and the keys. Ctrl-D leaves.")

    async def _take(self, line: str) -> None:
        """Take a line that was typed."""
        if self._templates.asks and not self._works():
            self._templates.take_value(line.strip())
            return
        if not line.strip():
            return
        if line.strip() in ("exit", "quit"):
            line = "/quit"
        if line.startswith("/") and "\n" not in line:
            self._commands.run(line)
            return
        try:
            message = self._message(line)
        except TinyAgentError as error:
            self._app.error(str(error), error.hint)
            return
        if not self._works():
            self._start(message)
            return
        self._unread.append(message)
        if isinstance(line, FollowUp):
            self._chat.agent.follow_up(message)
        else:
            self._chat.agent.steer(message)
        if self._compacts:
            self._app.dim("Sent after the compaction.")
        elif isinstance(line, FollowUp):
            self._app.dim("Sent after the reply.")
        else:
            self._app.dim("Sent to the running reply.")

    def _message(self, line: str) -> UserMessage:
        """Return the message of a line, with the files that it names."""
        text, names = find_mentions(line.strip())
        note_missing_files(line, self._app.note)
        paths = [str(Path(name).expanduser()) for name in names]
        files = read_files(paths, StandardInput(None, self._app.note), lambda url: b"")  # a path is no URL
        for path, data in files:
            self._app.dim(f"Added {one_line(path)} ({len(data):,} bytes).")
        return build_prompt(text, files, None)

    # ---- the reply ----------------------------------------------------------------------------------

    def _works(self) -> bool:
        return self._reply is not None and not self._reply.done()

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._reply = asyncio.get_running_loop().create_task(work)

    def _start(self, message: UserMessage) -> None:
        self._begin(self._answer(message))

    async def _send(self, message: UserMessage) -> None:
        self._show_prompt(message)
        await self._answer(message)

    def _ask_again(self) -> None:
        undone = self._chat.undo()
        while undone is not None and undone.prompt is None:
            undone = self._chat.undo()
        if undone is None or undone.prompt is None:
            self._app.error("There is no prompt to repeat.")
        else:
            self._app.dim(fit(f"Asking again: {one_line(prompt_text(undone.prompt), 500)}", columns() - 1))
            self._start(undone.prompt)

    async def _answer(self, message: UserMessage) -> None:
        """Show the reply to a message."""
        app, answered = self._app, False
        text = text_renderer(app, self._output, plain=self._plain)
        try:
            with self._watched(text):
                outcome = await self._chat.ask(message)
                answered = outcome.error is None
                text.end_line()
                self._show_failure(outcome.error)
                if not app.quiet:
                    app.dim(summary(self._chat.plan, outcome.progress, app))
        finally:
            self._resend(answered)

    def _show_failure(self, error: TinyAgentError | None) -> None:
        """Show why there is no answer or no summary; None if there is one."""
        if self._stopped and isinstance(error, RunAbortedError):
            self._app.note("Stopped. The conversation is as it was." if self._compacts else "Stopped.")
        elif error is not None and not self._leaves:
            failure = describe(error)
            too_long = isinstance(error, ContextOverflowError)
            self._app.error(failure.message, _TOO_LONG if too_long else failure.hint)

    def _compact(self, instructions: str) -> None:
        self._begin(self._summarise(instructions))

    async def _summarise(self, instructions: str) -> None:
        """Compact the conversation. What is typed meanwhile is sent after it in any case."""
        self._compacts = True
        try:
            with self._watched(text_renderer(self._app, self._output, plain=self._plain)):
                self._show_failure(await self._chat.compact(instructions))
        finally:
            self._compacts = False
            self._resend(answered=True)

    @contextmanager
    def _watched(self, text: TextRenderer) -> Iterator[None]:
        """Show the events of the agent. An error is shown, and does not end the chat."""
        app, agent = self._app, self._chat.agent
        self._activity = activity = ActivityRenderer(
            app,
            model_name(self._chat.plan),
            before=text.end_line,
            before_draw=lambda: True,
            text_is_live=False,
            pending=lambda: self._pending(text),
            make_live=self._make_status,
        )
        listeners = (activity, text, CompactionNotes(app, text.end_line), self._note_read)
        unsubscribe = [agent.subscribe(listener) for listener in listeners]
        self._stopped = False
        try:
            yield
            self._output.flush()
        except (SystemExit, KeyboardInterrupt):
            raise  # a plugin tries to end the process
        except Exception as error:  # noqa: BLE001 - a defect ends the reply, not the chat
            failure = describe(error)
            app.error(failure.message, failure.hint)
            if app.verbosity > 1:
                app.traceback(error)
        finally:
            activity.close()
            self._activity = self._status = None
            for remove in unsubscribe:
                remove()
            agent.clear_steering_queue()
            agent.clear_follow_up_queue()

    def _note_read(self, event: AgentEvent) -> None:
        """Show a message to the running reply again when the model gets it, above the answer to it."""
        if type(event) is MessageEndEvent and event.message in self._unread:
            self._unread.remove(event.message)
            self._show_prompt(event.message)

    def _show_prompt(self, message: AgentMessage) -> None:
        self._app.dim(fit(f"> {one_line(prompt_text(message), 500)}", columns() - 1))

    def _resend(self, answered: bool) -> None:
        """Send the messages that came too late for a reply as a new prompt; not if the reply has failed."""
        unread, self._unread = self._unread, []
        if not unread or self._leaves:
            return
        if not answered:
            what = "1 message was" if len(unread) == 1 else f"{len(unread)} messages were"
            self._app.note(f"{what} not sent, because the reply has ended. Up brings back what you typed.")
            return
        self._show_prompt(unread[0])
        self._start(unread[0])
        for message in unread[1:]:
            self._unread.append(message)
            self._chat.agent.follow_up(message)

    def _resend_after_template(self, is_done: bool) -> None:
        """Send what was typed while a template was prepared and not sent."""
        self._chat.agent.clear_steering_queue()
        self._chat.agent.clear_follow_up_queue()
        self._resend(is_done)

    def _make_status(self, lines: Callable[[int], list[str]], before_draw: Callable[[], bool]) -> LiveLines:
        self._status = Status(lines, before_draw)
        return self._status

    def _pending(self, text: TextRenderer) -> str:
        return text.pending or self._output.unfinished

    def _retries(self, text: str) -> None:
        if self._activity is not None:
            self._activity.retry(text)

    @asynccontextmanager
    async def _free_terminal(self) -> AsyncIterator[None]:
        with self._output.held():
            async with in_terminal():
                yield

    def _before_question(self) -> None:
        if self._activity is not None:
            self._activity.pause()

    def _after_question(self) -> None:
        if self._activity is not None:
            self._activity.resume()

    # ---- ending -------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self._templates.stop():
            return
        if self._works():
            self._stopped = True
            self._chat.agent.abort()
        else:
            self._app.note("Ctrl-D leaves the chat.")

    def _leave(self) -> None:
        self._leaves = True

    def stop(self, cause: BaseException) -> None:
        """End the chat from outside, by a signal or because a plugin tries to end the process."""
        self._cause = self._cause or cause
        self._leaves = True
        self._chat.agent.abort()
        if self._prompt.app.is_running:
            self._prompt.app.exit(exception=EOFError)

    async def _end_reply(self) -> None:
        if self._reply is not None and self._works():
            self._chat.agent.abort()
            self._templates.close()
            await self._reply

    # ---- completion ---------------------------------------------------------------------------------

    def _completed_commands(self) -> dict[str, str]:
        """Return the commands and the known templates. While values are asked for, there are none."""
        if self._templates.asks:
            return {}
        return {name: command.about for name, command in COMMANDS.items()} | self._templates.names()

    def _arguments(self, command: str) -> Iterable[str]:
        if "/" in command:
            return self._templates.variables(command)
        match command:
            case "model":
                from tinyagent_cli.plugins.model_names import known_models

                return sorted({"demo", *self._settings.aliases, *known_models(self._settings)})
            case "tools":
                return sorted({"none", *(plugin.name for plugin in find("tools"))})
            case "thinking":
                return [str(level) for level in ThinkingLevel]
            case "system":
                return ["none"]
        return []
