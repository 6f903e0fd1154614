"""The plugin in the `tinyagent` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata

import tinyagent_mcp

from .conftest import TINY
from .test_config import write


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


def test_configured_servers_are_tools() -> None:
    """What mcp.toml names is called by `plugin.tool`, and listed."""
    write(f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\n")
    done = tinyagent("tools", "call", "mcp.t__pid")
    assert (True, 0) == (done.stdout.strip().isdigit(), done.returncode), done.stderr
    listed = json.loads(tinyagent("mcp", "list", "--json").stdout)
    assert [("t", "tiny 1", ["pid", "daemon", "read"])] == [
        (server["name"], server["server"], [tool["name"] for tool in server["tools"]]) for server in listed
    ]


def test_a_command_in_the_environment_is_tools() -> None:
    """TINYAGENT_MCP needs no file; every tool asks, whatever its server says of it."""
    done = tinyagent("tools", "show", "mcp", TINYAGENT_MCP=f"tiny={' '.join(TINY)}")
    assert 0 == done.returncode, done.stderr
    assert "tiny__pid  (asks before it runs)\n" in done.stdout
    assert "tiny__read  (asks before it runs)\n" in done.stdout


def test_a_server_can_be_given_on_the_command_line() -> None:
    """`run --mcp` uses its tools for this run, and those of no other server."""
    command = f"tiny={' '.join(TINY)}"
    other = {"TINYAGENT_MCP": "other=no-such-program-anywhere"}
    done = tinyagent("run", "-m", "demo", "--jsonl", "--mcp", command, "hello", **other)
    assert 0 == done.returncode, done.stderr
    assert "tiny__pid" in json.loads(done.stdout.splitlines()[0])["tools"]


def test_a_server_that_fails_is_told() -> None:
    """Exit code 3, one error that names the server, no traceback; other tools go on working."""
    environment = {"TINYAGENT_MCP": "broken=no-such-program-anywhere"}
    done = tinyagent("run", "-m", "demo", "-t", "mcp", "hello", **environment)
    assert ("", 3) == (done.stdout, done.returncode)
    assert "'broken'" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 == tinyagent("run", "-m", "demo", "-t", "calc", "What is 6 * 7?", **environment).returncode
