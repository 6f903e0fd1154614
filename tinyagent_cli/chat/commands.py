"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.agent_types import ThinkingLevel
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.outcome import model_name
from tinyagent_cli.sessions.files import SHOWN_ID
from tinyagent_cli.terminal.amounts import counted, dollar_text
from tinyagent_cli.terminal.hints import nearest
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.tables import table_lines
from tinyagent_cli.terminal.wrapping import columns, fit, wrap_parts

from .conversation import Conversation
from .template_commands import TemplateCommands

if TYPE_CHECKING:
    from tinyagent.agent_types import Usage

__all__ = ["COMMANDS", "Command", "Commands"]


class Command(NamedTuple):
    """A command.

    Attributes:
        argument: Its argument, for the help.
        about: What it does.
        idle: Whether it has to wait for the end of the reply.
    """

    argument: str
    about: str
    idle: bool = True


COMMANDS = {
    "help": Command("", "Show the commands and the keys.", idle=False),
    "model": Command("[MODEL]", "Show the model, or go on with another one."),
    "tools": Command("[NAME...|none]", "Show the tools, or use others."),
    "system": Command("[TEXT|none]", "Show the system prompt, or set it."),
    "thinking": Command("[LEVEL]", "Show how much the model should reason, or set it."),
    "undo": Command("", "Remove the last prompt and its reply."),
    "retry": Command("", "Remove the last reply, and ask again."),
    "compact": Command("[WHAT TO KEEP]", "Replace the older messages by a summary."),
    "templates": Command("", "Show the templates of plugins, which are commands: /SOURCE/NAME."),
    "cost": Command("", "Show the tokens and the cost of this chat.", idle=False),
    "new": Command("", "Start a new conversation, in a new session."),
    "save": Command("NAME", "Give the session a name."),
    "fork": Command("[NAME]", "Go on in a copy of the session."),
    "export": Command("FILE", "Write the chat as Markdown, or as JSON lines to FILE.jsonl."),
    "quit": Command("", "Leave the chat.", idle=False),
}

ELSEWHERE = {"exit": "quit", "bye": "quit", "clear": "new", "reset": "new", "cancel": "undo", "name": "save"}
"""Commands of similar programs, and ours for the same purpose."""

KEYS = (
    ("Enter", "send; while the model works: tell it now (steer)"),
    ("Alt-Enter", "new line; while the model works: send after the reply. Same as Esc, Enter"),
    ("Ctrl-J, or \\ Enter", "new line"),
    ("@FILE", "add a file to the prompt; Tab completes"),
    ("Ctrl-C", "stop the reply; else remove the text"),
    ("Ctrl-D", "leave"),
)


