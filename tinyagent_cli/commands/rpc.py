"""`tinyagent rpc`: serve another program by JSON lines."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_files

from .options import CONTEXT, AgentCommand, OptionGroups
from .run import OPTION_GROUPS, options_of, run

__all__ = ["rpc"]

SHARED = {
    *("model", "system", "tools", "mcp", "history", "session", "continues", "no_session", "options"),
    *("temperature", "max_tokens", "thinking", "max_turns", "max_cost", "max_repeats"),
    *("max_total_tokens", "timeout", "transport", "allow", "deny", "yes", "no_color", "quiet", "verbose"),
    *("context", "compact", "context_window"),
}
"""The parameters of `run` that are not about its one prompt or the form of its answer."""


RPC_OPTION_GROUPS: OptionGroups = {**OPTION_GROUPS, "Clients": ("listen",)}


class RpcCommand(AgentCommand):
    """The command `rpc`."""

    option_groups: OptionGroups = RPC_OPTION_GROUPS


@click.command(
    "rpc",
    cls=RpcCommand,
    context_settings=CONTEXT,
    params=[param for param in run.params if param.name in SHARED],
)
@click.option(
    "--listen",
    metavar="PATH",
    type=click.Path(),
    shell_complete=complete_files,
    help="Serve clients of this Unix socket, one at a time, instead of standard input.",
)
@click.pass_obj
def rpc(app: AppContext, /, listen: str | None, **options: object) -> int:
    """Serve another program: JSON commands on standard input, replies and events on standard output.

    \b
      {"id": "1", "type": "prompt", "message": "What is 6 * 7?"}

    Each command is one line. Its reply, and the events and the result of its run, have its id.
    The types: prompt, steer, follow_up, abort, state, messages, compact, set_model,
    set_tools, set_read_only, approve, respond.
    At the end of input the run under way is finished. Limits apply to each run. See docs/rpc.md, and
    'tinyagent schema rpc' for all fields.
    """
    from tinyagent_cli.run.kernel_guards import protect_memory
    from tinyagent_cli.run.lifetime import Lifetime

    protect_memory()
    with Lifetime() as lifetime:
        from tinyagent_cli.rpc.server import execute

        return execute(app, options_of(options), lifetime, listen)
