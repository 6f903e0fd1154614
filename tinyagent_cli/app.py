"""The root command. A command's module is imported only to run it or to show its help."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import click

from .app_context import AppContext
from .plugins.discovery import EntryPoint, find
from .run.signals import raise_on_sigint
from .terminal.sanitise import one_line

__all__ = [
    "COMMANDS",
    "CONTEXT",
    "HintedUsageError",
    "LazyGroup",
    "common_options",
    "need_command",
    "root",
    "run_command",
]

COMMANDS = {
    "run": ("tinyagent_cli.commands.run", "Answer a prompt, with tools; as text or as JSONL."),
    "models": ("tinyagent_cli.commands.models", "Show providers and the models they offer."),
    "tools": ("tinyagent_cli.commands.tools", "Show tools, or call one without a model."),
    "plugins": ("tinyagent_cli.commands.plugins", "Install, create and check plugins."),
    "approvals": ("tinyagent_cli.commands.approvals", "Show and revoke stored approvals."),
    "doctor": ("tinyagent_cli.commands.doctor", "Find problems and show how to solve them."),
    "schema": ("tinyagent_cli.commands.schema", "Print the JSON Schema of the output."),
    "completion": ("tinyagent_cli.commands.completion", "Print the completion script for a shell."),
}
"""Name -> module, which has the command as an attribute of this name, and the line in the root's help."""

F = TypeVar("F", bound=Callable[..., object])

CONTEXT: dict[str, object] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _set(name: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value and not ctx.resilient_parsing:
            setattr(ctx.find_object(AppContext), name, value)

    return callback


def common_options(command: F) -> F:
    """Add -v, -q and --no-color, which set fields of the `AppContext`."""
    for option in (
        click.option(
            "--no-color", is_flag=True, expose_value=False, callback=_set("no_color"), help="No colours."
        ),
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, is_eager=True, callback=_set("quiet"),
            help="Only errors on standard error.",
        ),
        click.option(
            "-v", "--verbose", count=True, expose_value=False, is_eager=True, callback=_set("verbosity"),
            help="Usage, cost and retries on standard error; -vv adds tracebacks.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


class HintedUsageError(click.UsageError):
    """A usage error with a hint before that of click."""

    def __init__(self, error: click.UsageError, hint: str) -> None:
        super().__init__(error.format_message(), ctx=error.ctx)
        self.hint = hint


def run_command(*args: str) -> str:
    """Return `tinyagent run` with these arguments for a message, shortened to one line."""
    shown = (one_line(arg, 60) for arg in args)
    return " ".join(("tinyagent run", *(arg if _PLAIN(arg) else _quoted(arg) for arg in shown)))


_PLAIN = re.compile(r"--|-{1,2}[a-zA-Z][a-z-]*|[A-Z]+|[\w./:-]*[./:][\w./:-]*").fullmatch
"""Words that need no quotes: options, placeholders, paths and models."""


def _quoted(text: str) -> str:
    return f'"{text}"' if not set(text) & set('"$`\\!') else "'" + text.replace("'", "'\\''") + "'"


def _nearest(name: str, known: list[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1)), None)


class LazyGroup(click.Group):
    """A group that imports some commands late. `late` maps their names to modules with a `command`."""

    def __init__(self, *args: Any, late: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._late]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._late:
            return super().get_command(ctx, cmd_name)
        command: click.Command = import_module(self._late[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        near = None if name in known or name.startswith("-") else _nearest(name, known)
        if near is not None and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {one_line(name, 60)!r}. Did you mean {near!r}?", ctx=ctx)
        return super().resolve_command(ctx, args)


class RootGroup(click.Group):
    """The group of all commands. Those of plugins are known from metadata."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
            return command
        if cmd_name in self._plugin_commands():
            from .plugins.manager import PluginManager
            from .run.kernel_guards import protect_memory

            protect_memory()  # a plugin's command, such as a proxy, may hold keys
            if len(self._plugin_commands()[cmd_name]) == 1:
                return PluginManager().command(cmd_name)
            from .config import settings as configuration  # the user's choice among distributions

            return PluginManager.from_settings(configuration.load()).command(cmd_name)
        return None

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.NoSuchOption as error:
            if error.possibilities:
                raise
            is_prompt = " " in words[0] or not words[0].startswith(error.option_name)
            command = run_command("--", words[0]) if is_prompt else run_command(*words)
            raise HintedUsageError(error, f"To ask a model: {command}") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            self._no_such_command(ctx, name)
        found = super().resolve_command(ctx, args)
        if not getattr(found[1], "handles_signals", False):
            raise_on_sigint()
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if ctx.invoked_subcommand not in COMMANDS:
                raise  # the command of a plugin may end as it likes
            from .exit_codes import plugin_exit

            raise plugin_exit(error) from error

    def _no_such_command(self, ctx: click.Context, name: str) -> NoReturn:
        near = None if " " in name else _nearest(name, self.list_commands(ctx))
        meant = f"Did you mean {near!r}?" if near else f"To ask a model: {run_command(name)}"
        raise click.UsageError(f"No such command {one_line(name, 60)!r}. {meant}", ctx=ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        plugins = self._plugin_commands()
        if plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, one_line(from_whom(plugins[name]))) for name in sorted(plugins)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        plugins = self._plugin_commands()
        texts = {name: text for name, (_, text) in COMMANDS.items()}
        texts |= {name: from_whom(entries) for name, entries in plugins.items()}
        found = [
            CompletionItem(name, help=text) for name, text in texts.items() if name.startswith(incomplete)
        ]
        if incomplete.startswith("-"):
            found += click.Command.shell_complete(self, ctx, incomplete)
        return found

    @staticmethod
    def _plugin_commands() -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in find("commands"):
            if entry.name not in COMMANDS:
                found.setdefault(entry.name, []).append(entry)
        return found


def from_whom(entries: list[EntryPoint]) -> str:
    """Return the distributions of an entry point's name, as a sentence."""
    return "From " + ", ".join(f"{entry.distribution} {entry.version}" for entry in entries) + "."


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .version import version

        click.echo(f"tinyagent {version()}")
        ctx.exit()


def need_command(ctx: click.Context) -> None:
    """Show the help of a group without a command as a usage error (exit code 2)."""
    if ctx.invoked_subcommand is None:
        app = ctx.find_object(AppContext)
        assert app is not None
        app.show(ctx.get_help())
        ctx.exit(2)


@click.group(cls=RootGroup, invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.pass_context
def root(ctx: click.Context) -> None:
    """A small agent: streams answers, calls tools, speaks JSONL.

    \b
      tinyagent run -m demo -t calc "What is 6 * 7?"       no key needed
      cat notes.txt | tinyagent run "Summarise this."
      tinyagent run --jsonl "Hello" | tinyagent run --history - "Now in French."
    """
    need_command(ctx)
