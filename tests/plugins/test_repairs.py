"""An agent with files and a shell repairs a small repository, with different models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions
from tinyagent.testing import FakeReply, FakeServer, Reply, ScriptedProvider, call, check_grammar, collect
from tinyagent_tools_fs import file_tools
from tinyagent_tools_shell import shell_tool

SOURCE = "def area(width, height):\n    return width + height\n"
TEST = """import unittest

from shapes import area


class AreaTest(unittest.TestCase):
    def test_area(self):
        self.assertEqual(12, area(3, 4))
"""
RUN_TESTS = f"{sys.executable} -B -m unittest -q test_shapes"

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("bash", {"command": RUN_TESTS}),
    ("grep", {"pattern": r"def area\(", "glob": "*.py"}),
    ("read", {"path": "shapes.py", "line_numbers": True}),
    ("edit", {"path": "shapes.py", "old_text": "width + height", "new_text": "width * height"}),
    ("bash", {"command": f"{RUN_TESTS} && echo 'all is well'"}),
]
"""What the model asks for, one after the other."""

ANSWER = "The area is a product; the test passes now."


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a failing test."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "shapes.py").write_text(SOURCE)
    (folder / "test_shapes.py").write_text(TEST)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    assert 0 != _test(folder)
    return folder


def _test(folder: Path) -> int:
    done = subprocess.run(RUN_TESTS.split(), cwd=folder, capture_output=True, check=False)
    return done.returncode


def _check_results(texts: list[str]) -> None:
    """Assert that the results that the model got are true."""
    failed, found, shown, edited, passed = texts
    assert "AssertionError: 12 != 7" in failed
    assert "[exit code 1]" in failed
    assert "shapes.py:1:def area(width, height):" == found
    assert "     2\t    return width + height" in shown
    assert "-    return width + height\n+    return width * height" in edited
    assert "all is well" in passed


async def test_with_the_library(repository: Path) -> None:
    """An Agent with a ScriptedProvider and tools for a folder repairs the repository."""
    steps = [Reply(call(name, **arguments)) for name, arguments in CALLS]
    async with ScriptedProvider(*steps, ANSWER) as provider:
        agent = Agent(AgentOptions(stream_fn=provider))
        agent.set_model(provider.model)
        agent.set_tools([*file_tools(repository), shell_tool(repository)])
        events = await collect(agent.stream("Make the test pass."))
    check_grammar(events)
    ends = [event for event in events if event.type == "tool_execution_end"]
    assert [False] * len(CALLS) == [end.is_error for end in ends]
    _check_results([end.result.content[0]["text"] for end in ends])
    assert 0 == _test(repository)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A model behind HTTP."""
    with FakeServer(*[FakeReply.tool_calls(one) for one in CALLS], FakeReply.text(ANSWER)) as made:
        yield made


COMMAND = [sys.executable, "-P", "-m", "tinyagent_cli", "run", "--jsonl", "-t", "fs", "-t", "shell"]


def _tinyagent(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=repository,
        env={**os.environ, "OPENAI_API_KEY": "sk-test-CANARY-0123456789"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,  # without a terminal
    )


def _configure(isolated_environment: Path, server: FakeServer) -> None:
    home = isolated_environment / "tinyagent"
    home.mkdir()
    (home / "config.toml").write_text(f'[providers.local]\nbase_url = "{server.url}"\n')


def test_with_the_command_line(repository: Path, server: FakeServer, isolated_environment: Path) -> None:
    """`tinyagent run -t fs -t shell -y` repairs the repository, with a server and from its recording."""
    _configure(isolated_environment, server)
    done = _tinyagent(repository, "-y", "-m", "local/m", "Make the test pass.")
    assert 0 == done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (True, ANSWER) == (lines[-1]["ok"], lines[-1]["text"])
    ends = [line for line in lines if line["type"] == "tool_execution_end"]
    _check_results([end["result"]["content"][0]["text"] for end in ends])
    told = [message for message in server.requests[-1].json["messages"] if message["role"] == "tool"]
    _check_results([message["content"] for message in told])
    assert 0 == _test(repository)

    recording = repository.parent / "recording.jsonl"
    recording.write_text(done.stdout)
    (repository / "shapes.py").write_text(SOURCE)
    again = _tinyagent(repository, "-y", "-m", f"replay:{recording}", "Make the test pass.")
    assert 0 == again.returncode, again.stderr
    assert 0 == _test(repository)
    assert ANSWER == json.loads(again.stdout.splitlines()[-1])["text"]
    assert "CANARY" not in done.stdout + done.stderr + again.stdout + again.stderr


def test_without_permission(repository: Path, server: FakeServer, isolated_environment: Path) -> None:
    """Without -y and a terminal, the agent can read, but change nothing."""
    _configure(isolated_environment, server)
    done = _tinyagent(repository, "-m", "local/m", "Make the test pass.")
    ends = [
        line for line in map(json.loads, done.stdout.splitlines()) if line["type"] == "tool_execution_end"
    ]
    assert [("bash", True), ("grep", False), ("read", False), ("edit", True), ("bash", True)] == [
        (end["tool_name"], end["is_error"]) for end in ends
    ]
    assert SOURCE == (repository / "shapes.py").read_text()
    assert 0 != _test(repository)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("--timeout", 124)])
def test_commands_end_with_the_run(how: str, code: int, repository: Path, isolated_environment: Path) -> None:
    """After Ctrl-C, SIGTERM or --timeout no process of a command is left, not even in another session."""
    command = (
        "(setsid sh -c 'trap \"\" TERM; echo $$ > pid1; sleep 600; :' &); sleep 600 & echo $! > pid2;"
        " until [ -s pid1 ]; do sleep 0.01; done; touch ready; wait; sleep 600"
    )
    ready = repository / "ready"
    # The second limit is for a machine that is too busy to start the command within the first one.
    limits = [["--timeout", "5"], ["--timeout", "40"]] if how == "--timeout" else [[]]
    with FakeServer(FakeReply.tool_calls(("bash", {"command": command})), repeat=True) as server:
        _configure(isolated_environment, server)
        for limit in limits:
            with subprocess.Popen(
                [*COMMAND, "-y", "-m", "local/m", *limit, "Wait."],
                cwd=repository,
                env={**os.environ, "TINYAGENT_SANDBOX": "off"},  # process ids are others in the sandbox
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            ) as process:
                while not ready.exists() and process.poll() is None:
                    time.sleep(0.01)
                if not limit:
                    process.send_signal(signal.Signals[how])
                out, err = process.communicate(timeout=60)
            if ready.exists():
                break
    assert ready.exists(), err
    assert code == process.returncode, err
    assert code == json.loads(out.splitlines()[-1])["exit_code"]
    pids = [int((repository / name).read_text()) for name in ("pid1", "pid2")]
    assert [] == [pid for pid in pids if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The second if it ends while it is read.
        return False
