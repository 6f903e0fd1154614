"""The state of an agent: its initial values, and the changes by events."""

from __future__ import annotations

from tinyagent._stream.message_checks import checked_messages, is_assistant
from tinyagent._tool_checks import checked_tools
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentStartEvent,
    AgentState,
    CompactionEndEvent,
    InitialState,
    MessageEndEvent,
    MessageStartEvent,
    ThinkingLevel,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
)

__all__ = ["apply_event", "new_state"]


def new_state(initial: InitialState | AgentState) -> AgentState:
    """Return the state of an agent without a run.

    Raises:
        TypeError: A tool is not an `AgentTool`.
        ValueError: A key or the thinking level is unknown, or a tool cannot be used.
        InvalidMessageError: A message is malformed.
    """
    unknown = set(initial) - AgentState.__annotations__.keys()
    if unknown:
        raise ValueError(f"initial_state has unknown keys: {', '.join(sorted(unknown))}")
    return {
        "system_prompt": initial.get("system_prompt", ""),
        "model": initial.get("model"),
        "messages": checked_messages(initial.get("messages", []), "initial_state: "),
        "tools": checked_tools(initial.get("tools", [])),
        "thinking_level": ThinkingLevel(initial.get("thinking_level", ThinkingLevel.OFF)),
        "is_streaming": False,
        "stream_message": None,
        "pending_tool_calls": set(),
        "error": initial.get("error"),
        "limit": initial.get("limit"),
    }


def apply_event(state: AgentState, event: AgentEvent) -> None:
    """Apply an event other than `message_update`."""
    match event:
        case MessageStartEvent(message=message):
            if is_assistant(message):
                state["stream_message"] = message
        case MessageEndEvent(message=message):
            state["stream_message"] = None
            state["messages"].append(message)
            if is_assistant(message) and message.get("error_message"):
                state["error"] = message["error_message"]
        case ToolExecutionStartEvent(tool_call_id=call_id):
            state["pending_tool_calls"] = state["pending_tool_calls"] | {call_id}
        case ToolExecutionEndEvent(tool_call_id=call_id):
            state["pending_tool_calls"] = state["pending_tool_calls"] - {call_id}
        case AgentStartEvent():
            state["error"] = state["limit"] = None
        case AgentEndEvent(limit=limit):
            state["limit"] = limit
        case CompactionEndEvent(summary=summary) if summary is not None:
            from tinyagent._stream.compaction import compacted

            state["messages"] = compacted(state["messages"], event)
            state["error"] = None  # The request that was too long is sent again.
        case _:
            pass
