"""`tinyagent mcp serve`, used by the SDK's client as by another agent."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from .conftest import eventually, gone

TOOLS = '''
"""Tools of a person."""
import asyncio
import os
from pathlib import Path
from tinyagent import AgentToolResult, tool

@tool(read_only=True)
def look(name: str) -> str:
    """Look at something."""
    print("this is not JSON")
    return f"I see {name}."

@tool
def change(name: str) -> str:
    """Change something."""
    return f"{name} is changed."

@tool(read_only=True)
def picture() -> AgentToolResult:
    """Show a pixel."""
    return AgentToolResult(content=[{"type": "image", "url": "data:image/png;base64,AAAA"}])

@tool(read_only=True)
async def slow(log: str, on_update=None) -> str:
    """Take for ever."""
    Path(log).write_text(str(os.getpid()))
    on_update(AgentToolResult(content=[{"type": "text", "text": "begun"}]))
    await asyncio.Event().wait()
    return "never"
'''


@asynccontextmanager
async def _served(folder: Path, *options: str) -> AsyncIterator[Client]:
    file = folder / "mine.py"
    file.write_text(TOOLS)
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "tinyagent_cli", "mcp", "serve", "-t", str(file), *options],
        env={name: os.environ[name] for name in ("HOME", "TINYAGENT_HOME", "PATH")},
        cwd=folder,
    )
    with (folder / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors)) as client:
            yield client


def _text(result: Any) -> str:
    return "\n".join(part.text for part in result.content)


async def test_tools_are_offered_and_called(tmp_path: Path) -> None:
    """Read-only tools are offered; results, pictures and failures arrive, stray output does not."""
    async with _served(tmp_path, "-t", "calc") as client:
        offered = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"look", "picture", "slow", "calc"} == set(offered)
        assert ["name"] == offered["look"].input_schema["required"]
        assert offered["look"].annotations is not None
        assert offered["look"].annotations.read_only_hint
        look, calc, wrong, unknown, picture = await asyncio.gather(
            client.call_tool("look", {"name": "the sea"}),
            client.call_tool("calc", {"expression": "2 ** 100"}),
            client.call_tool("look", {"nam": "the sea"}),
            client.call_tool("change", {"name": "the sea"}),
            client.call_tool("picture"),
        )
    assert ("I see the sea.", False) == (_text(look), look.is_error)
    assert str(2**100) == _text(calc)
    assert (True, True) == (wrong.is_error, "do not fit its schema" in _text(wrong))
    assert (True, True) == (unknown.is_error, "There is no tool 'change'" in _text(unknown))
    assert ("image", "image/png", "AAAA") == (
        picture.content[0].type,
        picture.content[0].mime_type,
        picture.content[0].data,
    )
    assert "--allow change" in (tmp_path / "stderr").read_text()


async def test_other_tools_need_allow(tmp_path: Path, home: Path) -> None:
    """`--allow` offers a tool; the user's deny rules still apply."""
    async with _served(tmp_path, "--allow", "ch*") as client:
        assert "change" in {tool.name for tool in (await client.list_tools()).tools}
        assert "the sea is changed." == _text(await client.call_tool("change", {"name": "the sea"}))
        (home / "tinyagent").mkdir(exist_ok=True)
        (home / "tinyagent" / "config.toml").write_text('[run]\ndeny = ["change"]\n')
        refused = await client.call_tool("change", {"name": "the sea"})
    assert (True, True) == (refused.is_error, "does not allow" in _text(refused))


async def test_updates_and_cancelling(tmp_path: Path) -> None:
    """Updates become progress notifications; cancelling a call ends its process."""
    log, begun = tmp_path / "log", asyncio.Event()
    notes: list[str | None] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        notes.append(message)
        begun.set()

    async with _served(tmp_path) as client:
        task = asyncio.ensure_future(client.call_tool("slow", {"log": str(log)}, progress_callback=progress))
        await asyncio.wait_for(begun.wait(), 60)
        pid = int(log.read_text())
        assert not gone(pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(eventually, lambda: gone(pid))
        assert "I see it." == _text(await client.call_tool("look", {"name": "it"}))
    assert ["begun"] == notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-t", "no-such-tool"], "no-such-tool"),
        ([], "Missing option"),
        (["-t", "./mine.py:change"], "no tool to offer"),
    ],
)
def test_invalid_names_are_refused(tmp_path: Path, options: list[str], words: str) -> None:
    """Unknown names, and a selection without offered tools, are errors before serving."""
    import subprocess

    (tmp_path / "mine.py").write_text(TOOLS)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tinyagent_cli", "mcp", "serve", *options],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ("", True) == (done.stdout, words in done.stderr)
    assert (2 if words == "Missing option" else 3) == done.returncode
    assert "Traceback" not in done.stderr
