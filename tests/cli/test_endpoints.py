"""The addresses of the built-in providers, and what changes them."""

from __future__ import annotations

import pytest

from tinyagent.errors import ConfigurationError
from tinyagent_cli.config.endpoints import AZURE_API_VERSION, azure_url, ollama_url

from .conftest import Cli, FakeReply, Serve

KEY = "sk-test-CANARY-0123456789"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9999", "http://127.0.0.1:9999/v1"),
        ("localhost", "http://localhost:11434/v1"),
        (":9999", "http://127.0.0.1:9999/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:9999", "http://127.0.0.1:9999/v1"),
        ("[::]:9999", "http://[::1]:9999/v1"),
        ("::1", "http://[::1]:11434/v1"),
        ("http://gpu", "http://gpu:80/v1"),
        ("https://gpu.example.org/ollama/", "https://gpu.example.org:443/ollama/v1"),
        ("http://gpu:9999/v1", "http://gpu:9999/v1"),
        ('"gpu:9999"', "http://gpu:9999/v1"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, expected: str) -> None:
    """Scheme and port are optional, and the address to listen on means this machine."""
    assert expected == ollama_url(text)


@pytest.mark.parametrize("text", ["http://[bad", "gpu:port", "gpu:99999999"])
def test_an_ollama_host_that_is_no_address(text: str) -> None:
    """The message names the variable."""
    with pytest.raises(ConfigurationError, match="OLLAMA_HOST is not an address"):
        ollama_url(text)


@pytest.mark.parametrize("text", ["http://user:word@gpu:9999", "user@gpu"])
def test_an_ollama_host_with_a_password(text: str) -> None:
    """A password in the variable is refused and not shown."""
    with pytest.raises(ConfigurationError, match="contains a user name") as caught:
        ollama_url(text)
    assert "word@" not in str(caught.value)


AZURE = "https://acme.openai.azure.com"


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        (AZURE, f"{AZURE}/openai/deployments/gpt%204?api-version={AZURE_API_VERSION}"),
        (f"{AZURE}/", f"{AZURE}/openai/deployments/gpt%204?api-version={AZURE_API_VERSION}"),
        (f"{AZURE}/openai", f"{AZURE}/openai/deployments/gpt%204?api-version={AZURE_API_VERSION}"),
        (f"{AZURE}/deployments/x", f"{AZURE}/deployments/x?api-version={AZURE_API_VERSION}"),
        (f"{AZURE}?api-version=2025-01-01", f"{AZURE}/openai/deployments/gpt%204?api-version=2025-01-01"),
        (f"{AZURE}/openai/v1/", f"{AZURE}/openai/v1/"),
        (
            f"{AZURE}/openai/responses?api-version=2025-01-01",
            f"{AZURE}/openai/deployments/gpt%204?api-version=2025-01-01",
        ),
    ],
)
def test_the_url_of_a_deployment(base_url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL gets the deployment and the version, unless it has them."""
    monkeypatch.delenv("OPENAI_API_VERSION", raising=False)
    assert expected == azure_url(base_url, "gpt 4")


@pytest.mark.parametrize(
    ("model", "variable", "path"),
    [
        ("openai/m", "OPENAI_BASE_URL", "/v1"),
        ("openai/m", "OPENAI_BASE_URL", "/v1/chat/completions"),
        ("ollama/m", "OLLAMA_HOST", ""),
    ],
)
def test_a_variable_moves_a_provider(cli: Cli, serve: Serve, model: str, variable: str, path: str) -> None:
    """The variable sets the address as the provider's own clients do, and -v shows it."""
    server = serve(FakeReply.text("ok"))
    origin = server.url.removesuffix("/v1")
    done = cli("run", "-v", "-m", model, "Hi", **{variable: origin + path, "OPENAI_API_KEY": KEY})
    assert (0, "ok") == (done.code, done.out.strip())
    assert "/v1/chat/completions" == server.requests[0].path
    assert f"set by {variable}" in done.err
    expected = f"Bearer {KEY}" if model.startswith("openai/") else None
    assert expected == server.requests[0].headers.get("authorization")


RESPONSE = {
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}],
}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("model_id", "options", "path"),
    [
        ("gpt-4.1", [], CHAT),
        ("gpt-5-chat-latest", [], CHAT),
        ("gpt-5", [], RESPONSES),
        ("ft:gpt-5-mini:acme::x", [], RESPONSES),
        ("gpt-6", [], RESPONSES),
        ("o5-mini", [], RESPONSES),
        ("gpt-5", ["-O", "api=openai-completions"], CHAT),
        ("gpt-4.1", ["-O", "api=openai-responses"], RESPONSES),
    ],
)
def test_the_protocol_goes_by_the_model(
    cli: Cli, serve: Serve, model_id: str, options: list[str], path: str
) -> None:
    """OpenAI's later models use the Responses API, unless the user chooses another protocol."""
    server = serve(FakeReply.text("ok") if path == CHAT else FakeReply.json(RESPONSE))
    url = server.url + "/chat/completions"  # as some set the variable
    done = cli("run", "-m", f"openai/{model_id}", *options, "Hi", OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)
    assert (0, "ok\n", path) == (done.code, done.out, server.requests[0].path)
    assert (model_id, None) == (server.requests[0].json["model"], server.requests[0].json.get("api"))
    assert f"Bearer {KEY}" == server.requests[0].headers["authorization"]


