"""The fixtures that pytest finds by itself: strict, and without cost until a test uses one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from tinyagent.testing import FakeReply, Reply, call
from tinyagent.tools import tool

COST = """
import sys, pytest
before = set(sys.modules)
import tinyagent
library = set(sys.modules)
import tinyagent.testing.pytest_plugin
print(*sorted(set(sys.modules) - library))
"""


def test_it_is_found_by_its_entry_point() -> None:
    """The plugin is active when tinyagent is installed."""
    [point] = metadata.entry_points(group="pytest11", name="tinyagent")
    assert "tinyagent.testing.pytest_plugin" == point.value


def test_it_imports_nothing_but_the_library() -> None:
    """Loading the plugin imports no server, HTTP client or schema."""
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=False)
    assert "tinyagent.testing tinyagent.testing.pytest_plugin" == done.stdout.strip(), done.stderr


WITHOUT = [f"-pno:{name}" for name in ("asyncio", "cacheprovider", "hypothesispytest", "respx", "xdist")]
"""Plugins that a test does not need, because their imports are slow."""


def run_pytest(folder: Path, test: str) -> str:
    """Return the output of pytest in a child process."""
    (folder / "test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *WITHOUT, folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return done.stdout


def test_an_option_of_run_agent_must_exist(
    scripted_provider: Callable[..., Any], run_agent: Callable[..., Any]
) -> None:
    """A misspelled option is refused."""
    with pytest.raises(TypeError, match="AgentOptions has no option 'max_turn'"):
        run_agent(scripted_provider(), "Hi", max_turn=1)


def test_a_script_must_be_used_up(tmp_path: Path) -> None:
    """A test with an unused step fails."""
    test = "def test_it(scripted_provider):\n    scripted_provider('one')\n"
    assert "1 of 1 step(s) not used" in run_pytest(tmp_path, test)


@tool(read_only=True)
def double(n: int) -> int:
    """Double it."""
    return 2 * n


def test_an_agent_is_run_to_its_end(
    scripted_provider: Callable[..., Any], run_agent: Callable[..., Any], check_grammar: Callable[..., None]
) -> None:
    """`run_agent` runs an agent with its tools, prompt and options to the end."""
    seen = []
    provider = scripted_provider(Reply(call("double", n=21)), "42.")
    events = run_agent(
        provider,
        "Double 21",
        tools=[double],
        system_prompt="Be brief.",
        after_tool_call=lambda *a: seen.append(a),
    )
    check_grammar(events)
    assert "Be brief." == provider.calls[0].context.system_prompt
    assert "42" == provider.calls[1].context.messages[-1]["content"][0]["text"]
    assert 1 == len(seen)


def test_a_server_answers_until_the_test_is_over(fake_server: Callable[..., Any]) -> None:
    """`fake_server` sends the given replies on loopback until the end of the test."""
    server = fake_server(FakeReply.json({"fine": True}))
    assert {"fine": True} == httpx.get(server.url, trust_env=False).json()


def test_the_home_is_empty(tinyagent_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration and keys of the user are not found."""
    assert [] == list(tinyagent_home.iterdir())
    assert str(tinyagent_home) == os.environ["TINYAGENT_HOME"]


def test_the_home_hides_keys(tmp_path: Path) -> None:
    """Child processes do not get the user's keys either."""
    test = (
        "import os\nos.environ['X_API_KEY'] = 'sk'\nos.environ['TINYAGENT_MODEL'] = 'm'\n"
        "def test_it(tinyagent_home):\n    assert not {'X_API_KEY', 'TINYAGENT_MODEL'} & set(os.environ)\n"
    )
    assert "1 passed" in run_pytest(tmp_path, test)


def test_snapshots_are_lines(tmp_path: Path) -> None:
    """`snapshot_jsonl` stores the events as JSON lines with a fixed time."""
    test = (
        "def test_it(scripted_provider, run_agent, snapshot_jsonl):\n"
        "    assert run_agent(scripted_provider('Hi.'), 'Hello') == snapshot_jsonl\n"
    )
    assert "1 snapshot failed" in run_pytest(tmp_path, test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *WITHOUT, "--snapshot-update"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout
    [file] = tmp_path.rglob("*.jsonl")
    assert file.read_text().startswith('{"type":"agent_start"')
    assert "1 passed" in run_pytest(tmp_path, test)
