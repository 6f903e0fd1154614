"""The configuration, the tokens, and the addresses on which the server may listen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinyagent import ConfigurationError, Context, OpenAICompatModel, stream_proxy
from tinyagent.openai_wire import known_servers
from tinyagent.testing import user
from tinyagent_proxy_server import _server
from tinyagent_proxy_server._callers import Callers
from tinyagent_proxy_server._config import (
    ProviderTable,
    ServerTable,
    Token,
    TokenTable,
    read_config,
    read_tokens,
)
from tinyagent_proxy_server._upstreams import Upstreams

from .conftest import KEY, TOKEN

FILE = """
[server]
max_streams = 7
[tokens.alice]
env = "ALICE"
models = ["demo"]
[tokens.ci]
file = "ci.token"
requests_per_minute = 60
[providers.local]
base_url = "http://127.0.0.1:8080/v1"
headers = { X-Team = "a" }
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with two tokens."""
    path = tmp_path / "proxy.toml"
    path.write_text(FILE)
    (tmp_path / "ci.token").write_text("token-in-a-file-0001\n")
    (tmp_path / "ci.token").chmod(0o600)
    monkeypatch.setenv("ALICE", TOKEN)
    return path


# ---- the file -----------------------------------------------------------------------------------------


def test_tokens_come_from_the_environment_and_from_private_files(config: Path) -> None:
    """The file names variables and files; file names are relative to it."""
    given = read_config(config)
    tokens = read_tokens(given.tokens, folder=config.parent)
    assert [("alice", TOKEN), ("ci", "token-in-a-file-0001")] == [
        (name, secret) for name, secret, _ in tokens
    ]
    assert (7, ("demo",)) == (given.server.max_streams, tokens[0].table.models)


def test_a_secret_is_in_no_repr(config: Path) -> None:
    """The repr of a token, and of headers that may contain a key, does not show them."""
    given = read_config(config)
    assert TOKEN not in repr(read_tokens(given.tokens, folder=config.parent))
    assert "X-Team" not in repr(given)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(mode: int, config: Path) -> None:
    """A token file that others can read is refused, and the hint repairs it."""
    (config.parent / "ci.token").chmod(mode)
    with pytest.raises(ConfigurationError, match="can be read or written by others") as caught:
        read_tokens(read_config(config).tokens, folder=config.parent)
    assert "chmod 600" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server", "proxy.toml"),
        ("[servers]", "servers"),
        ("[server]\nmax_streams = 0", "max_streams must be above 0"),
        ("[server]\nmax_streams = 'many'", "max_streams"),
        ("[tokens.a]\nmodels = []", "either env or file"),
        ("[tokens.a]\nenv = 'A'\nfile = 'a'", "either env or file"),
        ("[tokens.a]\nenv = 'A'\nmax_streams = 0", "above 0"),
        ("[tokens.a]\ntoken = 'sk-test-in-the-file'", "token"),
        ("[providers.a]\napi_key = 'sk-test-in-the-file'", "api_key"),
        ("[providers.a]\napi = 'soap'", "soap"),
    ],
)
def test_errors_of_the_file_show_file_and_key(text: str, words: str, config: Path) -> None:
    """The error shows the file and the key, but no secret from the file."""
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_config(config)
    assert words in str(caught.value)
    assert str(config) in str(caught.value)
    assert "sk-test-in-the-file" not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", "is missing"),
        ("hunter2", "is too short"),
        ("with a space in it 01", "not allowed in a token"),
        ("ü" * 20, "not allowed in a token"),
    ],
)
def test_an_invalid_token_is_refused(secret: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, short and non-ASCII tokens are refused and not shown."""
    monkeypatch.setenv("A", secret)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_tokens({}, ["A"])
    assert not secret or secret not in str(caught.value)


def test_the_server_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """TINYAGENT_PROXY_TOKEN is the fallback; two names for one token are refused."""
    with pytest.raises(ConfigurationError, match="no caller could use the proxy") as caught:
        read_tokens({})
    assert "tinyagent proxy token" in str(caught.value.hint)
    monkeypatch.setenv("TINYAGENT_PROXY_TOKEN", TOKEN)
    assert [TOKEN] == [token.secret for token in read_tokens({})]
    monkeypatch.setenv("OTHER", TOKEN)
    with pytest.raises(ConfigurationError, match="the same token"):
        read_tokens({}, ["OTHER", "TINYAGENT_PROXY_TOKEN"])


def test_a_missing_dependency_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a dependency is not installed, the error shows its name."""
    from tinyagent_proxy_server import _command

    for name in ("tinyagent_proxy_server._server", "tinyagent_proxy_server._app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(f"tinyagent_proxy_server.{name.rpartition('.')[2]}", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigurationError, match="needs uvicorn, which is not installed"):
        _command.proxy.main(["serve"], standalone_mode=False)


def test_a_new_token_is_accepted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`tinyagent proxy token` prints a new token each time, which the server accepts."""
    from tinyagent_proxy_server import _command

    printed = []
    for name in ("A", "B"):
        _command.proxy.main(["token"], standalone_mode=False)
        printed.append(capsys.readouterr().out.strip())
        monkeypatch.setenv(name, printed[-1])
    assert printed == [token.secret for token in read_tokens({}, ["A", "B"])]
    assert printed[0] != printed[1]


# ---- callers ------------------------------------------------------------------------------------------


