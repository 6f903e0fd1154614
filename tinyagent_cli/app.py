"""The root command. A command's module is imported only to run it or to show its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click

from .app_context import AppContext
from .commands import COMMAND_GROUPS, COMMANDS
from .commands.options import (
    CONTEXT,
    AgentCommand,
    HintedUsageError,
    common_options,
    import_command,
    need_command,
    write_sections,
)
from .plugins.discovery import Plugin, find
from .terminal.sanitise import one_line
from .terminal.signals import raise_on_sigint

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["RootGroup", "root"]


ELSEWHERE = {
    "ask": "run",
    "prompt": "run",
    "exec": "run",
    "logs": "sessions",
    "history": "sessions",
    "resume": "chat -c",
    "login": "keys set",
    "auth": "keys set",
    "install": "plugins install",
    "uninstall": "plugins uninstall",
    "aliases": "models alias",
    "version": "--version",
    "help": "--help",
}
"""Commands of similar programs, and ours for the same purpose."""


class RootGroup(click.Group):
    """The group of all commands. Commands of plugins are found by their metadata."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return import_command(f"tinyagent_cli.commands.{cmd_name}", cmd_name)
        if cmd_name in self._plugin_commands():
            from .plugins.registry import PluginLoader
            from .run.garbage import collect_from_now_on
            from .run.kernel_guards import protect_memory

            collect_from_now_on()
            protect_memory()  # a plugin's command, such as a proxy, may hold keys
            if len(self._plugin_commands()[cmd_name]) == 1:
                return PluginLoader().command(cmd_name)
            from .config.settings import load_settings  # the user's choice among distributions

            return PluginLoader.from_settings(load_settings()).command(cmd_name)
        return None

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        typed = list(args)  # click removes them from `args`
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.NoSuchOption as error:
            from .terminal.hints import command_line, run_command

            if error.option_name in ("-p", "--print") and " " in typed[-1]:  # that of Claude Code and pi
                words = [word for word in typed if word != error.option_name]
                raise HintedUsageError(error, f"To ask a model: {run_command(*words)}") from None
            if error.possibilities:
                raise
            place = next((place for place, word in enumerate(typed) if word in COMMANDS), 0)
            only_options = place > 0 and all(word.startswith("-") for word in typed[:place])
            if only_options or typed[place] in ("run", "chat"):
                moved = command_line(typed[place], *typed[:place], *typed[place + 1 :])
                raise HintedUsageError(error, f"Options of a command come after it: {moved}") from None
            is_prompt = " " in typed[0] or not typed[0].startswith(error.option_name)
            command = run_command("--", typed[0]) if is_prompt else run_command(*typed)
            raise HintedUsageError(error, f"To ask a model: {command}") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            self._no_such_command(ctx, name)
        found = super().resolve_command(ctx, args)
        if not isinstance(found[1], AgentCommand):
            raise_on_sigint()
        return found

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if ctx.invoked_subcommand not in COMMANDS:
                raise  # a plugin's command determines its own exit code
            from .exit_codes import plugin_exit

            raise plugin_exit(error) from error

    def _no_such_command(self, ctx: click.Context, name: str) -> NoReturn:
        from .terminal.hints import nearest, run_command

        near = ELSEWHERE.get(name)
        if near is None and " " not in name:
            near = nearest(name, self.list_commands(ctx))
        meant = f"Did you mean {near!r}?" if near else f"To ask a model: {run_command(name)}"
        raise click.UsageError(f"No such command {one_line(name, 60)!r}. {meant}", ctx=ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {heading: list(group.items()) for heading, group in COMMAND_GROUPS.items()}
        plugins = self._plugin_commands()
        sections["Commands of plugins"] = [
            (name, one_line(from_whom(plugins[name]))) for name in sorted(plugins)
        ]
        write_sections(formatter, sections)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        plugins = self._plugin_commands()
        texts = COMMANDS | {name: from_whom(entries) for name, entries in plugins.items()}
        found = [
            CompletionItem(name, help=text) for name, text in texts.items() if name.startswith(incomplete)
        ]
        if incomplete.startswith("-"):
            found += click.Command.shell_complete(self, ctx, incomplete)
        return found

    @staticmethod
    def _plugin_commands() -> dict[str, list[Plugin]]:
        found: dict[str, list[Plugin]] = {}
        for entry in find("commands"):
            if entry.name not in COMMANDS:
                found.setdefault(entry.name, []).append(entry)
        return found


def from_whom(entries: list[Plugin]) -> str:
    """Return the distributions of an entry point's name, as a sentence."""
    return "From " + ", ".join(entry.origin for entry in entries) + "."


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .version import version

        click.echo(f"tinyagent {version()}")
        ctx.exit()


@click.group(cls=RootGroup, invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.pass_context
def root(ctx: click.Context) -> None:
    """A small agent: it streams replies, calls tools and writes JSON lines.

    \b
      tinyagent chat                                       talk with a model
      tinyagent run -m demo -t calc "What is 6 * 7?"       no key needed
      cat notes.txt | tinyagent run "Summarise this."
      tinyagent run --jsonl "Hello" | tinyagent run --history - "Now in French."
    """
    app = ctx.find_object(AppContext)
    if ctx.invoked_subcommand is None and app is not None and app.stderr_is_terminal:
        from .how_to_begin import how_to_begin  # a script gets the help, as for other missing arguments

        app.show(how_to_begin())
        ctx.exit(2)
    need_command(ctx)
