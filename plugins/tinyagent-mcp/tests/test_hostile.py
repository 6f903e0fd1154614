"""Faulty servers: each fault is reported, has a limited effect, and blocks nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent import ConfigurationError, ToolError
from tinyagent_mcp import McpServers, ServerConfig, _repair, _stdio

from .conftest import Tools, config, text_of

HOSTILE = [sys.executable, "-I", "-S", str(Path(__file__).with_name("hostile.py"))]


def hostile(start: str = "", **fields: Any) -> ServerConfig:
    """Return the configuration of the faulty server."""
    return config(**{"command": HOSTILE, "env": {"TEST_START": start}, **fields})


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    """Start one server for all faults that do not break the connection."""
    with McpServers([hostile()]) as servers:
        yield Tools(servers)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("code_32000", "t: quota used up"),
        ("code_32001", "t: no such session of yours"),
        ("code_with_data", 't: Invalid params: {"city":"is missing"}'),
        ("code_is_text", "t: quota used up"),
        ("error_is_text", "t: quota used up"),
        ("error_without_message", "quota used up"),
        ("error_for_nobody", "t: quota used up"),
        ("error_and_result", "t: quota used up"),
        ("too_deep", "t: the server's answer is not JSON, or nested too deep"),
        ("not_json", "t: the server's answer is not JSON, or nested too deep"),
        ("no_object", "t: the server's answer is not a JSON-RPC message"),
    ],
)
async def test_error_texts_reach_the_model(tools: Tools, fault: str, words: str) -> None:
    """The model gets the server's error text, and the connection remains open."""
    with pytest.raises(ToolError) as caught:
        await tools.result(fault)
    assert words in str(caught.value)
    assert "text id" == await tools.text("text_id")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("structured_only", '{"rows":[1]}'),
        ("structured_list", "[1,2]"),
        ("content_is_text", "plain"),
        ("content_is_one", "single"),
        ("not_utf8", "caf�"),
        ("surrogate", "a?b"),
        ("not_a_number", "fine"),
        ("garbage", "after garbage"),
        ("batch", "in a batch"),
        ("float_id", "float id"),
        ("text_id", "text id"),
        ("twice", "first answer"),
        ("stderr_flood", "after the noise"),
        ("notification_flood", "after the flood"),
        ("request_flood", "after the flood"),
    ],
)
async def test_minor_faults_are_tolerated(tools: Tools, fault: str, text: str) -> None:
    """Nonstandard forms, invalid UTF-8 and floods beside the answer are tolerated."""
    assert text == await tools.text(fault)


async def test_only_malformed_items_are_omitted(tools: Tools) -> None:
    """The other content arrives in order, with a note for each omitted item."""
    result = await tools.result("items")
    assert [
        "first",
        "[An item of the type 'text' was malformed and is omitted]",
        "[An image was malformed and is omitted: it is not base64]",
        "[An image of the type 'image/tiff', 9 bytes: cannot be shown]",
        "[An image of the type '', 9 bytes: cannot be shown]",
        "[Content of the type 'video' cannot be shown]",
        "[a resource was malformed and is omitted]",
        "[Resource, to read with read_resource: memo://x]",
        "[Audio, audio/wav, 9 bytes: cannot be shown]",
        "[An item without a type was malformed and is omitted]",
        "[An item without a type was malformed and is omitted]",
        "last",
    ] == text_of(result).splitlines()
    assert ["image"] == [part["type"] for part in result.content if part["type"] != "text"]


async def test_results_have_limits(tools: Tools) -> None:
    """Items, images and structured content beyond the limits are omitted with a note."""
    many = await tools.result("many_items")
    assert _repair.MAX_ITEMS + 1 == len(many.content)
    assert "4000 more items were omitted" in text_of(many)
    images = await tools.result("many_images")
    assert 5 == sum(part["type"] == "image" for part in images.content)
    assert 1 == text_of(images).count("too large")
    structured = await tools.result("structured_huge")
    assert {} == structured.details
    assert "more characters were omitted" in text_of(structured)


