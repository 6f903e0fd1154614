"""The command `tinyagent acp`."""

from __future__ import annotations

import click

from ._modes import MODES

__all__ = ["acp"]

_REPEATABLE = {"tools": "-t", "options": "-O", "allow": "--allow", "deny": "--deny"}
_SINGLE = {
    "model": "-m",
    "system": "-s",
    "thinking": "--thinking",
    "max_turns": "--max-turns",
    "max_cost": "--max-cost",
    "timeout": "--timeout",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-m", "--model", metavar="PROVIDER/ID", help="The model of new sessions.")
@click.option(
    "-t", "--tool", "tools", multiple=True, metavar="NAME",
    help="A tool: a plugin, PLUGIN.TOOL, or a Python file. Repeatable. By default those of the "
    "configuration, or else fs and shell.",
)  # fmt: skip
@click.option("-s", "--system", metavar="TEXT|@FILE", help="The system prompt of new sessions.")
@click.option(
    "-O", "--option", "options", multiple=True, metavar="KEY=VALUE", help="An option for the provider."
)
@click.option("--thinking", metavar="LEVEL", help="How much the model should reason, as for 'tinyagent run'.")
@click.option("--context/--no-context", default=None, help="Add AGENTS.md of the session's folder.")
@click.option("--allow", multiple=True, metavar="NAME", help="Run this tool without asking. Repeatable.")
@click.option("--deny", multiple=True, metavar="NAME", help="Never run this tool. Repeatable.")
@click.option("--max-turns", metavar="N", help="The limit of model calls of a prompt.")
@click.option("--max-cost", metavar="USD", help="The limit of the cost of a prompt.")
@click.option("--timeout", metavar="SECONDS", help="The limit of the time of a prompt.")
@click.option(
    "--mode", type=click.Choice([mode.id for mode in MODES]), default=MODES[0].id, show_default=True,
    help="The mode of new sessions: what runs without a question.",
)  # fmt: skip
def acp(mode: str, context: bool | None, **options: object) -> int:
    """Serve an editor over the Agent Client Protocol, on standard input and output.

    An editor starts this command, such as Zed, a JetBrains IDE or Neovim; see the README of tinyagent-acp.
    The options are defaults of new sessions. Each session is a 'tinyagent rpc' in the folder of its
    project, and is saved like every run. Messages for the user go to standard error.
    """
    arguments: list[str] = []
    tools: tuple[str, ...] = ()
    for name, value in options.items():
        if name == "tools" and isinstance(value, tuple):
            tools = value
        elif name in _REPEATABLE and isinstance(value, tuple):
            arguments += [part for item in value for part in (_REPEATABLE[name], str(item))]
        elif value is not None:
            arguments += [_SINGLE[name], str(value)]
    if context is not None:
        arguments.append("--context" if context else "--no-context")
    from ._serve import serve  # late, because it imports the SDK

    return serve(arguments, tools, mode)
