"""`tinyagent mcp login` and `logout`."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from tinyagent import ConfigurationError

from ._config import ServerConfig
from ._edit_commands import complete_servers, plain
from ._sources import configured

__all__ = ["login", "logout"]


@click.command()
@click.argument("name", shell_complete=complete_servers)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port on 127.0.0.1 for the redirect (any).")
@click.option("--timeout", type=click.FloatRange(1), default=300, help="Seconds to wait for you (300).")
def login(name: str, no_browser: bool, port: int | None, timeout: float) -> None:
    """Sign in at a server with OAuth, in the browser.

    The tokens are stored in a file that only you can read, and renewed when they end.
    """
    from ._login import sign_in_at
    from ._sign_in import locked_file, save

    config = _server(name)

    async def show(address: str) -> None:
        click.echo(f"Sign in at {name} in your browser:\n\n  {plain(address)}\n", err=True)
        if not no_browser and _has_browser():
            import webbrowser

            await asyncio.to_thread(webbrowser.open, address)

    sign_in = asyncio.run(sign_in_at(config, show, port=port or config.redirect_port or 0, timeout=timeout))
    with locked_file(name):
        save(name, sign_in)
    click.echo(f"You are signed in at {name}. To try it: tinyagent mcp test {name}", err=True)


@click.command()
@click.argument("name", shell_complete=complete_servers)
def logout(name: str) -> None:
    """Sign out of a server: revoke its tokens, and remove them."""
    from ._sign_in import load, locked_file, remove

    config = _server(name)
    with locked_file(name):
        sign_in = load(config)
        if not remove(name):
            raise ConfigurationError(f"You are not signed in at {name!r}.")
    problem = None
    if sign_in is not None and sign_in.revocation_endpoint is not None:
        from ._oauth import revoke

        problem = revoke(sign_in)
    if problem is not None:
        click.echo(f"Warning: the tokens are removed here, but not revoked: {problem}", err=True)
    click.echo(f"You are signed out of {name}.", err=True)


def _server(name: str) -> ServerConfig:
    for config in configured():
        if config.name == name:
            if config.url is None:
                raise ConfigurationError(f"{name!r} is started by a command, so you cannot sign in there.")
            return config
    raise ConfigurationError(f"There is no server {name!r}.", hint="All servers: tinyagent mcp list")


def _has_browser() -> bool:
    """Return whether there is a desktop. A browser of the terminal would replace what it shows."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
