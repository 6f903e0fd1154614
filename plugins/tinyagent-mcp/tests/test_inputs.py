"""Prompts of servers as templates, resources for `-f` and in links, and roots."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tinyagent import ConfigurationError, PluginError, ToolError
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_mcp import McpServers, ServerConfig
from tinyagent_mcp._paths import config_file

from .conftest import SERVER, TINY, Tools, config, text_of, tiny
from .test_cli import tinyagent
from .test_config import write
from .test_hostile import HOSTILE


def write_server() -> None:
    """Configure the test server as `t`, and a small one without prompts."""
    command = json.dumps([sys.executable, str(SERVER)])
    write(f"[mcp.servers.t]\ncommand = {command}\n[mcp.servers.small]\ncommand = {json.dumps(TINY)}\n")


@pytest_asyncio.fixture
async def model() -> AsyncIterator[FakeServer]:
    """Start a model server, which is `local` in the configuration."""
    async with FakeServer(FakeReply.text("Done."), repeat=True) as server:
        file = config_file().with_name("config.toml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'[providers.local]\nbase_url = "{server.origin}/v1"\n')
        yield server


async def run(*arguments: str, **environment: str) -> Any:
    """Run the command with the model `local/m` in a thread."""
    return await asyncio.to_thread(tinyagent, "run", "-m", "local/m", *arguments, **environment)


def prompt_of(server: FakeServer) -> Any:
    """Return the content of the user's message of the last request."""
    return server.requests[-1].json["messages"][-1]["content"]


async def test_a_prompt_is_a_template(model: FakeServer) -> None:
    """`-p SERVER/PROMPT` with `-P` sends the server's text as it is; a prompt of the user comes after it."""
    write_server()
    done = await run("-p", "t/ask", "-P", "topic=tea", "Be brief.")
    assert (0, "Done.\n") == (done.returncode, done.stdout), done.stderr
    assert "Tell me about tea {{ x }}\n\nBe brief." == prompt_of(model)
    assert 0 == (await run("-p", "t/talk")).returncode
    assert "User: Who are you?\n\nAssistant: A test.\n\nUser: Go on." == prompt_of(model)


async def test_a_prompt_of_a_server_of_one_run(model: FakeServer) -> None:
    """`--mcp` and `-p` work together."""
    command = f"one={sys.executable} {SERVER}"
    done = await run("--mcp", command, "-p", "one/ask", "-P", "topic=tea", "-P", "style=briefly")
    assert 0 == done.returncode, done.stderr
    assert "Tell me about tea briefly{{ x }}" == prompt_of(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "t/ask"], "needs a value for topic: -P topic=…"),
        (["-p", "t/ask", "-P", "topic=x", "-P", "stile=y"], "has no variable of that name"),
        (["-p", "t/asks"], "There is no template 't/asks'"),
        (["-p", "nobody/ask"], "There is no template 'nobody/ask'"),
        (["-p", "t/broken"], "the prompt is broken"),
        (["-f", "mcp:t"], "write it as -f mcp:SERVER:URI"),
        (["-f", "mcp:nobody:memo://one"], "There is no MCP server 'nobody'"),
    ],
)
def test_wrong_prompts_and_resources(arguments: list[str], words: str) -> None:
    """The error names the variable, the template or the server."""
    write_server()
    done = tinyagent("run", "-m", "demo", *arguments)
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_prompts_are_listed() -> None:
    """`templates list` has the prompts and their variables; completion knows them afterwards."""
    write_server()
    assert "t/ask" not in _completed()
    listed = {row["name"]: row for row in json.loads(tinyagent("templates", "list", "--json").stdout)}
    assert {"t/ask", "t/talk", "t/broken"} == set(listed)
    assert (["topic", "style"], "mcp") == (listed["t/ask"]["variables"], listed["t/ask"]["source"])
    shown = tinyagent("templates", "show", "t/ask").stdout
    assert "Ask about a topic.\n  -P topic=…  What to ask about\n  -P style=…  (optional)\n" in shown
    assert "t/ask" in _completed()
    assert "  t/ask  (prompt)\n" in tinyagent("mcp", "list").stdout


