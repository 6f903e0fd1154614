"""`tinyagent plugins new`: create the project of a plugin."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tinyagent_cli.app_context import AppContext

from . import COMMANDS
from .options import common_options

__all__ = ["command"]


@click.command("new")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(["tool", "provider", "command", "hook"]), default="tool",
    help="The kind of plugin (tool).",
)  # fmt: skip
@click.option("--folder", type=click.Path(), metavar="FOLDER", help="The new folder (./tinyagent-NAME).")
@common_options
@click.pass_obj
def command(app: AppContext, name: str, kind: str, folder: str | None) -> None:
    """Create the project of a plugin, with tests that pass.

    NAME is the name that users type: after -t, before the slash of -m, or as the command.
    """
    from tinyagent_cli.plugins import scaffold

    name = scaffold.check_name(name, kind, COMMANDS)
    place = Path(folder) if folder is not None else Path(f"tinyagent-{name}")
    for path in scaffold.write(place, name, kind):
        click.echo(str(place / path))
    quoted = shlex.quote(str(place))
    app.note(f"Test it: cd {quoted} && python -m pytest   Use it: tinyagent plugins install -e {quoted}")
