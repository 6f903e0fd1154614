"""What programs do with a reply that is complete, cut off or at its limit.

    python -m bench.broken_replies tinyagent=PROGRAM llm=PROGRAM aichat=PROGRAM pi=PROGRAM …

The names are those of PEERS. Each program gets a loopback server as its provider, an empty home and a prompt.
docs/comparison.md has the results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from tinyagent.testing import FakeReply, FakeServer
from tinyagent.testing.wires import AnthropicWire, ChatWire, ResponsesWire, Script, Wire

SECONDS = 60
TEXT = "The capital of France is"
PROMPT = "What is the capital of France?"
SetUp: TypeAlias = Callable[[Path, str], tuple[list[str], dict[str, str]]]
"""Writes the configuration into a home for the server's URL; returns arguments and environment."""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def tinyagent(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """tinyagent, with its address as an option."""
    _write(home / "config.toml", f'[providers.probe]\nbase_url = "{url}"\n')
    return ["run", "-m", "probe/m", PROMPT], {"TINYAGENT_HOME": str(home)}


def llm(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """llm, with a model of a compatible server (its documentation, "OpenAI-compatible models")."""
    models = f"- model_id: probe\n  model_name: m\n  api_base: {url}\n"
    _write(home / "extra-openai-models.yaml", models)
    return ["-m", "probe", PROMPT], {"LLM_USER_PATH": str(home), "OPENAI_API_KEY": "sk-test-probe"}


def aichat(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """aichat, with a client of the type `openai-compatible`."""
    client = {"type": "openai-compatible", "name": "probe", "api_base": url, "api_key": "sk-test-probe",
              "models": [{"name": "m"}]}  # fmt: skip
    _write(home / "config.yaml", json.dumps({"model": "probe:m", "clients": [client]}))  # JSON is YAML
    return [PROMPT], {"AICHAT_CONFIG_DIR": str(home)}


def pi(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """Set up pi with a provider of models.json."""
    provider = {
        "baseUrl": url,
        "api": "openai-completions",
        "apiKey": "sk-test-probe",
        "models": [{"id": "m"}],
    }
    _write(home / "models.json", json.dumps({"providers": {"probe": provider}}))
    environment = {"PI_CODING_AGENT_DIR": str(home), "PI_OFFLINE": "1"}
    return ["-p", "--no-session", "--provider", "probe", "--model", "m", PROMPT], environment


def codex(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """Set up codex with a provider of config.toml."""
    _write(
        home / "config.toml",
        'model = "m"\nmodel_provider = "probe"\n[model_providers.probe]\nname = "probe"\n'
        f'base_url = "{url}"\nwire_api = "responses"\n',
    )
    return ["exec", "--skip-git-repo-check", "--ephemeral", PROMPT], {"CODEX_HOME": str(home)}


def claude(home: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """Set up Claude Code with the address of the API, and nothing of the machine (`--bare`)."""
    environment = {
        "ANTHROPIC_BASE_URL": url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": "sk-test-probe",
        "CLAUDE_CONFIG_DIR": str(home),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return ["--bare", "-p", PROMPT], environment


PEERS: dict[str, tuple[SetUp, Wire]] = {
    "tinyagent": (tinyagent, ChatWire()),
    "llm": (llm, ChatWire()),
    "aichat": (aichat, ChatWire()),
    "pi": (pi, ChatWire()),
    "codex": (codex, ResponsesWire()),
    "claude": (claude, AnthropicWire()),
}

COMPLETE = Script([{"type": "text", "text": TEXT}], usage={"input": 8, "output": 5})
CASES = {
    "complete": COMPLETE,
    "connection lost": replace(COMPLETE, ending="hangup"),
    "ended early": replace(COMPLETE, ending="cut"),
    "at its limit": replace(COMPLETE, stop_reason="length"),
}


def ask(program: Path, set_up: SetUp, reply: FakeReply) -> str:
    """Run a program against this reply. Return how it ended and what it printed."""
    with FakeServer(reply, repeat=True) as server, tempfile.TemporaryDirectory() as folder:
        home, work = Path(folder, "home"), Path(folder, "work")
        work.mkdir()
        arguments, more = set_up(home, server.url)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **more}
        try:
            done = subprocess.run(
                [program, *arguments], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not ended after {SECONDS} s, {len(server.requests)} requests"
    last = done.stderr.strip().splitlines()[-1:]
    return f"exit code {done.returncode}, {len(server.requests)} requests, {done.stdout.strip()!r}, {last}"


def main() -> None:
    """Print a line for each program and case."""
    for argument in sys.argv[1:]:
        name, _, program = argument.partition("=")
        set_up, wire = PEERS[name]
        for case, script in CASES.items():
            print(f"{name}, {case}: {ask(Path(program).absolute(), set_up, wire.reply(script))}", flush=True)


if __name__ == "__main__":
    main()
