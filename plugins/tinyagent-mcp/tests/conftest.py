"""Fixtures: test servers, and functions that check processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent import AgentTool, AgentToolResult
from tinyagent_mcp import McpServers, ServerConfig

SERVER = Path(__file__).with_name("server.py")
TINY = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tiny.py"))]
PATIENCE = 60.0


def config(**fields: Any) -> ServerConfig:
    """Return the configuration of the test server. Its list of tools is not cached by default."""
    return ServerConfig(
        **{"name": "t", "command": [sys.executable, str(SERVER)], "remember": False, **fields}
    )


def tiny(**fields: Any) -> ServerConfig:
    """Return the configuration of the small server, which starts ten times as fast."""
    return config(**{"command": TINY, **fields})


def gone(pid: int) -> bool:
    """Return whether a process has ended; zombies count as ended."""
    try:
        os.kill(pid, 0)
        if sys.platform == "linux":
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
    return False


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll a condition, and return whether it became true."""
    end = time.monotonic() + PATIENCE
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty home, so that the user's servers and cached lists have no effect."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("TINYAGENT_HOME", str(path / "tinyagent"))
    monkeypatch.delenv("TINYAGENT_MCP", raising=False)
    return path


class Tools:
    """The tools of some servers, called as the agent loop calls them."""

    def __init__(self, servers: McpServers) -> None:
        self.servers = servers
        self.by_name: dict[str, AgentTool] = {tool.name: tool for tool in servers.tools()}
        self.partials: list[AgentToolResult] = []

    async def result(self, name: str, signal: asyncio.Event | None = None, /, **args: Any) -> AgentToolResult:
        """Call a tool and return its result."""
        execute = self.by_name[f"t__{name}"].execute
        assert execute is not None
        return await execute("c1", args, signal, self.partials.append)

    async def text(self, name: str, **args: Any) -> str:
        """Call a tool and return its text."""
        return text_of(await self.result(name, **args))


def text_of(result: AgentToolResult) -> str:
    """Return the texts of a result."""
    return "\n".join(part["text"] for part in result.content if part["type"] == "text")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log of the test server."""
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def shared(log: Path) -> Iterator[Tools]:
    """Start one server for the tests of a module, in an environment with secrets."""
    secrets = dict.fromkeys(("OPENAI_API_KEY", "GITHUB_TOKEN", "MY_SECRET", "PASSED_ON"), "sk-test-CANARY")
    os.environ.update(secrets)
    try:
        servers = McpServers([config(env={"TEST_LOG": str(log)}, pass_env=["PASSED_ON"])])
        tools = Tools(servers)
    finally:
        for name in secrets:
            os.environ.pop(name, None)
    tools.partials.clear()
    with servers:
        yield tools
