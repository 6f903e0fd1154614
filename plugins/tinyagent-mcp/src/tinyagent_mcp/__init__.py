"""MCP both ways: servers' tools for an agent (`-t mcp`), and our tools for others (`tinyagent mcp serve`).

Importing this imports nothing of the `mcp` SDK; it comes in when a server is really talked to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinyagent import AgentTool, NotConfiguredError, hookimpl

from ._config import ServerConfig, config_file, configured
from ._servers import McpServers

if TYPE_CHECKING:
    import click

__all__ = [
    "McpServers",
    "ServerConfig",
    "tinyagent_register_commands",
    "tinyagent_register_tools",
]


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the tools of every configured server; a listing that is known starts none of them."""
    servers = configured()
    if not servers:
        raise NotConfiguredError(
            "No MCP server is configured.",
            hint=f"Put [mcp.servers.NAME] with a command or url into {config_file()}, "
            "or give a run its server: tinyagent run --mcp COMMAND",
        )
    for tool in McpServers(servers).tools():
        register(tool)


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Add `tinyagent mcp`."""
    from ._command import mcp

    group.add_command(mcp)
