"""Many short prompts, each with a reply that takes a second: `tinyagent batch` beside other ways.

The programs that would take hours get fewer prompts. Their time for all is extrapolated for each prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Figure, Peers, program, rounds
from bench.server import pace_s
from bench.start import homes

MODEL = "paced-50"
PROMPTS = 10_000
MANY, FEW = 500, 16
"""Requests at a time: of one process, and of programs that start a process for each prompt."""

Variables = dict[str, str]


@dataclass(frozen=True)
class Way:
    """A way to answer a file of prompts.

    Attributes:
        command: The command; `{input}` and `{output}` stand for the files.
        prompts: The prompts that it gets.
        jobs: How many it answers at a time.
        writes: Whether it writes a line for each prompt to the output, so that they can be counted.
    """

    command: list[str]
    prompts: int
    jobs: int
    writes: bool = True


def ways(peers: Peers, url: str, prompts: int) -> dict[str, Way]:
    """Return the installed ways, by their titles. `prompts` is the number for those that are fast enough."""
    found: dict[str, Way] = {}
    some, few = min(prompts, 20 * FEW), min(prompts, 5)
    if ours := peers.program("tinyagent"):
        for jobs, number in ((MANY, prompts), (FEW, some)):
            batch = [ours, "batch", "{input}", "-o", "{output}", "--lines", "-q", "-m", f"bench/{MODEL}"]
            title = _title(f"tinyagent batch -j {jobs}", number)
            found[title] = Way([*batch, "-j", str(jobs)], number, jobs)
        each = f"{ours} run --no-session -q -m bench/{MODEL} {{}}"
        found[_title(f"xargs -P {FEW} tinyagent run", some)] = Way(
            ["sh", "-c", f"xargs -P {FEW} -I{{}} {each} < {{input}}"], some, FEW, writes=False
        )
    if python := peers.python("openai"):
        found[_title(f"script on openai, semaphore of {MANY}", prompts)] = Way(
            [python, "-m", "bench.scripts.batch_on_openai", url, MODEL, str(MANY), "{input}", "{output}"],
            prompts,
            MANY,
        )
    if llm := peers.program("llm"):
        each = f'{llm} --no-log -m bench-paced "$prompt" < /dev/null || exit 1'
        found[_title("llm in a loop", few)] = Way(
            ["sh", "-c", f"while read -r prompt; do {each}; done < {{input}}"], few, 1, writes=False
        )
    return found


def _title(name: str, prompts: int) -> str:
    return name if prompts == PROMPTS else f"{name} (extrapolated from {prompts:,})"


def measure(way: Way, folder: Path, variables: Variables) -> dict[str, float]:
    """Answer the prompts of a way.

    Raises:
        RuntimeError: It failed, or not all prompts have an answer.
    """
    source, output = folder / "prompts.txt", folder / "answers.jsonl"
    source.write_text("".join(f"Say something about {number}.\n" for number in range(way.prompts)))
    output.unlink(missing_ok=True)
    names = {"{input}": str(source), "{output}": str(output)}
    command = list(way.command)
    for name, value in names.items():
        command = [part.replace(name, value) for part in command]
    figures = program(command, **variables)
    if way.writes and (lines := output.read_bytes().count(b"\n")) != way.prompts:
        raise RuntimeError(f"{lines} of {way.prompts} answers")
    seconds = figures["wall ms"] / 1e3
    return {
        "s for 10,000": seconds / way.prompts * PROMPTS,
        "wall / pace": seconds / (math.ceil(way.prompts / way.jobs) * pace_s(MODEL)),
        "CPU ms a prompt": figures["CPU ms"] / way.prompts,
        "MiB": figures["MiB"],
    }


def run(
    url: str, peers: Peers, count: int, prompts: int, say: Callable[[str], None]
) -> dict[str, dict[str, Figure]]:
    """Measure every installed way, alternately."""
    with homes(url, {"bench-paced": MODEL}) as variables:
        folder = Path(variables["TINYAGENT_HOME"])
        return rounds(
            count,
            {
                name: lambda way=way: measure(way, folder, variables)
                for name, way in ways(peers, url, prompts).items()
            },
            lambda text: say(f"batch, {text}"),
        )
