"""Two tools, and the events of a run: python examples/tools_and_events.py

The demo answers offline. Set OPENROUTER_API_KEY and MODEL=openai/gpt-4.1-mini for a model.
"""

import asyncio
import os
from typing import Any

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    AgentToolUpdateCallback,
    OpenRouterModel,
    extract_text,
    stream_openrouter,
    tool,
)
from tinyagent.demo_provider import demo_provider


@tool(read_only=True)
def word_count(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


# A tool without the decorator: a JSON Schema, and a coroutine that can wait for `signal` and report progress.
async def calculate_sum(
    tool_call_id: str,
    args: dict[str, Any],
    signal: asyncio.Event | None,
    on_update: AgentToolUpdateCallback,
) -> AgentToolResult:
    """Add two numbers."""
    return AgentToolResult(content=[{"type": "text", "text": str(args["a"] + args["b"])}])


sum_tool = AgentTool(
    name="sum",
    description="Add two numbers",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
    execute=calculate_sum,
)


def make_agent() -> Agent:
    """Return an agent with the demo, or with the model that MODEL names."""
    if model_id := os.environ.get("MODEL"):
        agent = Agent(AgentOptions(stream_fn=stream_openrouter))
        model = OpenRouterModel(id=model_id)
        model.base_url = os.environ.get("BASE_URL", model.base_url)
        agent.set_model(model)
        return agent
    demo = demo_provider()
    agent = Agent(AgentOptions(stream_fn=demo.stream_fn))
    agent.set_model(demo.make_model("", {}))
    return agent


async def main() -> None:
    """Stream a run: print text as it arrives, and some other events on separate lines."""
    agent = make_agent()
    agent.set_tools([sum_tool, word_count])

    async with agent.stream("Call sum with a=20 b=22, and word_count with text='one two three'.") as events:
        async for event in events:
            match event.type:
                case "message_update" if event.assistant_message_event["type"] == "text_delta":
                    print(event.assistant_message_event["delta"], end="", flush=True)
                case "tool_execution_start":
                    print(f"[{event.tool_name} {event.args}]")
                case "tool_execution_end":
                    print(f"[{event.tool_name} -> {extract_text({'content': event.result.content})}]")
                case "agent_end":
                    print(f"\n[{len(event.messages)} messages]")


asyncio.run(main())
