"""Shared parts of the commands: common options, text arguments, and groups of options and commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.sanitise import one_line

__all__ = [
    "CONTEXT",
    "AgentCommand",
    "CommandGroup",
    "HintedUsageError",
    "LazyGroup",
    "OptionGroups",
    "TextArgument",
    "command_group",
    "common_options",
    "import_command",
    "json_option",
    "need_command",
    "write_sections",
]

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


if TYPE_CHECKING:
    _ParamType = click.ParamType[str]
else:
    _ParamType = click.ParamType  # generic only in newer versions


class TextArgument(_ParamType):
    """Text in UTF-8 in every locale, like standard input. Invalid bytes are a usage error.

    Python decodes arguments by the locale, and represents invalid bytes as surrogates. Under LC_ALL=C these
    are all bytes above 0x7f. Text that Python decoded by a locale with another encoding is used unchanged.

    Args:
        path_prefix: Text with this prefix is a path, and is used unchanged.
    """

    name = "text"

    def __init__(self, path_prefix: str | None = None) -> None:
        self._path_prefix = path_prefix

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if self._path_prefix is not None and text.startswith(self._path_prefix):
            return text
        try:
            data = os.fsencode(text)
        except UnicodeEncodeError:
            return text  # not from the command line of this process
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if not any("\udc80" <= character <= "\udcff" for character in text):
                return text
            self.fail(
                f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8 text.", param, ctx
            )


def json_option(command: F) -> F:
    """Add --json, for a list."""
    return click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")(command)


class HintedUsageError(click.UsageError):
    """A usage error with a hint before that of click."""

    def __init__(self, error: click.UsageError, hint: str) -> None:
        from tinyagent_cli.exit_codes import usage_text

        super().__init__(usage_text(error), ctx=error.ctx)
        self.hint = hint


Rows: TypeAlias = Sequence[tuple[str, str]]

OptionGroups: TypeAlias = Mapping[str, Sequence[str]]
"""Heading in the help -> names of parameters."""

_WIDEST_NAME = 30
"""Columns of the longest name that has its text in the same line, as in click."""


_LONGEST_TEXT = 500
"""Characters of the first sentence of a command's help."""


def write_sections(formatter: click.HelpFormatter, sections: Mapping[str, Rows]) -> None:
    """Write sections of names and texts; empty ones are left out. All texts begin in the same column."""
    names = [name for rows in sections.values() for name, _ in rows]
    width = min(_WIDEST_NAME, max(map(len, names), default=0))
    for heading, rows in sections.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


class AgentCommand(click.Command):
    """A command that runs an agent: its options are in groups, and it handles signals itself."""

    option_groups: Mapping[str, Sequence[str]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings = {name: heading for heading, names in self.option_groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in self.option_groups}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and record[1]:  # arguments have their texts in the description
                heading = headings.get(param.name or "", "Other options")
                sections.setdefault(heading, []).append(record)
        write_sections(formatter, sections)


def import_command(module: str, name: str) -> click.Command:
    """Import a command from its module."""
    command = getattr(import_module(module), name)
    assert isinstance(command, click.Command)
    return command


class CommandGroup(click.Group):
    """A group of commands. Its help wraps the texts of the commands, where click would cut them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_LONGEST_TEXT)) for name, command in commands if command]
        write_sections(formatter, {"Commands": rows})


class LazyGroup(CommandGroup):
    """A group that imports some commands on first use. `late` maps names to modules with a `command`."""

    late: Mapping[str, str] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self.late]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.late:
            return super().get_command(ctx, cmd_name)
        return import_command(self.late[cmd_name], "command")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from tinyagent_cli.terminal.hints import nearest

        name = args[0]
        known = self.list_commands(ctx)
        near = None if name in known or name.startswith("-") else nearest(name, known)
        if near is not None and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {one_line(name, 60)!r}. Did you mean {near!r}?", ctx=ctx)
        return super().resolve_command(ctx, args)


def need_command(ctx: click.Context) -> None:
    """Show the help of a group without a command as a usage error (exit code 2)."""
    if ctx.invoked_subcommand is None:
        app = ctx.find_object(AppContext)
        assert app is not None
        app.show(ctx.get_help())
        ctx.exit(2)


def command_group(cls: type[CommandGroup] = CommandGroup) -> Callable[[Callable[[], None]], click.Group]:
    """Make a group of commands from a function that has its name and its help."""

    def decorate(function: Callable[[], None]) -> click.Group:
        @click.group(
            function.__name__,
            cls=cls,
            help=function.__doc__,
            invoke_without_command=True,
            context_settings=CONTEXT,
        )
        @common_options
        @click.pass_context
        def group(ctx: click.Context) -> None:
            need_command(ctx)

        return group

    return decorate
