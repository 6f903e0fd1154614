"""OpenRouter: its defaults, its key, and other servers at its base URL."""

from __future__ import annotations

from typing import Any

import pytest

from tinyagent.agent_types import Context, Model, ThinkingLevel
from tinyagent.errors import MissingKeyError
from tinyagent.openrouter_provider import OpenRouterModel, list_openrouter_models, stream_openrouter
from tinyagent.testing.server import FakeReply, FakeServer, chat_chunk


def test_defaults() -> None:
    """The defaults of the model are those of the documentation."""
    model = OpenRouterModel()
    assert ("openrouter", "anthropic/claude-3.5-sonnet", "openrouter") == (
        model.provider,
        model.id,
        model.api,
    )
    assert "https://openrouter.ai/api/v1/chat/completions" == model.base_url
    assert model.headers is None
    assert "x" == OpenRouterModel(id="x").id


async def test_a_key_is_needed() -> None:
    """Without a key, a ValueError has the variable's name, and nothing is sent."""
    for model in (OpenRouterModel(), Model("openrouter", "m")):
        with pytest.raises(ValueError, match="OPENROUTER_API_KEY") as caught:
            await stream_openrouter(model, Context(), {})
        assert isinstance(caught.value, MissingKeyError)
    with pytest.raises(MissingKeyError, match="OPENROUTER_API_KEY"):
        await list_openrouter_models()


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat/completions"])
async def test_another_server(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base URL can be set, with or without its last part; the option's key takes precedence."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "from-env")
    async with FakeServer(FakeReply.text("Hi"), repeat=True) as server:
        model = OpenRouterModel(id="m", base_url=server.origin + path, headers={"X-Title": "t"})
        for options, key in (({}, "from-env"), ({"api_key": "given"}, "given")):
            reply = await stream_openrouter(model, Context(messages=[]), options)  # type: ignore[arg-type]
            message = await reply.result()
            assert "Hi" == message["content"][0]["text"]
            assert "openrouter" == message["provider"] == message["api"]
            request = server.requests[-1]
            assert ("/v1/chat/completions", f"Bearer {key}") == (
                request.path,
                request.headers["authorization"],
            )
            assert "t" == request.headers["x-title"]


async def test_the_request_has_its_own_fields() -> None:
    """Usage, reasoning and session are sent in OpenRouter's fields, beside extra_body."""
    async with FakeServer(FakeReply.text("Hi")) as server:
        model = OpenRouterModel(id="m", base_url=server.url, extra_body={"provider": {"sort": "price"}})
        options: Any = {
            "api_key": "k",
            "session_id": "s",
            "thinking_level": ThinkingLevel.HIGH,
            "max_tokens": 5,
        }
        await (await stream_openrouter(model, Context(), options)).result()
        body = server.requests[0].json
        assert {
            "model": "m",
            "messages": [],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 5,
            "reasoning": {"effort": "high"},
            "session_id": "s",
            "provider": {"sort": "price"},
        } == body


async def test_cost() -> None:
    """The cost is the one that OpenRouter reports."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.25,
             "cost_details": {"upstream_inference_cost": 0.01}}  # fmt: skip
    async with FakeServer(FakeReply.text("Hi", usage=usage)) as server:
        reply = await stream_openrouter(OpenRouterModel(base_url=server.url), Context(), {"api_key": "k"})
        assert 0.25 == (await reply.result())["usage"]["cost"]


async def test_an_error_in_mid_stream() -> None:
    """The message has the provider's text and the partial text, and is a failure."""
    error = chat_chunk({"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"})
    async with FakeServer(FakeReply.chunks(chat_chunk("Half"), error)) as server:
        reply = await stream_openrouter(OpenRouterModel(base_url=server.url), Context(), {"api_key": "k"})
        message = await reply.result()
        assert ("error", "openrouter: Provider disconnected") == (
            message["stop_reason"], message["error_message"]
        )  # fmt: skip
        assert "Half" == message["content"][0]["text"]
