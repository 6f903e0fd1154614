"""Long histories: a turn at 2,000 messages, `--history -` of 50 MB, and JSON lines beside msgspec.

`python -m bench.histories CLIENT URL COUNT` measures turns of one client; `python -m bench.histories lines`
measures reading and writing JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.clients import CLIENTS, question
from bench.measure import CPUS, Figure, Peers, environment, pin, rounds, worker

MESSAGES = 2_000
TURNS = 20
TEXT = "The quick brown fox jumps over a lazy dog and then it sleeps all day. " * 3
RECORD_BYTES = 50_000_000
DELTAS = 50_000


async def by_hand(client: str, url: str, count: int) -> float:
    """Return the milliseconds of CPU per turn, for a script that stores the messages itself."""
    body = question("text-1")
    roles = ("user", "assistant")
    body["messages"] = [{"role": roles[n % 2], "content": f"{n} {TEXT}"} for n in range(count)]
    async with CLIENTS[client].load()(url) as ask:
        await ask(body)
        begin = time.process_time()
        for _ in range(TURNS):
            reply = await ask(body)
            body["messages"] += [
                {"role": "assistant", "content": reply.text()},
                {"role": "user", "content": "Say something."},
            ]
        return (time.process_time() - begin) / TURNS * 1e3


async def by_agent(url: str, count: int) -> float:
    """Return the same for an agent that starts with the history."""
    from bench.clients.ours import new_agent
    from tinyagent.testing import assistant, user

    agent = new_agent(url, "text-1")
    make = (user, assistant)
    agent.replace_messages([make[n % 2](f"{n} {TEXT}") for n in range(count)])
    await agent.prompt("Say something.")
    begin = time.process_time()
    for _ in range(TURNS):
        await agent.prompt("Say something.")
    return (time.process_time() - begin) / TURNS * 1e3


def lines() -> dict[str, float]:
    """Return MB/s of reading and writing the JSON lines of a long reply, and of msgspec with these lines."""
    from tinyagent import Agent, AgentOptions, jsonl
    from tinyagent.agent_types import AgentEvent
    from tinyagent.testing import ScriptedProvider, collect

    async def events_of_run() -> list[AgentEvent]:
        provider = ScriptedProvider(" ".join(f"word{n % 97}" for n in range(DELTAS)))
        agent = Agent(AgentOptions(stream_fn=provider, initial_state={"model": provider.model}))
        return await collect(agent.stream("Say something."))

    events = asyncio.run(events_of_run())
    encoder = jsonl.Encoder()
    written = [encoder.encode(event) for event in events]
    text = b"".join(written)
    split = text.splitlines()
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    values = [decode(line) for line in split]

    def write() -> None:
        encoder = jsonl.Encoder()
        for event in events:
            encoder.encode(event)

    measures: dict[str, Callable[[], object]] = {
        "read": lambda: list(jsonl.read(split)),
        "msgspec decode": lambda: [decode(line) for line in split],
        "write": write,
        "msgspec encode": lambda: [encode(value) for value in values],
    }
    best = dict.fromkeys(measures, float("inf"))
    for _ in range(5):
        for name, measure in measures.items():
            begin = time.process_time()
            measure()
            best[name] = min(best[name], time.process_time() - begin)
    return {name: len(text) / seconds / 1e6 for name, seconds in best.items()}


_BY_MSGSPEC = """
import sys, msgspec
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
data = sys.stdin.buffer.read()
messages = [decode(line) for line in data.splitlines()]
sys.stdout.buffer.write(encode({"messages": messages})[:1])
"""


def _record(folder: Path) -> Path:
    """Write the record of a conversation of `RECORD_BYTES`."""
    from tinyagent import jsonl
    from tinyagent.testing import assistant, user

    block = TEXT * 10
    count = RECORD_BYTES // (len(block) + 120)
    make = (user, assistant)
    path = folder / "history.jsonl"
    encode = jsonl.Encoder().encode
    with path.open("wb") as file:
        for n in range(count):
            file.write(encode(jsonl.HistoryRecord(message={**make[n % 2](f"{n} {block}")})))
    return path


def _cpu(command: list[str], stdin: Path | None, **more: str) -> dict[str, float]:
    before = os.times()
    with open(stdin or os.devnull, "rb") as source:  # noqa: PTH123 - a descriptor for the child
        done = subprocess.run(
            command, stdin=source, capture_output=True, env=environment(**more), check=False
        )
    after = os.times()
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-300:])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"CPU ms": used * 1e3}


def run(
    url: str, peers: Peers, count: int, messages: int, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Measure the three groups: turns, `--history -`, and lines."""
    turns = rounds(
        count,
        {
            name: lambda name=name, python=python: worker("histories", python, name, url, messages)
            for name in ("httpx", "openai", "agent")
            if (python := peers.python(*CLIENTS[name].needs))
        },
        say,
    )
    result = {f"a turn at {messages:,} messages": turns}
    ours = peers.program("tinyagent")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        path = _record(folder)
        (folder / "config.toml").write_text(f'[providers.bench]\nbase_url = "{url}"\n')
        home = {"TINYAGENT_HOME": name}
        command = [ours or "tinyagent", "run", "--no-session", "-m", "bench/text-1", "Go on."]
        result["a history of 50 MB"] = rounds(
            count,
            {
                "tinyagent run --history -": lambda: _cpu([*command, "--history", "-"], path, **home),
                "tinyagent run": lambda: _cpu(command, None, **home),
                "msgspec: decode, encode": lambda: _cpu([sys.executable, "-c", _BY_MSGSPEC], path),
                "python -c pass": lambda: _cpu([sys.executable, "-c", "pass"], None),
            },
            say,
        )
    result["JSON lines, MB/s"] = rounds(
        count, {"JSON lines": lambda: worker("histories", sys.executable, "lines")}, say
    )
    return result


async def _measure(client: str, url: str, count: int) -> dict[str, float]:
    used = await (by_agent(url, count) if client == "agent" else by_hand(client, url, count))
    return {"ms a turn": used}


if __name__ == "__main__":
    pin(CPUS[-1])
    if sys.argv[1] == "lines":
        print(json.dumps(lines()))
    else:
        print(json.dumps(asyncio.run(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
