"""`tinyagent chat`: talk with a model."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext

from .options import CONTEXT, AgentCommand, OptionGroups
from .rpc import SHARED
from .run import OPTION_GROUPS, options_of, run

__all__ = ["chat"]


class ChatCommand(AgentCommand):
    """The command `chat`."""

    option_groups: OptionGroups = OPTION_GROUPS


@click.command(
    "chat",
    cls=ChatCommand,
    context_settings=CONTEXT,
    params=[param for param in run.params if param.name in (*SHARED, "plain")],
)
@click.pass_obj
def chat(app: AppContext, /, **options: object) -> int:
    """Talk with a model. It takes the same options as `run`, for all replies of the chat.

    While it works, Enter tells it something now, and Alt-Enter after the reply. Ctrl-C stops the reply, and
    Ctrl-D leaves. /help shows all commands and keys. Without a model, it asks for one.

    \b
    Exit codes: 0 left, 2 usage, 3 not configured, 143 ended by a signal.
    """
    from tinyagent_cli.run.kernel_guards import protect_memory

    protect_memory()
    from tinyagent_cli.chat.start import chat as start

    return start(app, options_of(options))
