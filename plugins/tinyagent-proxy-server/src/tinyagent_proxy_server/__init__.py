"""`tinyagent proxy serve`: the keys stay on a server, and callers have a token for this server.

The clients are `-m proxy/PROVIDER/ID` and `tinyagent.stream_proxy`. Until the command is used, only this hook
is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyagent import hookimpl

if TYPE_CHECKING:
    import click

__all__ = ["tinyagent_register_commands"]


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Add the command `proxy`."""
    from ._command import proxy

    group.add_command(proxy)
