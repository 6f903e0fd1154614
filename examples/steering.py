"""Steer a running agent from another task, and queue a question for the end: python examples/steering.py

The demo answers offline. Set OPENROUTER_API_KEY and MODEL=openai/gpt-4.1-mini for a model.
"""

import asyncio
import os

from tinyagent import Agent, AgentEvent, AgentOptions, OpenRouterModel, extract_text, stream_openrouter, tool
from tinyagent.demo_provider import demo_provider

looking = asyncio.Event()
steered = asyncio.Event()


@tool(read_only=True)
async def look_up(city: str) -> str:
    """Look up the number of inhabitants of a city. It is slow, so there is time to steer."""
    looking.set()
    await steered.wait()
    return {"Paris": "2,100,000", "Rome": "2,700,000"}.get(city, "unknown")


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


async def change_your_mind(agent: Agent) -> None:
    """Steer while the tool works. In an application this is a button, a line of input or a time limit."""
    await looking.wait()
    agent.steer("Never mind the number. Name a museum there.")  # the model gets it with its next request
    steered.set()


def show(event: AgentEvent) -> None:
    """Print each message of the user and of the model when it is complete."""
    if event.type == "message_end" and event.message["role"] in ("user", "assistant"):
        text = extract_text(event.message) or "(calls a tool)"
        print(f"{event.message['role']}: {text.splitlines()[0]}")


async def main() -> None:
    """Run the agent and the task that steers it."""
    agent = make_agent()
    agent.set_tools([look_up])
    agent.subscribe(show)
    agent.follow_up("Now in one sentence.")  # sent when the agent would otherwise stop
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(change_your_mind(agent))
        tasks.create_task(agent.prompt("Use look_up city=Paris to find how many people live there."))


asyncio.run(main())
