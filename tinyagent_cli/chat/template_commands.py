"""Templates of plugins as commands of a chat: `/SOURCE/NAME`, such as the prompts of MCP servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import NamedTuple, TypeVar

from tinyagent._cancel import run_in_thread
from tinyagent.agent_types import PromptTemplate, PromptVariable, UserMessage
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.known_templates import KnownTemplate, read_known
from tinyagent_cli.exit_codes import InputError, describe
from tinyagent_cli.plugins.registry import TemplateClaim
from tinyagent_cli.run.prompt_input import build_prompt
from tinyagent_cli.run.template_choice import claim_text, find_claim, list_claims, missing_values
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.tables import table_lines
from tinyagent_cli.terminal.wrapping import columns

__all__ = ["TemplateCommands", "split_values"]

PATIENCE_S = 0.5
"""Seconds until a message says that a plugin has not answered."""

T = TypeVar("T")

_VALUE = re.compile(r'\s*([^\s="]+)=(?:"([^"]*)"(?=\s|$)|(\S*))')


class _StoppedError(Exception):
    """The user has left the work of a plugin."""


class TemplateForm(NamedTuple):
    """A template, the values of its variables so far, and the text that comes after it."""

    claim: TemplateClaim
    values: dict[str, str]
    text: str

    @property
    def name(self) -> str:
        """The name of the template, for messages."""
        return one_line(self.claim.template.name, 100)

    def missing(self) -> list[PromptVariable]:
        """Return the variables that need a value.

        Raises:
            InputError: The template has no variable of a given name.
        """
        return missing_values(self.claim.template, self.values, option="")

    def prompt(self) -> str:
        """Return the prompt. This may take as long as the plugin.

        Raises:
            TinyAgentError: The plugin failed.
        """
        text = claim_text(self.claim, self.values)
        return f"{text}\n\n{self.text}" if self.text else text


class TemplateCommands:
    """Uses the templates, asks for their values, and completes their names.

    Args:
        app: Shows messages.
        begin: Starts the work of a command. While it is done, the chat takes no other command.
        send: Shows a message, sends it to the model, and shows the reply.
        resend: Sends what was typed meanwhile, or tells that it was not sent.
    """

    def __init__(
        self,
        app: AppContext,
        begin: Callable[[Coroutine[object, object, None]], None],
        send: Callable[[UserMessage], Awaitable[None]],
        resend: Callable[[bool], None],
    ) -> None:
        self._app = app
        self._begin = begin
        self._send = send
        self._resend = resend
        self._form: TemplateForm | None = None
        self._cancel: Callable[[], object] | None = None
        """Leaves the work of a plugin in a thread."""
        self._closed = False
        self._known: dict[str, KnownTemplate] | None = None

    # ---- commands -----------------------------------------------------------------------------------

    def use(self, name: str, argument: str) -> None:
        """Send the prompt of a template, or ask for the values that it needs."""
        self._begin(self._finish(self._open(name, argument)))

    def show_all(self) -> None:
        """Show the templates of all plugins. Their names are completed from then on."""
        self._begin(self._finish(self._show()))

    def stop(self) -> bool:
        """Leave the work of a plugin, or ask for no more values. Return False if there is neither."""
        if self._cancel is not None:
            self._cancel()
        elif self._form is not None:
            self._form = None
            self._app.note("Stopped.")
        else:
            return False
        return True

    def close(self) -> None:
        """Leave the work of a plugin, and begin no other."""
        self._closed = True
        self.stop()

    async def _finish(self, work: Coroutine[object, object, str | None]) -> None:
        """Do the work of a command, and send the prompt that it returns. An error is shown."""
        prompt, is_done = None, False
        try:
            prompt = await work
            is_done = True
        except _StoppedError:
            self._app.note("Stopped.")
        except Exception as error:  # noqa: BLE001 - a defect ends the command, not the chat
            failure = describe(error)
            self._app.error(failure.message, failure.hint)
        if prompt is None:
            self._resend(is_done)
        else:
            await self._send(build_prompt(prompt, (), None))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work of a plugin. The user can leave it.

        Raises:
            _StoppedError: The user has left it.
            TinyAgentError: The plugin failed.
        """
        if self._closed:
            raise _StoppedError
        task = asyncio.ensure_future(run_in_thread(work, "tinyagent template"))
        self._cancel = task.cancel
        try:
            if not (await asyncio.wait({task}, timeout=PATIENCE_S))[0]:
                self._app.dim("Waiting for the plugin. Ctrl-C stops it.")
                await asyncio.wait({task})
        finally:
            self._cancel = None
        if task.cancelled():
            raise _StoppedError
        return task.result()

    async def _open(self, name: str, argument: str) -> str | None:
        return await self._continue(await self._in_thread(lambda: open_form(name, argument)))

    async def _continue(self, form: TemplateForm) -> str | None:
        """Return the prompt of a template, or ask for its next value."""
        missing = form.missing()
        if not missing:
            return await self._in_thread(form.prompt)
        about = f": {one_line(missing[0].description, 500)}" if missing[0].description else ""
        self._form = form
        self._app.note(f"{form.name} needs a value for {one_line(missing[0].name, 100)}{about}")
        return None

    async def _show(self) -> None:
        claims = (await self._in_thread(list_claims)).values()
        self._known = None
        rows = [(f"/{one_line(each.template.name, 100)}", _about(each.template)) for each in claims]
        for line in table_lines(rows, columns() - 1):
            self._app.show(line)
        if not rows:
            self._app.show("No plugin offers templates. To add an MCP server: tinyagent mcp add")

    # ---- values -------------------------------------------------------------------------------------

    @property
    def asks(self) -> bool:
        """Whether the next line is a value."""
        return self._form is not None

    @property
    def label(self) -> str:
        """What is shown before the next line."""
        return "> " if self._form is None else f"{one_line(self._form.missing()[0].name, 100)}: "

    def take_value(self, value: str) -> None:
        """Take the value of the variable that was asked for. An empty one is asked for again."""
        form = self._form
        assert form is not None
        if value:
            form.values[form.missing()[0].name] = value
        self._form = None
        self._begin(self._finish(self._continue(form)))

    # ---- completion ---------------------------------------------------------------------------------

    def names(self) -> dict[str, str]:
        """Return the names of the templates that are known, with their descriptions."""
        return {name: one_line(template.description, 200) for name, template in self._templates().items()}

    def variables(self, name: str) -> list[str]:
        """Return the variables of a template, as they are typed."""
        template = self._templates().get(name)
        return [] if template is None else [f"{variable}=" for variable in template.variables]

    def _templates(self) -> dict[str, KnownTemplate]:
        if self._known is None:
            self._known = {template.name: template for template in read_known()}
        return self._known


