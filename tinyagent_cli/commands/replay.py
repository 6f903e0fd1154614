"""`tinyagent replay`: show a recorded run."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_records

from .options import CONTEXT, TextArgument, common_options

__all__ = ["replay"]


@click.command("replay", context_settings=CONTEXT)
@click.argument("source", metavar="FILE|SESSION|-", type=TextArgument(), shell_complete=complete_records)
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    metavar="N",
    help="N times as fast as recorded; 0 shows all at once (default: 1 on a terminal, otherwise 0).",
)
@click.option("--plain", is_flag=True, help="Show the reply as it is, also on a terminal.")
@common_options
@click.pass_obj
def replay(app: AppContext, source: str, speed: float | None, plain: bool) -> None:
    """Show the runs of a file or a session as they were shown live, at their pace.

    No model is called and no tool is run. Replies go to standard output, all else to standard error.
    To answer a prompt with a recorded run instead: tinyagent run -m replay:FILE
    """
    import asyncio
    import math

    from tinyagent_cli.events.source import open_source
    from tinyagent_cli.run.replay import show_replay
    from tinyagent_cli.terminal.output import take_stdout

    if speed is not None and not math.isfinite(speed):
        raise click.BadParameter("it is not a finite number.", param_hint="--speed")
    opened = open_source(source, app.warn)
    stdout = take_stdout()
    if speed is None:
        speed = 1 if stdout.is_terminal else 0
    asyncio.run(show_replay(app, opened, stdout, speed=speed, plain=plain))
