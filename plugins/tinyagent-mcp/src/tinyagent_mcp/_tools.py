"""Make tinyagent tools of the tools and resources of MCP servers."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from tinyagent import AgentTool, AgentToolResult, AgentToolUpdateCallback
from tinyagent.agent_types import JsonObject
from tinyagent.interaction import current_interaction

from ._config import ServerConfig
from ._listing import ListedTool

if TYPE_CHECKING:
    from ._connection import Connection

__all__ = ["SEPARATOR", "resource_tools", "server_tool"]

SEPARATOR = "__"
MAX_NAME = 64

T = TypeVar("T")


class Call(Protocol):
    """Runs a function with the connection of a server, in the thread of the connections."""

    async def __call__(
        self, server: str, signal: asyncio.Event | None, work: Callable[[Connection], Awaitable[T]]
    ) -> T: ...


def server_tool(
    config: ServerConfig, listed: ListedTool, taken: Mapping[str, AgentTool], call: Call
) -> AgentTool:
    """Return a tool of a server.

    Args:
        config: The server.
        listed: Its description of the tool.
        taken: The tools that are made already, by name.
        call: Reaches the server.
    """

    async def execute(
        tool_call_id: str,
        args: JsonObject,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            on_update(_progress(progress, total, message))

        interaction = current_interaction()
        return await call(
            config.name, signal, lambda connection: connection.call_tool(listed, args, report, interaction)
        )

    return AgentTool(
        name=_name(config.name, listed.name, taken),
        label=listed.title or listed.name,
        description=listed.description or listed.title or listed.name,
        parameters=listed.input_schema,
        execute=execute,
        read_only=config.trust_read_only and listed.read_only,
        timeout=config.timeout,
        origin=config.fingerprint(),
    )


def resource_tools(config: ServerConfig, taken: Mapping[str, AgentTool], call: Call) -> Iterator[AgentTool]:
    """Return the two tools of a server with resources, to list and to read them. See `server_tool`."""

    async def list_them(
        tool_call_id: str,
        args: JsonObject,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        found = await call(config.name, signal, lambda connection: connection.list_resources())
        text = "\n".join(msgspec.json.encode(entry).decode() for entry in found) or "There are none."
        return AgentToolResult(content=[{"type": "text", "text": text}], details={"resources": found})

    async def read(
        tool_call_id: str,
        args: JsonObject,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        uri = str(args["uri"])
        parts = await call(config.name, signal, lambda connection: connection.read_resource(uri))
        return AgentToolResult(content=parts or [{"type": "text", "text": "It is empty."}])

    about = f"of the MCP server {config.name!r}"
    uri = {"type": "string", "description": "A listed URI, or a template with its {parts} replaced"}
    schema: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
    yield AgentTool(
        name=_name(config.name, "list_resources", taken),
        label=f"Resources of {config.name}",
        description=f"List the resources {about}, and templates of resources, with their URIs.",
        parameters=schema,
        execute=list_them,
        read_only=config.trust_read_only,
        timeout=config.timeout,
        origin=config.fingerprint(),
    )
    yield AgentTool(
        name=_name(config.name, "read_resource", taken),
        label=f"Read a resource of {config.name}",
        description=f"Read a resource {about} by its URI.",
        parameters={**schema, "properties": {"uri": uri}, "required": ["uri"]},
        execute=read,
        timeout=config.timeout,
        origin=config.fingerprint(),
    )


def _progress(done: float, total: float | None, message: str | None) -> AgentToolResult:
    progress = f"{done:g}" if total is None else f"{done:g} of {total:g}"
    text = f"{message} ({progress})" if message else progress
    details = {"progress": done, "total": total, "message": message}
    return AgentToolResult(content=[{"type": "text", "text": text}], details=details)


def _name(server: str, tool: str, taken: Mapping[str, AgentTool]) -> str:
    """Return `server__tool` in characters that providers accept, with a hash if too long or not unique."""
    wanted = f"{server}{SEPARATOR}{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", wanted)
    if len(name) > MAX_NAME or name in taken:
        mark = hashlib.sha256(wanted.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}_{mark}"
    return name
