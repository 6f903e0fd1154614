"""Several agents that share the limits of one provider.

Run it with a key:                     OPENROUTER_API_KEY=... python examples/shared_limits.py
or against any compatible server:      BASE_URL=http://127.0.0.1:8080/v1/chat/completions
"""

import asyncio
import os

from tinyagent import Agent, AgentOptions, OpenRouterModel, stream_openrouter
from tinyagent.request_limits import ProviderLimits, RequestLimits

limits = RequestLimits(ProviderLimits(max_concurrency=20, requests_per_minute=600))
stream = limits.wrap(stream_openrouter)
model = OpenRouterModel(id="anthropic/claude-3.5-sonnet")
model.base_url = os.environ.get("BASE_URL", model.base_url)


async def ask(city: str) -> str:
    """Ask with an agent of its own."""
    agent = Agent(AgentOptions(stream_fn=stream))
    agent.set_model(model)
    return await agent.prompt_text(f"In which country is {city}? Answer in one word.")


async def main() -> None:
    """Ask at the same time. Requests that the provider refuses are repeated, with fewer at a time."""
    cities = ["Paris", "Rome", "Lima"]
    for city, country in zip(cities, await asyncio.gather(*map(ask, cities)), strict=True):
        print(f"{city}: {country}")


asyncio.run(main())
