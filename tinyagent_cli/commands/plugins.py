"""`tinyagent plugins`: what is installed, and whether it loads."""

from __future__ import annotations

from typing import Any

import click

from tinyagent_cli.entry_points import EntryPoint, find
from tinyagent_cli.root import CONTEXT, common_options, need_command
from tinyagent_cli.tables import print_json, print_table

__all__ = ["plugins"]


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """Show what is installed and whether it loads."""
    need_command(ctx)


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@click.option("--check", is_flag=True, help="Load each plugin to see whether it works.")
@common_options
def list_plugins(as_json: bool, check: bool) -> None:
    """List the plugins that are installed. Without --check none of them is imported."""
    rows = [_row(entry) for entry in find()]
    if check:
        _check(rows)
    if as_json:
        print_json([{name: value for name, value in row.items() if name != "entry"} for row in rows])
    elif not rows:
        click.echo("No plugins are installed.", err=True)
    else:
        print_table(
            ("NAME", "GROUP", "FROM", "STATUS"),
            [
                (row["name"], row["group"], f"{row['distribution']} {row['version']}", _status(row))
                for row in rows
            ],
        )


def _row(entry: EntryPoint) -> dict[str, Any]:
    return {
        "name": entry.name,
        "group": f"tinyagent.{entry.group}",
        "distribution": entry.distribution,
        "version": entry.version,
        "status": "not loaded",
        "error": None,
        "entry": entry,
    }


def _check(rows: list[dict[str, Any]]) -> None:
    from tinyagent_cli.output import private_stdout
    from tinyagent_cli.plugin_manager import PluginManager

    manager = PluginManager()
    with private_stdout():  # what a plugin prints while it is imported is not ours
        for row in rows:
            error = manager.check(row["entry"])
            row["status"] = "ok" if error is None else "broken"
            row["error"] = None if error is None else str(error)


def _status(row: dict[str, Any]) -> str:
    return row["status"] if row["error"] is None else f"{row['status']}: {row['error']}"
