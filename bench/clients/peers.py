"""The clients of other projects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.clients import Ask, Body, Reply


@asynccontextmanager
async def openai_client(url: str) -> AsyncIterator[Ask]:
    """The official client, used as in its README."""
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(body: Body) -> Reply:
            reply = Reply()
            async for chunk in await client.chat.completions.create(**body):
                for choice in chunk.choices:
                    delta = choice.delta
                    piece = delta.content or getattr(delta, "reasoning_content", None)
                    if piece:
                        reply.count += 1
                        reply.pieces.append(piece)
                    for call in delta.tool_calls or ():
                        reply.count += 1
                        reply.call_id = call.id or reply.call_id
                        if call.function:
                            reply.name = call.function.name or reply.name
                            reply.arguments.append(call.function.arguments or "")
            return reply

        yield ask
