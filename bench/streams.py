"""Many concurrent streams, each paced to last a second: wall time, CPU, lag of the loop, memory.

`python -m bench.streams CLIENT URL COUNT` measures one client in a separate process.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial

from bench.clients import CLIENTS, question
from bench.measure import CPUS, ROOT, Figure, Memory, Peers, pin, printed, rounds

MODEL = "paced-500"
BEAT = 0.005


async def lateness(late: list[float]) -> None:
    """Record by how many milliseconds the loop wakes a task too late."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(BEAT)
        late.append((time.perf_counter() - begin - BEAT) * 1e3)


async def measure(client: str, url: str, count: int) -> dict[str, float]:
    """Measure `count` streams at the same time."""
    late: list[float] = []
    async with CLIENTS[client].load()(url) as ask:
        await ask(question("text-200"))
        with Memory() as memory:
            watch = asyncio.create_task(lateness(late))
            wall, cpu = time.perf_counter(), time.process_time()
            replies = await asyncio.gather(*(ask(question(MODEL)) for _ in range(count)))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            watch.cancel()
    short = sum(reply.count < 500 for reply in replies)
    if short:
        raise RuntimeError(f"{client}: {short} of {count} replies are incomplete")
    late.sort()
    return {"wall s": wall, "CPU s": cpu, "lag p99 ms": late[int(len(late) * 0.99)], "MiB": memory.mib}


def _commands(peers: Peers) -> dict[str, list[str]]:
    """Return the commands of the installed clients, without the URL and the number of streams."""
    commands = {
        name: [python, "-m", "bench.streams", name]
        for name in ("floor", "httpx", "openai", "agent", "agent-httpx", "agent-uvloop")
        if (python := peers.python(*CLIENTS[name].needs))
    }
    if (node := peers.node("@earendil-works/pi-agent-core")) and peers.path is not None:
        # On the processor to which the other clients pin themselves.
        pinned = ["taskset", "-c", str(CPUS[-1])] if shutil.which("taskset") else []
        script = str(ROOT / "bench" / "clients" / "pi.mjs")
        commands["pi (Node.js)"] = [*pinned, node, script, str(peers.path)]
    return commands


def run(
    url: str, peers: Peers, count: int, streams: list[int], say: Callable[[str], None]
) -> dict[int, dict[str, dict[str, Figure]]]:
    """Measure every client for each number of streams."""
    return {
        number: rounds(
            count,
            {
                name: partial(printed, [*command, url, str(number)])
                for name, command in _commands(peers).items()
            },
            lambda text, number=number: say(f"{number} streams, {text}"),
        )
        for number in streams
    }


if __name__ == "__main__":
    pin(CPUS[-1])
    if sys.argv[1].endswith("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
