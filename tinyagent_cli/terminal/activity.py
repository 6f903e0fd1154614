"""Show tool calls on standard error, and thinking with -v."""

from __future__ import annotations

from collections.abc import Callable

from tinyagent import _json
from tinyagent.agent_types import (
    AgentEvent,
    MessageEndEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
)
from tinyagent_cli.app_context import AppContext

from .sanitise import one_line

__all__ = ["ActivityRenderer"]

_WIDTH = 200


class ActivityRenderer:
    """Writes a dim line for each tool call and for its result.

    Args:
        app: Writes the lines.
        before: Called before each line, to end an unfinished line of the reply.
    """

    def __init__(self, app: AppContext, before: Callable[[], None]) -> None:
        self._app = app
        self._before = before

    def __call__(self, event: AgentEvent) -> None:
        match event:
            case MessageUpdateEvent():
                pass
            case ToolExecutionStartEvent(tool_name=name, args=args):
                self._line(f"→ {name} {_json.encode(args).decode()}")
            case ToolExecutionEndEvent(result=result, is_error=is_error):
                text = " ".join(part["text"] for part in result.content if part["type"] == "text")
                self._line(f"{'✗' if is_error else '←'} {text}")
            case MessageEndEvent(message={"role": "assistant", "content": list(content)}):
                if self._app.verbosity:
                    for block in content:
                        if block["type"] == "thinking" and block["thinking"].strip():
                            self._line(f"∴ {block['thinking']}")

    def _line(self, text: str) -> None:
        self._before()
        self._app.dim(one_line(text, _WIDTH))