@pytest.mark.parametrize(
    ("name", "api", "path"),
    [
        ("openai", "", RESPONSES),
        ("openai", 'api = "openai-completions"', CHAT),
        ("house", "", CHAT),
        ("house", 'api = "openai-responses"', RESPONSES),
    ],
)
def test_a_table_chooses_the_protocol(cli: Cli, serve: Serve, name: str, api: str, path: str) -> None:
    """`api` of a provider chooses its protocol; other servers use the default."""
    server = serve(FakeReply.text("ok") if path == CHAT else FakeReply.json(RESPONSE))
    cli.config(f'[providers.{name}]\nbase_url = "{server.url}"\n{api}\n')
    done = cli("run", "-m", f"{name}/gpt-5", "Hi")
    assert (0, path) == (done.code, server.requests[0].path), done.err


def test_a_protocol_that_does_not_exist(cli: Cli) -> None:
    """The message lists the protocols."""
    done = cli("run", "-m", "openai/gpt-5", "-O", "api=chat", "Hi", OPENAI_API_KEY=KEY)
    assert 3 == done.code
    assert "There is no protocol 'chat'" in done.err
    assert "openai-responses" in done.err


def test_azure_over_the_responses_api(cli: Cli, serve: Serve) -> None:
    """The request uses Azure's newer API, with the deployment in the body and the key in `api-key`."""
    server = serve(FakeReply.json(RESPONSE))
    origin = server.url.removesuffix("/v1")
    environment = {"AZURE_OPENAI_ENDPOINT": origin, "AZURE_OPENAI_API_KEY": KEY}
    done = cli("run", "-m", "azure/my-gpt", "-O", "api=openai-responses", "Hi", **environment)
    request = server.requests[0]
    assert (0, "/openai/v1/responses") == (done.code, request.path), done.err
    assert (KEY, "my-gpt") == (request.headers["api-key"], request.json["model"])


