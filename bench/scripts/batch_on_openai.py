"""A file of prompts, with the openai client and a semaphore, as such scripts are usually written."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TextIO

import openai

url, model, jobs, source, output = sys.argv[1:6]


async def main(prompts: list[str], answers: TextIO) -> None:
    """Answer every prompt, and write a line for each answer."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    room = asyncio.Semaphore(int(jobs))

    async def ask(prompt: str) -> None:
        async with room:
            pieces = []
            async for chunk in await client.chat.completions.create(
                model=model, stream=True, messages=[{"role": "user", "content": prompt}]
            ):
                pieces += [choice.delta.content or "" for choice in chunk.choices]
        answers.write(json.dumps({"prompt": prompt, "text": "".join(pieces)}) + "\n")

    await asyncio.gather(*map(ask, prompts))


with Path(output).open("w") as file:
    asyncio.run(main(Path(source).read_text().splitlines(), file))
