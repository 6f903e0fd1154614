"""What the author of a provider and of a plugin writes. Checked by mypy and pyright, and never run."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import assert_type

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    Model,
    Provider,
    SimpleStreamOptions,
    StreamResponse,
    ToolCallDecision,
    ToolCallInfo,
    hookimpl,
    tool,
)
from tinyagent.agent_types import StreamFn
from tinyagent.testing import FakeReply, FakeServer, ScriptedProvider, assistant, check_grammar, collect


@dataclass
class AcmeModel(Model):
    """A model with a field of its own."""

    region: str = "eu"


class Reply:
    """A reply that is known from the start."""

    def __init__(self, message: AssistantMessage) -> None:
        self.message = message

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        """Yield the events of the reply."""
        yield {"type": "start"}
        yield {"type": "text_start", "content_index": 0}
        yield {"type": "text_delta", "content_index": 0, "delta": "Hi"}
        yield {"type": "text_end", "content_index": 0, "content": "Hi"}
        yield {"type": "done", "reason": "stop", "message": self.message}

    async def result(self) -> AssistantMessage:
        """Return the whole message."""
        return self.message


async def stream_acme(model: AcmeModel, context: Context, options: SimpleStreamOptions) -> Reply:
    """A provider may name the class of its own models."""
    assert_type(options.get("api_key"), str | None)
    assert_type(model.region, str)
    return Reply(assistant("Hi"))


def make_model(model_id: str, options: Mapping[str, object]) -> AcmeModel:
    """Create a model from the options of the command line."""
    return AcmeModel(provider="acme", id=model_id, api="acme", region=str(options.get("region", "eu")))


STREAM: StreamFn = stream_acme


async def answer(reply: StreamResponse) -> AssistantMessage:
    """Read a reply."""
    async for event in reply:
        if event["type"] == "text_delta":
            assert_type(event["delta"], str)
    return await reply.result()


@tool
def roll(sides: int = 6) -> int:
    """Roll a die."""
    return sides


@hookimpl
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Register the provider."""
    register(Provider("acme", stream_acme, make_model, "ACME_API_KEY"))


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the tools."""
    register(roll)


@hookimpl
def tinyagent_before_tool_call(call: ToolCallInfo) -> ToolCallDecision | None:
    """Refuse a tool."""
    return ToolCallDecision(block="no dice") if call.tool.name == "roll" else None


async def execute(
    tool_call_id: str, args: dict[str, object], signal: object, on_update: Callable[[AgentToolResult], None]
) -> AgentToolResult:
    """A tool without the decorator."""
    on_update(AgentToolResult(content=[{"type": "text", "text": "half"}]))
    return AgentToolResult(content=[{"type": "text", "text": "done"}], details={"id": tool_call_id})


BY_HAND = AgentTool("by_hand", "A tool.", execute=execute)


async def test_it() -> None:
    """The test helpers are typed, too."""
    provider = ScriptedProvider("Hi")
    agent = Agent(AgentOptions(stream_fn=provider, initial_state={"model": provider.model}))
    events = await collect(agent.stream("Hi"))
    check_grammar(events)
    async with FakeServer(FakeReply.text("Hi")) as server:
        assert_type(server.url, str)