def open_form(name: str, argument: str) -> TemplateForm:
    """Find a template, for the text after its name. This may start a server.

    Raises:
        TinyAgentError: There is no such template, a plugin failed, or a variable is unknown.
    """
    claim = find_claim(name)
    if claim is None:
        raise InputError(
            f"There is no command /{one_line(name, 100)}, and no template of that name.",
            hint="All templates: /templates   A prompt that begins with a slash needs a space before it.",
        )
    values, text = split_values(argument)
    form = TemplateForm(claim, values, text)
    form.missing()  # refuses unknown names
    return form


def split_values(argument: str) -> tuple[dict[str, str], str]:
    """Return the words `NAME=VALUE` and `NAME="A VALUE"` at the start, and the text after them."""
    values: dict[str, str] = {}
    end = 0
    while (match := _VALUE.match(argument, end)) is not None:
        name, quoted, plain = match.groups()
        values[name] = plain if quoted is None else quoted
        end = match.end()
    return values, argument[end:].strip()


def _about(template: PromptTemplate) -> str:
    """Return the variables of a template, as they are typed, and its description."""
    variables = [f"{each.name}=…" if each.required else f"[{each.name}=…]" for each in template.variables]
    return one_line(": ".join(filter(None, [" ".join(variables), template.description])), 500)
