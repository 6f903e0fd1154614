"""What users pass as callbacks and functions. Checked by mypy and pyright, and never run."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, assert_type

from tinyagent import (
    Agent,
    AgentMessage,
    AgentOptions,
    Message,
    Model,
    UserMessage,
    agent_loop,
    default_convert_to_llm,
)
from tinyagent.agent_types import AgentContext, AgentLoopConfig, AnyAgentMessage, ConvertToLlm, GetMessages
from tinyagent.tools import run_in_process


def without_notes(messages: list[AnyAgentMessage]) -> list[Message]:
    """Convert a history with messages of other roles."""
    return default_convert_to_llm([message for message in messages if message["role"] != "note"])


async def newest(messages: list[AgentMessage], signal: asyncio.Event | None) -> list[AgentMessage]:
    """Send the newest messages only."""
    return messages[-20:]


def all_of(messages: Sequence[AgentMessage]) -> list[Message]:
    """Read any sequence."""
    return list(messages)


def steer() -> list[UserMessage]:
    """Return messages of one role."""
    return [{"role": "user", "content": [{"type": "text", "text": "Stop."}]}]


async def steer_later() -> list[Any]:
    """Return messages of unknown type."""
    return []


CONVERTERS: list[ConvertToLlm] = [
    default_convert_to_llm,
    list,
    all_of,
    without_notes,
    lambda messages: [message for message in messages if message["role"] == "user"],
]
QUEUES: list[GetMessages] = [
    steer,
    steer_later,
    lambda: [{"role": "user", "content": [{"type": "text", "text": "Stop."}]}],
    lambda: [{"role": "note"}],
]

Agent(AgentOptions(transform_context=newest, convert_to_llm=without_notes))
Agent(AgentOptions(transform_context=lambda messages, signal: messages[-20:], convert_to_llm=list))
agent_loop(
    steer(),
    AgentContext(),
    AgentLoopConfig(Model(), convert_to_llm=lambda messages: messages, get_steering_messages=steer),
)


def count(text: str) -> int:
    """A function to call in a process."""
    return len(text)


def words(text: str) -> Iterator[str]:
    """A generator function to call in a process."""
    yield from text.split()


async def in_a_process() -> None:
    """The result and the items have the types of the function."""
    found: list[str] = []
    assert_type(await run_in_process(count, "text", timeout=5), int)
    await run_in_process(words, "a text", on_item=found.append)
