"""The plugin in the `tinyagent` command."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tinyagent_mcp
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_mcp._paths import config_file

from .conftest import PATIENCE, TINY, eventually
from .test_config import write
from .test_hostile import HOSTILE


def tinyagent(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tinyagent_cli", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_entry_points() -> None:
    """`-t mcp` and `tinyagent mcp` are found by metadata."""
    for group in ("tinyagent.tools", "tinyagent.commands"):
        [point] = metadata.entry_points(group=group, name="mcp")
        assert tinyagent_mcp is point.load()


def test_without_a_command_the_help_is_shown() -> None:
    """`tinyagent mcp` alone shows the help of the group, with exit code 2, as other groups do; -vv, too."""
    for command in (["mcp"], ["-vv", "mcp"]):
        done = tinyagent(*command)
        assert (2, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith("Usage: tinyagent mcp ")
        assert "Try 'tinyagent" not in done.stderr


def test_configured_servers_offer_tools() -> None:
    """Tools of servers in mcp.toml are called as `plugin.tool`, and listed."""
    write(f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\n")
    done = tinyagent("tools", "call", "mcp.t__pid")
    assert (True, 0) == (done.stdout.strip().isdigit(), done.returncode), done.stderr
    listed = json.loads(tinyagent("mcp", "list", "--json").stdout)
    assert [("t", "tiny 1", ["pid", "daemon", "read"])] == [
        (server["name"], server["server"], [tool["name"] for tool in server["tools"]]) for server in listed
    ]


def test_servers_of_the_environment_offer_tools() -> None:
    """TINYAGENT_MCP needs no file; every tool needs approval, whatever its annotations are."""
    done = tinyagent("tools", "show", "mcp", TINYAGENT_MCP=f"tiny={' '.join(TINY)}")
    assert 0 == done.returncode, done.stderr
    assert "tiny__pid  (needs approval)\n" in done.stdout
    assert "tiny__read  (needs approval)\n" in done.stdout


def test_servers_of_the_command_line_offer_tools() -> None:
    """`run --mcp` uses only the tools of this server."""
    command = f"tiny={' '.join(TINY)}"
    other = {"TINYAGENT_MCP": "other=no-such-program-anywhere"}
    done = tinyagent("run", "-m", "demo", "--jsonl", "--mcp", command, "hello", **other)
    assert 0 == done.returncode, done.stderr
    assert "tiny__pid" in json.loads(done.stdout.splitlines()[0])["tools"]


def test_a_failed_server_is_reported() -> None:
    """Exit code 3 and one error with the server's name; other tools continue to work."""
    environment = {"TINYAGENT_MCP": "broken=no-such-program-anywhere"}
    done = tinyagent("run", "-m", "demo", "-t", "mcp", "hello", **environment)
    assert ("", 3) == (done.stdout, done.returncode)
    assert "'broken'" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 == tinyagent("run", "-m", "demo", "-t", "calc", "What is 6 * 7?", **environment).returncode


def test_a_configured_server_that_fails_is_a_warning() -> None:
    """The run continues with the tools of the others, unless the server is required."""
    good = f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\n"
    broken = '[mcp.servers.broken]\ncommand = "no-such-program-anywhere"\n'
    write(good + broken)
    done = tinyagent("run", "--jsonl", "-m", "demo", "-t", "mcp", "hello")
    assert 0 == done.returncode, done.stderr
    assert ["t__pid", "t__daemon", "t__read"] == json.loads(done.stdout.splitlines()[0])["tools"]
    assert "Warning: The MCP server 'broken' cannot be started" in done.stderr
    quiet = tinyagent("run", "-q", "-m", "demo", "-t", "mcp", "hello")
    assert (0, "") == (quiet.returncode, quiet.stderr)
    write(f"{good}{broken}required = true\n")
    done = tinyagent("run", "-m", "demo", "-t", "mcp", "hello")
    assert ("", 3) == (done.stdout, done.returncode)
    assert "'broken'" in done.stderr


SILENT = "import os, pathlib, time; pathlib.Path(os.environ['LOG']).touch(); time.sleep(600)"


@pytest.mark.parametrize("how", ["signal", "timeout"])
def test_the_start_of_a_server_can_be_interrupted(how: str, tmp_path: Path) -> None:
    """SIGTERM and --timeout end the wait for a silent server, and the server."""
    log = tmp_path / "started"
    write(
        f"[mcp.servers.t]\ncommand = {json.dumps([sys.executable, '-I', '-S', '-c', SILENT])}\n"
        f"env = {{LOG = {json.dumps(str(log))}}}\nrequired = true\n"
    )
    limit = ["--timeout", "3"] if how == "timeout" else []
    command = [sys.executable, "-P", "-m", "tinyagent_cli", "run", "-q", *limit, "-m", "demo", "-t", "mcp"]
    with subprocess.Popen(
        [*command, "hello"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        if how == "signal":
            assert eventually(log.exists)
            process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert {"signal": 143, "timeout": 124}[how] == process.returncode
    assert 2 >= len(errors.splitlines()), errors


async def test_tools_of_a_server_can_change_during_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that a server adds during a call is in the next request and can be called."""
    write(f"[mcp.servers.t]\ncommand = {json.dumps(HOSTILE)}\nremember = false\n")
    replies = [FakeReply.tool_calls(("t__add_tool", {})), FakeReply.tool_calls(("t__late", {}))]
    async with FakeServer(*replies, FakeReply.text("Done.")) as server:
        file = config_file().with_name("config.toml")
        file.write_text(f'[providers.local]\nbase_url = "{server.origin}/v1"\n')
        done = await asyncio.to_thread(tinyagent, "run", "-y", "-m", "local/m", "-t", "mcp", "go")
        assert (0, "Done.\n") == (done.returncode, done.stdout), done.stderr
        offered = [{one["function"]["name"] for one in request.json["tools"]} for request in server.requests]
        assert [{"t__removed"}, {"t__late"}, {"t__late"}] == [
            names & {"t__removed", "t__late"} for names in offered
        ]
        assert "late ran" == server.requests[-1].json["messages"][-1]["content"]
    assert "the tool 'late_and_malformed' was omitted" in done.stderr