@pytest.mark.parametrize("fault", ["huge", "huge_then_image", "huge_id_last"])
async def test_a_message_that_is_too_large_is_truncated(tools: Tools, fault: str) -> None:
    """The model gets its beginning with a note; an incomplete image is omitted."""
    result = await tools.result(fault)
    assert text_of(result).startswith("[The server's answer was too large, 50,000,")
    assert ["text"] * len(result.content) == [part["type"] for part in result.content]
    assert _repair.MAX_TEXT + 200 > len(text_of(result))
    assert {"huge": "xxx", "huge_then_image": "before", "huge_id_last": "yyy"}[fault] in text_of(result)


async def test_a_line_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays limited, and the call ends before its time-out."""
    monkeypatch.setattr(_stdio, "MAX_LINE", 2_000_000)
    monkeypatch.setattr(_stdio, "MAX_SKIPPED", 8_000_000)
    with McpServers([hostile()]) as servers:
        tools = Tools(servers)
        assert "too large" in await tools.text("endless")
        assert "text id" == await tools.text("text_id")


async def test_progress_has_a_rate_limit(tools: Tools) -> None:
    """Only some of a flood of progress notifications are forwarded."""
    tools.partials.clear()
    await tools.text("notification_flood")
    assert 1 <= len(tools.partials) < 1_000


async def test_requests_of_the_server_are_refused(tools: Tools) -> None:
    """Without a user, sampling and elicitation are declined. An unknown method is refused."""
    answer, *reasons = (await tools.text("requests")).splitlines()
    assert "-1 answered answered -32601 pong" == answer
    assert 2 == sum("was declined: this run cannot ask the user" in reason for reason in reasons)


@pytest.mark.parametrize("fault", ["dies", "closes_output"])
async def test_a_server_that_exits_fails_the_call(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has its last output without its token; the next call starts a new server."""
    monkeypatch.setenv("MY_TOKEN", "sk-test-CANARY")
    with McpServers([hostile(pass_env=["MY_TOKEN"])]) as servers:
        tools = Tools(servers)
        with pytest.raises(ToolError, match="ended before it had answered") as caught:
            await tools.result(fault)
        assert ("token … has expired" in str(caught.value)) == (fault == "dies")
        assert "CANARY" not in str(caught.value)
        assert "text id" == await tools.text("text_id")


async def test_an_error_before_an_exit_is_reported() -> None:
    """The error text of a server that exits is not lost."""
    with McpServers([hostile()]) as servers, pytest.raises(ToolError, match="quota used up"):
        await Tools(servers).result("error_and_exit")


async def test_an_unreadable_answer_fails_only_its_call(tools: Tools) -> None:
    """Other concurrent calls are not affected."""
    names = ["not_json", "text_id", "code_32000", "twice", "too_deep", "batch"]
    results = await asyncio.gather(*(tools.result(name) for name in names), return_exceptions=True)
    assert [True, False] * 3 == [isinstance(result, ToolError) for result in results]


# ---- starting and listing ----------------------------------------------------------------------------


def test_malformed_tools_are_omitted(caplog: pytest.LogCaptureFixture) -> None:
    """Old drafts are repaired, and a repeated name is omitted."""
    with McpServers([hostile("malformed")]) as servers:
        tools = Tools(servers)
        assert ["t__good", "t__old", "t__odd"] == list(tools.by_name)
        assert "late ran" == asyncio.run(tools.text("odd"))
        assert {"exclusiveMinimum": 0, "type": "integer"} == tools.by_name["t__old"].parameters["properties"][
            "n"
        ]
    reported = "\n".join(record.getMessage() for record in caplog.records)
    for name in ("no_schema", "text_schema", "string_schema", "unknown_type", "large_schema"):
        assert f"MCP server 't': the tool '{name}' was omitted: " in reported
    assert "a tool without a name was omitted: it has no name" in reported
    assert "a tool without a name was omitted: it is not an object" in reported
    assert "a second tool named 'good' was omitted" in reported


