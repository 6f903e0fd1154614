"""`python -m bench`: measure, print the tables and the goals, and write the figures as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from bench import batch, histories, report, start, streams, tokens, turns
from bench.measure import Figure, Peers, say, server

PARTS = ("start", "tokens", "streams", "turns", "histories", "batch")


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"what to measure: {', '.join(PARTS)}; by default everything")
    parser.add_argument("--quick", action="store_true", help="few rounds, no long replies")
    parser.add_argument("--rounds", type=int, help="the number of rounds (7 for processes, else 3)")
    parser.add_argument(
        "--peers", type=Path, default=os.environ.get("BENCH_PEERS"),
        help="a virtual environment with the competitors in it (llm, openai); also $BENCH_PEERS",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/bench.json"), help="the figures, as JSON"
    )
    parser.add_argument("--write", type=Path, help="write the tables into this document, between its markers")
    given = parser.parse_args()
    if unknown := set(given.part) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    given.peers = Path(given.peers).absolute() if given.peers else None
    return given


def machine(peers: Peers) -> dict[str, Any]:
    """Return the machine and the versions of the figures."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "distributions": len(list(importlib.metadata.distributions())),
        **{name: peers.version(name) for name in ("httpx", "msgspec", "openai", "llm")},
    }


def plain(value: Any) -> Any:
    """Convert figures to dictionaries."""
    if isinstance(value, Figure):
        return dataclasses.asdict(value)
    return {str(key): plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def main() -> None:
    """Measure the requested parts."""
    given = options()
    wanted = given.part or PARTS
    peers = Peers(given.peers)
    few, many = (
        (given.rounds or 2, given.rounds or 3) if given.quick else (given.rounds or 3, given.rounds or 7)
    )
    lengths = [1_000, 10_000] if given.quick else [1_000, 10_000, 100_000]
    results: dict[str, Any] = {"machine": machine(peers)}
    print(" · ".join(f"{key} {value}" for key, value in results["machine"].items() if value), end="\n\n")
    with server() as url:
        if "start" in wanted:
            results["start"] = start.run(url, peers, many, say)
        if "tokens" in wanted:
            results["tokens"] = tokens.run(url, peers, few, lengths, say)
        if "streams" in wanted:
            results["streams"] = streams.run(url, peers, few, [100] if given.quick else [100, 500], say)
        if "turns" in wanted:
            results["turns"] = turns.run(url, peers, few, 30 if given.quick else 100, say)
        if "histories" in wanted:
            messages = 200 if given.quick else histories.MESSAGES
            results["histories"] = histories.run(url, peers, few, messages, say)
        if "batch" in wanted:
            prompts = 1_000 if given.quick else batch.PROMPTS
            results["batch"] = batch.run(url, peers, few, prompts, say)
    say("")
    if given.write is not None:
        report.write(given.write, results)
    print(report.text(results))
    verdicts = [{**dataclasses.asdict(goal), "met": goal.met} for goal in report.goals(results)]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(plain(results) | {"goals": verdicts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
