"""Ask a server what it offers: tools, prompts and resources, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from mcp import Client, MCPError
from mcp_types import CONNECTION_CLOSED, Prompt, Resource, ResourceTemplate
from mcp_types import Tool as McpTool

from tinyagent.agent_types import JsonObject

from ._config import ServerConfig
from ._inbound import Inbound
from ._listing import ListedArgument, ListedPrompt, ListedTool, Listing

__all__ = ["discover", "list_resources"]

MAX_PAGES = 100
MAX_LISTED = 2_000
"""Tools, or resources, of one server."""


class _Page(Protocol):
    next_cursor: str | None


P = TypeVar("P", bound=_Page)


async def discover(config: ServerConfig, client: Client, inbound: Inbound) -> Listing:
    """Return what a server offers.

    Args:
        config: Its configuration.
        client: The connection to it.
        inbound: Its messages, with the problems in them.
    """
    tools: dict[str, ListedTool] = {}
    inbound.problems.clear()
    if client.server_capabilities.tools is not None:
        async for page in _pages(lambda cursor: client.list_tools(cursor=cursor, cache_mode="bypass")):
            for tool in page.tools:
                listed = _listed(tool)
                if tools.setdefault(tool.name, listed) != listed:
                    inbound.problems.append(f"a second tool named {tool.name!r} was omitted")
            if len(tools) >= MAX_LISTED:
                inbound.problems.append(f"only the first {MAX_LISTED} tools are used")
                break
    prompts = await _prompts(client, inbound)
    resources = await _has_resources(client)
    info = client.server_info
    return Listing(
        fingerprint=config.fingerprint(),
        server=f"{info.name} {info.version}" if info is not None else "",
        tools=list(tools.values())[:MAX_LISTED],
        prompts=prompts,
        resources=resources,
        problems=[problem for problem in inbound.problems if " resource" not in problem][:MAX_PAGES],
    )


async def _prompts(client: Client, inbound: Inbound) -> list[ListedPrompt]:
    """Return the prompts of the server. If it cannot list them, its tools still work."""
    if client.server_capabilities.prompts is None:
        return []
    found: dict[str, ListedPrompt] = {}
    try:
        async for page in _pages(lambda cursor: client.list_prompts(cursor=cursor, cache_mode="bypass")):
            for prompt in page.prompts:
                found.setdefault(prompt.name, _listed_prompt(prompt))
            if len(found) >= MAX_LISTED:
                break
    except MCPError as error:
        if error.code == CONNECTION_CLOSED:
            raise
        inbound.problems.append(f"its prompts cannot be listed: {error}")
    return list(found.values())[:MAX_LISTED]


async def _has_resources(client: Client) -> bool:
    """Return whether the server has resources. Many servers declare the capability without any."""
    if client.server_capabilities.resources is None:
        return False
    try:
        if (await client.list_resources()).resources:
            return True
        return bool((await client.list_resource_templates()).resource_templates)
    except MCPError as error:
        if error.code == CONNECTION_CLOSED:
            raise
        return False


async def list_resources(client: Client) -> list[JsonObject]:
    """Return the resources and the templates of resources of a server, as plain data."""
    found: list[Resource | ResourceTemplate] = []
    async for page in _pages(lambda cursor: client.list_resources(cursor=cursor)):
        found += page.resources
    try:
        async for more in _pages(lambda cursor: client.list_resource_templates(cursor=cursor)):
            found += more.resource_templates
    except MCPError as error:
        if error.code == CONNECTION_CLOSED:
            raise
        # The server has no templates.
    keep = {"uri", "uri_template", "name", "title", "description", "mime_type", "size"}
    return [entry.model_dump(include=keep, exclude_none=True) for entry in found[:MAX_LISTED]]


async def _pages(fetch: Callable[[str | None], Awaitable[P]]) -> AsyncIterator[P]:
    """Return the pages of a list. A repeated cursor ends it."""
    cursor: str | None = None
    seen: set[str | None] = set()
    while cursor not in seen and len(seen) < MAX_PAGES:
        seen.add(cursor)
        page = await fetch(cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


def _listed(tool: McpTool) -> ListedTool:
    notes = tool.annotations
    return ListedTool(
        name=tool.name,
        title=tool.title or (notes.title if notes is not None else None) or "",
        description=tool.description or "",
        input_schema=tool.input_schema,
        # A request to the outside world can carry data away, so the user must approve it.
        read_only=notes is not None and notes.read_only_hint is True and notes.open_world_hint is not True,
    )


def _listed_prompt(prompt: Prompt) -> ListedPrompt:
    return ListedPrompt(
        name=prompt.name,
        description=prompt.description or prompt.title or "",
        arguments=[
            ListedArgument(
                name=argument.name, description=argument.description or "", required=argument.required is True
            )
            for argument in prompt.arguments or ()
        ],
    )
