"""A reply on standard output, with our library."""

import asyncio
import sys

from tinyagent import Agent, AgentOptions, stream_openai_completions
from tinyagent.openai_wire import OpenAICompatModel


async def main(url: str, model: str) -> None:
    agent = Agent(AgentOptions(stream_fn=stream_openai_completions, get_api_key=lambda _: "none"))
    agent.set_model(OpenAICompatModel(provider="bench", id=model, base_url=f"{url}/chat/completions"))
    async for piece in agent.stream_text("Say something."):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


asyncio.run(main(*sys.argv[1:3]))
