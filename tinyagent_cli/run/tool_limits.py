"""What `[tools.NAME]` of the configuration says about a tool's time and the size of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyagent.agent_types import AgentTool
from tinyagent_cli.config.files import ToolTable

__all__ = ["DEFAULT_MAX_OUTPUT", "cap", "output_limits", "with_timeouts"]

DEFAULT_MAX_OUTPUT = 100_000
"""Characters; some 25,000 tokens. A tool that says more would push the conversation out of the context."""


def with_timeouts(tools: Sequence[AgentTool], tables: Mapping[str, ToolTable]) -> list[AgentTool]:
    """The tools with the time-outs that the user set; `"*"` is for all that have none of their own."""
    general = tables.get("*", ToolTable()).timeout
    made = []
    for tool in tools:
        own = tables.get(tool.name, ToolTable()).timeout
        seconds = own if own is not None else general if tool.timeout is None else tool.timeout
        made.append(tool if seconds == tool.timeout else replace(tool, timeout=seconds))
    return made


def output_limits(tables: Mapping[str, ToolTable]) -> Callable[[str], int]:
    """How many characters of a tool's results the model gets, by the tool's name."""
    general = tables.get("*", ToolTable()).max_output or DEFAULT_MAX_OUTPUT

    def limit(name: str) -> int:
        return tables.get(name, ToolTable()).max_output or general

    return limit


def cap(content: list[Any], limit: int) -> list[Any]:
    """The content with at most `limit` characters of text: its beginning, its end, a note between."""
    total = sum(len(part["text"]) for part in content if part["type"] == "text")
    if total <= limit:
        return content
    begin, end = limit * 2 // 3, total - (limit - limit * 2 // 3)
    note = (
        f"\n[… {end - begin:,} of {total:,} characters were left out here: the limit for this tool's "
        f"output is {limit:,}. Ask for less, or for another part …]\n"
    )
    made: list[Any] = []
    place = 0
    for part in content:
        if part["type"] != "text":
            made.append(part)
            continue
        text, start = part["text"], place
        place += len(text)
        if start <= begin < place:
            kept = text[: begin - start] + note + text[max(0, end - start) :]
        elif place <= begin or start >= end:
            kept = text
        else:
            kept = text[end - start :] if place > end else ""
        if kept:
            made.append({**part, "text": kept})
    return made
