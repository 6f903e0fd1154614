"""Several MCP servers: their connections, and their tools, prompts and resources for tinyagent."""

from __future__ import annotations

import asyncio
import atexit
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Self, TypeVar

from tinyagent import AgentTool, ConfigurationError, PluginError, ToolError
from tinyagent.agent_types import ImageContent, PromptTemplate, PromptVariable, TextContent
from tinyagent.tools import run_until_aborted

from ._config import ServerConfig
from ._host import Host
from ._listing import ListedPrompt, Listing, recall
from ._tools import SEPARATOR, resource_tools, server_tool

if TYPE_CHECKING:
    from ._connection import Connection

__all__ = ["McpServers"]

logger = logging.getLogger("tinyagent.mcp")

T = TypeVar("T")


class McpServers:
    """Several servers. Each starts when one of its tools is called first, and all end together.

    Use it as a context manager, or call `close`. Open servers are closed when Python exits.

        with McpServers([ServerConfig(name="time", command="uvx mcp-server-time")]) as servers:
            agent.set_tools(servers.tools())

    Attributes:
        failures: The errors of servers that cannot be used, by name.
    """

    def __init__(self, servers: Iterable[ServerConfig]) -> None:
        self._configs = {server.name: server for server in servers}
        self._host = Host()
        self._connections: dict[str, Connection] = {}
        self._used: dict[str, Listing] = {}
        self._reported: set[str] = set()
        self._closed = False
        self.failures: dict[str, Exception] = {}
        _open.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def configs(self) -> list[ServerConfig]:
        """The configurations of the servers."""
        return list(self._configs.values())

    def owners(self, tools: Iterable[str]) -> list[str]:
        """Return the names of the servers of these tools; of all servers if one of them has no server."""
        found: set[str] = set()
        for tool in tools:
            owner = next((name for name in self._configs if tool.startswith(f"{name}{SEPARATOR}")), None)
            if owner is None:
                return list(self._configs)
            found.add(owner)
        return [name for name in self._configs if name in found]

    def listings(self, names: Iterable[str] | None = None, *, fresh: bool = False) -> dict[str, Listing]:
        """Return the tool list of each server, from the cache or the server. Servers are asked in parallel.

        A server that cannot be used is in `failures` instead, and is tried again only with `fresh`.

        Args:
            names: The servers; None for all.
            fresh: Whether to ask servers whose list is known, too.
        """
        wanted = list(self._configs if names is None else names)
        if fresh:
            self.failures.clear()
        known: dict[str, Listing] = {}
        for name in wanted:
            config = self._configs[name]
            connection = self._connections.get(name)
            live = connection.listing if connection is not None else None
            listing = live or recall(config)
            if listing is not None and not fresh:
                known[name] = listing
        missing = [name for name in wanted if name not in known and name not in self.failures]
        if missing:
            for name, answer in zip(missing, self._host.run(self._discover(missing)), strict=True):
                if isinstance(answer, Listing):
                    known[name] = answer
                elif isinstance(answer, Exception):
                    self.failures[name] = answer
                else:
                    raise answer
        return {name: known[name] for name in wanted if name in known}

    async def _discover(self, names: list[str]) -> list[Listing | BaseException]:
        return await asyncio.gather(
            *(self._connection(name).discover() for name in names), return_exceptions=True
        )

    def tools(self, names: Iterable[str] | None = None) -> list[AgentTool]:
        """Return the tools of all servers. A server with resources has two more tools, to list and read them.

        The logger `tinyagent.mcp` warns once about each server that cannot be used and each omitted tool.

        Args:
            names: The servers; None for all. Others are not started.

        Raises:
            ConfigurationError: A required server, or every server, cannot be used.
        """
        wanted = list(self._configs if names is None else names)
        listings = self.listings(wanted)
        failures = {name: self.failures[name] for name in wanted if name in self.failures}
        required = [name for name in failures if self._configs[name].required]
        if required or (failures and not listings):
            wrong = {name: failures[name] for name in required or failures}
            self.close()
            hints = dict.fromkeys(
                getattr(error, "hint", None) or _setup_hint(self._configs[name])
                for name, error in wrong.items()
            )
            raise ConfigurationError("\n".join(map(str, wrong.values())), hint="\n".join(hints))
        for error in failures.values():
            self._report(f"{str(error).rstrip()} Its tools are missing in this run.")
        made: dict[str, AgentTool] = {}
        for name, listing in listings.items():
            config = self._configs[name]
            for problem in listing.problems:
                self._report(f"MCP server {name!r}: {problem}")
            for pattern in config.unused_patterns(tool.name for tool in listing.tools):
                self._report(f"MCP server {name!r}: no tool is named {pattern!r}.")
            for listed in listing.tools:
                if config.uses(listed.name):
                    tool = server_tool(config, listed, made, self._call)
                    made[tool.name] = tool
            if listing.resources:
                for tool in resource_tools(config, made, self._call):
                    made[tool.name] = tool
        self._used = listings
        return list(made.values())

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            logger.warning("%s", text)

    def templates(self, requested: str | None = None) -> list[PromptTemplate]:
        """Return the prompts of all servers as templates named `server/prompt`.

        The logger `tinyagent.mcp` warns about servers that cannot be used.

        Args:
            requested: The name of the only template that is needed; its server alone is asked.

        Raises:
            ConfigurationError: The server of the requested template cannot be used.
        """
        server, _, prompt = (requested or "").partition("/")
        if requested is not None and server not in self._configs:
            return []
        listings = self.listings(None if requested is None else [server])
        if requested is not None and server in self.failures:
            raise _as_configuration_error(self.failures[server], self._configs[server])
        for name, error in self.failures.items():
            self._report(f"{str(error).rstrip()} The prompts of {name!r} are missing.")
        return [
            self._template(name, listed)
            for name, listing in listings.items()
            for listed in listing.prompts
            if requested is None or listed.name == prompt
        ]

    def _template(self, server: str, listed: ListedPrompt) -> PromptTemplate:
        def fill_in(values: Mapping[str, str]) -> str:
            ask = self._ask(server, lambda connection: connection.get_prompt(listed.name, values))
            return self._host.run(ask)

        return PromptTemplate(
            name=f"{server}/{listed.name}",
            fill_in=fill_in,
            description=listed.description,
            variables=tuple(
                PromptVariable(argument.name, argument.description, argument.required)
                for argument in listed.arguments
            ),
        )

    def read_resource(self, server: str, uri: str) -> list[TextContent | ImageContent]:
        """Return the content of a resource.

        Raises:
            ConfigurationError: There is no such server.
            PluginError: The resource cannot be read.
        """
        if server not in self._configs:
            known = ", ".join(self._configs)
            raise ConfigurationError(f"There is no MCP server {server!r}.", hint=f"Servers: {known}.")
        return self._host.run(self._ask(server, lambda connection: connection.read_resource(uri)))

    async def _ask(self, server: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Await an answer for at most the time of a call and of the start of the server.

        Raises:
            PluginError: The server does not answer, or its answer is an error.
        """
        config = self._configs[server]
        try:
            async with asyncio.timeout(config.start_timeout + config.timeout):
                return await work(self._connection(server))
        except TimeoutError:
            raise PluginError(f"The MCP server {server!r} did not answer in time.") from None
        except ToolError as error:
            raise PluginError(str(error), hint=f"To try the server: tinyagent mcp test {server}") from None

    async def _call(
        self, server: str, signal: asyncio.Event | None, work: Callable[[Connection], Awaitable[T]]
    ) -> T:
        """Run `work` in the thread of the servers; cancel it on the server when the run is aborted.

        Raises:
            ToolError: The servers are closed, or the run was aborted.
        """
        if self._closed:
            raise ToolError("The MCP servers are closed.")

        async def in_thread() -> T:
            return await work(self._connection(server))

        return await run_until_aborted(self._host.call(in_thread()), signal)

    async def refresh(self) -> bool:
        """Read the lists of servers that announced a change. Return whether `tools()` has changed.

        The list of a server that has started may also differ from the cached one.
        """
        if any(connection.changed for connection in list(self._connections.values())):
            await self._host.call(self._refresh())
        return any(
            name in self._used and connection.listing is not None and connection.listing != self._used[name]
            for name, connection in list(self._connections.items())
        )

    async def _refresh(self) -> None:
        await asyncio.gather(*(connection.refresh() for connection in self._connections.values()))

    def close(self) -> None:
        """End every server, and wait until they have ended."""
        _open.discard(self)
        self._closed = True
        if self._host.running:
            self._host.run(self._close())
            self._host.close()

    async def _close(self) -> None:
        connections = list(self._connections.values())
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connection(self, name: str) -> Connection:
        """Return the connection of a server. Call it only in the loop of the host."""
        from ._connection import Connection  # the SDK takes a second to import

        if name not in self._connections:
            self._connections[name] = Connection(self._configs[name])
        return self._connections[name]


def _as_configuration_error(error: Exception, config: ServerConfig) -> ConfigurationError:
    return ConfigurationError(str(error), hint=getattr(error, "hint", None) or _setup_hint(config))


def _setup_hint(config: ServerConfig) -> str:
    """Return advice for a server that cannot be used."""
    if config.url is not None:
        what = "Check its address, and that it is running."
    else:
        what = (
            "A server gets a filtered environment: add variables that it needs, such as tokens, to pass_env "
            f"or env of [mcp.servers.{config.name}] in mcp.toml."
        )
    return f"{what} To try it: tinyagent mcp test {config.name}"


_open: weakref.WeakSet[McpServers] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for servers in list(_open):
        servers.close()
