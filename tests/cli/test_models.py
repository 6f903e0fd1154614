"""`tinyagent models` lists providers and their models."""

from __future__ import annotations

import json
from collections.abc import Callable

from tinyagent.testing import FakeServer

from .conftest import Cli, FakeReply


def test_without_a_name_it_lists_the_providers(cli: Cli) -> None:
    """Providers are listed with the state of their keys, without a request or an import."""
    cli.config('[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "MINE_KEY"\n')
    cli.install("acme", "raise RuntimeError('imported')", "providers", version="2.0")
    rows = json.loads(cli("models", "list", "--json", OPENAI_API_KEY="sk-test-CANARY").out)
    found = {row["name"]: (row["from"], row["key"]) for row in rows}
    assert ("built in", "OPENAI_API_KEY is set") == found["openai"]
    assert ("built in", "GROQ_API_KEY is not set") == found["groq"]
    assert ("built in", "none needed") == found["ollama"]
    assert ("config.toml", "MINE_KEY is not set") == found["mine"]
    assert ("acme 2.0", "see the plugin") == found["acme"]
    text = cli("models", "list", OPENAI_API_KEY="sk-test-CANARY")
    assert 0 == text.code
    assert "CANARY" not in text.out


def test_with_a_name_it_asks_the_provider(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """The models are listed in the form of -m, and the request has the key."""
    reply = FakeReply.json({"data": [{"id": "b", "context_length": 8}, {"id": "a/x"}]})
    server = serve(reply, reply, more='api_key_env = "LOCAL_KEY"\n')
    assert (0, "local/a/x\nlocal/b    8\n", "") == cli("models", "list", "local", LOCAL_KEY="sk-1")
    assert ("/v1/models", "Bearer sk-1") == (
        server.requests[0].path,
        server.requests[0].headers["authorization"],
    )
    listed = json.loads(cli("models", "list", "local", "--json", LOCAL_KEY="sk-1").out)
    assert ["a/x", "b"] == [model["id"] for model in listed]


def test_what_cannot_be_listed(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """An unknown provider or one without a list gives exit code 3; a failed server gives 1."""
    assert "Unknown provider 'nope'" in cli("models", "list", "nope").err
    none = cli("models", "list", "proxy")
    assert 3 == none.code
    assert "-m proxy/MODEL-ID" in none.err
    serve(FakeReply.error(404, "no such page"))
    failed = cli("models", "list", "local")
    assert (1, "") == failed[:2]
    assert "404" in failed.err


def test_prices_and_context_windows(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """Missing prices are filled in from list prices; unknown models have none."""
    known = {"data": [{"id": "gpt-4o"}, {"id": "novel"}, {"id": "own", "pricing": {"prompt": "0.000001"}}]}
    server = serve(FakeReply.json(known), FakeReply.json(known))
    environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-test-CANARY"}
    listed = json.loads(cli("models", "list", "openai", "--json", **environment).out)
    fields = ("context_window", "input_price", "output_price")
    facts = {model["id"]: tuple(model[name] for name in fields) for model in listed}
    assert {"gpt-4o": (128_000, 2.5, 10.0), "novel": (None, None, None), "own": (None, 1.0, None)} == facts
    table = cli("models", "list", "openai", **environment)
    assert "openai/gpt-4o  128000  2.5  10" == table.out.splitlines()[0].strip()
