"""`tinyagent plugins search`: plugins of the project, and where to find those of others."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import common_options, json_option

__all__ = ["command"]

KEYWORD = "tinyagent-plugin"
"""The keyword of plugins in the metadata of a distribution, and the topic of their repositories."""


@click.command("search", short_help="Find plugins: those of tinyagent, and where others are.")
@click.argument("words", nargs=-1)
@json_option
@common_options
@click.pass_obj
def command(app: AppContext, words: tuple[str, ...], as_json: bool) -> None:
    """List the plugins of the tinyagent project with all WORDS, and where to find those of others.

    Nothing is requested from the network: the package index can be searched only in a browser. Plugins have
    the keyword tinyagent-plugin there.
    """
    from urllib.parse import quote_plus

    from tinyagent_cli.plugins.discovery import find, normalised
    from tinyagent_cli.plugins.own_plugins import own_plugins

    wanted = [word.casefold() for word in words]
    versions = {normalised(plugin.distribution): plugin.version for plugin in find()}
    rows = [
        (name, versions.get(name), description)
        for name, description in own_plugins().items()
        if all(word in f"{name} {description}".casefold() for word in wanted)
    ]
    if as_json:
        print_json(
            [{"name": name, "installed": version, "description": text} for name, version, text in rows]
        )
        return
    print_table(
        ("NAME", "INSTALLED", "DESCRIPTION"), [(name, version or "-", text) for name, version, text in rows]
    )
    if rows:
        click.echo()
    else:
        app.note("No plugin of the tinyagent project has these words.")
    click.echo(
        "Plugins of others, in a browser:\n"
        f"  https://pypi.org/search/?q={quote_plus(' '.join((KEYWORD, *words)))}\n"
        f"  https://github.com/topics/{KEYWORD}\n"
        "Whether your own index has one, and its newest version:\n"
        "  pip index versions NAME\n"
        "  uv pip install --dry-run NAME\n"
        "To install one, which then runs with your rights; read its code first:\n"
        "  tinyagent plugins install NAME"
    )
