"""Agents that share the limits of one provider: python examples/shared_limits.py

The demo answers offline. Set OPENROUTER_API_KEY and MODEL=openai/gpt-4.1-mini for a model.
"""

import asyncio
import os

from tinyagent import Agent, AgentOptions, OpenRouterModel, stream_openrouter
from tinyagent.demo_provider import demo_provider
from tinyagent.request_limits import ProviderLimits, RequestLimits

limits = RequestLimits(ProviderLimits(max_concurrency=20, requests_per_minute=600))


def make_agent() -> Agent:
    """Return an agent that shares the limits, with the demo, or with the model that MODEL names."""
    if model_id := os.environ.get("MODEL"):
        agent = Agent(AgentOptions(stream_fn=limits.wrap(stream_openrouter)))
        model = OpenRouterModel(id=model_id)
        model.base_url = os.environ.get("BASE_URL", model.base_url)
        agent.set_model(model)
        return agent
    demo = demo_provider()
    agent = Agent(AgentOptions(stream_fn=limits.wrap(demo.stream_fn)))
    agent.set_model(demo.make_model("", {}))
    return agent


async def ask(city: str) -> str:
    """Ask with an agent of its own."""
    return await make_agent().prompt_text(f"In which country is {city}? Answer in one word.")


async def main() -> None:
    """Ask at the same time. Requests that the provider refuses are repeated, with fewer at a time."""
    cities = ["Paris", "Rome", "Lima"]
    for city, country in zip(cities, await asyncio.gather(*map(ask, cities)), strict=True):
        print(f"{city}: {country.splitlines()[0]}")


asyncio.run(main())
