"""A server over streamable HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tinyagent import ToolError
from tinyagent_mcp import McpServers

from .conftest import SERVER, Tools, config, eventually, said


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, str(SERVER), str(port)], stdin=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: _listening(port))
            yield
        finally:
            process.kill()


@pytest.mark.timeout(60)
async def test_a_server_over_http() -> None:
    """Tools, progress and failures as over stdio; when the server comes back, so do its tools."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with McpServers([config(command=None, url=f"http://127.0.0.1:{port}/mcp")]) as servers:
        with _running(port):
            tools = Tools(servers)
            assert "8" == await tools.text("double", n=4)
            assert "done" == await tools.text("steps")
            assert [f"step {n} ({n} of 3)" for n in (1, 2, 3)] == [said(part) for part in tools.partials]
            with pytest.raises(ToolError, match="disk is full"):
                await tools.text("fails")
        with pytest.raises(ToolError, match="'t'"):
            await tools.text("double", n=4)
        with _running(port):
            assert "8" == await tools.text("double", n=4)
