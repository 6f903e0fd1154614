"""`tinyagent models` lists providers and their models."""

from __future__ import annotations

import json
import stat
import tomllib

import pytest

from tinyagent.testing import FakeServer
from tinyagent_cli.plugins.model_names import similar

from .conftest import Cli, FakeReply, Serve, as_openai
from .test_shell_completion import offered

MODELS = FakeReply.json(
    {
        "data": [
            {
                "id": "vendor/big-coder",
                "name": "Big \x1b[31mred",
                "context_length": 9000,
                "pricing": {"prompt": "0.000001", "completion": "0.000002"},
                "supported_parameters": ["tools", "reasoning", "structured_outputs"],
                "architecture": {"input_modalities": ["text", "image", "file", "audio"]},
            },
            {"id": "small-coder", "capabilities": {"function_calling": True, "vision": False}},
            {"id": "poet"},
        ]
    }
)


def test_without_a_name_it_lists_the_providers(cli: Cli) -> None:
    """Providers are listed with the state of their keys, without a request or an import."""
    cli.config('[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "MINE_KEY"\n')
    cli.install("acme", "raise RuntimeError('imported')", "providers", version="2.0")
    rows = json.loads(cli("models", "list", "--json", OPENAI_API_KEY="sk-test-CANARY").out)
    found = {row["name"]: (row["from"], row["key"]) for row in rows}
    assert ("built in", "OPENAI_API_KEY is set") == found["openai"]
    assert ("built in", "GROQ_API_KEY is not set") == found["groq"]
    assert ("built in", "no key needed") == found["ollama"]
    assert ("config.toml", "MINE_KEY is not set") == found["mine"]
    assert ("acme 2.0", "see the plugin") == found["acme"]
    text = cli("models", "list", OPENAI_API_KEY="sk-test-CANARY")
    assert 0 == text.code
    assert "CANARY" not in text.out


def test_with_a_name_it_asks_the_provider(cli: Cli, serve: Serve) -> None:
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


def test_the_models_of_a_proxy(cli: Cli) -> None:
    """The proxy lists the models for the token. Without address or token, the error names the variable."""
    models = {"models": [{"id": "demo", "name": ""}, {"id": "groq/x", "contextWindow": 8}]}
    with FakeServer(FakeReply.json(models)) as server:
        place = {"TINYAGENT_PROXY_URL": server.url, "TINYAGENT_PROXY_TOKEN": "sk-test-token"}
        done = cli("models", "list", "proxy", **place)
        assert (0, "proxy/demo\nproxy/groq/x  8\n", "") == done
        assert "Bearer sk-test-token" == server.requests[0].headers["authorization"]
        for missing in place:
            done = cli("models", "list", "proxy", **{**place, missing: ""})
            assert (3, True) == (done.code, f"{missing} is not set" in done.err)
        assert 1 == len(server.requests)


def test_what_cannot_be_listed(cli: Cli, serve: Serve) -> None:
    """An unknown provider or one without a list gives exit code 3; a failed server gives 1."""
    assert "Unknown provider 'nope'" in cli("models", "list", "nope").err
    none = cli("models", "list", "replay")
    assert 3 == none.code
    assert "-m replay/MODEL-ID" in none.err
    without_key = cli("models", "list", "openai")
    assert (3, True) == (without_key.code, "Store it: tinyagent keys set openai" in without_key.err)
    serve(FakeReply.error(404, "no such page"))
    failed = cli("models", "list", "local")
    assert (1, "") == failed[:2]
    assert "404" in failed.err


def test_prices_and_context_windows(cli: Cli, serve: Serve) -> None:
    """Missing prices are filled in from list prices; unknown models have none."""
    known = {"data": [{"id": "gpt-4o"}, {"id": "novel"}, {"id": "own", "pricing": {"prompt": "0.000001"}}]}
    server = serve(FakeReply.json(known), FakeReply.json(known))
    environment = as_openai(server)
    listed = json.loads(cli("models", "list", "openai", "--json", **environment).out)
    fields = ("context_window", "input_price", "output_price")
    facts = {model["id"]: tuple(model[name] for name in fields) for model in listed}
    assert {"gpt-4o": (128_000, 2.5, 10.0), "novel": (None, None, None), "own": (None, 1.0, None)} == facts
    table = cli("models", "list", "openai", **environment)
    assert "openai/gpt-4o  128000  2.5  10" == table.out.splitlines()[0].strip()


# ---- search, show, default, alias, and parts of names ---------------------------------------------------


def found(cli: Cli, *args: str, **environment: str) -> list[str]:
    """Return the ids that `models search` finds."""
    done = cli("models", "search", "--json", *args, **environment)
    assert 0 == done.code, done.err
    return [f"{row['provider']}/{row['id']}" for row in json.loads(done.out)]


