"""What a reader of events writes. Checked by mypy and pyright, and never run."""

from collections.abc import Iterator
from typing import assert_type

from tinyagent import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentToolResult,
    AssistantMessage,
    AssistantMessageEvent,
    ImageContent,
    MessageUpdateEvent,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolResultMessage,
    TurnEndEvent,
    UserMessage,
    jsonl,
)


def compare_the_type(event: AgentEvent) -> str:
    """`event.type == …` narrows the event."""
    if event.type == "message_update":
        assert_type(event, MessageUpdateEvent)
        step = event.assistant_message_event
        if step["type"] == "text_delta" or step["type"] == "thinking_delta":
            return step["delta"]
        if step["type"] == "tool_call_end":
            return step["tool_call"]["name"]
        if step["type"] == "error":
            assert_type(step["error"], AssistantMessage)
    elif event.type == "tool_execution_end":
        assert_type(event, ToolExecutionEndEvent)
        assert_type(event.result, AgentToolResult)
        assert_type(event.is_error, bool)
    return ""


def match_the_type(event: AgentEvent) -> None:
    """`match event.type` narrows the event."""
    match event.type:
        case "tool_execution_start":
            assert_type(event, ToolExecutionStartEvent)
            assert_type(event.tool_name, str)
        case "turn_end":
            assert_type(event, TurnEndEvent)
            assert_type(event.tool_results, list[ToolResultMessage])
        case "agent_end":
            assert_type(event, AgentEndEvent)
            assert_type(event.messages, list[AgentMessage])
        case _:
            pass


def match_the_class(event: AgentEvent) -> None:
    """Class patterns narrow the event."""
    match event:
        case MessageUpdateEvent(assistant_message_event=step):
            assert_type(step, AssistantMessageEvent)
        case ToolExecutionEndEvent():
            assert_type(event.tool_call_id, str)
        case _:
            pass


def read_messages(messages: list[AgentMessage]) -> Iterator[str]:
    """`message["role"]` narrows a message, and `block["type"]` its content."""
    for message in messages:
        if message["role"] == "assistant":
            assert_type(message, AssistantMessage)
            for block in message["content"]:
                if block["type"] == "text":
                    assert_type(block, TextContent)
                    yield block["text"]
                elif block["type"] == "thinking":
                    assert_type(block, ThinkingContent)
                elif block["type"] == "tool_call":
                    assert_type(block, ToolCallContent)
        elif message["role"] == "tool_result":
            assert_type(message, ToolResultMessage)
            assert_type(message["content"], list[TextContent | ImageContent])
        else:
            assert_type(message, UserMessage)


def read_a_record(lines: list[str]) -> None:
    """A record has the events of the run that wrote it."""
    for event in jsonl.read(lines):
        assert_type(event, AgentEvent)
    assert_type(jsonl.messages(lines), list[AgentMessage])
