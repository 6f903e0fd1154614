"""The configuration of servers, and its errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tinyagent_mcp
from tinyagent import AgentTool, ConfigurationError, NotConfiguredError
from tinyagent_mcp import ServerConfig
from tinyagent_mcp._paths import config_file
from tinyagent_mcp._sources import configured

from .conftest import SERVER


def write(text: str) -> Path:
    """Write the user's `mcp.toml`."""
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_servers() -> None:
    """Commands may be lists or strings; disabled servers are omitted."""
    write("""
[mcp.servers.time]
command = ["uvx", "mcp-server-time"]
tools = ["get_*"]
[mcp.servers.files]
command = "npx -y 'a server' /tmp"
[mcp.servers.far]
url = "https://example.org/mcp"
[mcp.servers.off]
command = "x"
enabled = false
""")
    found = {server.name: server for server in configured()}
    assert ["time", "files", "far"] == list(found)
    assert ["npx", "-y", "a server", "/tmp"] == found["files"].argv()
    assert (True, False) == (found["time"].uses("get_time"), found["time"].uses("set_time"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mcp.servers.x]\n", "either `command` or `url`"),
        ('[mcp.servers.x]\ncommand = "a"\nurl = "https://b"\n', "either `command` or `url`"),
        ('[mcp.servers.x]\ncommand = ""\n', "empty"),
        ('[mcp.servers.x]\ncommand = "a \'b"\n', "quotation"),
        ('[mcp.servers.x]\ncomand = "a"\n', "comand"),
        ("[mcp.servers.x]\ncommand = 5\n", "command"),
        ('[mcp.servers."a b"]\ncommand = "a"\n', "name"),
        ("[mcp.servers.a__b]\ncommand = 'a'\n", "name"),
        ('[mcp.servers.x]\nurl = "http://example.org/mcp"\n', "not encrypted"),
        ('[mcp.servers.x]\nurl = "https://me:secret@example.org/mcp"\n', "credentials"),
        ('[mcp.servers.x]\nurl = "ftp://example.org"\n', "not an http"),
        ("[mcp.server.x]\ncommand = 'a'\n", "mcp.server"),
        ("[servers.x]\ncommand = 'a'\n", "servers"),
        ("[mcp.servers.x\n", "is not TOML"),
        ('{"mcpServers": {}}', "is not TOML"),
        ("[mcp.servers.x]\ncommand = 'a'\nargs = ['b']\n", r"\[mcp.servers.x\]: unknown key 'args'"),
    ],
)
def test_an_invalid_file_is_reported(text: str, words: str) -> None:
    """The error shows the file, the table and the rule; the hint shows a valid server."""
    path = write(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        configured()
    assert str(path) in str(caught.value)
    assert 'command = ["PROGRAM", "ARGUMENT"]' in (caught.value.hint or "")


def test_http_is_allowed_for_loopback() -> None:
    """Other unencrypted URLs need allow_http."""
    for url in ("http://127.0.0.1:8000/mcp", "http://localhost/mcp", "http://[::1]:8000/mcp"):
        assert url == ServerConfig(name="x", url=url).url
    assert ServerConfig(name="x", url="http://example.org/mcp", allow_http=True)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("uvx mcp-server-time --local-timezone UTC", "time"),
        ("python -m mcp_server_git", "git"),
        ("npx -y @modelcontextprotocol/server-everything", "everything"),
        ("./tools/weather.py", "weather"),
        ("clock=uvx mcp-server-time", "clock"),
        ("https://mcp.example.org/mcp", "mcp-example-org"),
    ],
)
def test_tinyagent_mcp_accepts_a_server(monkeypatch: pytest.MonkeyPatch, line: str, name: str) -> None:
    """Without NAME=, a name is derived."""
    monkeypatch.setenv("TINYAGENT_MCP", line)
    [server] = configured()
    assert (name, False) == (server.name, server.remember)


def test_tinyagent_mcp_accepts_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is a server and replaces one of the file; a repeated name is an error."""
    write('[mcp.servers.a]\ncommand = "from-file"\n')
    monkeypatch.setenv("TINYAGENT_MCP", "a=first\n\n  b=second x=y  \n")
    assert {"a": ["first"], "b": ["second", "x=y"]} == {server.name: server.argv() for server in configured()}
    monkeypatch.setenv("TINYAGENT_MCP", "a=first\na=second")
    with pytest.raises(ConfigurationError, match="two servers named 'a'"):
        configured()


def test_nothing_is_read_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project cannot start a server with any file."""
    text = f'[mcp.servers.x]\ncommand = ["{SERVER}"]\n'
    for name in ("mcp.toml", "tinyagent.toml", ".mcp.toml", ".mcp.json"):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert [] == configured()


def test_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` in env and headers is replaced; a missing one is an error, and values are redacted."""
    monkeypatch.setenv("MY_TOKEN", "sk-test-CANARY")
    server = ServerConfig(
        name="x", command="a", env={"TOKEN": "${MY_TOKEN}"}, headers={"Authorization": "Bearer ${MY_TOKEN}"}
    )
    assert "sk-test-CANARY" == server.environment()["TOKEN"]
    assert {"Authorization": "Bearer sk-test-CANARY"} == server.expanded(server.headers, "headers")
    plain = ServerConfig(name="x", url="https://b/?key=sk-test-CANARY", headers={"A": "sk-test-CANARY"})
    assert "sk-test-CANARY" not in repr(server) + repr(plain)
    with pytest.raises(ConfigurationError, match="NOT_THERE, which is not set") as caught:
        ServerConfig(name="x", command="a", env={"A": "${NOT_THERE}"}).environment()
    assert "Set it: export NOT_THERE=…" == caught.value.hint


def test_the_fingerprint_covers_arguments_and_program(tmp_path: Path) -> None:
    """A different argument or version of the program changes the fingerprint."""
    script = tmp_path / "server.py"
    script.write_text("1")
    first = ServerConfig(name="x", command=["python3", str(script)])
    assert first.fingerprint() == ServerConfig(name="x", command=["python3", str(script)]).fingerprint()
    assert first.fingerprint() != ServerConfig(name="x", command=["python3", str(script), "-v"]).fingerprint()
    before = first.fingerprint()
    script.write_text("changed")
    os.utime(script, (1, 1))
    assert before != first.fingerprint()


def test_no_server_is_an_error_with_a_hint() -> None:
    """Without servers, `-t mcp` fails, and the hint shows what to add to which file."""
    registered: list[AgentTool] = []
    with pytest.raises(NotConfiguredError, match="No MCP server is configured") as raised:
        tinyagent_mcp.tinyagent_register_tools(registered.append, None)
    assert "[mcp.servers.NAME]" in (raised.value.hint or "")
    assert str(config_file()) in (raised.value.hint or "")
    assert [] == registered


def test_the_file_is_read_like_every_configuration_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte order marks are accepted; files that others may write and invalid homes are refused."""
    path = write('\ufeff[mcp.servers.x]\ncommand = "x"\n')
    assert ["x"] == [server.name for server in configured()]
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="can be written by others"):
        configured()
    monkeypatch.setenv("TINYAGENT_HOME", "/dev/null")
    assert [] == configured()
