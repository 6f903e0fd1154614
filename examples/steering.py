"""Steer an agent while it works, and queue a message for the end.

OPENROUTER_API_KEY=... python examples/steering.py, or set BASE_URL as in quickstart.py.
"""

import asyncio
import os

from tinyagent import Agent, AgentEvent, AgentOptions, OpenRouterModel, extract_text, stream_openrouter, tool


@tool(read_only=True)
async def look_up(city: str) -> str:
    """Look up the number of inhabitants of a city."""
    return {"Paris": "2,100,000", "Rome": "2,700,000"}.get(city, "unknown")


async def main() -> None:
    """Steer when the agent looks up Rome, and queue one more question."""
    agent = Agent(AgentOptions(stream_fn=stream_openrouter))
    model = OpenRouterModel()
    model.base_url = os.environ.get("BASE_URL", model.base_url)
    agent.set_model(model)
    agent.set_tools([look_up])

    def on_event(event: AgentEvent) -> None:
        if event.type == "tool_execution_start" and event.args["city"] == "Rome":
            agent.steer("Never mind Rome.")  # delivered before the next model call
        if event.type == "message_end" and event.message["role"] in ("user", "assistant"):
            print(f"{event.message['role']}: {extract_text(event.message)}")

    unsubscribe = agent.subscribe(on_event)
    agent.follow_up("Now in one sentence.")  # delivered when the agent would otherwise stop
    await agent.prompt("How many people live in Paris and in Rome?")
    unsubscribe()


asyncio.run(main())
