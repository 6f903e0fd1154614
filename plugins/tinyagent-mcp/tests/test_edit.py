"""`tinyagent mcp add`, `remove` and `test` change the file and show what a server offers."""

from __future__ import annotations

import json
import sys

import pytest

from tinyagent_mcp._paths import cache_directory, config_file
from tinyagent_mcp._secrets import has_secret, secret_argument

from .conftest import TINY
from .test_cli import tinyagent
from .test_config import write


def test_a_server_is_added_tested_and_removed() -> None:
    """`add` writes it, `test` starts it, `remove` leaves the rest of the file and its comments."""
    before = "# my servers\n[mcp.servers.other]\ncommand = 'other'  # the other one\nenabled = false\n"
    write(before)
    done = tinyagent("mcp", "add", "--exclude", "da*", "t", *TINY)
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert config_file().read_text().startswith(before)
    tested = tinyagent("mcp", "test", "t", "--json")
    assert 0 == tested.returncode, tested.stderr
    [server] = json.loads(tested.stdout)
    assert {"pid": True, "daemon": False, "read": True} == {
        tool["name"]: tool["used"] for tool in server["tools"]
    }
    assert "  daemon  (not used)\n" in tinyagent("mcp", "list").stdout
    assert (cache_directory() / "t.json").exists()
    assert 0 == tinyagent("mcp", "remove", "t").returncode
    assert before == config_file().read_text()
    assert not (cache_directory() / "t.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files")
def test_the_file_is_private() -> None:
    """A new file is readable by its user only."""
    assert 0 == tinyagent("mcp", "add", "x", "https://mcp.example.org/mcp").returncode
    assert 0o600 == config_file().stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "Missing argument"),
        (["x", "--url", "https://a/b"], "options of `tinyagent mcp add` come before NAME"),
        (["x y", "cmd"], "is not a valid name"),
        (["x", "http://mcp.example.org/mcp"], "is not encrypted"),
        (["x", "https://a/b", "-e", "A=b"], "A URL has no arguments"),
        (["-e", "A=b", "x", "https://a/b"], "--env is for a command"),
        (["-H", "A: b", "x", "cmd"], "--header is for a URL"),
        (["-e", "A", "x", "cmd"], "write it as NAME=VALUE"),
        (["-e", "MY_TOKEN=planted-canary", "x", "cmd"], "--pass-env MY_TOKEN"),
        (["-H", "Authorization: Bearer planted-canary", "x", "https://a/b"], "looks like a secret"),
        (["x", "cmd", "--api-key", "planted-canary"], "seems to have a secret (--api-key)"),
        (["x", "https://a/b?token=planted-canary"], "seems to have a secret (?token=)"),
        (["taken", "cmd"], "There is a server 'taken'"),
    ],
)
def test_what_cannot_be_added(arguments: list[str], words: str) -> None:
    """The error shows the reason and what to do instead; the file stays as it was, and shows no secret."""
    path = write("[mcp.servers.taken]\ncommand = 'a'\n")
    before = path.read_bytes()
    done = tinyagent("mcp", "add", *arguments)
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "planted-canary" not in done.stderr
    assert before == path.read_bytes()


def test_a_reference_to_a_variable_is_no_secret() -> None:
    """Variables of the environment may be named in `env` and `headers`, and are written as they are."""
    header = "Authorization: Bearer ${MY_TOKEN}"
    assert 0 == tinyagent("mcp", "add", "-H", header, "x", "https://a/b").returncode
    assert 'headers = {Authorization = "Bearer ${MY_TOKEN}"}' in config_file().read_text()
    assert 0 == tinyagent("mcp", "add", "-e", "KEY=${MY_KEY}", "--force", "x", "cmd", "arg").returncode
    text = '[mcp.servers.x]\ncommand = ["cmd", "arg"]\nenv = {KEY = "${MY_KEY}"}\n'
    assert text == config_file().read_text()


def test_unknown_servers_are_reported() -> None:
    """`remove` and `test` name the servers that exist."""
    assert "To add one: tinyagent mcp add" in tinyagent("mcp", "test").stderr
    write("[mcp.servers.t]\ncommand = 'a'\n")
    for command in ("remove", "test"):
        done = tinyagent("mcp", command, "nope")
        assert 3 == done.returncode
        assert "There is no server 'nope'" in done.stderr
        assert "t." in done.stderr


def test_a_server_that_fails_its_test_is_an_error() -> None:
    """The exit code is 3; the servers that work are shown nevertheless."""
    write(
        f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\n"
        "[mcp.servers.broken]\ncommand = 'no-such-program-anywhere'\n"
    )
    done = tinyagent("mcp", "test")
    assert 3 == done.returncode
    assert "  pid  (needs approval)\n" in done.stdout
    assert "'no-such-program-anywhere' was not found" in done.stderr


def test_a_pattern_that_matches_nothing_is_reported() -> None:
    """A misspelt pattern of `tools` or `exclude` is a warning."""
    write(f"[mcp.servers.t]\ncommand = {json.dumps(TINY)}\ntools = ['pid', 'reed']\nexclude = ['x*']\n")
    for command in (["mcp", "test"], ["run", "-m", "demo", "-t", "mcp", "Hi"]):
        done = tinyagent(*command)
        assert 0 == done.returncode, done.stderr
        assert "no tool is named 'reed'" in done.stderr
        assert "no tool is named 'x*'" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_TOKEN", "abcdefgh"),
        ("X-Api-Key", "12345678"),
        ("Cookie", "session=abcdefgh"),
        ("VALUE", "ghp_abcdefgh1234"),
        ("VALUE", "sk-test-abcdefgh"),
        ("DSN", "postgres://me:planted@db/x"),
        ("Authorization", "Bearer ${A}rest-of-it"),
    ],
)
def test_secrets_are_found(name: str, value: str) -> None:
    """By the name of the variable or header, or by the form of the value."""
    assert has_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "debug"),
        ("A_TOKEN", "${A_TOKEN}"),
        ("Authorization", "Bearer ${A}"),
        ("USE_AUTH", "true"),
        ("URL", "https://mcp.example.org/a?page=2"),
        ("KEY_COUNT", "20"),
        ("A_KEY", ""),
    ],
)
def test_other_values_are_no_secrets(name: str, value: str) -> None:
    """References to variables, switches and numbers are none."""
    assert not has_secret(name, value)


def test_secrets_in_arguments_are_found() -> None:
    """Options and URLs are searched; the answer does not quote the secret."""
    assert "--api-key" == secret_argument(["cmd", "--api-key", "planted-canary"])
    assert "--token" == secret_argument(["cmd", "--token=planted-canary"])
    assert "argument 1" == secret_argument(["cmd", "postgres://me:planted@db/x"])
    assert secret_argument(["npx", "-y", "@scope/server-auth", "--port", "80", "--verbose"]) is None
