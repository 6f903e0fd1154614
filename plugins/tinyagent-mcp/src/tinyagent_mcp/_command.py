"""`tinyagent mcp`: list the configured servers, and serve tools."""

from __future__ import annotations

import asyncio
import json
import re

import click

from tinyagent import ConfigurationError

from ._config import ServerConfig, config_file, configured
from ._listing import Listing
from ._servers import McpServers

__all__ = ["mcp"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def mcp() -> None:
    """Use MCP servers' tools (-t mcp), and offer tools as an MCP server."""


@mcp.command("list")
@click.option("--refresh", is_flag=True, help="Start every server and renew its list.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
def list_servers(refresh: bool, as_json: bool) -> None:
    """List the configured servers and their tools."""
    configs = configured()
    if not configs:
        click.echo(
            f"No MCP server is configured. Add [mcp.servers.NAME] to {config_file()},\n"
            "or set TINYAGENT_MCP to a command.",
            err=True,
        )
    found: list[dict[str, object]] = []
    with McpServers(configs) as servers:
        listings = servers.listings(fresh=refresh)
        found = [_described(config, listings[config.name]) for config in configs if config.name in listings]
        failed = [str(error) for error in servers.failures.values()]
    for name, listing in listings.items():
        for problem in listing.problems:
            click.echo(_plain(f"Warning: {name}: {problem}"), err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for server in found:
            click.echo(f"{server['name']}  {_plain(str(server['reached_by']))}")
            for tool in server["tools"]:  # type: ignore[attr-defined]
                click.echo(f"  {_plain(tool['name'])}{'' if tool['read_only'] else '  (needs approval)'}")
    if failed:
        raise ConfigurationError("\n".join(failed))


def _described(config: ServerConfig, listing: Listing) -> dict[str, object]:
    return {
        "name": config.name,
        "reached_by": config.reached_by(),
        "server": listing.server,
        "resources": listing.resources,
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "read_only": tool.read_only and config.trust_read_only,
                "used": config.uses(tool.name),
            }
            for tool in listing.tools
        ],
    }


def _plain(text: str) -> str:
    """Replace characters that a terminal might interpret."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


@mcp.command()
@click.option(
    "-t", "--tool", "names", multiple=True, required=True, metavar="NAME",
    help="A tool to offer: a plugin, PLUGIN.TOOL, or a Python file. Repeatable.",
)  # fmt: skip
@click.option(
    "--allow", multiple=True, metavar="NAME",
    help="Offer this tool although it can change something; may contain * and ?. Repeatable.",
)  # fmt: skip
def serve(names: tuple[str, ...], allow: tuple[str, ...]) -> None:
    """Serve tools over standard input and output, for other agents.

    \b
      {"mcpServers": {"calc": {"command": "tinyagent", "args": ["mcp", "serve", "-t", "calc"]}}}

    There is no user to ask, so tools that are not read-only are offered only with --allow.
    Deny rules and policies of plugins apply as in any run.
    """
    from ._offer import offer

    tools, left_out = offer(names, allow)
    if left_out:
        click.echo(
            f"Not offered, because they can change something: {', '.join(left_out)}. To offer them: "
            f"{' '.join(f'--allow {name}' for name in left_out)}",
            err=True,
        )
    if not tools:
        raise ConfigurationError("There is no tool to offer.")
    from ._serve import run  # late, because it imports the SDK

    click.echo(f"Offering over MCP: {', '.join(tool.name for tool in tools)}", err=True)
    asyncio.run(run(tools))
