"""Servers in a sandbox: what their programs may change and reach, and that they end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent.sandbox import find_sandbox
from tinyagent_mcp import McpServers, ServerConfig

from .conftest import TINY, eventually, tiny


@pytest.fixture(scope="module", autouse=True)
def mechanism() -> None:
    """Skip where there is no sandbox; in CI that is a failure."""
    if find_sandbox("auto").mechanism == "none":
        if os.environ.get("CI") == "true":
            pytest.fail("CI has no sandbox")
        pytest.skip("there is no sandbox here")


@pytest.fixture
def port() -> Iterator[int]:
    """Listen on a port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def attempts(target: Path, port: int, **fields: Any) -> list[str]:
    """Return whether a server can write a file and connect to a port."""
    environment = {"TEST_TOOLS": "write connect", "TEST_WRITE": str(target), "TEST_PORT": str(port)}
    servers = McpServers([tiny(env=environment, **fields)])
    try:
        found = {tool.name: tool for tool in await asyncio.to_thread(servers.tools)}
        answers = []
        for name in ("t__write", "t__connect"):
            execute = found[name].execute
            assert execute is not None
            answers.append((await execute("call", {}, None, lambda partial: None)).content[0]["text"])  # type: ignore[typeddict-item]
        return answers
    finally:
        servers.close()


async def test_a_server_without_a_sandbox(tmp_path: Path, port: int) -> None:
    """By default, a server has the user's permissions: most need the network."""
    assert ["done", "done"] == await attempts(tmp_path / "file", port)


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_a_server_in_a_sandbox(tmp_path: Path, port: int, mode: str) -> None:
    """In a sandbox, it changes no other folder, and has no network."""
    written, connected = await attempts(tmp_path / "file", port, sandbox=mode)
    assert "done" not in (written, connected)
    assert not (tmp_path / "file").exists()


async def test_what_a_server_is_allowed(tmp_path: Path, port: int) -> None:
    """`writable` and `network` open the sandbox for one server."""
    allowed = {"sandbox": "required", "writable": [str(tmp_path)], "network": True}
    assert ["done", "done"] == await attempts(tmp_path / "file", port, **allowed)
    assert (tmp_path / "file").exists()


async def test_its_working_directory(tmp_path: Path, port: int) -> None:
    """It can write in a working directory that the user has chosen, but not in the one of tinyagent."""
    (tmp_path / "work").mkdir()
    chosen = {"sandbox": "required", "cwd": str(tmp_path / "work")}
    assert "done" == (await attempts(tmp_path / "work" / "state", port, **chosen))[0]
    assert (tmp_path / "work" / "state").exists()
    private = tiny().start_directory()
    assert "done" != (await attempts(private / "state", port, sandbox="required"))[0]


async def test_it_ends_with_the_connection(tmp_path: Path, port: int) -> None:
    """No process of a server in a sandbox stays behind."""
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    await attempts(tmp_path / "file", port, sandbox="required", command=[*TINY, mark])
    assert eventually(lambda: not _processes_with(mark))


def _processes_with(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            pass  # it has ended
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": "x", "network": True}, "`network` and `writable` are for"),
        ({"command": "x", "writable": ["/tmp"]}, "`network` and `writable` are for"),
        ({"url": "http://127.0.0.1:1/mcp", "sandbox": "auto"}, "for a server with a `command`"),
    ],
)
def test_settings_that_have_no_effect(fields: dict[str, Any], message: str) -> None:
    """A setting without a sandbox is an error, because the server would have all permissions."""
    with pytest.raises(ValueError, match=message):
        ServerConfig(name="t", **fields)
