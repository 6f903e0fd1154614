"""The tools of a run: their choice, and the limits of `[tools.NAME]` in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyagent.agent_types import AgentTool, ImageContent, TextContent
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import set_variable
from tinyagent_cli.config.files import ToolTable
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.plugins.failures import require_plugin
from tinyagent_cli.plugins.registry import PluginLoader
from tinyagent_cli.plugins.tool_sources import ToolSource

from .approval_rules import parse_rule
from .options import RunOptions

if TYPE_CHECKING:
    from .template_choice import ChosenTemplate

__all__ = ["ToolLoader", "cap", "check_rules", "output_limits", "requested_names", "use_servers"]

DEFAULT_MAX_OUTPUT = 100_000
"""Characters, about 25,000 tokens. A longer result would push the conversation out of the context."""


class ToolLoader:
    """Loads the tools of a run, and others that replace them later.

    Args:
        app: Shows warnings.
        plugins: Loads the plugins of the tools.
        tables: The limits of tools in the configuration.

    Attributes:
        sources: The source of each tool, by its name.
    """

    def __init__(self, app: AppContext, plugins: PluginLoader, tables: Mapping[str, ToolTable]) -> None:
        self.sources: dict[str, ToolSource] = {}
        self._app = app
        self._plugins = plugins
        self._tables = tables
        self._names: Sequence[str] = ()

    def load(self, names: Sequence[str]) -> list[AgentTool]:
        """Return the tools for names as those of `-t`, with their time-outs.

        Raises:
            TinyAgentError: There is no such tool, or its plugin cannot be used.
        """
        found = self._plugins.tools(names)
        self._names = names
        self.sources.update(found.sources)
        return _with_timeouts(found.tools, self._tables)

    async def changed(self) -> list[AgentTool] | None:
        """Return the tools again if a plugin reports that its tools have changed; None otherwise."""
        try:
            if await self._plugins.registry().tools_have_changed():
                return self.load(self._names)
        except TinyAgentError as error:
            self._app.warn(f"The tools stay as they are: {error}")
        return None


def requested_names(
    options: RunOptions, template: ChosenTemplate | None, configured: Sequence[str]
) -> Sequence[str]:
    """Return the names of the requested tools; `--mcp` adds the tools of its servers."""
    chosen = None if template is None else template.template.content.tools
    names = options.tools or tuple(configured if chosen is None else chosen)
    if not options.mcp or any(name.split(".")[0] == "mcp" for name in names):
        return names
    return (*names, "mcp")


def use_servers(commands: Sequence[str]) -> None:
    """Use the servers of `--mcp` in place of the configured ones.

    Raises:
        ConfigurationError: The plugin is not installed.
    """
    require_plugin("mcp", "tinyagent-mcp", "--mcp")
    set_variable("TINYAGENT_MCP", "\n".join(commands))


def check_rules(options: RunOptions, tools: Sequence[AgentTool]) -> None:
    """Refuse rules for unknown tools, which are probably misspelt.

    Raises:
        InputError: The run has no such tool, or the tool has no command.
    """
    known = {tool.name: tool for tool in tools}
    for flag, rules in (("--deny", options.deny), ("--allow", options.allow)):
        for text in rules:
            rule = parse_rule(text)
            tool = known.get(rule.name)
            if rule.words is not None and tool and "command" not in tool.parameters.get("properties", {}):
                raise InputError(f"{flag} {text}: the tool {rule.name} has no argument 'command'.")
            if tool is None and not set(rule.name) & set("*?["):
                raise InputError(
                    f"{flag} {rule.name}: this run has no tool of that name; "
                    f"it has: {', '.join(sorted(known)) or 'none'}."
                )


def _with_timeouts(tools: Sequence[AgentTool], tables: Mapping[str, ToolTable]) -> list[AgentTool]:
    """Return the tools with the configured time-outs; `"*"` applies to tools without their own."""
    general = tables.get("*", ToolTable()).timeout
    made = []
    for tool in tools:
        own = tables.get(tool.name, ToolTable()).timeout
        seconds = own if own is not None else general if tool.timeout is None else tool.timeout
        made.append(tool if seconds == tool.timeout else replace(tool, timeout=seconds))
    return made


def output_limits(tables: Mapping[str, ToolTable]) -> Callable[[str], int]:
    """Return a function from the name of a tool to the limit of its results, in characters."""
    general = tables.get("*", ToolTable()).max_output or DEFAULT_MAX_OUTPUT

    def limit(name: str) -> int:
        return tables.get(name, ToolTable()).max_output or general

    return limit


def cap(content: list[TextContent | ImageContent], limit: int) -> list[TextContent | ImageContent]:
    """Return the content with at most `limit` characters of text: its beginning, a note, and its end."""
    total = sum(len(part["text"]) for part in content if part["type"] == "text")
    if total <= limit:
        return content
    begin, end = limit * 2 // 3, total - (limit - limit * 2 // 3)
    note = (
        f"\n[… {end - begin:,} of {total:,} characters are omitted here: the limit for this tool's "
        f"output is {limit:,}. Request less, or another part …]\n"
    )
    capped: list[TextContent | ImageContent] = []
    place = 0
    for part in content:
        if part["type"] != "text":
            capped.append(part)
            continue
        text, start = part["text"], place
        place += len(text)
        if start <= begin < place:
            shown = text[: begin - start] + note + text[max(0, end - start) :]
        elif place <= begin or start >= end:
            shown = text
        else:
            shown = text[end - start :] if place > end else ""
        if shown:
            capped.append({**part, "text": shown})
    return capped
