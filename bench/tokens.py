"""CPU per token within one process, and the memory for a long reply.

`python -m bench.tokens CLIENT URL MODEL…` measures one client in a separate process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable

from bench.clients import CLIENTS, question
from bench.measure import CPUS, Figure, Memory, Peers, pin, rounds, worker

WARM_UP = ("text-200", "thinking-200", "arguments-4096-64")
ENOUGH = 20_000
"""The minimum number of measured deltas; short replies are repeated."""


def deltas(model: str) -> int:
    """Return the number of deltas that the server sends for a model."""
    kind, first, *rest = model.split("-")
    return -(-int(first) // int(rest[0])) if kind == "arguments" else int(first)


def models(lengths: Iterable[int]) -> list[str]:
    """Return all models. The longest is first, so that its memory is measured before others grow the heap."""
    lengths = sorted(lengths, reverse=True)
    thinking = {lengths[0], lengths[-1]}
    return [
        *(f"text-{n}" for n in lengths),
        *(f"thinking-{n}" for n in sorted(thinking, reverse=True)),
        "arguments-1048576-64",
        "arguments-65536-64",
    ]


async def measure(client: str, url: str, wanted: list[str]) -> dict[str, float]:
    """Return the microseconds of CPU per delta for each model, and the MiB for the first."""
    result: dict[str, float] = {}
    async with CLIENTS[client].load()(url) as ask:
        for model in WARM_UP:
            await ask(question(model))
        for n, model in enumerate(wanted):
            expected = deltas(model)
            times = []
            with Memory() as memory:
                for _ in range(max(ENOUGH // expected, 1)):
                    gc.collect()
                    begin = time.process_time()
                    reply = await ask(question(model))
                    times.append(time.process_time() - begin)
                    if not expected <= reply.count <= expected + 2:
                        raise RuntimeError(f"{client}: {model}: {reply.count} deltas, not {expected}")
            result[model] = Figure.of(times).median / expected * 1e6
            if n == 0:
                result["MiB"] = memory.mib
    return result


def run(
    url: str, peers: Peers, count: int, lengths: list[int], say: Callable[[str], None]
) -> dict[str, dict[str, Figure]]:
    """Measure every installed client, alternately."""
    wanted = models(lengths)
    measures = {
        name: lambda name=name, python=python: worker("tokens", python, name, url, *wanted)
        for name, entry in CLIENTS.items()
        if (python := peers.python(*entry.needs))
    }
    return rounds(count, measures, say)


if __name__ == "__main__":
    pin(CPUS[-1])
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2], sys.argv[3:]))))
