"""`-f URL`: a web page, read by the tool `fetch` of tinyagent-tools-web. Only `-f URL` imports this."""

from __future__ import annotations

import asyncio

from tinyagent.agent_types import AgentTool, AgentToolResult
from tinyagent.errors import ToolError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.failures import require_plugin
from tinyagent_cli.plugins.registry import PluginLoader

from .lifetime import Lifetime

__all__ = ["read_page"]

MAX_CHARACTERS = 100_000
"""The most characters of a page, which is the limit of the tool for one part."""


def read_page(app: AppContext, plugins: PluginLoader, lifetime: Lifetime, url: str) -> bytes:
    """Return a page as text. The tool checks the address, so only the public internet is reached.

    Raises:
        StopRun: A signal or the time limit ends the command.
        ConfigurationError: The plugin is not installed.
        ToolError: The page cannot be read.
    """
    require_plugin("web", "tinyagent-tools-web", f"-f {url}")
    (tool,) = plugins.tools(["web.fetch"]).tools
    app.detail(f"Reading {url}")
    try:
        result = asyncio.run(_call(tool, url, lifetime))
    except ToolError as error:
        raise ToolError(f"-f {url}: {error}") from None
    if result.details.get("next_offset") is not None:
        app.warn(f"{url} is longer than {MAX_CHARACTERS:,} characters; the rest is left out.")
    return "\n".join(part["text"] for part in result.content if part["type"] == "text").encode()


async def _call(tool: AgentTool, url: str, lifetime: Lifetime) -> AgentToolResult:
    assert tool.execute is not None
    with lifetime.abort_signal() as signal:
        return await tool.execute("", {"url": url, "max_characters": MAX_CHARACTERS}, signal, _ignore)


def _ignore(partial: AgentToolResult) -> None:
    """Ignore the steps that the tool reports."""
