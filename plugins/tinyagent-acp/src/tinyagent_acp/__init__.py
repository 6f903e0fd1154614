"""`tinyagent acp`: the agent in editors, over the Agent Client Protocol.

Each session of the editor is a process `tinyagent rpc` in the folder of the session. This process translates
between the two protocols, and runs neither models nor tools. Until the command is used, only this hook is
loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyagent import hookimpl

if TYPE_CHECKING:
    import click

__all__ = ["tinyagent_register_commands"]


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Add the command `acp`."""
    from ._command import acp

    group.add_command(acp)
