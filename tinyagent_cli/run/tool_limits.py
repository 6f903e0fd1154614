"""The limits of `[tools.NAME]` in the configuration: seconds for a call, and characters for its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tinyagent.agent_types import AgentTool, ImageContent, TextContent
from tinyagent_cli.config.files import ToolTable

__all__ = ["DEFAULT_MAX_OUTPUT", "cap", "output_limits", "with_timeouts"]

DEFAULT_MAX_OUTPUT = 100_000
"""Characters, about 25,000 tokens. A longer result would push the conversation out of the context."""


def with_timeouts(tools: Sequence[AgentTool], tables: Mapping[str, ToolTable]) -> list[AgentTool]:
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
