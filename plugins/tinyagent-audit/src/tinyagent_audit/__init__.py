"""Log tool calls, deny calls and hide secrets: three hooks of the group `tinyagent.hooks`; see README.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tinyagent import AgentEvent, AgentToolResult, ToolCallDecision, ToolCallInfo, hookimpl

if TYPE_CHECKING:
    from tinyagent.agent_types import ImageContent, TextContent

    from ._log import Log
    from ._rules import Rules

__all__ = ["Audit"]

VARIABLE = "TINYAGENT_AUDIT"


class Audit:
    """The plugin. Without rules, none of its hooks does anything."""

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._log: Log | None = None
        path = os.environ.get(VARIABLE, "").strip()
        if path:
            from ._log import Log
            from ._rules import Rules

            self._rules = Rules.read(path)
            self._log = Log(self._rules.log, self._rules.hidden_in) if self._rules.log else None

    @hookimpl
    def tinyagent_before_tool_call(self, call: ToolCallInfo) -> ToolCallDecision | None:
        """Refuse denied calls. If the log cannot be written, raise, which refuses the call."""
        if self._rules is None:
            return None
        if self._log is not None:
            self._log.check()
        reason = self._rules.denied(call.tool.name, _texts(call.arguments))
        return None if reason is None else ToolCallDecision(block=reason)

    @hookimpl
    def tinyagent_after_tool_call(
        self, call: ToolCallInfo, result: AgentToolResult
    ) -> AgentToolResult | None:
        """Replace the matches of the `hide` patterns in a result."""
        if self._rules is None or not self._rules.hide:
            return None
        rules = self._rules
        content: list[TextContent | ImageContent] = [
            {**part, "text": rules.hidden(part["text"])} if part["type"] == "text" else part
            for part in result.content
        ]
        details = {key: rules.hidden_in(value) for key, value in result.details.items()}
        return AgentToolResult(content, details, result.terminate)

    @hookimpl
    def tinyagent_register_sinks(
        self, register: Callable[[str, Callable[[], Callable[[AgentEvent], None]]], None]
    ) -> None:
        """Log every call, including refused ones."""
        if self._log is not None:
            register("audit", self._log.sink)


def _texts(value: object) -> Iterator[str]:
    """Return every string in the arguments, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
