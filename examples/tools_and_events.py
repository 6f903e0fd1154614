"""Two tools, and all events of a run.

OPENROUTER_API_KEY=... python examples/tools_and_events.py, or set BASE_URL as in quickstart.py.
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


async def main() -> None:
    """Stream a run: print text as it arrives, and some other events on separate lines."""
    agent = Agent(AgentOptions(stream_fn=stream_openrouter))
    model = OpenRouterModel()
    model.base_url = os.environ.get("BASE_URL", model.base_url)
    agent.set_model(model)
    agent.set_tools([sum_tool, word_count])

    async with agent.stream("How much is 20 + 22?") as events:
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
