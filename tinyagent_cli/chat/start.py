"""Start a chat: take the terminal, prepare the plan, and ask for a model if no model is set."""

from __future__ import annotations

import os

from msgspec.structs import replace
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output as TerminalOutput

from tinyagent.errors import NotConfiguredError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import model_choice
from tinyagent_cli.config.settings import load_settings
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.agent import drive, prune_sessions
from tinyagent_cli.run.garbage import collect_from_now_on
from tinyagent_cli.run.lifetime import Lifetime
from tinyagent_cli.run.options import RunOptions
from tinyagent_cli.run.plan import Plan, prepare
from tinyagent_cli.run.process_exit import runner_closed_at_exit
from tinyagent_cli.run.prompt_input import StandardInput
from tinyagent_cli.terminal.output import take_stdin, take_stdout

from .chat import Chat
from .model_setup import choose_model
from .output import ChatContext, ChatOutput
from .prompt import terminal_of

__all__ = ["chat"]


def chat(app: AppContext, options: RunOptions) -> int:
    """Chat until the user leaves. Return 0.

    Raises:
        TinyAgentError: There is no terminal, or something is missing, malformed or unknown.
    """
    stdin, stdout = take_stdin(), take_stdout()
    if stdin is None or not (os.isatty(stdin) and stdout.is_terminal):
        raise InputError(
            "A chat needs a terminal: standard input or output is something else.",
            hint='For one prompt, also in a pipe: tinyagent run "What is …?"',
        )
    output = ChatOutput(stdout.fd)
    shown = ChatContext(app, output)
    terminal = terminal_of(stdin, stdout.fd)
    runner = runner_closed_at_exit()
    plan = _prepare(shown, options, stdin, terminal)
    talk = Chat(shown, plan, load_settings(), terminal, output, plain=options.plain)
    collect_from_now_on()
    drive(runner, talk.run(), talk.stop)
    prune_sessions(app, plan)
    return 0


def _prepare(
    app: ChatContext, options: RunOptions, stdin: int, terminal: tuple[Input, TerminalOutput]
) -> Plan:
    """Return the plan. If no model is chosen, the user chooses one."""
    while True:
        try:
            with Lifetime() as lifetime:
                lifetime.release()
                return prepare(app, options, StandardInput(stdin, app.note), lifetime, prompts_follow=True)
        except NotConfiguredError as error:
            if not _lacks_model(options):
                raise
            model = choose_model(app, load_settings(), terminal)
            if model is None:
                raise error from None
            options = replace(options, model=model)


def _lacks_model(options: RunOptions) -> bool:
    """Return whether no model is chosen, and no key chooses one."""
    try:
        model_choice.choose(options.model, load_settings())
    except NotConfiguredError:
        return True
    return False
