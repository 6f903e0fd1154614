"""`tinyagent tools`: list and show tools, and call one without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyagent import _json
from tinyagent._json import as_dict
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_tools
from tinyagent_cli.terminal.tables import print_json, print_table
from tinyagent_cli.terminal.wrapping import indented, wrap_width

from .options import TextArgument, command_group, common_options, json_option

if TYPE_CHECKING:
    from tinyagent.agent_types import AgentTool
    from tinyagent_cli.terminal.output import Output

__all__ = ["tools"]


@command_group()
def tools() -> None:
    """Show tools, or call one without a model."""


@tools.command("list")
@json_option
@common_options
@click.pass_obj
def list_tools(app: AppContext, as_json: bool) -> None:
    """List the installed tool plugins, for -t. `tools show NAME` shows the tools of one."""
    from tinyagent_cli.plugins.discovery import find

    entries = find("tools")
    if as_json:
        print_json([{"name": e.name, "distribution": e.distribution, "version": e.version} for e in entries])
    elif not entries:
        app.note("No tool plugins are installed. A Python file works too: -t ./mytools.py")
    else:
        print_table(("NAME", "FROM"), [(e.name, e.origin) for e in entries])


@tools.command("show")
@click.argument("name", shell_complete=complete_tools)
@json_option
@common_options
def show_tools(name: str, as_json: bool) -> None:
    """Show the tools of NAME: a plugin, PLUGIN.TOOL, or a Python file.

    Invisible characters are shown as escapes, because the model reads them, too.
    """
    from tinyagent_cli.terminal.output import take_stdin, take_stdout
    from tinyagent_cli.terminal.sanitise import visible, visible_line

    take_stdin()
    output = take_stdout()  # a plugin may print while it is imported, and at exit
    found = _load(name)
    if as_json:
        fields = ("name", "description", "parameters", "read_only", "timeout")
        print_json([{field: getattr(tool, field) for field in fields} for tool in found], output)
        return
    for number, tool in enumerate(found):
        asks = "" if tool.read_only else "  (needs approval)"
        output.print(("\n" if number else "") + visible_line(tool.name) + asks)
        _print_wrapped(output, visible(tool.description))
        for key, schema in tool.parameters.get("properties", {}).items():
            must = " (required)" if key in tool.parameters.get("required", ()) else ""
            _print_wrapped(output, visible_line(f"{key}{must}: {_described(schema)}"), "    ")


def _described(schema: object) -> str:
    """Return the schema of a parameter for people: its type, its description, and then the rest as JSON."""
    rest = as_dict(schema).copy()
    if rest != schema:
        return _json.encode(schema).decode()
    kind, description = (rest.pop(name, "") for name in ("type", "description"))
    if not isinstance(kind, str) or not isinstance(description, str):
        return _json.encode(schema).decode()
    more = " ".join(filter(None, (description, _json.encode(rest).decode() if rest else "")))
    return ". ".join(filter(None, (kind, more)))


def _print_wrapped(output: Output, text: str, indent: str = "  ") -> None:
    """Print text with an indentation, on a terminal wrapped at words; `indent` is that of further lines."""
    for line in indented(text, wrap_width(output.fd), "  ", indent):
        output.print(line)


def _load(name: str) -> list[AgentTool]:
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.plugins.registry import PluginLoader

    return PluginLoader.from_settings(load_settings()).tools([name]).tools


@tools.command("call", short_help="Call a tool without a model.")
@click.argument("name", shell_complete=complete_tools)
@click.argument("arguments", nargs=-1, type=TextArgument())
@click.option(
    "--json", "as_json", is_flag=True, help="Print the complete result: content, details, is_error."
)
@common_options
@click.pass_obj
def call_tool(app: AppContext, name: str, arguments: tuple[str, ...], as_json: bool) -> int:
    """Call the tool NAME with ARGUMENTS: one JSON object, or KEY=VALUE pairs.

    \b
      tinyagent tools call calc expression='6 * 7'
      tinyagent tools call ./mytools.py:reverse '{"text": "abc"}'

    The call needs no approval. The policies of plugins apply.
    """
    from tinyagent_cli.run.tool_call import call

    return call(app, name, arguments, as_json)