def _completed() -> str:
    words = "tinyagent run -p t"
    return tinyagent(_TINYAGENT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="3").stdout


def test_templates_are_listed_if_a_server_fails() -> None:
    """The prompts of the others are there, and a warning says which are missing."""
    write_server()
    with config_file().open("a") as file:
        file.write("[mcp.servers.broken]\ncommand = 'no-such-program-anywhere'\n")
    done = tinyagent("templates", "list")
    assert (0, True) == (done.returncode, "t/ask" in done.stdout)
    assert "The prompts of 'broken' are missing" in done.stderr


async def test_a_resource_is_read_like_a_file(model: FakeServer) -> None:
    """`-f mcp:SERVER:URI` adds the text or the image of a resource."""
    write_server()
    done = await run("-f", "mcp:t:memo://one", "Sum it up.")
    assert 0 == done.returncode, done.stderr
    assert "<file name='mcp:t:memo://one'>\nThis is memo://one\n</file>\n\nSum it up." == prompt_of(model)


async def test_a_link_can_be_followed() -> None:
    """After the first link to a resource, the tool that reads it is offered, even if none is listed."""
    with McpServers([config(env={"TEST_NO_RESOURCES": "1"})]) as servers:
        tools = Tools(servers)
        assert "t__read_resource" not in tools.by_name
        answer = await tools.text("link")
        assert "[Resource, to read with read_resource: hidden, memo://hidden, text/plain]" == answer
        assert await servers.refresh()
        tools = Tools(servers)
        assert "This is memo://hidden" == text_of(await tools.result("read_resource", uri="memo://hidden"))


async def test_a_server_gets_the_working_directory_as_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`roots` names other directories; without any, the server's request is refused."""
    monkeypatch.chdir(tmp_path)
    for roots, expected in ((None, [tmp_path]), (["~", "/srv"], [Path.home(), Path("/srv")])):
        with McpServers([config(roots=roots)]) as servers:
            answer = await Tools(servers).text("roots")
            assert [path.as_uri() for path in expected] == answer.split("\n")
    with McpServers([config(roots=[])]) as servers, pytest.raises(ToolError):
        await Tools(servers).text("roots")


def test_a_server_at_a_url_has_no_roots() -> None:
    """The names of directories do not leave the machine, unless they are configured."""
    assert [] == ServerConfig(name="x", url="https://a/b").root_directories()
    assert [] == ServerConfig(name="x", command="a", roots=[]).root_directories()
    assert [Path("/a")] == ServerConfig(name="x", url="https://a/b", roots=["/a"]).root_directories()


def test_prompts_of_a_server_that_fails() -> None:
    """A requested prompt of a server that cannot be used is an error with a hint."""
    with McpServers([tiny(command="no-such-program-anywhere")]) as servers:
        with pytest.raises(ConfigurationError, match="was not found"):
            servers.templates("t/ask")
        with pytest.raises(ConfigurationError, match="was not found"):
            servers.read_resource("t", "memo://one")
    with McpServers([config()]) as servers:
        with pytest.raises(PluginError, match="the resource is broken") as caught:
            servers.read_resource("t", "memo://broken")
        assert "tinyagent mcp test t" in (caught.value.hint or "")


def test_malformed_prompts_are_omitted() -> None:
    """The tools of a server with malformed prompts work; what is omitted is reported."""
    with McpServers([config(command=HOSTILE, env={"TEST_START": "prompts"})]) as servers:
        listing = servers.listings()["t"]
        assert [("good", ["a"])] == [
            (prompt.name, [argument.name for argument in prompt.arguments]) for prompt in listing.prompts
        ]
        assert 3 == sum("prompt" in problem for problem in listing.problems)
        [template] = servers.templates()
        text = template.fill_in({})
        assert text.startswith("[An image is left out]\n\n[An item without a type was malformed")
