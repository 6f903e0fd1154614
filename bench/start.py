"""Complete processes: the time until a program prints its version, its first byte and its end."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import Figure, Peers, program, rounds

LENGTHS = (1, 1000)


@contextmanager
def homes(url: str, models: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Write our configuration and that of llm, with the loopback server as a provider.

    `models` are llm's names of models and their ids; by default those of `LENGTHS`.
    """
    models = models or {f"bench-{n}": f"text-{n}" for n in LENGTHS}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        home = Path(name)
        (home / "config.toml").write_text(f'[providers.bench]\nbase_url = "{url}"\n')
        (home / "extra-openai-models.yaml").write_text(
            "".join(
                f"- model_id: {name}\n  model_name: {model}\n  api_base: {url}\n"
                for name, model in models.items()
            )
        )
        yield {"TINYAGENT_HOME": name, "LLM_USER_PATH": name, "OPENAI_API_KEY": "none"}


def versions(peers: Peers) -> dict[str, list[str]]:
    """Return the programs that print their version."""
    commands = {"python -c pass": [sys.executable, "-c", "pass"]}
    if ours := peers.program("tinyagent"):
        commands |= {f"tinyagent {option}": [ours, option] for option in ("--version", "--help")}
    if llm := peers.program("llm"):
        commands["llm --version"] = [llm, "--version"]
    return commands


def one_shots(peers: Peers, url: str, length: int) -> dict[str, list[str]]:
    """Return the programs that print one reply."""
    model, ask = f"text-{length}", "Say something."
    commands: dict[str, list[str]] = {}
    if ours := peers.program("tinyagent"):
        saved = [ours, "run", "-m", f"bench/{model}", ask]
        run = [*saved, "--no-session"]
        commands |= {
            "tinyagent run": run,
            "tinyagent run --jsonl": [*run, "--jsonl"],
            "tinyagent run, saved as a session": saved,
        }
    if llm := peers.program("llm"):
        # Without its log, as tinyagent runs without a session.
        commands["llm"] = [llm, "--no-log", "-m", f"bench-{length}", ask]
    scripts = {"httpx": ("httpx",), "openai": ("openai",), "tinyagent": ("httpx", "msgspec", "jiter")}
    for name, needs in scripts.items():
        if python := peers.python(*needs):
            commands[f"script on {name}"] = [python, "-m", f"bench.scripts.on_{name}", url, model]
    return commands


def run(
    url: str, peers: Peers, count: int, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Measure versions, then replies of each length. A warm-up round is not counted."""
    groups = {"version": versions(peers)}
    groups |= {f"one-shot {n}": one_shots(peers, url, n) for n in LENGTHS}
    result = {}
    with homes(url) as variables:
        for group, commands in groups.items():
            measures = {name: partial(program, command, **variables) for name, command in commands.items()}
            warm = rounds(1, measures, lambda text, group=group: say(f"{group}, warm-up: {text}"))
            measures = {name: measures[name] for name in warm}
            result[group] = rounds(count, measures, lambda text, group=group: say(f"{group}, {text}"))
    return result
