"""Change an agent's mind while it works, and give it something to do afterwards.

OPENROUTER_API_KEY=... python examples/steering.py, or set BASE_URL as in quickstart.py.
"""

import asyncio
import os

from tinyagent import Agent, AgentOptions, OpenRouterModel, extract_text, stream_openrouter, tool


@tool(read_only=True)
async def look_up(city: str) -> str:
    """Look up the number of inhabitants of a city."""
    return {"Paris": "2,100,000", "Rome": "2,700,000"}.get(city, "unknown")


def say(text: str) -> dict:
    """A user's message."""
    return {"role": "user", "content": [{"type": "text", "text": text}]}


async def main() -> None:
    """Interrupt when the agent turns to Rome; queue one more question for the end."""
    agent = Agent(AgentOptions(stream_fn=stream_openrouter))
    model = OpenRouterModel()
    model.base_url = os.environ.get("BASE_URL", model.base_url)
    agent.set_model(model)
    agent.set_tools([look_up])

    def on_event(event) -> None:
        if event.type == "tool_execution_start" and event.args["city"] == "Rome":
            agent.steer(say("Never mind Rome."))  # heard before the next model call
        if event.type == "message_end" and event.message["role"] in ("user", "assistant"):
            print(f"{event.message['role']}: {extract_text(event.message)}")

    unsubscribe = agent.subscribe(on_event)
    agent.follow_up(say("Now in one sentence."))  # heard when the agent would otherwise stop
    await agent.prompt("How many people live in Paris and in Rome?")
    unsubscribe()


asyncio.run(main())