class Commands:
    """Runs the commands.

    Args:
        app: Shows their output.
        conversation: The chat.
        templates: The templates of plugins.
        works: Whether the model answers.
        ask_again: Asks the last prompt again.
        compact: Compacts the conversation.
        leave: Ends the chat.
    """

    def __init__(
        self,
        app: AppContext,
        conversation: Conversation,
        templates: TemplateCommands,
        *,
        works: Callable[[], bool],
        ask_again: Callable[[], None],
        compact: Callable[[str], None],
        leave: Callable[[], None],
    ) -> None:
        self._app = app
        self._chat = conversation
        self._templates = templates
        self._works = works
        self._functions: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "model": self._model,
            "tools": self._tools,
            "system": self._system,
            "thinking": self._thinking,
            "undo": self._undo,
            "retry": lambda _: ask_again(),
            "compact": compact,
            "templates": lambda _: templates.show_all(),
            "cost": self._cost,
            "new": self._new,
            "save": self._save,
            "fork": self._fork,
            "export": self._export,
            "quit": lambda _: leave(),
        }

    def run(self, line: str) -> None:
        """Run a command. Its errors are shown."""
        name, _, rest = line[1:].partition(" ")
        try:
            self._run(name.strip(), rest.strip())
        except TinyAgentError as error:
            self._app.error(str(error), error.hint)

    def _run(self, name: str, argument: str) -> None:
        command = COMMANDS.get(name)
        if command is None and "/" in name:
            if self._works():
                raise InputError("A template has to wait for the end of the reply. Ctrl-C stops it.")
            self._templates.use(name, argument)
            return
        if command is None:
            near = ELSEWHERE.get(name) or nearest(name, COMMANDS)
            meant = f" Did you mean /{near}?" if near else ""
            raise InputError(
                f"There is no command /{one_line(name, 40)}.{meant}",
                hint="All commands: /help   A prompt that begins with a slash needs a space before it.",
            )
        if command.idle and self._works():
            raise InputError(f"/{name} has to wait for the end of the reply. Ctrl-C stops it.")
        if argument and not command.argument:
            raise InputError(f"/{name} has no argument.")
        if not argument and command.argument[:1] not in ("", "["):
            raise InputError(f"Write it as /{name} {command.argument}")
        self._functions[name](argument)

    def _help(self, argument: str) -> None:
        commands = [(f"/{name} {command.argument}", command.about) for name, command in COMMANDS.items()]
        commands.append(("/SOURCE/NAME [NAME=VALUE...] [TEXT]", "Send the prompt of a plugin's template."))
        for line in table_lines([*commands, ("", ""), *KEYS], columns() - 1):
            self._app.show(line)

    def _model(self, argument: str) -> None:
        if argument:
            self._chat.set_model(argument)
        self._app.show(f"Model: {one_line(model_name(self._chat.plan), 500)}")

    def _tools(self, argument: str) -> None:
        if argument:
            self._chat.set_tools([] if argument == "none" else argument.split())
        tools = self._chat.agent.state["tools"]
        if not tools:
            self._app.show("Tools: none. Those of a plugin: /tools NAME   All plugins: tinyagent tools list")
        for tool in tools:
            asks = "" if tool.read_only else " (asks)"
            about = f"  {one_line(tool.name)}{asks}: {one_line(tool.description, 200)}"
            self._app.show(fit(about, columns() - 1))

    def _system(self, argument: str) -> None:
        if argument:
            self._chat.set_system("" if argument == "none" else argument)
        self._app.note(f"System prompt: {self._chat.plan.system or 'none'}")

    def _thinking(self, argument: str) -> None:
        if argument:
            levels = [str(level) for level in ThinkingLevel]
            if argument not in levels:
                raise InputError(f"There is no level {one_line(argument, 40)!r}. One of: {', '.join(levels)}")
            self._chat.set_thinking(ThinkingLevel(argument))
        self._app.show(f"Thinking: {self._chat.plan.thinking}")

    def _undo(self, argument: str) -> None:
        undone = self._chat.undo()
        if undone is None:
            raise InputError("There is no prompt to remove.")
        if undone.prompt is None:
            self._app.show("The compaction is undone. The conversation has its older messages again.")
        else:
            self._app.show("The last prompt and its reply are removed.")

    def _cost(self, argument: str) -> None:
        spent = [*self._chat.spent, *self._chat.compactions]
        usages = [progress.usage for progress in spent if progress.usage is not None]
        sent = sum(usage.get("input") or 0 for usage in usages)
        received = sum(usage.get("output") or 0 for usage in usages)
        turns = sum(len(progress.replies) for progress in self._chat.spent)
        parts = [counted(len(self._chat.spent), "prompt"), counted(turns, "turn")]
        if self._chat.compactions:
            parts.append(counted(len(self._chat.compactions), "compaction"))
        if usages:
            parts += [f"{sent:,} tokens in, {received:,} out", self._cost_of(usages)]
        self._app.show(wrap_parts(" · ".join(parts), " · ", columns()))

    def _cost_of(self, usages: list[Usage]) -> str:
        from tinyagent._prices import is_local

        costs = [usage.get("cost") for usage in usages]
        known = sum(cost for cost in costs if cost is not None)
        model = one_line(model_name(self._chat.plan), 500)
        if known:
            estimated = any(usage.get("cost_estimated", False) for usage in usages)
            shown = dollar_text(known, estimated=estimated)
            return f"{shown} and an unknown cost" if None in costs else shown
        if None in costs:
            return f"cost unknown: there is no known price of {model}"
        return f"no cost: {model} is local" if is_local(self._chat.plan.model) else "no cost"

    def _new(self, argument: str) -> None:
        session = self._chat.plan.session
        saved = self._chat.saved()[2].label if session is not None and session.size else None
        self._chat.start_again()
        before = f"\nThe last one: tinyagent chat --session {shlex.quote(saved)}" if saved else ""
        self._app.show(f"This is a new conversation.{before}")

    def _save(self, argument: str) -> None:
        self._chat.save(argument)
        name = shlex.quote(argument)
        self._app.show(f"The session is saved as {argument}. Continue it: tinyagent chat --session {name}")

    def _fork(self, argument: str) -> None:
        new_id = self._chat.fork(argument or None)
        self._app.show(f"This chat goes on in the copy {argument or new_id[:SHOWN_ID]}.")

    def _export(self, argument: str) -> None:
        path = Path(argument).expanduser()
        if path.suffix == ".jsonl":
            store, _, session = self._chat.saved()
            data = store.read(session)
        else:
            from tinyagent_cli.sessions.markdown import markdown

            data = "".join(markdown(self._chat.all_messages())).encode("utf-8", "replace")
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except FileExistsError:
            raise InputError(f"{path} exists. Choose another name.") from None
        except OSError as error:
            raise InputError(f"Cannot write to {path}: {error.strerror}.") from None
        self._app.show(f"The chat is in {path}.")
