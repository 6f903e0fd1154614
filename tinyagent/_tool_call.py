"""One tool call: its state, its result, and the message with the result."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable

import msgspec

from ._stream.builder import now_ms
from .agent_types import (
    AgentTool,
    AgentToolResult,
    ImageContent,
    TextContent,
    ToolCallContent,
    ToolCallDecision,
    ToolCallInfo,
    ToolResultMessage,
)

__all__ = ["CallState", "checked_result", "result_message", "tool_error"]


class CallState(msgspec.Struct, eq=False):
    """The state of one call. `result` is set when the call has ended."""

    call: ToolCallContent
    tool: AgentTool | None
    info: ToolCallInfo | None = None
    result: AgentToolResult | None = None
    is_error: bool = False
    started: bool = False
    terminate: bool = False
    updates: deque[Awaitable[None]] = msgspec.field(default_factory=deque)
    """Awaitables of emitted updates that were not awaited yet."""
    updates_task: asyncio.Task[None] | None = None
    message: ToolResultMessage | None = None

    def fail(self, text: str) -> None:
        """End the call with an error."""
        self.result, self.is_error = tool_error(text), True

    def apply(self, decision: object) -> None:
        """Apply the decision of `after_tool_call`.

        Raises:
            TypeError: It is not a decision, a result or None.
        """
        if isinstance(decision, AgentToolResult):
            self.result = checked_result(self.call["name"], decision)
        elif isinstance(decision, ToolCallDecision):
            assert self.result is not None
            if decision.block is not None:
                self.fail(decision.block or "The result was withheld.")
            elif decision.content is not None or decision.details is not None:
                result = self.result
                changed = AgentToolResult(
                    result.content if decision.content is None else decision.content,
                    result.details if decision.details is None else decision.details,
                    result.terminate,
                )
                self.result = checked_result(self.call["name"], changed)
            if decision.is_error is not None:
                self.is_error = decision.is_error
            self.terminate = self.terminate or decision.terminate
        elif decision is not None:
            raise TypeError(
                f"it returned {type(decision).__name__}, not an AgentToolResult or a ToolCallDecision"
            )


def tool_error(text: str) -> AgentToolResult:
    """Return a result that describes an error to the model."""
    return AgentToolResult(content=[{"type": "text", "text": text}])


def result_message(call: ToolCallContent, result: AgentToolResult, is_error: bool) -> ToolResultMessage:
    """Return the message with the result of a call."""
    return {
        "role": "tool_result",
        "tool_call_id": call["id"],
        "tool_name": call["name"],
        "content": result.content,
        "details": result.details,
        "is_error": is_error,
        "timestamp": now_ms(),
    }


_BODY = {"text": "text", "image": "url"}


def checked_result(name: str, result: object) -> AgentToolResult:
    """Copy the result of a tool, so that the tool cannot change it later."""
    if not isinstance(result, AgentToolResult):
        raise TypeError(f"the tool {name!r} returned {type(result).__name__}, not an AgentToolResult")
    content: object = result.content
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and isinstance(part.get(_BODY.get(str(part.get("type")), "")), str)
        for part in content
    ):
        raise TypeError(f"the content of the result of {name!r} is not a list of text and image parts")
    if not isinstance(result.details, dict):
        raise TypeError(
            f"the details of the result of {name!r} are {type(result.details).__name__}, not a dict"
        )
    if (
        type(result) is AgentToolResult
        and not result.details
        and all(type(value) is str for part in result.content for value in part.values())
    ):  # The usual result. A deep copy takes ten times as long.
        return AgentToolResult(list(map(_copied_part, result.content)), {}, result.terminate)
    return copy.deepcopy(result)


def _copied_part(part: TextContent | ImageContent) -> TextContent | ImageContent:
    return part.copy()