def test_notes_are_shown_with_v(cli: Cli, serve: Serve) -> None:
    """A note about an omitted setting is shown with -v only."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"))
    environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
    arguments = ("run", "-m", "openai/gpt-4.1", "--thinking", "high", "Hi")
    quiet, verbose = cli(*arguments, **environment), cli(*arguments, "-v", **environment)
    assert "gpt-4.1 does not reason" not in quiet.err
    assert "gpt-4.1 does not reason: the thinking level 'high' was left out." in verbose.err
    assert "reasoning_effort" not in server.requests[0].json


def test_anthropic_is_moved(cli: Cli, serve: Serve) -> None:
    """ANTHROPIC_BASE_URL sets the address, without the path of the protocol."""
    server = serve(FakeReply([b'{"type":"error","error":{"message":"seen"}}'], status=400))
    origin = server.url.removesuffix("/v1")
    done = cli("run", "-m", "anthropic/m", "Hi", ANTHROPIC_BASE_URL=origin, ANTHROPIC_API_KEY=KEY)
    assert "seen" in done.err
    assert ("/v1/messages", KEY) == (server.requests[0].path, server.requests[0].headers["x-api-key"])


def test_the_note_shows_no_secrets(cli: Cli) -> None:
    """-v shows a base URL without user, password and query."""
    url = f"http://user:{KEY}@127.0.0.1:9/v1?key={KEY}"
    done = cli("run", "-v", "-m", "openai/m", "Hi", OPENAI_BASE_URL=url, OPENAI_API_KEY="sk-test-other-1234")
    assert done.code != 0
    assert "openai is at http://127.0.0.1:9/v1, set by OPENAI_BASE_URL." in done.err
    assert KEY not in done.err + done.out


def test_a_flag_moves_a_provider(cli: Cli, serve: Serve) -> None:
    """-O base_url takes precedence over the variable, and is not sent."""
    server = serve(FakeReply.text("ok"))
    environment = {"OPENAI_BASE_URL": "http://127.0.0.1:9", "OPENAI_API_KEY": KEY}
    done = cli("run", "-m", "openai/m", "-O", f"base_url={server.url}", "Hi", **environment)
    assert 0 == done.code
    assert "base_url" not in server.requests[0].json


@pytest.mark.parametrize(
    ("model", "message"), [("demo", "demo has no base_url"), ("proxy/m", "takes no options")]
)
def test_base_url_is_refused_for_other_providers(cli: Cli, model: str, message: str) -> None:
    """base_url is refused for a provider that has none."""
    done = cli("run", "-m", model, "-O", "base_url=http://127.0.0.1:9", "Hi", TINYAGENT_PROXY_TOKEN="t")
    assert 3 == done.code
    assert message in done.err


def test_a_base_url_that_is_no_text(cli: Cli) -> None:
    """The message names the option."""
    done = cli("run", "-m", "openai/m", "-O", "base_url=5", "Hi", OPENAI_API_KEY=KEY)
    assert (3, True) == (done.code, "The base_url of 'openai' is not a URL." in done.err)


def test_the_users_own_base_url_goes_before_the_variable(cli: Cli, serve: Serve) -> None:
    """[providers.openai] base_url takes precedence over the variable."""
    server = serve(FakeReply.text("ok"))
    cli.server(server, "openai")
    done = cli("run", "-v", "-m", "openai/m", "Hi", OPENAI_BASE_URL="http://127.0.0.1:9", OPENAI_API_KEY=KEY)
    assert 0 == done.code
    assert "OPENAI_BASE_URL is not used" in done.err


def test_an_empty_base_url(cli: Cli) -> None:
    """An empty base_url is an error, not the built-in one."""
    cli.config('[providers.openai]\nbase_url = " "\n')
    done = cli("run", "-m", "openai/m", "Hi", OPENAI_API_KEY=KEY)
    assert (3, True) == (done.code, "base_url under [providers.openai] is empty." in done.err)


def test_a_project_moves_nothing(cli: Cli, serve: Serve) -> None:
    """A base URL in a project file is refused before a key is sent."""
    server = serve()
    cli.file("tinyagent.toml", f'[run]\nmodel = "openai/m"\noptions = {{ base_url = "{server.url}" }}\n')
    assert 3 == cli("run", "Hi", OPENAI_API_KEY=KEY).code
    cli.file("tinyagent.toml", f'[providers.openai]\nbase_url = "{server.url}"\n')
    assert 3 == cli("run", "-m", "openai/m", "Hi", OPENAI_API_KEY=KEY).code
    assert [] == server.requests


def test_azure_works_as_its_reference_says(cli: Cli, serve: Serve) -> None:
    """The path has the deployment, the query the version, and `api-key` the key."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"))
    origin = server.url.removesuffix("/v1")
    environment = {"AZURE_OPENAI_ENDPOINT": origin, "AZURE_OPENAI_API_KEY": KEY}
    assert "ok" == cli("run", "-m", "azure/my-gpt", "Hi", **environment).out.strip()
    cli("run", "-m", "azure/my-gpt", "-O", "api_version=2025-03-01-preview", "Hi", **environment)
    first, second = server.requests
    path = "/openai/deployments/my-gpt/chat/completions?api-version="
    assert [path + AZURE_API_VERSION, path + "2025-03-01-preview"] == [first.path, second.path]
    assert (KEY, None) == (first.headers["api-key"], first.headers.get("authorization"))
    assert "api_version" not in second.json


def test_azure_without_an_endpoint(cli: Cli) -> None:
    """The message names the missing variable."""
    done = cli("run", "-m", "azure/my-gpt", "Hi", AZURE_OPENAI_API_KEY=KEY)
    assert (3, True) == (done.code, "AZURE_OPENAI_ENDPOINT is not set" in done.err)
