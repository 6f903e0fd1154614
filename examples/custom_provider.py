"""A provider is a coroutine: (model, context, options) -> a stream of events. This one needs no network.

python examples/custom_provider.py
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator

from tinyagent import (
    Agent,
    AgentOptions,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    Model,
    SimpleStreamOptions,
    extract_text,
)


class Echo:
    """A stream: iterate over its events, or await `result()` for the complete message."""

    def __init__(self, model: Model, text: str) -> None:
        self.text = text
        self.message: AssistantMessage = {
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "stop",
            "timestamp": time.time_ns() // 1_000_000,
            "api": model.api,
            "provider": model.provider,
            "model": model.id,
            "usage": None,
        }

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        """Yield each word as an event. The last event is `done` (or `error`)."""
        yield {"type": "start"}
        yield {"type": "text_start", "content_index": 0}
        for word in re.findall(r"\S+\s*", self.text):
            yield {"type": "text_delta", "content_index": 0, "delta": word}
            await asyncio.sleep(0.05)
        yield {"type": "text_end", "content_index": 0, "content": self.text}
        yield {"type": "done", "reason": "stop", "message": self.message}

    async def result(self) -> AssistantMessage:
        """Return the complete message."""
        return self.message


async def stream_echo(model: Model, context: Context, options: SimpleStreamOptions) -> Echo:
    """Answer with the user's text in capitals."""
    return Echo(model, extract_text(context.messages[-1]).upper())


async def main() -> None:
    """Use the provider like any other."""
    agent = Agent(AgentOptions(stream_fn=stream_echo))
    agent.set_model(Model(provider="echo", id="echo-1", api="echo"))
    async for delta in agent.stream_text("is this thing on?"):
        print(delta, end="", flush=True)
    print()


asyncio.run(main())
