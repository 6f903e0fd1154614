"""`tinyagent proxy serve`: keys stay on a server, callers have a token for that server.

The protocol is the one that `tinyagent.proxy` speaks, so `-m proxy/PROVIDER/ID` and
`tinyagent.stream_proxy` are its clients. Nothing but this hook is loaded until the command is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyagent import hookimpl

if TYPE_CHECKING:
    import click

__all__ = ["tinyagent_register_commands"]


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Give tinyagent the command `proxy`."""
    from ._command import proxy

    group.add_command(proxy)
