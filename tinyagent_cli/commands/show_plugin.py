"""`tinyagent plugins show`: what one plugin adds and may do, after it was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.discovery import Plugin
from tinyagent_cli.shell_completion import complete_plugins
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.tables import print_json, table_lines

from .list_plugins import with_additions
from .options import common_options, json_option
from .plugins import cells

if TYPE_CHECKING:
    from tinyagent_cli.plugins.check import CheckResult

__all__ = ["command"]


@click.command("show", short_help="Show what a plugin adds and may do.")
@click.argument("name", shell_complete=complete_plugins)
@json_option
@common_options
@click.pass_obj
def command(app: AppContext, name: str, as_json: bool) -> int:
    """Show what the plugin NAME adds and may do: a distribution, or a name that it offers.

    It is loaded in a separate process. The exit code is 3 if it cannot be used.
    """
    from tinyagent_cli.plugins.check import check_all
    from tinyagent_cli.plugins.installer import plugins_named
    from tinyagent_cli.plugins.problems import problems, readable_settings

    results = dict(check_all(plugins_named(name)))
    if as_json:
        print_json([with_additions(plugin, result) for plugin, result in results.items()])
    else:
        for number, (plugin, result) in enumerate(results.items()):
            if number:
                click.echo()
            _print_plugin(plugin, result)
        for problem in problems(list(results), readable_settings(), are_loaded=True):
            app.warn(problem)
    return max(result.code for result in results.values())


def _print_plugin(plugin: Plugin, result: CheckResult) -> None:
    from importlib import metadata

    from tinyagent_cli.plugins.additions import what_it_may, when_loaded
    from tinyagent_cli.terminal.wrapping import indented, wrap_width

    width = wrap_width(1)
    click.echo("  ".join(one_line(cell, 200) for cell in cells(plugin)))
    texts = [metadata.metadata(plugin.distribution)["Summary"] or "", f"Loaded for {when_loaded(plugin)}"]
    texts += [result.message or "", *(result.hint or "").splitlines()]
    for text in filter(None, texts):
        for line in indented(one_line(text, 1000), width, "  ", "  "):
            click.echo(line)
    rows = [
        [one_line(cell, 500) for cell in (each.name, what_it_may(each), each.description)]
        for each in result.additions
    ]
    for line in table_lines(rows, None if width is None else width - 4):
        click.echo(f"    {line}")
