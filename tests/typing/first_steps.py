"""The first programs that users wrote with tinyagent. They must stay valid. Checked, and never run."""

import asyncio
from typing import Any, assert_type

from tinyagent import (
    Agent,
    AgentEvent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    Context,
    OpenAICompatModel,
    OpenRouterModel,
    SimpleStreamOptions,
    StreamResponse,
    stream_openrouter,
)
from tinyagent.alchemy_provider import OpenAICompatModel as AlchemyModel
from tinyagent.alchemy_provider import stream_alchemy_openai_completions

agent = Agent(AgentOptions(stream_fn=stream_openrouter, session_id="my-session"))
agent.set_system_prompt("You are a helpful assistant.")
agent.set_model(OpenRouterModel(id="anthropic/claude-3.5-sonnet"))


async def main() -> None:
    """Ask a question."""
    response = await agent.prompt_text("What is the capital of France?")
    assert_type(response, str)
    print(response)


async def calculate_sum(
    tool_call_id: str, args: dict[str, Any], signal: object, on_update: object
) -> AgentToolResult:
    """A tool by hand."""
    result = args["a"] + args["b"]
    return AgentToolResult(content=[{"type": "text", "text": str(result)}])


tool = AgentTool(
    name="sum",
    description="Add two numbers",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
    execute=calculate_sum,
)
agent.set_tools([tool])


def on_event(event: AgentEvent) -> None:
    """Print the type of an event."""
    print(f"Event: {event.type}")


unsubscribe = agent.subscribe(on_event)
unsubscribe()

alchemy = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions, session_id="my-session"))
alchemy.set_model(
    AlchemyModel(
        id="anthropic/claude-3.5-sonnet",
        base_url="https://openrouter.ai/api/v1/chat/completions",
        headers={"X-Custom": "val"},
    )
)


async def without_an_agent() -> None:
    """Call the function of a provider."""
    context = Context(
        system_prompt="You are helpful.",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        tools=[tool],
    )
    options: SimpleStreamOptions = {"api_key": "sk-test-1", "temperature": 0.7, "max_tokens": 1024}
    response = await stream_alchemy_openai_completions(
        OpenAICompatModel(id="m", base_url="http://127.0.0.1:8080/v1"), context, options
    )
    assert_type(await read_text(response), str)


async def read_text(response: StreamResponse) -> str:
    """Join the text of a reply."""
    return "".join([event["delta"] async for event in response if event["type"] == "text_delta"])


asyncio.run(main())