@pytest.mark.parametrize(
    ("start", "names"),
    [
        ("no-list", []),
        ("cursors", ["t__page_None", "t__same", "t__page_a", "t__page_b"]),
        ("endless-pages", [f"t__page_{n}" for n in range(100)]),
    ],
)
def test_endless_lists_end(start: str, names: list[str]) -> None:
    """A repeated cursor or the page limit ends a list, and each tool is used once."""
    with McpServers([hostile(start)]) as servers:
        assert names == [tool.name for tool in servers.tools()]


def test_an_incomplete_handshake_is_accepted() -> None:
    """serverInfo may be missing, and capabilities may be invalid."""
    with McpServers([hostile("careless")]) as servers:
        assert "text id" == asyncio.run(Tools(servers).text("text_id"))


@pytest.mark.parametrize(
    ("start", "words"), [("version", "1999-01-01"), ("refuses", "The licence has expired")]
)
def test_a_failed_handshake_is_explained(start: str, words: str) -> None:
    """The error shows the server's protocol version or its error."""
    with McpServers([hostile(start)]) as servers, pytest.raises(ConfigurationError, match=words):
        servers.tools()


# ---- tools that change ---------------------------------------------------------------------------------


async def test_announced_changes_apply_in_the_next_turn() -> None:
    """New tools can be called, and unchanged lists are not read again."""
    with McpServers([hostile()]) as servers:
        tools = Tools(servers)
        assert not await servers.refresh()
        assert "added" == await tools.text("add_tool")
        assert await servers.refresh()
        later = Tools(servers)
        assert {"t__late"} == later.by_name.keys() - tools.by_name.keys()
        assert {"t__removed"} == tools.by_name.keys() - later.by_name.keys()
        assert not await servers.refresh()
        assert "late ran" == await later.text("late")
        with pytest.raises(ToolError, match="no longer offers 'removed'"):
            await tools.result("removed")


async def test_a_started_server_replaces_the_cached_list() -> None:
    """The tools of the server may differ from the cached list."""
    kept = hostile("careless", remember=True)
    with McpServers([kept]) as servers:
        await Tools(servers).text("add_tool")
        assert await servers.refresh()  # this renews the cached list
    with McpServers([kept]) as servers:
        tools = Tools(servers)
        assert "t__late" in tools.by_name
        assert "text id" == await tools.text("text_id")
        assert await servers.refresh()
        assert "t__late" not in {tool.name for tool in servers.tools()}


# ---- the environment of a server -----------------------------------------------------------------------


@pytest.mark.parametrize("cwd", [None, "."])
async def test_a_project_cannot_put_modules_into_a_server(
    cwd: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules and relative PATH entries in the working directory are not used."""
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.environ['PATH']}")
    code = f"exec(open({HOSTILE[-1]!r}).read())"  # -c and -m import from the working directory first
    with McpServers([hostile(command=[sys.executable, "-S", "-c", code], cwd=cwd)]) as servers:
        where, module, names = (await Tools(servers).text("where")).splitlines()
    assert (cwd == ".") == (Path(where) == tmp_path)
    assert not Path(module).is_relative_to(tmp_path)
    assert "PYTHONPATH" not in names.split()


def test_a_missing_cache_directory_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the directory cannot be created, the server starts in a safe one."""
    monkeypatch.setenv("TINYAGENT_HOME", "/dev/null")
    assert Path("/") == hostile().start_directory()


def test_existing_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In --mcp, arguments that are existing paths become absolute; others do not change."""
    from tinyagent_mcp._sources import configured

    monkeypatch.chdir(tmp_path)
    (tmp_path / "server.py").touch()
    (tmp_path / "time").mkdir()
    monkeypatch.setenv("TINYAGENT_MCP", "x=python server.py . time ./time a/b")
    [server] = configured()
    here = str(tmp_path)
    expected = ["python", f"{here}/server.py", here, "time", f"{here}/time", "a/b"]
    assert (expected, True) == (server.argv(), server.required)
