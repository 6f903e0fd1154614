"""A server starts when it is needed, and never outlives tinyagent."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tinyagent_mcp
from tinyagent import ConfigurationError, ToolError
from tinyagent_mcp import McpServers

from .conftest import TINY, Tools, config, eventually, gone, tiny

SCRIPT = f"""
import asyncio
from tinyagent_mcp import McpServers, ServerConfig

servers = McpServers([ServerConfig(name="t", command={TINY!r}, env=ENV, remember=False)])
tools = {{tool.name: tool for tool in servers.tools()}}

async def main():
    for name in ("t__pid", "t__daemon"):
        result = await tools[name].execute("c1", {{}}, None, lambda partial: None)
        print(result.content[0]["text"], flush=True)

asyncio.run(main())
"""


async def _pids(tools: Tools) -> list[int]:
    return [int(await tools.text(name)) for name in ("pid", "daemon")]


def test_close_ends_all_processes() -> None:
    """After `close`, the server and a daemon in another session and group have ended."""
    with McpServers([tiny()]) as servers:
        pids = asyncio.run(_pids(Tools(servers)))
        assert [False, False] == [gone(pid) for pid in pids]
    assert [True, True] == [gone(pid) for pid in pids]


def test_no_server_starts_after_close() -> None:
    """A call after `close` starts no server."""
    with McpServers([tiny()]) as servers:
        tools = Tools(servers)
    with pytest.raises(ToolError, match="are closed"):
        asyncio.run(tools.text("pid"))


def test_a_stubborn_server_is_killed() -> None:
    """A server that ignores the end of its input and SIGTERM is killed."""
    with McpServers([tiny(env={"TEST_STUBBORN": "1"})]) as servers:
        pids = asyncio.run(_pids(Tools(servers)))
    assert [True, True] == [gone(pid) for pid in pids]


@pytest.mark.skipif(sys.platform != "linux", reason="the supervisor is found through /proc")
def test_a_server_that_stops_its_supervisor_is_ended() -> None:
    """A stopped supervisor is continued, so that it can end the server."""
    with McpServers([tiny(env={"TEST_TOOLS": "stop_parent"})]) as servers:
        pid = int(asyncio.run(Tools(servers).text("stop_parent")))
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert [True, True] == [gone(one) for one in (pid, supervisor)]


def test_a_server_that_closes_its_output_has_ended() -> None:
    """The call fails at once, and the next call starts a new server."""
    with McpServers([tiny(env={"TEST_TOOLS": "mute"})]) as servers:
        tools = Tools(servers)
        pid = asyncio.run(tools.text("pid"))
        with pytest.raises(ToolError, match="ended before it had answered 'mute'"):
            asyncio.run(tools.text("mute"))
        assert pid != asyncio.run(tools.text("pid"))


def test_servers_without_tools_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-t mcp` without any tool is an error with a hint."""
    monkeypatch.setenv("TINYAGENT_MCP", f"empty={shlex.join(TINY)} no-tools")
    with pytest.raises(ConfigurationError, match="offer no tools: empty") as caught:
        tinyagent_mcp.tinyagent_register_tools(register=lambda tool: None, requested=None)
    assert "tinyagent mcp list" in (caught.value.hint or "")


@pytest.mark.parametrize("env", [{}, {"TEST_STUBBORN": "1"}])
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_servers_end_after_sigkill_of_tinyagent(env: dict[str, str]) -> None:
    """The supervisor ends the server and its processes."""
    script = SCRIPT.replace("ENV", repr(env)) + "\nimport time; time.sleep(600)\n"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as us:
        assert us.stdout is not None
        pids = [int(us.stdout.readline()) for _ in range(2)]
        assert [False, False] == [gone(pid) for pid in pids]
        us.kill()
        us.wait()
    assert eventually(lambda: all(map(gone, pids)))


def test_servers_end_when_python_exits() -> None:
    """Open servers have ended when the program has ended."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("ENV", "{}")], capture_output=True, text=True, check=False
    )
    assert ("", 0) == (done.stderr, done.returncode)
    assert [True, True] == [gone(int(line)) for line in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_killing_the_supervisor_kills_the_server() -> None:
    """The kernel kills the server, and the next call starts a new one."""
    with McpServers([tiny()]) as servers:
        tools = Tools(servers)
        pid = int(asyncio.run(tools.text("pid")))
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        assert eventually(lambda: gone(pid))

        async def answered() -> int:
            try:
                return int(await tools.text("pid"))
            except ToolError:  # this call detects it
                return int(await tools.text("pid"))

        assert pid != asyncio.run(answered())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": "no-such-program-anywhere"}, "program 'no-such-program-anywhere'"),
        ({"command": [sys.executable, "-c", "import sys; sys.exit('no licence')"]}, "no licence"),
        ({"command": [sys.executable, "-c", "print('Hello, I am no MCP server')"]}, "failed to start"),
        (
            {"command": [sys.executable, "-c", "import time; time.sleep(600)"], "start_timeout": 0.5},
            r"did not answer within 0\.5 s",
        ),
        ({"url": "http://127.0.0.1:9/mcp?key=sk-test-CANARY", "command": None}, "cannot be"),
    ],
)
def test_a_server_that_does_not_start(fields: dict[str, object], words: str) -> None:
    """The error has the name, the reason and the last output of the server."""
    with McpServers([config(**fields)]) as servers, pytest.raises(ConfigurationError, match=words) as caught:
        servers.tools()
    assert "'t'" in str(caught.value)
    assert "sk-test-CANARY" not in str(caught.value)


def test_one_server_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The tools of the other servers work; the failure is reported once and not retried."""
    with McpServers([tiny(), config(name="broken", command="no-such-program-anywhere")]) as servers:
        for _ in range(2):
            assert ["t__pid", "t__daemon", "t__read"] == [tool.name for tool in servers.tools()]
        assert ["broken"] == list(servers.failures)
    [record] = caplog.records
    assert ("WARNING", "tinyagent.mcp") == (record.levelname, record.name)
    assert "'broken'" in record.getMessage()


def test_a_required_server_that_fails_is_an_error() -> None:
    """The error has the name and the reason, and the other servers are ended."""
    servers = McpServers([tiny(), config(name="broken", command="no-such-program-anywhere", required=True)])
    with servers, pytest.raises(ConfigurationError, match="'broken'"):
        servers.tools()
    assert servers.closed


def test_other_output_is_ignored() -> None:
    """Output of a server between its messages is ignored and not shown."""
    with McpServers([tiny(env={"TEST_NOISE": "1"})]) as servers:
        assert int(asyncio.run(Tools(servers).text("pid")))
