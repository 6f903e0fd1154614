"""Add servers to `mcp.toml`, and remove them. Comments in the file stay."""

from __future__ import annotations

import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonObject
from tinyagent.toml_files import remove_value, set_value

from ._config import ServerConfig
from ._listing import forget
from ._paths import config_file
from ._sign_in import remove as sign_out
from ._sources import decode_servers, servers_of_file

__all__ = ["add_server", "remove_server", "stored_names"]


def stored_names() -> list[str]:
    """Return the names of all servers of the file.

    Raises:
        ConfigurationError: The file is invalid.
    """
    return [server.name for server in servers_of_file()]


def add_server(name: str, table: JsonObject, *, replace: bool = False) -> ServerConfig:
    """Write a server to the file.

    Args:
        name: Its name.
        table: Its keys.
        replace: Whether to replace a server of this name.

    Raises:
        ConfigurationError: The server is invalid or its name is taken, or the file cannot be changed.
    """
    path = config_file()
    try:
        server = msgspec.convert({**table, "name": name}, ServerConfig)
    except ValueError as error:  # from ServerConfig, shlex or msgspec
        raise ConfigurationError(f"The server {name!r} cannot be added: {str(error).rstrip('.')}.") from None
    if not replace and name in stored_names():
        raise ConfigurationError(
            f"There is a server {name!r} in {path}.", hint="Choose another name, or replace it: --force"
        )
    set_value(path, ["mcp", "servers", name], table, lambda text: decode_servers(text, path))
    forget(name)
    return server


def remove_server(name: str) -> None:
    """Remove a server from the file, its cached list, and the sign-in there.

    Raises:
        ConfigurationError: There is no such server, or the file cannot be changed.
    """
    path = config_file()
    if not remove_value(path, ["mcp", "servers", name], lambda text: decode_servers(text, path)):
        known = ", ".join(stored_names())
        raise ConfigurationError(
            f"There is no server {name!r} in {path}.", hint=f"It has: {known}." if known else None
        )
    forget(name)
    sign_out(name)
