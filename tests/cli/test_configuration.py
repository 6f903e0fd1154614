"""Where settings and keys come from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from tinyagent.testing import FakeServer
from tinyagent_cli import settings

from .conftest import Cli, FakeReply

Serve = Callable[..., FakeServer]
CALC = """
from tinyagent import hookimpl, tool

@tool(read_only=True)
def calc(x: str) -> str:
    "Calculate."
    return x

@hookimpl
def tinyagent_register_tools(register):
    register(calc)
"""
KEY = 'api_key_env = "LOCAL_KEY"\n'


def keys(cli: Cli, text: str, mode: int = 0o600) -> Path:
    """Write keys.toml."""
    cli.home.mkdir(exist_ok=True)
    path = cli.home / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def authorization(server: FakeServer) -> str | None:
    """The header of the last request."""
    return server.requests[-1].headers.get("authorization")


@pytest.mark.parametrize("xdg", [None, "", "/somewhere/else"])
def test_the_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch, xdg: str | None) -> None:
    """The shortcut for Linux says what platformdirs says."""
    monkeypatch.delenv("TINYAGENT_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", xdg)
    expected = platformdirs.user_config_path("tinyagent", appauthor=False)
    assert expected == settings.config_directory()
    monkeypatch.setattr(sys, "platform", "another")
    assert expected == settings.config_directory()


def test_the_environment_comes_before_the_key_file(cli: Cli, serve: Serve) -> None:
    """The variable's key is sent; without it the file's; white space around it is no part of it."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"), more=KEY)
    keys(cli, 'local = "  sk-test-file "\n')
    assert 0 == cli("run", "-m", "local/m", "Hi", LOCAL_KEY=" sk-test-env\n").code
    assert "Bearer sk-test-env" == authorization(server)
    assert 0 == cli("run", "-m", "local/m", "Hi", LOCAL_KEY="  ").code
    assert "Bearer sk-test-file" == authorization(server)


def test_no_key_no_header(cli: Cli, serve: Serve) -> None:
    """A provider without api_key_env gets no Authorization header, whatever keys are set."""
    server = serve(FakeReply.text("ok"))
    assert 0 == cli("run", "-m", "local/m", "Hi", OPENAI_API_KEY="sk-test-other").code
    assert authorization(server) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_file_that_others_can_read_is_refused(cli: Cli, serve: Serve, mode: int) -> None:
    """Exit code 3, and how to mend it."""
    serve(FakeReply.text("ok"), more=KEY)
    path = keys(cli, 'local = "sk-test-file"\n', mode)
    done = cli("run", "-m", "local/m", "Hi")
    assert 3 == done.code
    assert f"chmod 600 {path}" in done.err
    assert "sk-test-file" not in done.err


@pytest.mark.parametrize("text", ['local = "sk-test-CANARY', 'local = ["sk-test-CANARY"]', "sk-test-CANARY"])
def test_a_malformed_key_file_does_not_show_its_keys(cli: Cli, serve: Serve, text: str) -> None:
    """The message names the file, and at most the position."""
    serve(FakeReply.text("ok"), more=KEY)
    keys(cli, text)
    done = cli("run", "-vv", "-m", "local/m", "Hi")
    assert 3 == done.code
    assert "keys.toml" in done.err
    assert "CANARY" not in done.err


@pytest.mark.parametrize("key", ["sk-test-one sk-test-two", "sk-test-\x7f", "sk-test-é"])
def test_a_key_that_cannot_be_a_header_is_refused_unseen(cli: Cli, serve: Serve, key: str) -> None:
    """Before a request is made; the message says where it is from and does not show it."""
    server = serve(FakeReply.text("ok"), more=KEY)
    done = cli("run", "-vv", "-m", "local/m", "Hi", LOCAL_KEY=key)
    assert (3, []) == (done.code, server.requests)
    assert "LOCAL_KEY" in done.err
    assert key not in done.err


def test_the_first_provider_with_a_key_is_taken(cli: Cli) -> None:
    """Nothing chosen: said on standard error which and why. The request goes nowhere here: -O is wrong."""
    done = cli("run", "-O", "x", "Hi", GROQ_API_KEY="gsk-1")
    assert 2 == done.code
    assert "Using groq/" in done.err
    assert "GROQ_API_KEY is set" in done.err


def test_the_users_own_endpoint_replaces_a_built_in_one(cli: Cli, serve: Serve) -> None:
    """[providers.openai] with a base_url is another server; the built-in key is not sent there."""
    server = serve(FakeReply.text("ok"))
    cli.server(server, "openai")
    assert 0 == cli("run", "-m", "openai/m", "Hi", OPENAI_API_KEY="sk-test-CANARY").code
    assert authorization(server) is None


def test_headers_and_options_of_a_provider(cli: Cli, serve: Serve) -> None:
    """`headers` are sent, `options` are merged into the request, -O over them."""
    server = serve(
        FakeReply.text("ok"), more='headers = { X-Team = "a" }\noptions = { seed = 1, top_k = 2 }\n'
    )
    assert 0 == cli("run", "-m", "local/m", "-O", "seed=3", "Hi").code
    request = server.requests[0]
    assert ("a", 3, 2) == (request.headers["x-team"], request.json["seed"], request.json["top_k"])


def test_the_run_table_holds_defaults(cli: Cli, serve: Serve) -> None:
    """What [run] says is taken where no flag says otherwise, the project's over the user's."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"))
    config = (cli.home / "config.toml").read_text()
    run = (
        'model = "local/m"\nsystem = "Be brief."\ntemperature = 0.1\nmax_tokens = 5\noptions = { seed = 1 }\n'
    )
    cli.config(f"[run]\n{run}{config}")
    cli.file("tinyagent.toml", "[run]\nmax_tokens = 3\n")
    assert 0 == cli("run", "Hi").code
    assert 0 == cli("run", "--temperature", "0", "-s", "", "Hi").code
    seen = [
        (body["temperature"], body["max_tokens"], body["seed"], body["messages"][0]["role"])
        for body in (request.json for request in server.requests)
    ]
    assert [(0.1, 3, 1, "system"), (0.0, 3, 1, "user")] == seen


def test_a_project_chooses_tools_by_name(cli: Cli, serve: Serve) -> None:
    """`tools = [...]` names installed plugins."""
    cli.install("sums", CALC)
    server = serve(FakeReply.text("ok"))
    cli.file("tinyagent.toml", '[run]\ntools = ["sums"]\n')
    assert 0 == cli("run", "-m", "local/m", "Hi").code
    assert ["calc"] == [tool["function"]["name"] for tool in server.requests[0].json["tools"]]