def test_search_asks_once_a_day(cli: Cli, serve: Serve) -> None:
    """A configured provider is asked, and its list is stored privately; --refresh asks again."""
    server = serve(MODELS, MODELS, MODELS)
    assert [] == found(cli, "coder", "--cached")
    assert ["local/small-coder", "local/vendor/big-coder"] == found(cli, "coder")
    assert ["local/vendor/big-coder"] == found(cli, "Images", "coder")
    assert 1 == len(server.requests)
    assert 3 == len(found(cli, "--refresh"))
    assert 2 == len(server.requests)
    path = cli.home / "cache" / "models-local.json"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    path.write_text(json.dumps({**json.loads(path.read_text()), "time": 0}))
    old = cli("models", "search", "--cached", "poet")
    assert (0, "local/poet\n") == old[:2]
    assert "The list of local is from" in old.err
    assert 3 == len(found(cli))
    assert 3 == len(server.requests)
    assert "No model fits" in cli("models", "search", "zzz").err
    unknown = cli("run", "-m", "zzz", "Hi")
    assert 3 == unknown.code
    assert "no listed model has this name" in unknown.err
    assert "Did you mean" not in unknown.err
    assert "tinyagent models search" in unknown.err


def test_a_well_known_model_without_its_provider(cli: Cli) -> None:
    """Before any list is stored, the table of prices knows the provider of a model."""
    for name, meant in (("gpt-4o", "openai"), ("claude-sonnet-4-5", "anthropic"), ("grok-4", "xai")):
        done = cli("run", "-m", name, "Hi")
        assert (3, "") == done[:2]
        assert f"Did you mean {meant}/{name}?\n" in done.err


def test_search_with_a_provider_that_fails(cli: Cli, serve: Serve) -> None:
    """A failure is a warning, and the stored lists of the others are searched."""
    serve(MODELS, more='[providers.dead]\nbase_url = "http://127.0.0.1:9/v1"\n')
    done = cli("models", "search", "poet")
    assert (0, "local/poet\n") == done[:2]
    assert "dead could not be asked: cannot connect" in done.err
    assert (0, "") == cli("models", "search", TINYAGENT_HOME=str(cli.work / "empty"))[:2]


def test_abilities_and_the_stored_list(cli: Cli, serve: Serve) -> None:
    """Abilities are listed as the provider reports them, and --cached needs no request."""
    server = serve(MODELS)
    assert 2 == cli("models", "list", "local", "--cached").code
    rows = {row["id"]: row["abilities"] for row in json.loads(cli("models", "list", "local", "--json").out)}
    everything = ["tools", "images", "files", "audio", "reasoning", "json_schema"]
    assert {"vendor/big-coder": everything, "small-coder": ["tools"], "poet": []} == rows
    done = cli("models", "list", "local", "--cached")
    assert ["local/small-coder", "tools"] == done.out.splitlines()[1].split()
    assert "\x1b" not in done.out
    assert "returned this list less than a minute ago" in done.err
    assert 1 == len(server.requests)


@pytest.mark.parametrize(
    "text", ["", "[]", '["a"]', '{"provider": "local"', '{"provider": "x", "time": 1, "models": []}']
)
def test_a_damaged_list_counts_as_missing(cli: Cli, serve: Serve, text: str) -> None:
    """A file that is malformed, old or of another provider is ignored, and replaced by the next list."""
    serve(MODELS)
    (cli.home / "cache").mkdir(parents=True)
    (cli.home / "cache" / "models-local.json").write_text(text)
    assert [] == offered(cli, "tinyagent run -m local/")
    assert ["local/poet"] == found(cli, "poet")


def test_show(cli: Cli, serve: Serve) -> None:
    """Facts of the list, list prices and the rules on thinking come together."""
    serve(MODELS)
    assert 0 == cli("models", "list", "local").code
    facts = json.loads(cli("models", "show", "big", "--json").out)
    assert ("local/vendor/big-coder", 9000, 1.0, 2.0) == (
        facts["model"], facts["context_window"], facts["input_price"], facts["output_price"]
    )  # fmt: skip
    done = cli("models", "show", "openai/gpt-5-mini")
    assert 0 == done.code
    assert "$/M in          0.25" in done.out
    assert "efforts         minimal, low, medium, high" in done.out
    assert "abilities       reasoning" in done.out
    assert "not by its provider" in done.out
    assert 3 == cli("models", "show", "nothing-like-it").code


def test_a_part_of_a_name_is_enough(cli: Cli, serve: Serve) -> None:
    """-m accepts a part that fits one model, and names it; the whole last part comes first."""
    server = serve(MODELS, FakeReply.text("ok"), FakeReply.text("ok"), FakeReply.text("ok"))
    assert 0 == cli("models", "list", "local").code
    for part in ("big", "big-coder", "VENDOR/BIG"):
        done = cli("run", "-m", part, "Hi")
        assert (0, "ok\n") == done[:2], done.err
        assert f"Using local/vendor/big-coder for {part!r}." in done.err
        assert "vendor/big-coder" == server.requests[-1].json["model"]


