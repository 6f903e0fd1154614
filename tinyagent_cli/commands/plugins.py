"""`tinyagent plugins`: install, list, show and uninstall plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.discovery import Plugin, find
from tinyagent_cli.shell_completion import complete_files, complete_plugins
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import LazyGroup, command_group, common_options

if TYPE_CHECKING:
    from tinyagent_cli.plugins.installer import Changes

__all__ = ["cells", "plain", "plugins"]


class PluginsGroup(LazyGroup):
    """The group `plugins`."""

    late: Mapping[str, str] = {
        "list": "tinyagent_cli.commands.list_plugins",
        "show": "tinyagent_cli.commands.show_plugin",
        "search": "tinyagent_cli.commands.search_plugins",
        "new": "tinyagent_cli.commands.new_plugin",
        "doctor": "tinyagent_cli.commands.doctor",
    }


@command_group(PluginsGroup)
def plugins() -> None:
    """Find, install, create and check plugins."""


@plugins.command()
@click.argument("what", nargs=-1, required=True, shell_complete=complete_files)
@click.option("-e", "--editable", is_flag=True, help="WHAT is a folder; later changes in it take effect.")
@click.option("-U", "--upgrade", is_flag=True, help="Install the newest version, even if one is installed.")
@click.option("--dry-run", is_flag=True, help="Only show the command.")
@click.option("--json", "as_json", is_flag=True, help="Print the new plugins as an object.")
@common_options
@click.pass_obj
def install(
    app: AppContext, what: tuple[str, ...], editable: bool, upgrade: bool, dry_run: bool, as_json: bool
) -> None:
    """Install plugins into the environment that tinyagent runs in.

    WHAT is anything that pip accepts: a name, a wheel, a folder, a URL. The installer's command is shown,
    and then the new plugins. The version of tinyagent itself does not change.

    \b
      tinyagent plugins install tinyagent-dice
      tinyagent plugins install -e ./tinyagent-weather
    """
    from tinyagent_cli.plugins import installer

    changes = installer.install(app, what, editable=editable, upgrade=upgrade, dry_run=dry_run)
    if not dry_run:
        _show_gained(app, changes, as_json)


def _show_gained(app: AppContext, changes: Changes, as_json: bool) -> None:
    gained = changes.gained
    if as_json:
        print_json(
            {
                "gained": [plain(plugin) for plugin in gained],
                "lost": [plain(plugin) for plugin in changes.lost],
                "distributions": changes.installed,
            }
        )
    else:
        print_table(("GAINED", "GROUP", "FROM"), [cells(plugin) for plugin in gained])
    others = sorted(set(changes.installed) - {entry.distribution for entry in gained})
    if not gained:
        if others:
            app.warn(f"{', '.join(others)} is not a plugin: it has no entry point in a group tinyagent.*")
        else:
            app.note("No new plugins: it was installed already.")
    elif others:
        app.note("Also installed: " + ", ".join(f"{name} {changes.installed[name]}" for name in others))
    for entry in gained:
        rivals = [
            e for e in find(entry.group) if e.name == entry.name and e.distribution != entry.distribution
        ]
        if rivals and entry.group != "hooks":
            app.warn(
                f"{entry.name!r} is also the name of {rivals[0]}. Choose one: "
                f'[plugins] prefer = {{{entry.name} = "{entry.distribution}"}} in config.toml'
            )
    if any(entry.group == "hooks" for entry in gained):
        app.note("A plugin of the group tinyagent.hooks is loaded for every run from now on.")


def plain(plugin: Plugin) -> dict[str, str]:
    """Return a plugin for JSON."""
    return {
        "name": plugin.name,
        "group": f"tinyagent.{plugin.group}",
        "distribution": plugin.distribution,
        "version": plugin.version,
    }


def cells(plugin: Plugin) -> tuple[str, str, str]:
    """Return a plugin for a table."""
    return (plugin.name, f"tinyagent.{plugin.group}", plugin.origin)


@plugins.command(short_help="Uninstall a plugin.")
@click.argument("name", shell_complete=complete_plugins)
@click.option("--dry-run", is_flag=True, help="Only show the command.")
@common_options
@click.pass_obj
def uninstall(app: AppContext, name: str, dry_run: bool) -> None:
    """Uninstall the plugin NAME: a distribution, or a name that it offers.

    Distributions that are not plugins of tinyagent are refused.
    """
    from tinyagent_cli.plugins import installer

    entries = installer.plugins_named(name)
    changes = installer.uninstall(app, entries[0].distribution, dry_run=dry_run)
    if not dry_run:
        print_table(("LOST", "GROUP", "FROM"), [cells(plugin) for plugin in changes.lost])
