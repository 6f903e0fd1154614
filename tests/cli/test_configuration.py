"""The sources of settings and keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import msgspec
import platformdirs
import pytest

from tinyagent.testing import FakeServer
from tinyagent_cli.config import environment as settings
from tinyagent_cli.config.files import Count, ProjectRunTable, Seconds
from tinyagent_cli.config.settings import _LIMITS

from .conftest import Cli, FakeReply, Serve

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
    """Return the Authorization header of the last request."""
    return server.requests[-1].headers.get("authorization")


@pytest.mark.parametrize("xdg", [None, "", "/somewhere/else"])
def test_the_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch, xdg: str | None) -> None:
    """The directory for Linux is the one of platformdirs."""
    monkeypatch.delenv("TINYAGENT_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", xdg)
    expected = platformdirs.user_config_path("tinyagent", appauthor=False)
    assert expected == settings.config_directory()
    monkeypatch.setattr(sys, "platform", "another")
    assert expected == settings.config_directory()


def test_the_environment_comes_before_the_key_file(cli: Cli, serve: Serve) -> None:
    """The key of the variable takes precedence over the file; white space around it is removed."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"), more=KEY)
    keys(cli, 'local = "  sk-test-file "\n')
    assert 0 == cli("run", "-m", "local/m", "Hi", LOCAL_KEY=" sk-test-env\n").code
    assert "Bearer sk-test-env" == authorization(server)
    assert 0 == cli("run", "-m", "local/m", "Hi", LOCAL_KEY="  ").code
    assert "Bearer sk-test-file" == authorization(server)


def test_no_key_no_header(cli: Cli, serve: Serve) -> None:
    """A provider without api_key_env gets no Authorization header."""
    server = serve(FakeReply.text("ok"))
    assert 0 == cli("run", "-m", "local/m", "Hi", OPENAI_API_KEY="sk-test-other").code
    assert authorization(server) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_file_that_others_can_read_is_refused(cli: Cli, serve: Serve, mode: int) -> None:
    """An insecure key file gives exit code 3, with the command that repairs it."""
    serve(FakeReply.text("ok"), more=KEY)
    path = keys(cli, 'local = "sk-test-file"\n', mode)
    done = cli("run", "-m", "local/m", "Hi")
    assert 3 == done.code
    assert f"chmod 600 {path}" in done.err
    assert "sk-test-file" not in done.err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('local = "sk-test-CANARY', "(at end of document)"),
        ("local = sk-test-CANARY", "(at line 1"),
        ('local = ["sk-test-CANARY"]', ""),
        ("sk-test-CANARY", "(at end of document)"),
    ],
)
def test_a_malformed_key_file_does_not_show_its_keys(cli: Cli, serve: Serve, text: str, place: str) -> None:
    """The message names the file and the position, and does not quote the line."""
    serve(FakeReply.text("ok"), more=KEY)
    keys(cli, text)
    done = cli("run", "-vv", "-m", "local/m", "Hi")
    assert 3 == done.code
    assert "keys.toml" in done.err
    assert place in done.err
    assert "CANARY" not in done.err


@pytest.mark.parametrize("key", ["sk-test-one sk-test-two", "sk-test-\x7f", "sk-test-é"])
def test_a_key_that_cannot_be_a_header_is_refused_unseen(cli: Cli, serve: Serve, key: str) -> None:
    """An invalid key is refused before a request; the message names its source and does not show it."""
    server = serve(FakeReply.text("ok"), more=KEY)
    done = cli("run", "-vv", "-m", "local/m", "Hi", LOCAL_KEY=key)
    assert (3, []) == (done.code, server.requests)
    assert "LOCAL_KEY" in done.err
    assert key not in done.err


def test_the_first_provider_with_a_key_is_taken(cli: Cli) -> None:
    """Without a choice, the first provider with a key is used, and a note says so."""
    done = cli("run", "-O", "x", "Hi", GROQ_API_KEY="gsk-1")
    assert 2 == done.code
    assert "Using groq/" in done.err
    assert "GROQ_API_KEY is set" in done.err


def test_the_users_own_endpoint_replaces_a_built_in_one(cli: Cli, serve: Serve) -> None:
    """[providers.openai] with a base_url is another server, which does not get the built-in key."""
    server = serve(FakeReply.text("ok"))
    cli.server(server, "openai")
    assert 0 == cli("run", "-m", "openai/m", "Hi", OPENAI_API_KEY="sk-test-CANARY").code
    assert authorization(server) is None


def test_headers_and_options_of_a_provider(cli: Cli, serve: Serve) -> None:
    """`headers` are sent, and `options` are merged into the request below -O."""
    server = serve(
        FakeReply.text("ok"), more='headers = { X-Team = "a" }\noptions = { seed = 1, top_k = 2 }\n'
    )
    assert 0 == cli("run", "-m", "local/m", "-O", "seed=3", "Hi").code
    request = server.requests[0]
    assert ("a", 3, 2) == (request.headers["x-team"], request.json["seed"], request.json["top_k"])


