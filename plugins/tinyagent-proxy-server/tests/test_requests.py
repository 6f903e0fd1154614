"""Authentication, models, invalid requests, and the log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinyagent.testing import FakeReply, FakeServer, user
from tinyagent_proxy_server._config import ProviderTable, TokenTable

from .conftest import KEY, TOKEN, Serving

ASKED = {"model": {"id": "demo", "provider": "proxy"}, "context": {"messages": [user("Hi")]}}


def asked(**changes: Any) -> bytes:
    return json.dumps(ASKED | changes).encode()


# ---- tokens -------------------------------------------------------------------------------------------


HEADERS = (
    None, "", "Bearer", f"Basic {TOKEN}", "Bearer not-this-one-at-all", f"Bearer {TOKEN}x", f"Bearer{TOKEN}",
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/stream"), ("GET", "/api/models")])
async def test_an_unknown_token_is_refused(method: str, path: str, serving: Serving) -> None:
    """Status 401 shows no model, and the log does not have the token."""
    async with serving() as served:
        for header in HEADERS:
            headers = {"authorization": header} if header is not None else {}
            reply = await served.http(method, path, token=None, content=asked(), headers=headers)
            assert (401, "Bearer") == (reply.status_code, reply.headers["www-authenticate"]), header
            assert "demo" not in reply.text
    assert [True] * len(HEADERS) == ["status=401" in line for line in served.lines]
    assert [] == [line for line in served.lines if "not-this-one" in line or TOKEN in line]


async def test_the_name_of_a_token_is_logged_and_never_the_token(serving: Serving) -> None:
    """The log has one line per request, with usage and outcome, but no prompt, reply or secret."""
    async with FakeServer(FakeReply.text("the answer")) as server, serving(server.url) as served:
        await served.message("up/m", user("the question"))
        await served.idle()
    [line] = served.lines
    for field in ("token=alice", "model=up/m", "status=ok", "finish=stop", "input=3", "output=2", "ms="):
        assert field in line
    assert [] == [word for word in ("answer", "question", TOKEN, KEY) if word in line]


async def test_callers_cannot_forge_log_lines(serving: Serving) -> None:
    """Text from callers is quoted and truncated in the log."""
    name = "x\n2026-01-01T00:00:00Z token=bob \x1b[31m" + "y" * 5000
    async with serving() as served:
        await served.http("POST", "/api/stream", content=asked(model={"id": name}))
    assert 1 == len(served.lines)
    assert "\n" not in served.lines[0]
    assert "\x1b" not in served.lines[0]
    assert len(served.lines[0]) < 600


async def test_the_request_rate_is_limited(serving: Serving) -> None:
    """A token that exceeds its rate gets the time of the next attempt."""
    tokens = {"alice": TokenTable(env="-", requests_per_minute=2)}
    async with serving(tokens=tokens) as served:
        replies = [await served.http("GET", "/api/models") for _ in range(3)]
    assert [200, 200, 429] == [reply.status_code for reply in replies]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 31


# ---- models -------------------------------------------------------------------------------------------


async def test_a_token_can_use_only_its_models(serving: Serving) -> None:
    """An existing model without permission gives the same error as an unknown model."""
    tokens = {"alice": TokenTable(env="-", models=("demo", "up/good*")), "bob": TokenTable(env="-")}
    providers = {
        "demo": ProviderTable(),
        "up": ProviderTable(base_url="http://127.0.0.1:1/v1", models=("good-1", "bad-1")),
    }
    async with serving(tokens=tokens, providers=providers) as served:
        hers, his = [
            [model["id"] for model in (await served.http("GET", "/api/models", token=token)).json()["models"]]
            for token in (TOKEN, f"{TOKEN}-1")
        ]
        refused = [
            await served.http("POST", "/api/stream", content=asked(model={"id": name}))
            for name in ("up/bad-1", "up/not-1", "no/bad-1", "up", "up/", "/", "demo/x")
        ]
    assert ["demo", "up/good-1"] == hers
    assert ["demo", "up/good-1", "up/bad-1"] == his
    assert {404} == {reply.status_code for reply in refused}
    words = {reply.json()["error"]["message"].split(" for this token")[1] for reply in refused}
    assert 1 == len(words)


async def test_patterns_select_from_the_providers_list(serving: Serving) -> None:
    """Models that match a pattern are listed; the provider's list is cached."""
    models = {"data": [{"id": "good-1", "context_length": 8}, {"id": "good-2"}, {"id": "bad-1"}]}
    async with FakeServer(FakeReply.json(models)) as server:
        providers = {"up": ProviderTable(base_url=server.url, api_key_env="UP_KEY", models=("good-*", "own"))}
        async with serving(providers=providers) as served:
            first, second = [(await served.http("GET", "/api/models")).json() for _ in range(2)]
    assert first == second
    assert {"up/own", "up/good-1", "up/good-2"} == {model["id"] for model in first["models"]}
    assert 8 == next(model for model in first["models"] if model["id"] == "up/good-1")["contextWindow"]
    assert f"Bearer {KEY}" == server.requests[0].headers["authorization"]


async def test_a_provider_without_a_list_is_skipped(serving: Serving) -> None:
    """If a provider's list cannot be read, the models of the others are listed."""
    async with serving("http://127.0.0.1:1/v1") as served:
        reply = await served.http("GET", "/api/models")
    assert ["demo"] == [model["id"] for model in reply.json()["models"]]


