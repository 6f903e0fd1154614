"""Types that other programs generate from our JSON Schema: pydantic, msgspec and TypeScript.

Each generator runs once, with the commands of docs/schema.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.documents import blocks
from tinyagent import jsonl

from .conftest import ROOT, require_peer

pytestmark = [pytest.mark.peers, pytest.mark.slow]

GENERATORS = ROOT / ".venv-peers-generators"
PYTHON = GENERATORS / "bin" / "python"
FILES = Path(__file__).with_name("generators")
GUIDE = ROOT / "docs" / "schema.md"
COMMANDS = """
{"type": "set_tools", "tools": ["calc"]}
{"id": "a", "type": "prompt", "message": "6 * 7?", "images": [{"type": "image", "data": "iVBORw0KGgo="}]}
{"id": 1, "type": "state"}
{"type": "messages"}
{"type": "set_model", "model": "demo"}
{"type": "steer", "message": "x"}
{"type": "compact", "instructions": "x"}
{"type": "follow_up", "message": "x"}
{"type": "approve", "request": "x", "answer": "yes"}
{"id": null, "type": "abort"}
"""
"""One of each command of `tinyagent rpc`."""

RUNS = """
tinyagent run -m demo -t calc --jsonl "What is 6 * 7?" > run.jsonl
tinyagent run -m demo --session trip Hi > /dev/null
tinyagent sessions export trip > session.jsonl
tinyagent run -m demo --history run.jsonl --schema 'name, age int' --jsonl "name=Ada age=36" > history.jsonl
tinyagent run -m demo --history session.jsonl --context-window 400 --jsonl "$(seq 400)" > compact.jsonl
tinyagent run -m demo --jsonl --no-such-option > failure.jsonl 2> /dev/null || true
"""
"""Runs of which each line is decoded."""


def run(folder: Path, script: str) -> str:
    """Run a script of bash with all programs on its path. Return its output."""
    path = os.pathsep.join(
        [
            str(GENERATORS / "bin"),
            str(GENERATORS / "node_modules" / ".bin"),
            str(Path(sys.executable).parent),
            os.environ["PATH"],
        ]
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def guide(language: str) -> list[str]:
    """Return the code blocks of docs/schema.md in a language."""
    return [block.text for block in blocks(GUIDE) if block.language == language]


def literals(kind: str, module: str, lines: list[str]) -> str:
    """Return a module of TypeScript with the lines as literals of a type."""
    values = ",\n".join(lines)
    return f'import type {{ {kind} }} from "./{module}.js";\nexport const lines: {kind}[] = [\n{values}\n];\n'


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files with lines: the snapshots of the repository, and real runs."""
    require_peer(PYTHON)  # before the runs, which take time
    folder = tmp_path_factory.mktemp("recorded")
    files = [path for tests in ("tests", "plugins") for path in (ROOT / tests).rglob("*.jsonl")]
    assert 2 <= len(files)
    run(folder, RUNS)
    return [*files, *folder.glob("*.jsonl")]


def test_python_types_decode_every_line(tmp_path: Path, recorded: list[Path]) -> None:
    """Pydantic models and Structs have the names of the schema, narrow each line, and lose nothing."""
    generate, _ = guide("bash")
    run(tmp_path, generate)
    decode = FILES / "decode.py"
    counts = json.loads(run(tmp_path, f"{PYTHON} {decode} events {' '.join(map(str, recorded))}"))
    assert jsonl.schema()["discriminator"]["mapping"].keys() == counts.keys()
    [example] = guide("python")
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    commands = tmp_path / "commands.jsonl"
    commands.write_text(COMMANDS.lstrip(), encoding="utf-8")
    run(tmp_path, generate.replace("events", "rpc"))
    run(tmp_path, f"tinyagent rpc -m demo < {commands} > output.jsonl")
    counts = json.loads(run(tmp_path, f"{PYTHON} {decode} rpc {commands} output.jsonl"))
    assert {"response": 10, "result": 1, "session": 1, "prompt": 1} == {
        kind: counts[kind] for kind in ("response", "result", "session", "prompt")
    }
    [record] = [path for path in recorded if path.name == "run.jsonl"]
    assert "6 * 7 = 42Usage(" in run(tmp_path, f"{PYTHON} example.py < {record}")


def test_typescript_types_narrow_every_line(tmp_path: Path, recorded: list[Path]) -> None:
    """The interfaces are told apart by `type` and `role`, and each line is a literal of its type."""
    require_peer(GENERATORS / "node_modules" / ".bin" / "tsc")
    _, generate = guide("bash")
    run(tmp_path, generate)
    lines = [line for file in recorded for line in file.read_text(encoding="utf-8").splitlines()]
    [example] = guide("ts")
    sources = {
        "lines.ts": literals("Line", "events", lines),
        "consumer.ts": (FILES / "consumer.ts").read_text(encoding="utf-8"),
        "example.ts": example,
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run(tmp_path, generate.replace("events", "rpc"))
    sources["commands.ts"] = literals("Command", "rpc", COMMANDS.strip().splitlines())
    (tmp_path / "commands.ts").write_text(sources["commands.ts"], encoding="utf-8")
    run(tmp_path, f"tsc --noEmit --strict --module nodenext --target es2022 {' '.join(sources)}")
