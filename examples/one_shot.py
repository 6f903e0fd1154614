"""The smallest agent, one question and one answer, and what to do without one: python examples/one_shot.py

The demo answers offline. Set OPENROUTER_API_KEY and MODEL=openai/gpt-4.1-mini for a model.
BASE_URL is another server with the same API, such as http://127.0.0.1:8080/v1/chat/completions.
"""

import asyncio
import os
import sys

from tinyagent import Agent, AgentOptions, OpenRouterModel, stream_openrouter
from tinyagent.demo_provider import demo_provider
from tinyagent.errors import TinyAgentError


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
    """Ask once. The reply is complete, or there is an error."""
    agent = make_agent()
    agent.set_system_prompt("You are a helpful assistant.")
    try:
        print(await agent.prompt_text("What is the capital of France?"))
    except TinyAgentError as error:
        sys.exit(f"{error}\nReceived so far: {error.partial_text!r}")


asyncio.run(main())
