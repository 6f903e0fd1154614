"""The lists of tools are cached, so that a server need not start to list them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tinyagent_mcp
from tinyagent import ToolError
from tinyagent_mcp import McpServers, ServerConfig
from tinyagent_mcp._paths import cache_directory

from .conftest import TINY, Tools, tiny
from .test_config import write


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log with one line for each start of the server."""
    path = tmp_path / "log"
    path.touch()
    return path


def cached(log: Path, **fields: object) -> ServerConfig:
    """Return a server whose list is cached."""
    return tiny(remember=True, env={"TEST_LOG": str(log)}, **fields)


def starts(log: Path) -> int:
    """Return the number of starts."""
    return log.read_text().count("started")


async def test_a_known_server_is_started_when_it_is_called(log: Path) -> None:
    """With a cached list, only a call starts the server."""
    with McpServers([cached(log)]) as servers:
        first = {tool.name: tool.parameters for tool in servers.tools()}
    assert 1 == starts(log)
    with McpServers([cached(log)]) as servers:
        tools = Tools(servers)
        assert first == {name: tool.parameters for name, tool in tools.by_name.items()}
        assert 1 == starts(log)
        assert int(await tools.text("pid"))
        assert int(await tools.text("pid"))
        assert 2 == starts(log)


@pytest.mark.parametrize("change", ["age", "broken", "open to others", "pipe", "configuration", "none"])
def test_an_invalid_cache_is_renewed(log: Path, change: str) -> None:
    """A cache that is old, damaged, writable by others or for another configuration is not used."""
    with McpServers([cached(log)]) as servers:
        servers.tools()
    [file] = cache_directory().iterdir()
    assert "t.json" == file.name
    if sys.platform != "win32":
        assert 0o600 == file.stat().st_mode & 0o777
    fields: dict[str, object] = {}
    match change:
        case "age":
            os.utime(file, (time.time() - 90_000,) * 2)
        case "broken":
            file.write_bytes(b'{"version": 1, "fing')
        case "open to others":
            file.chmod(0o666)
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "configuration":
            fields["cwd"] = str(log.parent)
    with McpServers([cached(log, **fields)]) as servers:
        assert servers.tools()
    assert (1 if change == "none" else 2) == starts(log)


async def test_a_changed_annotation_prevents_the_call(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cached list marked the tool as read-only, the server does not."""
    config = cached(log, pass_env=["TEST_UNSAFE"], trust_read_only=True)
    with McpServers([config]) as servers:
        assert Tools(servers).by_name["t__read"].read_only
    monkeypatch.setenv("TEST_UNSAFE", "1")
    with McpServers([config]) as servers:
        tools = Tools(servers)
        assert tools.by_name["t__read"].read_only
        with pytest.raises(ToolError, match="no longer marks 'read' as read-only"):
            await tools.text("read")
    with McpServers([config]) as servers:  # the cache is renewed
        assert not Tools(servers).by_name["t__read"].read_only


def test_annotations_grant_nothing() -> None:
    """A read-only annotation has no effect unless the user trusts this server."""
    for trust in (False, True):
        with McpServers([tiny(trust_read_only=trust)]) as servers:
            assert {"t__read": trust, "t__pid": False, "t__daemon": False} == {
                tool.name: tool.read_only for tool in servers.tools()
            }


def test_approvals_are_bound_to_the_server() -> None:
    """A tool has the configuration of its server, so another command is another tool."""
    config = tiny()
    with McpServers([config]) as servers:
        assert {config.fingerprint()} == {tool.origin for tool in servers.tools()}
    assert config.fingerprint() != tiny(env={"OTHER": "1"}).fingerprint()


def test_tools_can_be_chosen() -> None:
    """Only tools that match the patterns are offered."""
    with McpServers([tiny(tools=["p*", "read"])]) as servers:
        assert ["t__pid", "t__read"] == [tool.name for tool in servers.tools()]


def test_the_sdk_is_imported_lazily(log: Path) -> None:
    """Listing tools from the cache does not import the SDK."""
    with McpServers([cached(log)]) as servers:
        servers.tools()
    script = f"""
import sys
import tinyagent_mcp
from tinyagent_mcp import McpServers, ServerConfig
config = ServerConfig(name="t", command={TINY!r}, env={{"TEST_LOG": {str(log)!r}}})
assert len(McpServers([config]).tools()) == 3
print([name for name in ("mcp", "mcp_types", "pydantic", "httpx2", "anyio") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ("[]\n", "") == (done.stdout, done.stderr)
    assert 1 == starts(log)


async def test_only_the_servers_of_the_requested_tools_are_started(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-t mcp.t__pid` does not start the other servers; an unknown name starts all of them."""
    write(
        f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\n"
        f"[mcp.servers.other]\ncommand = {json.dumps(TINY)}\nenv = {{TEST_LOG = {json.dumps(str(log))}}}\n"
    )
    names: list[str] = []
    tinyagent_mcp.tinyagent_register_tools(lambda tool: names.append(tool.name), ["t__pid", "t__read"])
    assert (["t__pid", "t__daemon", "t__read"], 0) == (names, starts(log))
    names.clear()
    tinyagent_mcp.tinyagent_register_tools(lambda tool: names.append(tool.name), ["nope"])
    assert (6, 1) == (len(names), starts(log))


MEETING = """
import os, pathlib, runpy, sys, time
place = pathlib.Path(os.environ["PLACE"])
(place / os.environ["ME"]).touch()
while len(list(place.iterdir())) < 3:
    time.sleep(0.01)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_servers_start_together(tmp_path: Path) -> None:
    """Three servers that wait for each other all start; a fourth that never answers delays none of them."""
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-I", "-S", "-c", MEETING, TINY[-1]]
    meeting = [
        ServerConfig(name=me, command=command, env={"PLACE": str(place), "ME": me}, remember=False)
        for me in ("a", "b", "c")
    ]
    silent = ServerConfig(
        name="silent",
        command=[sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"],
        start_timeout=0.1,
        remember=False,
    )
    with McpServers([silent, *meeting]) as servers:
        assert 9 == len(servers.tools())
        assert "did not answer within 0.1 s" in str(servers.failures["silent"])


def test_excluded_tools_are_not_offered() -> None:
    """`exclude` takes tools away from those that `tools` selects."""
    with McpServers([tiny(tools=["[dp]*"], exclude=["daemon"])]) as servers:
        assert ["t__pid"] == [tool.name for tool in servers.tools()]
