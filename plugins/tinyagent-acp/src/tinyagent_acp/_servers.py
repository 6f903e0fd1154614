"""The MCP servers of an editor, for the plugin tinyagent-mcp of one session."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from acp.schema import AcpMcpServer, HttpMcpServer, McpServerStdio, SseMcpServer

from tinyagent import ConfigurationError

from ._errors import invalid_params

__all__ = ["McpServer", "ServerFile", "can_use_servers"]

McpServer: TypeAlias = HttpMcpServer | SseMcpServer | AcpMcpServer | McpServerStdio


def can_use_servers() -> bool:
    """Return whether tinyagent-mcp is installed."""
    return find_spec("tinyagent_mcp") is not None


class ServerFile:
    """A private file with the servers of a session, in the format of `mcp.toml`.

    They replace the servers of the user in this session, as `--mcp` does.

    Raises:
        ConfigurationError: tinyagent-mcp is not installed.
        RequestError: A server cannot be reached in its way.
    """

    def __init__(self, servers: Sequence[McpServer]) -> None:
        self._folder: Path | None = None
        tables = _tables(servers)
        if not tables:
            return
        if not can_use_servers():
            raise ConfigurationError(
                f"The editor has MCP servers ({', '.join(tables)}), which need the plugin tinyagent-mcp.",
                hint="Install it: tinyagent plugins install tinyagent-mcp",
            )
        import tomlkit

        self._folder = Path(tempfile.mkdtemp(prefix="tinyagent-acp-"))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(tomlkit.dumps({"mcp": {"servers": tables}}))

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return self._folder / "mcp.toml"

    @property
    def environment(self) -> dict[str, str]:
        """The variables for `tinyagent rpc`."""
        return {} if self._folder is None else {"TINYAGENT_MCP_FILE": str(self._path), "TINYAGENT_MCP": ""}

    def __bool__(self) -> bool:
        return self._folder is not None

    def remove(self) -> None:
        """Remove the file."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _tables(servers: Sequence[McpServer]) -> dict[str, dict[str, object]]:
    tables: dict[str, dict[str, object]] = {}
    for server in servers:
        name = _name(server.name, tables)
        match server:
            case McpServerStdio():
                env = {variable.name: variable.value for variable in server.env}
                tables[name] = {"command": [server.command, *server.args], "env": env}
            case HttpMcpServer():
                headers = {header.name: header.value for header in server.headers}
                tables[name] = {"url": server.url, "headers": headers}
            case _:
                raise invalid_params(
                    f"The MCP server {server.name!r} is reached by {server.type}, which is not supported. "
                    "Use one that is started by a command, or streamable HTTP.",
                )
        tables[name]["remember"] = False
    return tables


def _name(text: str, taken: dict[str, dict[str, object]]) -> str:
    """Return a name that tinyagent-mcp accepts, from one for people."""
    base = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:28] or "server"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