def test_the_run_table_holds_defaults(cli: Cli, serve: Serve) -> None:
    """[run] is used if no option is set; the project takes precedence over the user."""
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


@pytest.mark.parametrize(
    "model", ["replay:run.jsonl", " replay:run.jsonl", "replay/run.jsonl", "\\treplay/x\\n"]
)
def test_a_project_cannot_choose_a_replay(cli: Cli, model: str) -> None:
    """A project cannot choose a replay, which would pass for a model, in any spelling."""
    cli.file("tinyagent.toml", f'[run]\nmodel = "{model}"\n')
    done = cli("run", "Hi")
    assert (3, True) == (done.code, "a project file cannot choose a replay" in done.err)


def test_a_project_chooses_tools_by_name(cli: Cli, serve: Serve) -> None:
    """`tools = [...]` of a project names installed plugins."""
    cli.install("sums", CALC)
    server = serve(FakeReply.text("ok"))
    cli.file("tinyagent.toml", '[run]\ntools = ["sums"]\n')
    assert 0 == cli("run", "-m", "local/m", "Hi").code
    assert ["calc"] == [tool["function"]["name"] for tool in server.requests[0].json["tools"]]


@pytest.mark.parametrize(
    ("user", "project", "flags", "sent"),
    [
        ("max_tokens = 5", "max_tokens = 900", [], 5),
        ("max_tokens = 900", "max_tokens = 5", [], 5),
        ("", "max_tokens = 900", [], 900),
        ("max_tokens = 5", "max_tokens = 900", ["--max-tokens", "50"], 50),
    ],
)
def test_the_lower_limit_holds(
    cli: Cli, serve: Serve, user: str, project: str, flags: list[str], sent: int
) -> None:
    """A project file can lower the user's limits, but not raise them; an option overrides both."""
    server = serve(FakeReply.text("ok"))
    config = (cli.home / "config.toml").read_text()
    cli.config(f"[run]\n{user}\n{config}")
    cli.file("tinyagent.toml", f"[run]\n{project}\n")
    assert 0 == cli("run", "-m", "local/m", *flags, "Hi").code
    assert sent == server.requests[0].json["max_tokens"]


def test_a_project_does_not_raise_a_default(cli: Cli) -> None:
    """The default of `max_turns` counts as the user's limit; -v names the value that does not apply."""
    cli.file("tinyagent.toml", "[run]\nmax_turns = 500\ntimeout = 9.5\n")
    note = "tinyagent.toml: run.max_turns = 500 is above your limit; 50 applies."
    assert (True, False) == (
        note in cli("run", "-v", "-m", "demo", "Hi").err,
        note in cli("run", "-m", "demo", "Hi").err,
    )


@pytest.mark.parametrize("setting", ["max_turns = 0", "timeout = nan", "timeout = -1.0", "max_tokens = -5"])
def test_a_limit_is_a_positive_number(cli: Cli, setting: str) -> None:
    """A limit that is not positive is an error that names the key."""
    cli.file("tinyagent.toml", f"[run]\n{setting}\n")
    done = cli("run", "-m", "demo", "Hi")
    assert (3, True) == (done.code, f"run.{setting.split()[0]}" in done.err)


@pytest.mark.parametrize("name", ["config.toml", "tinyagent.toml", "keys.toml"])
def test_a_file_that_others_may_write_is_refused(cli: Cli, name: str) -> None:
    """A file that others can write gives exit code 3, with the command that repairs it."""
    cli.home.mkdir()
    path = (cli.work if name == "tinyagent.toml" else cli.home) / name
    path.write_text("")
    path.chmod(0o666)
    done = cli("run", "-m", "openai/m", "Hi")
    assert (3, True, True) == (done.code, f"{name} can be" in done.err, "Change that with: chmod" in done.err)
    assert 0o666 == path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    "home", ["/dev/null", "x" * 300, "/proc/self/nothing"], ids=["a device", "too long", "/proc"]
)
def test_a_home_without_files(cli: Cli, home: str) -> None:
    """If the home is not a directory, as for services, there is no configuration."""
    done = cli("run", "-q", "-m", "demo", "Hi", TINYAGENT_HOME="", XDG_CONFIG_HOME="", HOME=home)
    assert (0, "") == (done.code, done.err)


def test_every_number_of_a_project_is_a_limit() -> None:
    """A new number in `[run]` must be a limit, or be listed here."""
    no_limits = {"temperature"}
    numbers = {
        field.name
        for field in msgspec.structs.fields(ProjectRunTable)
        if {int, float, Count, Seconds} & set(get_args(field.type))
    }
    assert numbers - no_limits == set(_LIMITS)
