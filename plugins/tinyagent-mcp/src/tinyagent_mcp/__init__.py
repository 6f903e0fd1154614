"""MCP client and server: use tools of MCP servers (`-t mcp`), and offer tools (`tinyagent mcp serve`).

The `mcp` SDK is imported when the first connection opens.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tinyagent import AgentTool, ConfigurationError, NotConfiguredError, PromptTemplate, hookimpl

from ._config import ServerConfig
from ._paths import config_file
from ._servers import McpServers
from ._sources import configured

if TYPE_CHECKING:
    import click

__all__ = [
    "McpServers",
    "ServerConfig",
    "tinyagent_read_input",
    "tinyagent_register_commands",
    "tinyagent_register_templates",
    "tinyagent_register_tools",
    "tinyagent_tools_changed",
]


_servers: McpServers | None = None
"""The servers of all hooks."""


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None], requested: Sequence[str] | None) -> None:
    """Register the tools of the configured servers. A server with a cached list is not started.

    If only single tools are requested, only their servers are asked.
    """
    servers = _configured_servers()
    tools = servers.tools(None if requested is None else servers.owners(requested))
    if not tools:
        names = ", ".join(config.name for config in servers.configs)
        raise ConfigurationError(
            f"The MCP servers offer no tools: {names}.",
            hint="`tinyagent mcp list` shows each server's tools; `tools` in mcp.toml selects some of them.",
        )
    for tool in tools:
        register(tool)


def _configured_servers() -> McpServers:
    """Return the configured servers, the same ones for all hooks.

    Raises:
        NotConfiguredError: No server is configured.
    """
    global _servers
    configs = configured()
    if not configs:
        raise NotConfiguredError(
            "No MCP server is configured.",
            hint="Add one: tinyagent mcp add NAME COMMAND, or tinyagent mcp add NAME URL. It becomes "
            f"[mcp.servers.NAME] in {config_file()}. For one run: tinyagent run --mcp COMMAND",
        )
    if _servers is None or _servers.configs != configs or _servers.closed:
        _servers = McpServers(configs)
    return _servers


@hookimpl
def tinyagent_register_templates(register: Callable[[PromptTemplate], None], requested: str | None) -> None:
    """Register the prompts of the configured servers, as templates named `SERVER/PROMPT`."""
    for template in _configured_servers().templates(requested):
        register(template)


@hookimpl
def tinyagent_read_input(argument: str) -> list[bytes]:
    """Read a resource for `-f mcp:SERVER:URI`."""
    server, colon, uri = argument.partition(":")
    if not colon or not uri:
        raise ConfigurationError(f"-f mcp:{argument}: write it as -f mcp:SERVER:URI.")
    parts = _configured_servers().read_resource(server, uri)
    return [
        part["text"].encode() if part["type"] == "text" else base64.b64decode(part["url"].partition(",")[2])
        for part in parts
    ]


@hookimpl
async def tinyagent_tools_changed() -> bool:
    """Return whether the tools have changed since the registration."""
    return _servers is not None and await _servers.refresh()


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Add `tinyagent mcp`."""
    from ._command import mcp

    group.add_command(mcp)
