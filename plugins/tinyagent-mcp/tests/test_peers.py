"""Servers of other projects: time, git and fetch from the package index."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyagent import ToolError
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_mcp import McpServers, ServerConfig

from .conftest import Tools, text_of

PEERS = Path(__file__).resolve().parents[3] / ".venv-peers-mcp" / "bin"

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(90)]


def _peer(name: str, *arguments: str, trust_read_only: bool = False) -> ServerConfig:
    command = PEERS / f"mcp-server-{name}"
    if not command.exists():
        absent = "The MCP servers are not installed in .venv-peers-mcp: run `make environments`"
        if os.environ.get("CI") == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    return ServerConfig(
        name="t", command=[str(command), *arguments], remember=False, trust_read_only=trust_read_only
    )


async def test_time() -> None:
    """A schema with required arguments, a JSON answer and an error text work."""
    with McpServers([_peer("time", "--local-timezone", "Europe/Prague")]) as servers:
        tools = Tools(servers)
        assert {"t__get_current_time", "t__convert_time"} == set(tools.by_name)
        assert ["timezone"] == tools.by_name["t__get_current_time"].parameters["required"]
        converted = await tools.text(
            "convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Kolkata"
        )
        assert "17:30:00+05:30" in converted
        with pytest.raises(ToolError, match=r"(?i)invalid timezone"):
            await tools.text("get_current_time", timezone="Middle/Earth")


async def test_git(tmp_path: Path) -> None:
    """On a trusted server, only writing needs approval; both work on a repository."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for key, value in (("user.name", "A. Tester"), ("user.email", "a@example.org")):
        subprocess.run(["git", "-C", tmp_path, "config", key, value], check=True)
    (tmp_path / "file").write_text("hello\n")
    server = _peer("git", "--repository", str(tmp_path), trust_read_only=True)
    with McpServers([server]) as servers:
        tools, repository = Tools(servers), str(tmp_path)
        read_only = {name: tool.read_only for name, tool in tools.by_name.items()}
        assert (True, True, False, False) == tuple(
            read_only[f"t__git_{name}"] for name in ("status", "log", "add", "commit")
        )
        await tools.text("git_add", repo_path=repository, files=["file"])
        assert "+hello" in await tools.text("git_diff_staged", repo_path=repository)
        await tools.text("git_commit", repo_path=repository, message="By way of MCP")
        assert "By way of MCP" in await tools.text("git_log", repo_path=repository)


async def test_fetch() -> None:
    """The server fetches a page from loopback only if it is allowed."""
    page = FakeReply([b"<h1>Hello</h1><p>from a page"], headers={"Content-Type": "text/html"})
    with McpServers([_peer("fetch", "--ignore-robots-txt", "--allow-private-ips")]) as servers:
        tools = Tools(servers)
        async with FakeServer(page, repeat=True) as server:
            assert "from a page" in text_of(await tools.result("fetch", url=f"{server.origin}/page"))
