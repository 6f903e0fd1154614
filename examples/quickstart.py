"""The smallest agent: one question, one answer.

Run it with a key:                     OPENROUTER_API_KEY=... python examples/quickstart.py
or against any compatible server:      BASE_URL=http://127.0.0.1:8080/v1/chat/completions
"""

import asyncio
import os

from tinyagent import Agent, AgentOptions, OpenRouterModel, stream_openrouter

agent = Agent(AgentOptions(stream_fn=stream_openrouter, session_id="my-session"))
agent.set_system_prompt("You are a helpful assistant.")
model = OpenRouterModel(id="anthropic/claude-3.5-sonnet")
model.base_url = os.environ.get("BASE_URL", model.base_url)
agent.set_model(model)


async def main() -> None:
    """Ask once and print the reply."""
    print(await agent.prompt_text("What is the capital of France?"))


asyncio.run(main())
