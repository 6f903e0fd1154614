"""`tinyagent plugins`: install them, write them, see whether they work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.discovery import Plugin, find
from tinyagent_cli.shell_completion import complete_plugins
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import CONTEXT, LazyGroup, common_options, need_command

if TYPE_CHECKING:
    from tinyagent_cli.plugins.installer import Changes

__all__ = ["plugins"]


class PluginsGroup(LazyGroup):
    """The group `plugins`."""

    late = {  # noqa: RUF012
        "new": "tinyagent_cli.commands.new_plugin",
        "doctor": "tinyagent_cli.commands.doctor",
    }


@click.group(
    cls=PluginsGroup,
    invoke_without_command=True,
    context_settings=CONTEXT,
)
@common_options
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """Install, create and check plugins."""
    need_command(ctx)


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@click.option("--check", is_flag=True, help="Load each plugin to see whether it works.")
@common_options
@click.pass_obj
def list_plugins(app: AppContext, as_json: bool, check: bool) -> None:
    """List the plugins that are installed.

    None of them is imported, so a broken one shows only with --check (and in `plugins doctor`).
    """
    rows = [_row(entry) for entry in find()]
    if check:
        _check(rows)
    if as_json:
        print_json([{name: value for name, value in row.items() if name != "entry"} for row in rows])
    elif not rows:
        app.note("No plugins are installed.")
    else:
        print_table(
            ("NAME", "GROUP", "FROM", "STATUS"),
            [
                (row["name"], row["group"], f"{row['distribution']} {row['version']}", _status(row))
                for row in rows
            ],
        )


def _row(entry: Plugin) -> dict[str, Any]:
    return {
        "name": entry.name,
        "group": f"tinyagent.{entry.group}",
        "distribution": entry.distribution,
        "version": entry.version,
        "status": "not loaded",
        "error": None,
        "hint": None,
        "entry": entry,
    }


def _check(rows: list[dict[str, Any]]) -> None:
    from tinyagent_cli.plugins.check import check_all

    for row, (_, loaded) in zip(rows, check_all([row["entry"] for row in rows]), strict=True):
        row["status"], row["error"], row["hint"] = loaded.status, loaded.message, loaded.hint


def _status(row: dict[str, Any]) -> str:
    """The status; with what is wrong and what to do, if anything is."""
    return row["status"] if row["error"] is None else f"{row['status']}: {row['error']} {row['hint'] or ''}"


@plugins.command()
@click.argument("what", nargs=-1, required=True)
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
    from tinyagent_cli.plugins import installer as installing

    changes = installing.install(app, what, editable=editable, upgrade=upgrade, dry_run=dry_run)
    if not dry_run:
        _show_gained(app, changes, as_json)


def _show_gained(app: AppContext, changes: Changes, as_json: bool) -> None:
    gained = changes.gained
    if as_json:
        print_json(
            {"gained": _plain(gained), "lost": _plain(changes.lost), "distributions": changes.installed}
        )
    else:
        print_table(("GAINED", "GROUP", "FROM"), _cells(gained))
    others = sorted(set(changes.installed) - {entry.distribution for entry in gained})
    if not gained:
        if others:
            app.warn(f"{', '.join(others)} offers nothing to tinyagent: no entry point in tinyagent.*")
        else:
            app.note("Nothing is new: it was installed already.")
    elif others:
        app.note("Also installed: " + ", ".join(f"{name} {changes.installed[name]}" for name in others))
    for entry in gained:
        rivals = [
            e for e in find(entry.group) if e.name == entry.name and e.distribution != entry.distribution
        ]
        if rivals and entry.group != "hooks":
            app.warn(
                f"{entry.name!r} is also the name of {rivals[0]}. Say whose it is: "
                f'[plugins] prefer = {{{entry.name} = "{entry.distribution}"}} in config.toml'
            )
    if any(entry.group == "hooks" for entry in gained):
        app.note("A plugin of the group tinyagent.hooks is loaded for every run from now on.")


def _plain(entries: Iterable[Plugin]) -> list[dict[str, str]]:
    return [
        {
            "name": e.name,
            "group": f"tinyagent.{e.group}",
            "distribution": e.distribution,
            "version": e.version,
        }
        for e in entries
    ]


def _cells(entries: Iterable[Plugin]) -> list[tuple[str, str, str]]:
    return [(e.name, f"tinyagent.{e.group}", f"{e.distribution} {e.version}") for e in entries]


@plugins.command()
@click.argument("name", shell_complete=complete_plugins)
@click.option("--dry-run", is_flag=True, help="Only show the command.")
@common_options
@click.pass_obj
def uninstall(app: AppContext, name: str, dry_run: bool) -> None:
    """Uninstall the plugin NAME: a distribution, or a name that it offers.

    Distributions that are not plugins of tinyagent are refused.
    """
    from tinyagent_cli.plugins import installer as installing

    entries = installing.plugins_named(name)
    changes = installing.uninstall(app, entries[0].distribution, dry_run=dry_run)
    if not dry_run:
        print_table(("LOST", "GROUP", "FROM"), _cells(changes.lost))
