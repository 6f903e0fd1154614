"""`tinyagent plugins new`: create the project of a plugin."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tinyagent_cli.app_context import AppContext

from . import COMMANDS
from .options import common_options

__all__ = ["command"]


@click.command("new", short_help="Create the project of a plugin, with tests that pass.")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["tool", "provider", "command", "input", "hook", "sink", "executor"]), default="tool",
    help="The kind of plugin (tool).",
)  # fmt: skip
@click.option(
    "--license", "license_name", type=click.Choice(["MIT", "Apache-2.0", "BSD-3-Clause", "none"]),
    default="MIT", help="The license (MIT); none reserves all rights.",
)  # fmt: skip
@click.option("--author", metavar="NAME", help="The holder of the copyright (the user.name of git).")
@click.option("--folder", type=click.Path(), metavar="FOLDER", help="The new folder (./tinyagent-NAME).")
@common_options
@click.pass_obj
def command(
    app: AppContext, name: str, kind: str, license_name: str, author: str | None, folder: str | None
) -> None:
    """Create the project of a plugin, with tests that pass and a workflow that releases it.

    NAME is the name that users type: after -t, before the slash of -m, or as the command.

    \b
    Kinds:
      tool      a function that the model can call
      provider  models
      command   a command of tinyagent
      input     prompt templates, and what -f NAME:ARGUMENT reads
      hook      refuses, changes or observes tool calls of every run
      sink      gets the events of every run, to log or count them
      executor  decides where and when the items of a batch run
    """
    from tinyagent_cli.plugins import scaffold

    name = scaffold.check_name(name, kind, COMMANDS)
    author = scaffold.git_user() if author is None else scaffold.check_author(author)
    place = Path(folder) if folder is not None else Path(f"tinyagent-{name}")
    for path in scaffold.write(place, scaffold.Project(name, kind, license_name, author)):
        click.echo(str(place / path))
    quoted = shlex.quote(str(place))
    app.note(f"Test it: cd {quoted} && python -m pytest   Use it: tinyagent plugins install -e {quoted}")
