"""What a program with an agent writes. Checked by mypy and pyright, and never run."""

import asyncio
from typing import assert_type

from tinyagent import (
    Agent,
    AgentEvent,
    AgentMessage,
    AgentOptions,
    AgentTool,
    AnthropicModel,
    AssistantMessage,
    Model,
    OpenAICompatModel,
    OpenRouterModel,
    ThinkingLevel,
    ToolCallDecision,
    ToolCallInfo,
    UserMessage,
    stream_anthropic,
    stream_openai_completions,
    stream_openrouter,
    tool,
)


@tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@tool(name="shout", read_only=True)
async def shout(text: str) -> str:
    """Return the text in capitals."""
    return text.upper()


async def tools() -> None:
    """A tool keeps the types of its function."""
    assert_type(add(1, b=2), int)
    assert_type(await shout("a"), str)
    assert_type(add.name, str)
    everything: list[AgentTool] = [add, shout]
    Agent(AgentOptions(initial_state={"tools": everything}))


async def one_shot() -> None:
    """The snippet of the README."""
    agent = Agent(
        AgentOptions(
            initial_state={"model": OpenRouterModel(id="openai/gpt-4o"), "system_prompt": "Be brief."},
            stream_fn=stream_openrouter,
        )
    )
    assert_type(await agent.prompt("Hi"), AssistantMessage)
    assert_type(await agent.prompt_text("Hi"), str)
    async for delta in agent.stream_text("Hi"):
        assert_type(delta, str)
    async with agent.stream("Hi") as events:
        async for event in events:
            assert_type(event, AgentEvent)
    assert_type(agent.state["messages"], list[AgentMessage])
    assert_type(agent.state["error"], str | None)


def setup(agent: Agent) -> None:
    """Models, levels and callbacks have real types."""
    agent.set_model(Model(provider="openai", id="gpt-5", api="openai-responses"))
    agent.set_model(OpenAICompatModel(id="m", base_url="http://127.0.0.1:8080/v1", transport="httpx"))
    agent.set_thinking_level(ThinkingLevel.HIGH)
    unsubscribe = agent.subscribe(lambda event: print(event.type))
    assert_type(unsubscribe(), None)
    message: UserMessage = {
        "role": "user",
        "content": [{"type": "text", "text": "Stop."}],
        "timestamp": 0,
    }
    agent.steer(message)


async def before(call: ToolCallInfo) -> ToolCallDecision | None:
    """A hook."""
    assert_type(call.tool, AgentTool)
    return ToolCallDecision(block="no") if call.tool.name == "bash" else None


OPTIONS = [
    AgentOptions(stream_fn=stream_anthropic, before_tool_call=before, max_turns=3),
    AgentOptions(stream_fn=stream_openai_completions, initial_state={"model": AnthropicModel()}),
]

asyncio.run(one_shot())
