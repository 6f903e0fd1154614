"""What the author of a test writes: messages, a scripted provider, and records of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

from tinyagent import jsonl
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    AssistantMessage,
    Model,
    SimpleStreamOptions,
    ToolResultMessage,
    UserMessage,
)
from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions
from tinyagent.testing import (
    ChatWire,
    FakeReply,
    FakeServer,
    ProviderContract,
    RecordedRequest,
    Reply,
    ScriptedProvider,
    assistant,
    call,
    check_grammar,
    collect,
    thinking,
    tool_result,
    user,
)

assert_type(user("Hi"), UserMessage)
assert_type(assistant("Hello", stop_reason="stop", usage={"input": 1}), AssistantMessage)
assert_type(tool_result("c1", "add", "3", is_error=True), ToolResultMessage)


async def run() -> None:
    """Run an agent with a script, and check its events."""
    async with ScriptedProvider(Reply(thinking("Hm."), call("add", a=1)), "It is 42.") as provider:
        assert_type(provider.model, Model)
        agent = Agent(AgentOptions(initial_state={"model": provider.model}, stream_fn=provider))
        events = await collect(agent.stream("What is 6 * 7?"))
    assert_type(events, list[AgentEvent])
    check_grammar(events)
    assert_type(provider.calls[0].context.system_prompt, str)


async def serve() -> None:
    """Start a loopback server."""
    async with FakeServer(FakeReply.text("Hello", status=200), FakeReply.error(429, "busy")) as server:
        assert_type(server.requests, list[RecordedRequest])


class TestMine(ProviderContract):
    """The tests of a provider."""

    wire, stream_fn = ChatWire(), stream_openai_completions

    def make_model(self, base_url: str) -> OpenAICompatModel:
        return OpenAICompatModel(id="m", base_url=base_url)


def records(path: Path) -> None:
    """Read and write a record."""
    with path.open("rb") as file:
        assert_type(jsonl.read(file), Iterator[AgentEvent])
    assert_type(jsonl.messages(path.read_bytes()), list[AgentMessage])
    for record in jsonl.read_records(path.read_bytes()):
        if isinstance(record, jsonl.ResultRecord):
            assert_type(record.exit_code, int)
    assert_type(jsonl.write(jsonl.read(path.read_bytes())), Iterator[bytes])


class TestAnother(ProviderContract):
    """The tests of a provider with options of its own."""

    stream_fn = staticmethod(stream_openai_completions)

    def make_model(self, base_url: str) -> OpenAICompatModel:
        return OpenAICompatModel(id="m", base_url=base_url)

    def options(self) -> SimpleStreamOptions:
        return {"api_key": self.key, "timeout": 5}
