"""The configured servers: `mcp.toml` in the user's configuration directory, and TINYAGENT_MCP.

TINYAGENT_MCP_FILE names a file in place of `mcp.toml`, for programs with servers of their own.

The working directory is never searched, because a configured server is a program that will be started.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tinyagent import ConfigurationError
from tinyagent.text_files import read_config

from ._config import ServerConfig
from ._paths import absolute, config_file

__all__ = ["configured", "decode_servers", "servers_of_file"]

_HINT = (
    'A server is a table: [mcp.servers.NAME] with command = ["PROGRAM", "ARGUMENT"] or url = "https://…". '
    "The README of tinyagent-mcp lists all keys."
)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    mcp: dict[str, dict[str, dict[str, object]]] = {}


def configured() -> list[ServerConfig]:
    """Return the servers of TINYAGENT_MCP, which `tinyagent run --mcp` sets, or else those of the file.

    Raises:
        ConfigurationError: The file or the variable is invalid.
    """
    found = _from_variable(os.environ.get("TINYAGENT_MCP", "")) or servers_of_file()
    return [server for server in found if server.enabled]


def servers_of_file() -> list[ServerConfig]:
    """Return all servers of the file, including those that are not enabled.

    Raises:
        ConfigurationError: The file is invalid.
    """
    path = config_file()
    return decode_servers(read_config(path) or "", path)


def decode_servers(text: str, path: Path) -> list[ServerConfig]:
    """Return the servers of the text of `mcp.toml`.

    Args:
        text: The text.
        path: The file, for errors.

    Raises:
        ConfigurationError: The text is invalid.
    """
    try:
        tables = msgspec.toml.decode(text, type=_File).mcp
        if unknown := tables.keys() - {"servers"}:
            raise msgspec.ValidationError(f"unknown table [mcp.{sorted(unknown)[0]}]")
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}.", hint=_HINT) from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.", hint=_HINT) from None
    servers = []
    for name, table in tables.get("servers", {}).items():
        try:
            servers.append(msgspec.convert({**table, "name": name}, ServerConfig))
        except msgspec.ValidationError as error:
            unknown_key = re.fullmatch(r"Object contains unknown field `(.*)`", str(error))
            why = f"unknown key {unknown_key[1]!r}" if unknown_key else str(error)
            raise ConfigurationError(f"{path}: [mcp.servers.{name}]: {why}.", hint=_HINT) from None
    return servers


def _from_variable(text: str) -> list[ServerConfig]:
    """Read one server per line: `command`, `name=command` or a URL. They are required and not cached."""
    servers: list[ServerConfig] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        named = re.match(r"([A-Za-z0-9][\w-]*)=(?!=)(.*)", line)
        name, what = (named[1], named[2].strip()) if named else (_name_for(line), line)
        if any(server.name == name for server in servers):
            raise ConfigurationError(f"TINYAGENT_MCP has two servers named {name!r}; write NAME=COMMAND")
        try:
            is_url = what.startswith(("http://", "https://"))
            target = {"url": what} if is_url else {"command": [absolute(word) for word in shlex.split(what)]}
            fields = {"name": name, "remember": False, "required": True, **target}
            servers.append(msgspec.convert(fields, ServerConfig))
        except ValueError as error:  # from ServerConfig, shlex or msgspec
            reason = str(error).rstrip(".")
            raise ConfigurationError(
                f"TINYAGENT_MCP: {line!r}: {reason}.",
                hint="Write one server per line: COMMAND, NAME=COMMAND or a URL, quoted as for a shell.",
            ) from None
    return servers


def _name_for(line: str) -> str:
    """Return a short name: the host, or the first word that is not a launcher."""
    if line.startswith(("http://", "https://")):
        word = urlsplit(line).hostname or "server"
    else:
        words = [word for word in line.split() if not word.startswith("-")]
        launchers = {"python", "python3", "uvx", "uv", "npx", "node", "run", "tool", "docker", "bunx", "deno"}
        word = next((w for w in words if Path(w).stem.rstrip("0123456789.") not in launchers), words[0])
        word = Path(word).stem.removeprefix("mcp-server-").removeprefix("server-").removeprefix("mcp_server_")
    return re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-")[:32] or "server"
