"""`tinyagent mcp import` reads the `mcpServers` JSON of other programs, and copies no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tinyagent import ConfigurationError
from tinyagent_mcp._import import read_servers
from tinyagent_mcp._paths import config_file
from tinyagent_mcp._sources import configured

from .conftest import TINY
from .test_cli import tinyagent
from .test_config import write

CANARY = "planted-canary-1234"


def one(entry: Any, name: str = "x") -> tuple[dict[str, Any], list[str]]:
    """Return the keys and the notes of an imported server."""
    imported, left_out = read_servers(json.dumps({"mcpServers": {name: entry}}), "FILE")
    assert [] == left_out
    return imported[0].table, imported[0].notes


def reason(entry: Any) -> str:
    """Return why a server is left out."""
    imported, left_out = read_servers(json.dumps({"mcpServers": {"x": entry}}), "FILE")
    assert [] == imported
    return left_out[0].reason


def test_the_file_of_another_program_is_imported(tmp_path: Path) -> None:
    """The servers work afterwards; what is left out is shown with the reason, and no secret is copied."""
    file = tmp_path / "claude_desktop_config.json"
    servers = {
        "My Server": {"command": TINY[0], "args": TINY[1:], "env": {"A_TOKEN": CANARY, "LEVEL": "debug"}},
        "remote": {"url": "https://mcp.example.org/mcp", "headers": {"Authorization": f"Bearer {CANARY}"}},
        "old": {"type": "sse", "url": "https://mcp.example.org/sse"},
        "leaky": {"command": "cmd", "args": ["--api-key", CANARY]},
        "taken": {"command": "other"},
    }
    file.write_text(json.dumps({"mcpServers": servers, "theme": "dark"}))
    write("[mcp.servers.taken]\ncommand = 'mine'\nenabled = false\n")
    dry = tinyagent("mcp", "import", "--dry-run", str(file))
    assert (0, "[mcp.servers.taken]\ncommand = 'mine'\nenabled = false\n") == (
        dry.returncode,
        config_file().read_text(),
    )
    done = tinyagent("mcp", "import", str(file))
    assert 0 == done.returncode, done.stderr
    for words in (
        "My-Server: ",
        "export A_TOKEN=…",
        "export REMOTE_TOKEN=…",
        "old: it uses the old transport SSE",
        "leaky: its arguments have a secret (--api-key)",
        "taken: a server of this name exists; --force replaces it",
    ):
        assert words in done.stderr
    assert CANARY not in done.stderr + dry.stderr + config_file().read_text()
    assert {"My-Server", "remote"} == {server.name for server in configured()}
    missing = tinyagent("mcp", "test", "My-Server")
    assert (3, True) == (missing.returncode, "A_TOKEN, which is not set" in missing.stderr)
    tested = tinyagent("mcp", "test", "My-Server", A_TOKEN=CANARY)
    assert "  pid  (needs approval)\n" in tested.stdout, tested.stderr


def test_only_some_servers_are_imported(tmp_path: Path) -> None:
    """`--only` selects by name; `--force` replaces a server; if nothing is imported, it is an error."""
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"a": {"command": "new"}, "b": {"command": "new"}}}))
    write("[mcp.servers.a]\ncommand = 'old'\n")
    assert "no server 'c'" in tinyagent("mcp", "import", "--only", "c", str(file)).stderr
    refused = tinyagent("mcp", "import", "--only", "a", str(file))
    assert (3, True) == (refused.returncode, "No server of" in refused.stderr)
    assert 0 == tinyagent("mcp", "import", "--only", "a", "--force", str(file)).returncode
    assert [("a", ["new"])] == [(server.name, server.argv()) for server in configured()]


@pytest.mark.parametrize(
    "text",
    [
        '{"mcpServers": {"x": {"command": "a"}}}',
        '{"context_servers": {"x": {"command": {"path": "a", "args": []}}}}',
        '{"servers": {"x": {"type": "stdio", "command": "a"}}, "inputs": []}',
        '{\n // mine\n "mcp": {"servers": {"x": {"command": "a", /* no */ "args": [],},},},\n}',
    ],
)
def test_the_forms_of_other_programs(text: str) -> None:
    """VS Code and Zed have other names for the same object, and allow comments and trailing commas."""
    imported, _ = read_servers(text, "FILE")
    assert [("x", {"command": ["a"]})] == [(server.name, server.table) for server in imported]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mcpServers": []}', '{"mcpServers": {"x": {]'])
def test_other_files_are_refused(text: str) -> None:
    """The error says that the file is not JSON, or has no servers."""
    with pytest.raises(ConfigurationError, match=r"FILE (is not JSON|has no MCP servers)"):
        read_servers(text, "FILE")


def test_comments_are_not_searched_in_strings() -> None:
    """A URL in a string keeps its slashes, and a comma before a bracket in one stays."""
    imported, _ = read_servers('{"mcpServers": {"x": {"command": "a", "args": ["https://b/,]", "/*"]}}}', "F")
    assert ["a", "https://b/,]", "/*"] == imported[0].table["command"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([], "it is not an object"),
        ({}, "neither a command nor a url"),
        ({"command": "a", "args": "b"}, "not a string with a list"),
        ({"url": "https://a.example/sse"}, "old transport SSE"),
        ({"url": "wss://a.example/"}, "WebSockets"),
        ({"url": "http://a.example/mcp"}, "is not encrypted"),
        ({"url": f"https://a.example/mcp?api_key={CANARY}"}, r"a secret \(\?api_key=\)"),
        ({"command": "a", "args": ["${env:HOME}"]}, r"the variable \$\{env:HOME\}"),
        ({"command": "a", "env": ["x"]}, "its env is not an object"),
        ({"command": ""}, "is empty"),
    ],
)
def test_what_cannot_be_imported(entry: Any, words: str) -> None:
    """Each server that is left out has a reason."""
    assert re.search(words, reason(entry))


def test_keys_of_other_programs() -> None:
    """Filters, limits and the switch are taken; approvals and unknown keys are reported."""
    table, notes = one(
        {
            "command": "a",
            "args": ["${workspaceFolder}/src", "${userHome}"],
            "type": "stdio",
            "timeout": 30_000,
            "includeTools": ["get_*"],
            "excludeTools": ["get_secret"],
            "disabled": True,
            "alwaysAllow": ["get_it"],
            "colour": "red",
        }
    )
    assert {
        "command": ["a", "./src", str(Path.home())],
        "cwd": ".",
        "timeout": 30.0,
        "tools": ["get_*"],
        "exclude": ["get_secret"],
        "enabled": False,
    } == table
    expected = ("working directory", "disabled there", "approvals are not imported", "colour is left out")
    assert [True] * 4 == [any(words in note for note in notes) for words in expected]


def test_variables_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """References become ours. A variable that has another value already gets another name."""
    monkeypatch.setenv("B_TOKEN", "another value")
    env = {"A": "${env:HOME}", "C": "${input:my-key}", "D": "${X:-default}", "B_TOKEN": CANARY}
    table, notes = one({"command": "a", "env": env})
    assert {"A": "${HOME}", "C": "${MY_KEY}", "D": "${X}", "B_TOKEN": "${X_B_TOKEN}"} == table["env"]
    assert any("set the variable MY_KEY" in note for note in notes)
    servers = {name: {"command": "a", "env": {"KEY": f"{name}-{CANARY}"}} for name in ("one", "two")}
    imported, _ = read_servers(json.dumps({"mcpServers": servers}), "FILE")
    assert ["${KEY}", "${TWO_KEY}"] == [server.table["env"]["KEY"] for server in imported]


def test_names_that_are_not_unique() -> None:
    """Names get the form that is allowed here; if two become the same, the second is left out."""
    servers = {"a b": {"command": "1"}, "a_b": {"command": "2"}, "!": {"command": "3"}}
    imported, left_out = read_servers(json.dumps({"mcpServers": servers}), "FILE")
    assert [("a-b", ["1"])] == [(server.name, server.table["command"]) for server in imported]
    assert [
        ("a_b", "another server is named 'a-b', too"),
        ("!", "its name has no letter or digit"),
    ] == [(entry.name, entry.reason) for entry in left_out]