@pytest.mark.parametrize(
    "model", [{"id": "m", "provider": "up"}, {"id": "up/m"}, {"id": "up/m", "provider": "corp"}]
)
async def test_the_provider_may_be_part_of_the_id(model: dict[str, str], serving: Serving) -> None:
    """Both forms of a model's name select the same model."""
    async with FakeServer(FakeReply.text("Hi")) as server, serving(server.url) as served:
        reply = await served.http("POST", "/api/stream", content=asked(model=model))
        assert "m" == server.requests[0].json["model"]
    assert '"type":"done","reason":"stop"' in reply.text


# # ---- invalid requests -----------------------------------------------------------------------------------


NO_REQUESTS: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[]", "object"),
    (b'{"model": {"id": "demo"}}', "context"),
    (asked(model={"id": " "}), "model.id is empty"),
    (asked(model={"id": 5}), "$.model.id"),
    (asked(options={"temperature": "hot"}), "$.options.temperature"),
    (asked(options={"temperature": 1e400}), "not JSON"),
    (asked(options={"reasoning": "wild"}), "wild"),
    (asked(context={"messages": [{"role": "system", "content": []}]}), "messages[0]: the role 'system'"),
    (asked(context={"messages": [{"role": "user", "content": "Hi"}]}), "content is not a list"),
    (asked(context={"messages": [{"role": "user", "content": ["Hi"]}]}), "content[0]: the type"),
    (asked(context={"messages": [{"role": "user", "content": [{"type": "text"}]}]}), "text is missing"),
    (asked(context={"messages": [{"role": "tool_result", "content": []}]}), "tool_call_id"),
    (asked(context={"tools": [{"description": "?"}]}), "name"),
]


async def test_an_invalid_request_is_refused_with_the_place(serving: Serving) -> None:
    """Status 400 comes with a message that shows the invalid field."""
    async with serving() as served:
        for body, words in NO_REQUESTS:
            reply = await served.http("POST", "/api/stream", content=body)
            assert 400 == reply.status_code, body[:200]
            assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_is_too_long_is_refused(chunked: bool, serving: Serving) -> None:
    """The limit applies with and without a declared length."""

    async def pieces() -> Any:
        for _ in range(64):
            yield b" " * 1024

    async with serving(max_request_bytes=16 << 10) as served:
        content: Any = pieces() if chunked else b" " * 65_536
        reply = await served.http("POST", "/api/stream", content=content)
        assert 413 == reply.status_code
        await served.idle()


async def test_health_needs_no_token(serving: Serving) -> None:
    """The health check needs no token and shows only the status."""
    async with serving() as served:
        reply = await served.http("GET", "/healthz", token=None)
    assert (200, {"ok": True}) == (reply.status_code, reply.json())
    assert "server" not in reply.headers


async def test_other_paths_do_not_exist(serving: Serving) -> None:
    """Other paths and methods are refused."""
    async with serving() as served:
        for method, path in (("GET", "/api/stream"), ("GET", "/"), ("POST", "/api/models"), ("GET", "/docs")):
            assert (await served.http(method, path)).status_code in (404, 405)


async def test_an_internal_error_has_status_500(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an internal error, the server continues."""
    async with serving() as served:
        with monkeypatch.context() as patched:
            patched.setattr(served.proxy._upstreams, "find", lambda *_: 1 / 0)
            reply = await served.http("POST", "/api/stream", content=asked())
        assert (500, "Internal Server Error") == (reply.status_code, reply.text)
        assert "status=500" in served.lines[-1]
        assert 200 == (await served.http("POST", "/api/stream", content=asked())).status_code


@pytest.mark.parametrize(
    ("model_id", "api", "path"),
    [
        ("gpt-4.1", None, "/v1/chat/completions"),
        ("gpt-5", None, "/v1/responses"),
        ("gpt-5", "openai-completions", "/v1/chat/completions"),
    ],
)
async def test_openai_models_use_their_protocol(model_id: str, api: Any, path: str, serving: Serving) -> None:
    """The model id selects the protocol, unless the configuration does."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}]
    reply = (
        FakeReply.json({"status": "completed", "output": output})
        if path.endswith("responses")
        else FakeReply.text("ok")
    )
    async with FakeServer(reply) as server:
        table = ProviderTable(base_url=server.url, api=api, api_key_env="UP_KEY")
        async with serving(providers={"openai": table}) as served:
            message = await served.message(f"openai/{model_id}")
        assert (path, "ok") == (server.requests[0].path, message["content"][0]["text"])


async def test_the_schema_of_the_answer_is_passed_on(serving: Serving) -> None:
    """The provider behind the proxy enforces it."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    async with FakeServer(FakeReply.text('{"x": 1}')) as server:
        table = ProviderTable(base_url=server.url, api_key_env="UP_KEY")
        async with serving(providers={"openai": table}) as served:
            message = await served.message("openai/gpt-4.1", response_schema=schema)
        assert '{"x": 1}' == message["content"][0]["text"]
        sent = server.requests[0].json["response_format"]["json_schema"]
    assert (True, {**schema, "additionalProperties": False}) == (sent["strict"], sent["schema"])
