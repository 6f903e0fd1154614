"""Fixtures: a working directory, and its tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent import AgentToolResult
from tinyagent_tools_fs import file_tools

Call = Callable[..., Awaitable[AgentToolResult]]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return an empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def call(here: Path) -> Call:
    """Return a function that calls a tool by name."""
    tools = {tool.name: tool for tool in file_tools(here)}

    async def run(name: str, **arguments: Any) -> AgentToolResult:
        execute = tools[name].execute
        assert execute is not None
        return await execute("call", arguments, None, lambda partial: None)

    return run


@pytest.fixture
def text(call: Call) -> Callable[..., Awaitable[str]]:
    """Return a function that calls a tool and returns its text."""

    async def run(name: str, **arguments: Any) -> str:
        part = (await call(name, **arguments)).content[0]
        assert part["type"] == "text"
        return part["text"]

    return run
