"""Tool turns with a growing history: milliseconds of CPU per turn, in the first and in the last tenth.

`python -m bench.turns CLIENT URL COUNT` measures one client in a separate process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable

from bench.clients import CLIENTS, Ask, question
from bench.measure import CPUS, Figure, Peers, pin, rounds, worker

RESULT = "def main() -> None:\n    print('hello')\n" * 4
TOOL = {
    "name": "read",
    "description": "Read a file.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}


async def by_hand(ask: Ask, count: int) -> list[float]:
    """Run a tool loop as in a script, and return the CPU clock after each turn."""
    body = question(f"turns-{count}") | {"tools": [{"type": "function", "function": TOOL}]}
    marks = [time.process_time()]
    for _ in range(count):
        reply = await ask(body)
        arguments = "".join(reply.arguments)
        assert json.loads(arguments)["path"]
        function = {"name": reply.name, "arguments": arguments}
        call = {"id": reply.call_id, "type": "function", "function": function}
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": reply.call_id, "content": RESULT},
        ]
        marks.append(time.process_time())
    return marks


async def measure(client: str, url: str, count: int) -> dict[str, float]:
    """Return the milliseconds per turn: the mean, and both ends."""
    async with CLIENTS[client].load()(url) as ask:
        for n in (3, count):  # the first is the warm-up
            if client == "agent":
                from bench.clients.ours import tool_turns

                marks = await tool_turns(url, n, TOOL, RESULT)
            else:
                marks = await by_hand(ask, n)
    if len(marks) != count + 1:
        raise RuntimeError(f"{client}: {len(marks) - 1} turns, not {count}")
    turns = [(after - before) * 1e3 for before, after in itertools.pairwise(marks)]
    tenth = max(count // 10, 1)
    return {
        "ms a turn": statistics.mean(turns),
        "first tenth": statistics.mean(turns[:tenth]),
        "last tenth": statistics.mean(turns[-tenth:]),
    }


def run(
    url: str, peers: Peers, count: int, turns: int, say: Callable[[str], None]
) -> dict[str, dict[str, Figure]]:
    """Measure every installed client, alternately."""
    measures = {
        name: lambda name=name, python=python: worker("turns", python, name, url, turns)
        for name in ("floor", "httpx", "openai", "agent")
        if (python := peers.python(*CLIENTS[name].needs))
    }
    return rounds(count, measures, say)


if __name__ == "__main__":
    pin(CPUS[-1])
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