def test_only_the_complete_token_matches() -> None:
    """A part of a token, another scheme or other letters match no caller."""
    callers = Callers([Token(name, f"{TOKEN}-{name}", TokenTable(env="-")) for name in ("a", "b")])
    found = [callers.find(f"{scheme} {TOKEN}-b") for scheme in ("Bearer", "bearer", "BEARER")]
    assert ["b", "b", "b"] == [caller and caller.name for caller in found]
    for header in ("", TOKEN, f"Bearer {TOKEN}", f"Bearer {TOKEN}-B", f"Token {TOKEN}-b", "Bearer \udcff"):
        assert callers.find(header) is None


def test_the_rate_limit_recovers_with_time() -> None:
    """The requests of one minute may come at once; then each needs its share of a minute."""
    now = 0.0
    callers = Callers([Token("a", TOKEN, TokenTable(env="-", requests_per_minute=6))], lambda: now)
    caller = callers.find(f"Bearer {TOKEN}")
    assert caller is not None
    assert [0.0] * 6 == [caller.wait() for _ in range(6)]
    assert 10 == pytest.approx(caller.wait())
    now = 10.0
    assert [True, False] == [caller.wait() == 0 for _ in range(2)]
    now = 10_000.0
    assert 6 == sum(caller.wait() == 0 for _ in range(20))


# ---- providers ----------------------------------------------------------------------------------------


def test_without_tables_all_providers_with_a_key_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server offers the demo and the well-known providers whose variable is set."""
    assert ["demo"] == [upstream.name for upstream in Upstreams({})]
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert ["demo", "anthropic"] == [upstream.name for upstream in Upstreams({})]


def test_a_missing_key_is_reported_at_the_start() -> None:
    """A provider without a key or URL is an error at the start, not at the first request."""
    with pytest.raises(ConfigurationError, match="GROQ_API_KEY is not set"):
        Upstreams({"groq": ProviderTable()})
    with pytest.raises(ConfigurationError, match="has no base_url"):
        Upstreams({"mine": ProviderTable()})


def test_a_known_name_with_another_address_does_not_get_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a well-known provider is not sent to another base URL."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    [upstream] = Upstreams({"openai": ProviderTable(base_url="http://127.0.0.1:1/v1")})
    assert upstream.secret is None


def test_every_known_provider_can_make_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a known server has the server's base URL and protocol."""
    for server in known_servers().values():
        if server.api_key_env:
            monkeypatch.setenv(server.api_key_env, KEY)
    upstreams = Upstreams(dict.fromkeys(known_servers(), ProviderTable()))
    for name, (base_url, _, api) in known_servers().items():
        found = upstreams.find("proxy", f"{name}/some/model")
        assert found is not None
        model: Any = found[1]
        assert (name, "some/model", api, base_url) == (model.provider, model.id, model.api, model.base_url)
        assert KEY not in repr(model)


# ---- where it listens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    """Loopback addresses are accepted without TLS, in every spelling."""
    _server.check_exposure(host, tls=False, allow_http=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.com", "127.0.0.1.example.com"])
def test_other_addresses_need_tls_or_a_flag(host: str) -> None:
    """Tokens are not sent unencrypted over a network unless the user allows it."""
    with pytest.raises(ConfigurationError, match="Without TLS"):
        _server.check_exposure(host, tls=False, allow_http=False)
    _server.check_exposure(host, tls=True, allow_http=False)
    _server.check_exposure(host, tls=False, allow_http=True)


def test_a_port_in_use_is_reported() -> None:
    """The error shows the address and the port."""
    with _server.listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert f"http://127.0.0.1:{port}" == _server.url_of(bound, tls=False)
        with pytest.raises(ConfigurationError, match=f"Cannot listen on 127.0.0.1 port {port}"):
            _server.listen("127.0.0.1", port)


async def test_tls_files_enable_tls(tmp_path: Path) -> None:
    """The URL says https, and a client that trusts the certificate gets a response."""
    import asyncio

    from tinyagent_proxy_server._app import Proxy

    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    try:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    callers = Callers([Token("a", TOKEN, TokenTable(env="-"))])
    proxy = Proxy(ServerTable(), callers, Upstreams({}), lambda line: None)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with _server.listen("127.0.0.1", 0) as bound:
        server = _server.make_server(proxy, bound, url.set_result, tls_cert=cert, tls_key=key)
        running = asyncio.create_task(server.serve([bound]))
        try:
            where = await asyncio.wait_for(url, 60)
            assert where.startswith("https://127.0.0.1:")
            model = OpenAICompatModel(provider="proxy", id="demo", ca_file=str(cert))
            asked = Context(messages=[user("Hi")])
            reply = await stream_proxy(model, asked, {"auth_token": TOKEN, "proxy_url": where})  # type: ignore[typeddict-unknown-key]
            assert "You said: Hi" in (await reply.result())["content"][0]["text"]
        finally:
            server.should_exit = True
            await running


def test_invalid_tls_files_are_reported(tmp_path: Path) -> None:
    """Invalid TLS files are an error before the server starts."""
    (tmp_path / "cert.pem").write_text("no certificate")
    proxy: Any = type("P", (), {"app": None, "settings": ServerTable()})()
    for cert in (tmp_path / "cert.pem", tmp_path / "none.pem"):
        with _server.listen("127.0.0.1", 0) as bound, pytest.raises(ConfigurationError, match="TLS files"):
            _server.make_server(proxy, bound, print, tls_cert=cert, tls_key=cert)
