"""A key is sent to its server only: it is in no output and in no file.

The servers here repeat the key in their answers, and -vv shows tracebacks. `tests/contract/test_secrets.py`
tests the library in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tinyagent.testing import ChatWire, FakeServer, Script, sse

from .conftest import Cli, FakeReply

OPAQUE = "CANARYq7w8e9r0t1y2u3i4o5p6a7s8d9f0"
"""A key that does not look like one."""

COMMANDS: dict[str, Callable[[ChatWire], list[FakeReply]]] = {
    "refused": lambda wire: [wire.refuse(401, f"bad key {OPAQUE}")],
    "retried": lambda wire: [wire.refuse(429, f"busy {OPAQUE}", retry_after="0")] * 3,
    "error in the stream": lambda wire: [
        wire.reply(Script([{"type": "text", "text": "Half"}], ending="error", error=OPAQUE))
    ],
    "cut": lambda wire: [wire.reply(Script([{"type": "text", "text": "Half"}], ending="cut"))],
    "page": lambda wire: [FakeReply([f"<html>{'x' * 190}{OPAQUE}".encode()])],
    "redirect": lambda wire: [
        FakeReply(status=307, headers={"location": f"http://127.0.0.1:9/{OPAQUE}"}, framing="length")
    ],
    "no object": lambda wire: [FakeReply([sse(f'"{OPAQUE}"')])],
    "broken": lambda wire: [FakeReply(head=f"HTTP/1.1 200 OK\r\n{OPAQUE}\r\n\r\n".encode())] * 3,
    "good": lambda wire: [FakeReply.text("Hi")],
}


@pytest.mark.parametrize("how", COMMANDS)
@pytest.mark.parametrize("mode", ["text", "jsonl"])
def test_no_output_of_a_run_has_the_key(cli: Cli, serve: Any, how: str, mode: str) -> None:
    """Neither standard output, standard error with -vv nor a file has the key."""
    server = serve(*COMMANDS[how](ChatWire()), more='api_key_env = "LOCAL_KEY"\n')
    flags = ["--jsonl"] if mode == "jsonl" else []
    done = cli("run", "-vv", *flags, "-o", "out.jsonl", "-m", "local/m", "Hi", LOCAL_KEY=OPAQUE)
    assert f"Bearer {OPAQUE}" == server.requests[0].headers["authorization"]
    assert (done.code == 0) == (how == "good")
    _check_left(cli, done)


@pytest.mark.parametrize("api", ["anthropic-messages", "openai-responses"])
def test_no_output_of_another_protocol_has_the_key(cli: Cli, serve: Any, api: str) -> None:
    """Keys of the key file are sent as the protocol requires, and are in no output."""
    server = serve(FakeReply.error(401, f"bad key {OPAQUE}"), more=f'api = "{api}"\n')
    keys = cli.home / "keys.toml"
    keys.touch(0o600)
    keys.write_text(f'local = "{OPAQUE}"\n')
    done = cli("run", "-vv", "--jsonl", "-o", "out.jsonl", "-m", "local/m", "Hi")
    keys.unlink()
    assert OPAQUE in " ".join(server.requests[0].headers.values())
    assert 3 == done.code
    _check_left(cli, done)


def test_no_output_of_a_proxy_s_client_has_the_token(cli: Cli) -> None:
    """The token of a proxy is in no output."""
    with FakeServer(FakeReply.error(403, f"not you, {OPAQUE}")) as server:
        done = cli(
            "run", "-vv", "--jsonl", "-o", "out.jsonl", "-m", "proxy/m", "Hi",
            TINYAGENT_PROXY_URL=server.origin, TINYAGENT_PROXY_TOKEN=OPAQUE,
        )  # fmt: skip
        assert f"Bearer {OPAQUE}" == server.requests[0].headers["authorization"]
    assert 3 == done.code
    _check_left(cli, done)


@pytest.mark.parametrize(
    "table",
    [
        f'base_url = "https://user:{OPAQUE}@models.example/v1"',
        f'base_url = "http://models.example/v1?key={OPAQUE}"',
        f'base_url = "http://127.0.0.1:9/v1"\nheaders = {{ X-Key = "{OPAQUE}\\n" }}',
        f'base_url = "http://127.0.0.1:9/v1"\nheaders = {{ X-Key = 7, Y-Key = "{OPAQUE}" }}',
        f'base_url = "http://127.0.0.1:9/v1"\napi_key = "{OPAQUE}"',
    ],
)
def test_no_complaint_about_the_configuration_has_the_key(cli: Cli, table: str) -> None:
    """Errors about an entry do not quote it."""
    cli.config(f"[providers.local]\n{table}\n")
    done = cli("run", "-vv", "--jsonl", "-o", "out.jsonl", "-m", "local/m", "Hi")
    assert done.code in (1, 3)
    _check_left(cli, done)


def test_a_key_with_a_line_break_is_not_shown(cli: Cli) -> None:
    """The message about an invalid key names the variable only."""
    cli.config('[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "LOCAL_KEY"\n')
    done = cli("run", "-vv", "--jsonl", "-m", "local/m", "Hi", LOCAL_KEY=f"{OPAQUE}\nmore")
    assert 3 == done.code
    assert "LOCAL_KEY" in done.err
    _check_left(cli, done)


def _check_left(cli: Cli, done: Any) -> None:
    left = {str(path): path.read_bytes() for path in cli.work.parent.rglob("*") if path.is_file()}
    for name, data in {"stdout": done.out.encode(), "stderr": done.err.encode(), **left}.items():
        if not name.endswith("config.toml"):
            assert OPAQUE[:16].encode() not in data, name


@pytest.mark.usefixtures("pip")
def test_secrets_in_the_configuration_are_not_shown(cli: Cli) -> None:
    """A key in a wrong place of the configuration is not shown by any command."""
    secrets = ("sk-test-0123456789abcdef", "0123456789abcdef0123456789abcdef", "hunter22")
    tables = f'''
        [providers.a]
        base_url = "http://127.0.0.1:9/v1"
        api_key_env = "{secrets[0]}"
        [providers.b]
        base_url = "http://127.0.0.1:9/v1"
        api_key_env = "{secrets[1]}"
        [providers.c]
        base_url = "https://user:{secrets[2]}@127.0.0.1:9/v1?key={secrets[0]}"
        [providers.d]
        base_url = "ftp://127.0.0.1:9/v1?key={secrets[0]}"
        '''
    for text in (
        tables,
        tables + f'[run]\nmodel = "https://user:{secrets[2]}@host?key={secrets[0]}"\nwrong = 1',
    ):
        cli.config(text)
        for name in "abcd":
            for args in (["run", "--jsonl", "-m", f"{name}/m", "Hi"], ["models", "list", name]):
                done = cli(*args)
                assert 3 == done.code
                assert [] == [secret for secret in secrets if secret in done.out + done.err]
        for args in (["models", "list"], ["models", "list", "--json"], ["doctor"], ["run", "Hi"]):
            done = cli(*args, TINYAGENT_PLUGINS="")  # doctor would check each in a process
            assert [] == [secret for secret in secrets if secret in done.out + done.err], args
