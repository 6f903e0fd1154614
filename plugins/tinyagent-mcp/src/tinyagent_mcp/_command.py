"""`tinyagent mcp`: list and test the configured servers, and serve tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import click

from tinyagent import ConfigurationError

from ._config import ServerConfig
from ._edit_commands import add, complete_servers, import_servers, plain, remove
from ._listing import Listing
from ._login_commands import login, logout
from ._paths import config_file
from ._servers import McpServers
from ._sources import configured

__all__ = ["mcp"]


_ADD = "To add one: tinyagent mcp add NAME COMMAND, or tinyagent mcp add NAME URL"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def mcp() -> None:
    """Use MCP servers' tools (-t mcp), and offer tools as an MCP server."""


for _command in (add, remove, import_servers, login, logout):
    mcp.add_command(_command)


@mcp.command("list")
@click.option("--refresh", is_flag=True, help="Start every server and renew its list.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
def list_servers(refresh: bool, as_json: bool) -> None:
    """List the configured servers and their tools."""
    configs = configured()
    if not configs:
        click.echo(f"No MCP server is configured in {config_file()}.\n{_ADD}", err=True)
    _show(configs, fresh=refresh, as_json=as_json)


@mcp.command("test")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_servers)
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
def test_servers(names: tuple[str, ...], as_json: bool) -> None:
    """Start servers, and show what they offer. Without a name, all of them.

    The exit code is 3 if a server cannot be used.
    """
    configs = configured()
    known = {config.name: config for config in configs}
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"There is no server {name!r}, or it is not enabled.",
                hint=f"Servers: {', '.join(known)}." if known else _ADD,
            )
    if not configs:
        raise ConfigurationError("No MCP server is configured.", hint=_ADD)
    _show([known[name] for name in names] or configs, fresh=True, as_json=as_json)


def _show(configs: Sequence[ServerConfig], *, fresh: bool, as_json: bool) -> None:
    """Show the servers that work, and raise the errors of the others."""
    with McpServers(configs) as servers:
        listings = servers.listings(fresh=fresh)
        failures = list(servers.failures.values())
    working = [(config, listings[config.name]) for config in configs if config.name in listings]
    for config, listing in working:
        for problem in listing.problems:
            click.echo(plain(f"Warning: {config.name}: {problem}"), err=True)
        for pattern in config.unused_patterns(tool.name for tool in listing.tools):
            click.echo(plain(f"Warning: {config.name}: no tool is named {pattern!r}"), err=True)
    if as_json:
        click.echo(json.dumps([_described(config, listing) for config, listing in working], indent=2))
    else:
        for config, listing in working:
            _print(config, listing)
    if failures:
        hints = dict.fromkeys(hint for error in failures if (hint := getattr(error, "hint", None)))
        raise ConfigurationError("\n".join(map(str, failures)), hint="\n".join(hints) or None)


def _print(config: ServerConfig, listing: Listing) -> None:
    click.echo(f"{config.name}  {plain(config.reached_by())}")
    for tool in listing.tools:
        note = "" if tool.read_only and config.trust_read_only else "  (needs approval)"
        click.echo(f"  {plain(tool.name)}{note if config.uses(tool.name) else '  (not used)'}")
    for prompt in listing.prompts:
        click.echo(f"  {config.name}/{plain(prompt.name)}  (prompt)")
    if listing.resources:
        click.echo("  and resources")


def _described(config: ServerConfig, listing: Listing) -> dict[str, object]:
    return {
        "name": config.name,
        "reached_by": config.reached_by(),
        "server": listing.server,
        "resources": listing.resources,
        "prompts": [
            {
                "name": prompt.name,
                "description": prompt.description,
                "arguments": [argument.name for argument in prompt.arguments],
            }
            for prompt in listing.prompts
        ],
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