def test_an_ambiguous_part_lists_the_models(cli: Cli, serve: Serve) -> None:
    """Nothing runs if a part fits several models."""
    server = serve(MODELS)
    assert 0 == cli("models", "list", "local").code
    done = cli("run", "-m", "coder", "Hi")
    assert (3, "") == done[:2]
    assert "'coder' (-m) fits 2 models" in done.err
    assert "  local/small-coder\n  local/vendor/big-coder\n" in done.err
    assert 1 == len(server.requests)


def test_a_typo_gets_a_suggestion(cli: Cli, serve: Serve) -> None:
    """Before a request for a part of a name, and after a 404 for a full name, which is used as it is."""
    server = serve(MODELS, FakeReply.error(404, "no such model"))
    assert 0 == cli("models", "list", "local").code
    done = cli("run", "-m", "smal-coder", "Hi")
    assert (3, True) == (done.code, "Did you mean local/small-coder?" in done.err)
    done = cli("run", "-m", "local/smal-coder", "Hi")
    assert (1, True) == (done.code, "Did you mean local/small-coder?" in done.err)
    assert "smal-coder" == server.requests[-1].json["model"]
    assert "Unknown provider 'opnai'. Did you mean 'openai'?" in cli("run", "-m", "opnai/gpt-5", "Hi").err


def test_a_name_that_is_hardly_similar_is_no_suggestion(cli: Cli) -> None:
    """`nope` does not mean `openai`, for a model and for a key."""
    for command in (("run", "-m", "nope/x", "Hi"), ("keys", "set", "nope")):
        done = cli(*command)
        assert (True, False) == ("provider 'nope'" in done.err, "Did you mean" in done.err), done.err


@pytest.mark.parametrize("text", ["qwn", "qwen3:4c", "olama/qwen3:4b", "QWEN4"])
def test_a_typo_of_a_tagged_model_gets_a_suggestion(text: str) -> None:
    """The tag, which is long in comparison with the name, need not be typed."""
    assert ["ollama/qwen3:4b"] == similar(text, ["ollama/gemma3:1b", "ollama/qwen3:4b"])


def test_only_models_that_can_be_used_fit(cli: Cli) -> None:
    """The list of a provider without a key is ignored; the default model of one with a key is known."""
    assert 3 == cli("run", "-m", "gpt-4.1", "Hi").code
    done = cli("run", "-m", "gpt-4.1", "-O", "x", "Hi", OPENAI_API_KEY="sk-test-1")
    assert 2 == done.code  # -O x is invalid, so no request is made
    assert "Using openai/gpt-4.1-mini for 'gpt-4.1'." in done.err


def test_a_search_without_a_result_says_what_was_searched(cli: Cli, serve: Serve) -> None:
    """It names the providers that are listed, and how to search others."""
    serve(MODELS)
    assert 0 == cli("models", "list", "local").code
    done = cli("models", "search", "nothing")
    assert "These providers are listed: local.\nOthers are searched when their key is stored" in done.err


def test_aliases(cli: Cli) -> None:
    """An alias is set, listed, completed, used and removed; comments of the file stay."""
    cli.config("# mine\n")
    assert "is a provider" in cli("models", "alias", "set", "demo", "demo/demo").err
    assert 3 == cli("models", "alias", "set", "x", "nope/m").code
    assert 3 == cli("models", "alias", "set", "a/b", "demo/demo").code
    assert 0 == cli("models", "alias", "set", "try", "demo/demo").code
    assert "# mine\n" == (cli.home / "config.toml").read_text()[:7]
    assert [{"name": "try", "model": "demo/demo"}] == json.loads(cli("models", "alias", "list", "--json").out)
    assert 0 == cli("run", "-m", "try", "Hi").code
    assert ["try"] == offered(cli, "tinyagent run -m try")
    assert ["try"] == offered(cli, "tinyagent models alias remove t")
    assert 0 == cli("models", "default", "try").code
    assert "still has 'try' as the model" in cli("models", "alias", "remove", "try").err
    assert 2 == cli("models", "alias", "remove", "try").code


def test_the_default_model(cli: Cli) -> None:
    """It is printed with its source on standard error, and set in the user file."""
    assert 3 == cli("models", "default").code
    assert (0, "openai/gpt-4.1-mini\n") == cli("models", "default", OPENAI_API_KEY="sk-test-1")[:2]
    assert 0 == cli("models", "default", "openai/gpt-5").code
    assert {"run": {"model": "openai/gpt-5"}} == tomllib.loads((cli.home / "config.toml").read_text())
    done = cli("models", "default")
    assert (0, "openai/gpt-5\n", f"From {cli.home / 'config.toml'}.\n") == done
    done = cli("models", "default", "openai/gpt-4o", TINYAGENT_MODEL="a/b")
    assert "Here TINYAGENT_MODEL takes precedence." in done.err


def test_a_cache_that_cannot_be_written(cli: Cli, serve: Serve) -> None:
    """The list is shown all the same."""
    serve(MODELS)
    (cli.home / "cache").write_text("a file, not a directory")
    done = cli("models", "list", "local")
    assert (0, 3) == (done.code, len(done.out.splitlines()))
    assert (cli.home / "cache").is_file()
