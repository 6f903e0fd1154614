"""chat/completions: requests, replies, and how a reply is closed."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from typing import Any

import pytest

from tinyagent._cancel import AbortSignal
from tinyagent._net.pool import current_pool
from tinyagent.agent_types import AgentTool, Context, Model, ThinkingLevel
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    MissingKeyError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitError,
)
from tinyagent.openai_wire import (
    ChatDecoder,
    OpenAICompatModel,
    chat_request,
    endpoint,
    list_openai_models,
    stream_openai_completions,
)
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold, Reset, Sleep, Wait, chat_chunk, sse

KEY = "sk-test-CANARY-0123456789"


def model_at(server: FakeServer, **fields: Any) -> OpenAICompatModel:
    return OpenAICompatModel(**{"provider": "acme", "id": "m", "base_url": server.url, **fields})


ACME = OpenAICompatModel("acme", "m", base_url="http://127.0.0.1/v1")


def user(*content: Any) -> dict[str, Any]:
    blocks = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]
    return {"role": "user", "content": blocks, "timestamp": 1}


def assistant(*content: Any, model: Any = None, **fields: Any) -> dict[str, Any]:
    model = model or ACME
    return {
        "role": "assistant",
        "content": list(content),
        "stop_reason": "stop",
        "timestamp": 1,
        "api": model.api,
        "provider": model.provider,
        "model": model.id,
        "usage": None,
        **fields,
    }


def called(call_id: str, name: str = "w", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def result(call_id: str, *content: Any) -> dict[str, Any]:
    blocks = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]
    return {
        "role": "tool_result",
        "tool_call_id": call_id,
        "tool_name": "w",
        "content": blocks,
        "details": {},
        "is_error": False,
        "timestamp": 1,
    }


IMAGE = {"type": "image", "url": "data:image/png;base64,AAAA"}


def sent(*messages: dict[str, Any], model: Any = None, **options: Any) -> dict[str, Any]:
    context = Context(system_prompt=options.pop("system_prompt", ""), messages=list(messages))
    return chat_request(model or ACME, context, options)


# ---- the request ------------------------------------------------------------------------------------


def test_a_minimal_request() -> None:
    """An unknown server gets the minimal request, with a request for usage."""
    least = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert {**least, "stream_options": {"include_usage": True}} == sent(user("hi"))


def test_system_prompt_and_text() -> None:
    """The system prompt comes first; text is sent as a string."""
    body = sent(user("a", "b"), system_prompt="be brief")
    assert [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
    ] == body["messages"]


def test_options() -> None:
    """Temperature, including 0, and the output limit have the server's names."""
    assert (0, 7) == tuple(sent(temperature=0, max_tokens=7)[key] for key in ("temperature", "max_tokens"))
    openai = OpenAICompatModel("openai", "gpt", base_url="https://api.openai.com/v1")
    body = sent(model=openai, max_tokens=7, session_id="s1")
    assert (7, "s1") == (body["max_completion_tokens"], body["prompt_cache_key"])
    assert "max_tokens" not in body
    assert {"include_usage": True} == body["stream_options"]


def test_extra_body() -> None:
    """`extra_body` is applied last, and None removes a field."""
    model = OpenAICompatModel("groq", "m", extra_body={"stream_options": None, "top_k": 3, "stream": True})
    body = sent(model=model)
    assert 3 == body["top_k"]
    assert "stream_options" not in body


@pytest.mark.parametrize(
    ("provider", "level", "budgets", "expected"),
    [
        ("acme", "high", None, {"reasoning_effort": "high"}),
        ("acme", "minimal", None, {"reasoning_effort": "low"}),
        ("acme", "xhigh", None, {"reasoning_effort": "high"}),
        ("acme", "off", None, {}),
        ("openai", "xhigh", None, {"reasoning_effort": "xhigh"}),
        ("xai", "medium", None, {"reasoning_effort": "high"}),
        ("openrouter", "medium", None, {"reasoning": {"effort": "medium"}}),
        ("openrouter", "medium", {"medium": 2000}, {"reasoning": {"max_tokens": 2000}}),
        ("deepseek", "low", None, {"thinking": {"type": "enabled"}}),
        ("mistral", "high", None, {}),
    ],
)
def test_thinking(provider: str, level: str, budgets: Any, expected: dict[str, Any]) -> None:
    """The thinking level is sent in the provider's form, from the options or the model."""
    names = ("reasoning_effort", "reasoning", "thinking")
    by_option = sent(
        model=OpenAICompatModel(provider, "m", base_url="http://127.0.0.1/v1"),
        thinking_level=ThinkingLevel(level),
        thinking_budgets=budgets,
    )
    assert expected == {key: by_option[key] for key in names if key in by_option}
    model = OpenAICompatModel(
        provider, "m", base_url="http://127.0.0.1/v1", thinking_level=ThinkingLevel(level)
    )
    by_model = sent(model=model, thinking_budgets=budgets)
    assert expected == {key: by_model[key] for key in names if key in by_model}


@pytest.mark.parametrize(
    ("provider", "model_id", "options", "expected", "notes"),
    [
        ("openai", "gpt-5.1", {"thinking_level": "minimal"}, {"reasoning_effort": "low"}, 1),
        ("openai", "gpt-4.1", {"thinking_level": "high", "temperature": 0.5}, {"temperature": 0.5}, 1),
        ("openai", "gpt-5", {"temperature": 0.5}, {}, 1),
        ("openai", "gpt-5", {"max_tokens": 9}, {"max_completion_tokens": 9}, 0),
        ("acme", "openai/gpt-5-mini", {"max_tokens": 9}, {"max_completion_tokens": 9}, 0),
        ("acme", "qwen3", {"max_tokens": 9}, {"max_tokens": 9}, 0),
        ("openrouter", "openai/gpt-5", {"max_tokens": 9, "temperature": 1}, {"max_tokens": 9}, 1),
        ("openrouter", "openai/gpt-5.1", {"thinking_level": "xhigh"}, {"reasoning": {"effort": "xhigh"}}, 0),
        ("azure", "o4-mini", {"thinking_level": "xhigh"}, {"reasoning_effort": "high"}, 1),
        ("xai", "grok-4", {"thinking_level": "high"}, {}, 1),
        ("xai", "grok-4.3", {"thinking_level": "medium"}, {"reasoning_effort": "medium"}, 0),
        ("groq", "qwen/qwen3-32b", {"thinking_level": "high"}, {}, 1),
        ("groq", "openai/gpt-oss-20b", {"thinking_level": "minimal"}, {"reasoning_effort": "low"}, 1),
        ("ollama", "qwen3:8b", {"thinking_level": "high"}, {"reasoning_effort": "high"}, 0),
        ("ollama", "llama3.2", {"thinking_level": "high"}, {"reasoning_effort": "high"}, 0),
        (
            "deepseek",
            "deepseek-v4-pro",
            {"thinking_level": "medium"},
            {"thinking": {"type": "enabled"}, "reasoning_effort": "high"},
            1,
        ),
        ("zai", "glm-4.7", {"thinking_level": "low"}, {"thinking": {"type": "enabled"}}, 0),
        ("zai", "glm-4-plus", {"thinking_level": "low"}, {}, 1),
        ("moonshot", "kimi-k2.5", {"temperature": 0.5}, {}, 1),
        ("mistral", "magistral-small", {"thinking_level": "low"}, {}, 1),
    ],
)
def test_settings_depend_on_the_model(
    provider: str, model_id: str, options: dict[str, Any], expected: dict[str, Any], notes: int
) -> None:
    """Unsupported settings are converted or omitted, with a note."""
    heard: list[str] = []
    model = OpenAICompatModel(provider, model_id, base_url="http://127.0.0.1/v1")
    body = sent(model=model, on_note=heard.append, **options)
    assert expected == {
        key: value
        for key, value in body.items()
        if key not in ("model", "messages", "stream", "stream_options")
    }
    assert notes == len(heard)


@pytest.mark.parametrize(
    ("model_id", "level", "effort", "notes"),
    [
        ("gpt-5.6", "off", "none", 0),
        ("gpt-5.4", "off", None, 0),
        ("gpt-5.4", "high", "none", 1),
        ("gpt-5.1", "high", "high", 0),
        ("gpt-4.1", "off", None, 0),
    ],
)
def test_tools_of_models_that_reason(model_id: str, level: str, effort: str | None, notes: int) -> None:
    """OpenAI's newer reasoning models get no reasoning with tools on chat/completions."""
    heard: list[str] = []
    model = OpenAICompatModel("openai", model_id, base_url="https://api.openai.com/v1")
    context = Context(messages=[user("Hi")], tools=[AgentTool("add")])
    body = chat_request(model, context, {"thinking_level": level, "on_note": heard.append})
    assert (effort, notes) == (body.get("reasoning_effort"), len(heard))


def test_reasoning_of_a_model_can_be_set() -> None:
    """`reasoning=True` sends the level for an id that is not recognised as reasoning."""
    model = OpenAICompatModel("openai", "gpt-4.1", base_url="http://127.0.0.1/v1", reasoning=True)
    assert "high" == sent(model=model, thinking_level="high")["reasoning_effort"]


def test_tools() -> None:
    """Tools are sent as functions; without tools the field is omitted."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = AgentTool("add", "Adds.", schema)
    function = {"name": "add", "description": "Adds.", "parameters": schema}
    body = chat_request(Model("p", "m"), Context(tools=[tool]), {})
    assert [{"type": "function", "function": function}] == body["tools"]
    assert "tools" not in chat_request(Model("p", "m"), Context(tools=[]), {})


def test_images() -> None:
    """The user's images are sent in the message; images of tool results follow the results."""
    picture = {"type": "image_url", "image_url": {"url": IMAGE["url"]}}
    body = sent(
        user("look", IMAGE),
        assistant(called("a"), called("b")),
        result("a", "one", IMAGE),
        result("b", IMAGE),
        user("and?"),
    )
    assert [{"type": "text", "text": "look"}, picture] == body["messages"][0]["content"]
    roles = [message["role"] for message in body["messages"]]
    assert ["user", "assistant", "tool", "tool", "user", "user"] == roles
    assert ["one", "(see the attached image)"] == [body["messages"][n]["content"] for n in (2, 3)]
    assert [picture, picture] == body["messages"][4]["content"][1:]


def test_calls_and_results() -> None:
    """Calls have their arguments as text; an invalid call has an empty object."""
    invalid = {**called("b"), "partial_json": '{"x'}
    body = sent(assistant(called("a", x=1), invalid), result("a"), result("b", "bad arguments"))
    first = body["messages"][0]
    assert ['{"x":1}', "{}"] == [call["function"]["arguments"] for call in first["tool_calls"]]
    assert ["(no output)", "bad arguments"] == [message["content"] for message in body["messages"][1:]]


@pytest.mark.parametrize(
    ("provider", "content"),
    [
        *(
            (name, None)
            for name in ("openai", "azure", "openrouter", "groq", "deepseek", "mistral", "gemini")
        ),
        *((name, "") for name in ("lmstudio", "llamacpp", "ollama", "vllm", "acme")),
    ],
)
def test_the_content_of_a_message_with_only_calls(provider: str, content: str | None) -> None:
    """It is null if the server documents this, and an empty text otherwise."""
    model = OpenAICompatModel(provider, "m", base_url="http://127.0.0.1/v1")
    body = sent(assistant(called("a"), model=model), result("a"), model=model)
    assert content == body["messages"][0]["content"]


def test_the_history_is_repaired() -> None:
    """Failed messages and orphaned results are removed; calls get results, and ids become unique."""
    text = {"type": "text", "text": "half"}
    body = sent(
        user("1"),
        assistant(text, called("z"), stop_reason="error"),
        assistant(text, stop_reason="aborted"),
        result("z", "orphan"),
        assistant(called("a"), called("b")),
        result("b", "B"),
        user("2"),
        assistant(called("a")),
        result("a", "A2"),
        result("a", "again"),
        assistant(),
    )
    short = [
        (message["role"], message.get("tool_call_id"), message["content"]) for message in body["messages"]
    ]
    assert [
        ("user", None, "1"),
        ("assistant", None, ""),
        ("tool", "b", "B"),
        ("tool", "a", "No result provided"),
        ("user", None, "2"),
        ("assistant", None, ""),
        ("tool", "a_2", "A2"),
    ] == short
    assert "a_2" == body["messages"][5]["tool_calls"][0]["id"]


def test_ids_of_other_models() -> None:
    """Ids that this server may refuse are replaced in calls and results."""
    other = OpenAICompatModel("other", "x")
    body = sent(assistant(called("call|fc_1:" + "x" * 50), model=other), result("call|fc_1:" + "x" * 50, "r"))
    new = body["messages"][0]["tool_calls"][0]["id"]
    assert new == body["messages"][1]["tool_call_id"]
    assert len(new) <= 40
    assert new.replace("_", "").isalnum()
    body = sent(assistant(called("functions.add:0")), result("functions.add:0", "r"))
    assert "functions.add:0" == body["messages"][1]["tool_call_id"]
    mistral = OpenAICompatModel("mistral", "m", base_url="https://api.mistral.ai/v1")
    body = sent(assistant(called("call_1"), called("call_2")), result("call_1", "r"), model=mistral)
    assert [9, 9] == [len(call["id"]) for call in body["messages"][0]["tool_calls"]]
    assert body["messages"][0]["tool_calls"][0]["id"] == body["messages"][1]["tool_call_id"]


def thought(text: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "thinking_signature": signature}


def test_reasoning_is_sent_back_to_its_model() -> None:
    """It is sent to the same model under the same name only."""
    for name in ("reasoning_content", "reasoning", "reasoning_text"):
        message = assistant(thought("hm", name), called("a"))
        assert "hm" == sent(message)["messages"][0][name]
        for other in (
            OpenAICompatModel("acme", "m2"),
            OpenAICompatModel("acme2", "m"),
            OpenAICompatModel("acme", "m", "other-api"),
        ):
            assert {"role", "content", "tool_calls"} == set(sent(message, model=other)["messages"][0])
    assert {"role", "content", "tool_calls"} == set(
        sent(assistant(thought("hm", ""), called("a")))["messages"][0]
    )
    parts = sent(assistant(thought("hm", "content.thinking"), {"type": "text", "text": "Hi"}))["messages"][0]
    assert ["thinking", "text"] == [part["type"] for part in parts["content"]]


# ---- URL, headers and key ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions/", "https://h/v1/chat/completions"),
        ("https://h", "https://h/chat/completions"),
        ("https://h/v1/responses", "https://h/v1/chat/completions"),
        ("https://h/messages/v1", "https://h/messages/v1/chat/completions"),
        ("https://h/d/chat/completions?api-version=2", "https://h/d/chat/completions?api-version=2"),
    ],
)
def test_endpoint(base: str, expected: str) -> None:
    """A base URL may have the path of the protocol; its query is preserved."""
    assert expected == endpoint(base)
    assert expected.replace("chat/completions", "models") == endpoint(base, "/models")


async def test_headers_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is the bearer token; the model's own headers are sent and may replace it."""
    async with FakeServer(FakeReply.text("Hi"), repeat=True) as server:

        async def headers(api_key: str | None = None, **fields: Any) -> Any:
            reply = await stream_openai_completions(
                model_at(server, **fields), Context(), {"api_key": api_key}
            )
            await reply.result()
            return server.requests[-1].headers

        assert "Bearer k1" == (await headers(" k1\n"))["authorization"]
        assert "authorization" not in await headers()
        monkeypatch.setenv("ACME_KEY", "k2")
        assert "Bearer k2" == (await headers(api_key_env="ACME_KEY"))["authorization"]
        assert "Bearer k1" == (await headers("k1", api_key_env="ACME_KEY"))["authorization"]
        own = await headers("k1", headers={"Authorization": "Basic x", "X-Team": "a"})
        assert ("Basic x", "a") == (own["authorization"], own["x-team"])
        assert "application/json" == own["content-type"]
        assert "POST /v1/chat/completions" == f"{server.requests[-1].method} {server.requests[-1].path}"


async def test_missing_settings_are_errors() -> None:
    """A missing URL, id or key is an error before anything is sent."""
    with pytest.raises(ConfigurationError, match="has no base_url"):
        await stream_openai_completions(Model("p", "m"), Context(), {})
    for blank in ("", "  "):
        model = OpenAICompatModel(provider="p", id="m", base_url=blank)
        with pytest.raises(ConfigurationError, match=r"has (no|a blank) base_url"):
            await stream_openai_completions(model, Context(), {})
    with pytest.raises(ConfigurationError, match="has no id"):
        await stream_openai_completions(OpenAICompatModel(), Context(), {})
    with pytest.raises(MissingKeyError, match="ACME_KEY"):
        await stream_openai_completions(OpenAICompatModel("acme", "m", api_key_env="ACME_KEY"), Context(), {})
    with pytest.raises(ValueError, match="OPENROUTER_API_KEY"):
        await stream_openai_completions(OpenAICompatModel("acme", "m"), Context(), {})
    with pytest.raises(AuthenticationError, match="empty"):
        await stream_openai_completions(OpenAICompatModel("acme", "m"), Context(), {"api_key": " "})
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        await stream_openai_completions(
            OpenAICompatModel("acme", "m", extra_body={"x": object()}), Context(), {"api_key": "k"}
        )


async def test_list_models() -> None:
    """The list has the models with their reported properties."""
    known = [{"id": "a", "name": "A", "context_length": 8}, {"id": "vllm", "max_model_len": 9}]
    models = {"data": [*known, {"id": "b", "context_length": None}, {"no": "id"}, 7]}
    async with FakeServer(FakeReply.json(models), FakeReply.error(401, "no")) as server:
        listed = await list_openai_models(model_at(server, id=""), {"api_key": "k"})
        found = [(one.id, one.name, one.context_window) for one in listed]
        assert [("a", "A", 8), ("vllm", "", 9), ("b", "", None)] == found
        assert "/v1/models" == server.requests[0].path
        with pytest.raises(AuthenticationError):
            await list_openai_models(model_at(server), {"api_key": "k"})


# ---- the reply -------------------------------------------------------------------------------------


async def test_deltas_are_not_buffered() -> None:
    """A delta arrives before the next one is sent; the call returns with the headers."""
    words = ["one", " two", " three"]
    steps: list[Any] = [Wait()]
    for word in words:
        steps += [chat_chunk(word), Wait()]
    async with FakeServer(FakeReply.chunks(*steps, chat_chunk({}, "stop"))) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        seen = []
        async for event in reply:
            if event["type"] == "start":
                server.release()
            if event["type"] == "text_delta":
                seen.append(event["delta"])
                assert "".join(seen) == event["partial"]["content"][0]["text"]
                server.release()
        assert words == seen


async def test_events_and_message() -> None:
    """The events are in order, and the message has all fields."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "cost": 0.5,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    chunks = [
        chat_chunk({"reasoning_content": "hm"}),
        chat_chunk("Hi"),
        chat_chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "w", "arguments": '{"x'}}]}),
        chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]}),
        chat_chunk({}, "tool_calls", usage=usage),
    ]
    before = time.time_ns() // 1_000_000
    async with FakeServer(FakeReply.chunks(*chunks)) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        events = [event async for event in reply]
        assert [
            "start",
            *("thinking_start", "thinking_delta", "thinking_end"),
            *("text_start", "text_delta", "text_end"),
            *("tool_call_start", "tool_call_delta", "tool_call_delta", "tool_call_end"),
            "done",
        ] == [event["type"] for event in events]
        message = await reply.result()
        assert message is events[-1]["message"]
        assert [
            {"type": "thinking", "thinking": "hm", "thinking_signature": "reasoning_content"},
            {"type": "text", "text": "Hi"},
            {"type": "tool_call", "id": "a", "name": "w", "arguments": {"x": 1}},
        ] == message["content"]
        assert ("tool_use", "tool_calls") == (message["stop_reason"], message["finish_reason"])
        assert ("acme", "openai-completions", "m") == tuple(
            message[key] for key in ("provider", "api", "model")
        )
        assert before <= message["timestamp"] <= time.time_ns() // 1_000_000
        assert {
            "input": 10,
            "output": 4,
            "cache_read": 3,
            "cache_write": 0,
            "reasoning": 2,
            "total": 14,
            "cost": 0.5,
        } == message["usage"]


async def test_result_alone() -> None:
    """`result` reads the reply, and returns the same message again."""
    async with FakeServer(FakeReply.text("Hello", " you")) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        message = await reply.result()
        assert "Hello you" == message["content"][0]["text"]
        assert message is await reply.result()


# ---- closing ----------------------------------------------------------------------------------------

HALF = FakeReply.chunks(chat_chunk("Half"), Hold(), done=False)


async def half_read(server: FakeServer, **options: Any) -> Any:
    reply = await stream_openai_completions(model_at(server), Context(), options)
    async for event in reply:
        if event["type"] == "text_delta":
            return reply
    raise AssertionError("no delta came")


async def test_closing_early() -> None:
    """`aclose` closes the connection and leaves no task; the message is aborted."""
    async with FakeServer(HALF) as server:
        reply = await half_read(server)
        await reply.aclose()
        await server.wait_closed()
        message = await reply.result()
        assert ("aborted", "Half") == (message["stop_reason"], message["content"][0]["text"])


async def test_closing_before_reading() -> None:
    """An unread reply can be closed."""
    async with FakeServer(HALF) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        await reply.aclose()
        await server.wait_closed()


async def test_a_dropped_reply_is_closed() -> None:
    """A reply without references closes its connection."""
    async with FakeServer(HALF) as server:
        reply = await half_read(server)
        del reply
        gc.collect()
        await server.wait_closed()


async def test_closing_while_another_task_reads() -> None:
    """The reader gets the events so far and an end."""
    async with FakeServer(HALF) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        kinds: list[str] = []
        delta = asyncio.Event()

        async def read() -> None:
            async for event in reply:
                kinds.append(event["type"])
                if event["type"] == "text_delta":
                    delta.set()

        task = asyncio.create_task(read())
        await delta.wait()
        await asyncio.sleep(0)
        await reply.aclose()
        await task
        assert "error" == kinds[-1]
        await server.wait_closed()


async def test_cancelling() -> None:
    """Cancelling the reader raises CancelledError and closes the connection at once."""
    async with FakeServer(HALF) as server:
        reply = await half_read(server)
        task = asyncio.create_task(reply.result())
        await asyncio.sleep(0)  # The task reads.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_closed()


@pytest.mark.parametrize("kind", [AbortSignal, asyncio.Event])
async def test_the_signal(kind: type[asyncio.Event]) -> None:
    """The signal ends the reply as aborted with its partial text, and closes the connection."""
    async with FakeServer(HALF) as server:
        signal = kind()
        reply = await half_read(server, signal=signal)
        asyncio.get_running_loop().call_soon(signal.set)
        last = [event async for event in reply][-1]
        assert ("error", "aborted") == (last["type"], last["reason"])
        assert ("Half", "aborted") == (last["error"]["content"][0]["text"], last["error"]["stop_reason"])
        await server.wait_closed()


async def test_the_signal_before_the_reply() -> None:
    """A signal before the headers also ends the reply as aborted."""
    async with FakeServer(FakeReply([Hold()], head=b"")) as server:
        signal = AbortSignal()
        task = asyncio.create_task(stream_openai_completions(model_at(server), Context(), {"signal": signal}))
        await server.wait_requests(1)
        signal.set()
        reply = await task
        assert ["start", "error"] == [event["type"] async for event in reply]
        assert "aborted" == (await reply.result())["stop_reason"]
        await server.wait_closed()


async def test_a_time_out_keeps_the_partial_text() -> None:
    """A reply that stops is an error with the partial text."""
    async with FakeServer(HALF, FakeReply([Hold()], head=b"")) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {"timeout": {"idle": 0.1}})
        message = await reply.result()
        assert ("error", "timeout") == (message["stop_reason"], message["error_kind"])
        assert "no further event within 0.1 s" in message["error_message"]
        assert "Half" == message["content"][0]["text"]
        with pytest.raises(ProviderTimeoutError):
            await stream_openai_completions(model_at(server), Context(), {"timeout": 0.1})


async def test_leaving_at_any_moment() -> None:
    """Cancelled, aborted, closed or dropped at any point, a reply leaves no task and no socket."""
    source = random.Random(7)
    ends: list[Any] = [Hold(), Reset(), Hangup(), sse(chat_chunk({}, "stop"))]

    def a_reply() -> FakeReply:
        words = [
            sse(chat_chunk("word " * source.choice([1, 1, 500]))) for _ in range(source.randrange(1, 30))
        ]
        return FakeReply([*words[:10], Sleep(source.random() * 0.01), *words[10:], source.choice(ends)])

    async def leave(server: FakeServer) -> None:
        signal = source.choice([AbortSignal(), asyncio.Event()])
        how, stop, when = (
            source.choice(["signal", "cancel", "close", "drop"]),
            source.randrange(20),
            source.random(),
        )

        async def run() -> None:
            options: Any = {"signal": signal, "timeout": {"first_event": 5, "idle": 0.2}}
            reply = await stream_openai_completions(model_at(server), Context(), options)
            count = 0
            async for _ in reply:
                count += 1
                if count > stop and how in ("close", "drop"):
                    if how == "close":
                        await reply.aclose()
                    return

        task = asyncio.create_task(run())
        end = signal.set if how == "signal" else task.cancel
        handle = (
            asyncio.get_running_loop().call_later(when / 20, end) if how in ("signal", "cancel") else None
        )
        await asyncio.wait([task])
        if handle is not None:
            handle.cancel()
        assert task.cancelled() or isinstance(task.exception(), ProviderError | None)

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    async with FakeServer(*(a_reply() for _ in range(500))) as server:
        for _ in range(8):
            await asyncio.gather(*(leave(server) for _ in range(15)))
        gc.collect()

        pool = await current_pool()
        async with asyncio.timeout(60):
            while server.open_connections > pool.idle_connections:
                await asyncio.sleep(0)
    assert [] == complaints


# ---- retries ----------------------------------------------------------------------------------------


async def test_errors_before_output_are_retried(waits: list[float]) -> None:
    """An error event or a broken connection is retried before the first output."""
    busy = FakeReply([sse({"error": {"code": 429, "message": "busy"}})])
    lost = FakeReply([sse(chat_chunk({"role": "assistant"})), Reset()])
    told: list[str] = []
    async with FakeServer(busy, lost, FakeReply.text("Hi")) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {"on_retry": told.append})
        events = [event["type"] async for event in reply]
        assert ["start", "text_start", "text_delta", "text_end", "done"] == events
        assert 3 == len(server.requests)
    assert [0.5, 1.0] == waits
    assert told[0].startswith("Retrying in 0.5 s (1 of 2): acme: ")


async def test_errors_after_output_are_not_retried(waits: list[float]) -> None:
    """After the first delta an error ends the reply."""
    broken = FakeReply([sse(chat_chunk("Half")), sse({"error": {"code": 503, "message": "gone"}})])
    async with FakeServer(broken, FakeReply.text("Hi")) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        message = await reply.result()
        assert ("provider", "acme: gone") == (message["error_kind"], message["error_message"])
        assert 1 == len(server.requests)


async def test_the_last_error_is_reported(waits: list[float]) -> None:
    """After the last retry the reply ends with the error; an HTTP status raises."""
    busy = FakeReply([sse({"error": {"code": 429, "message": "busy"}})])
    async with FakeServer(busy, busy, busy) as server:
        reply = await stream_openai_completions(model_at(server), Context(), {})
        message = await reply.result()
        assert ("rate_limit", "acme: busy") == (message["error_kind"], message["error_message"])
    async with FakeServer(FakeReply.error(429, "busy"), repeat=True) as server:
        with pytest.raises(RateLimitError):
            await stream_openai_completions(model_at(server), Context(), {})
        assert 3 == len(server.requests)
    with pytest.raises(ConnectionFailedError):
        await stream_openai_completions(model_at(server), Context(), {})


# ---- secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply.error(400, f"bad key {KEY}"),
        FakeReply([f"you sent {KEY}".encode()], status=500),
        FakeReply([f"<html>{KEY}</html>".encode()]),
        FakeReply([sse({"error": {"message": f"key {KEY} refused", "code": 401}})]),
        FakeReply([sse(chat_chunk("x")), f"data: {{{KEY}\n\n".encode()]),
        FakeReply(status=307, headers={"location": f"http://127.0.0.1:9/?key={KEY}"}),
    ],
)
@pytest.mark.parametrize("where", ["option", "header"])
async def test_the_key_is_never_repeated(reply: FakeReply, where: str, waits: list[float]) -> None:
    """No error, event or message has the key, whatever the server sends."""
    told: list[str] = []
    async with FakeServer(reply, repeat=True) as server:
        headers = {"X-Api-Key": KEY} if where == "header" else None
        options: Any = {"on_retry": told.append} | ({"api_key": KEY} if where == "option" else {})
        try:
            stream = await stream_openai_completions(model_at(server, headers=headers), Context(), options)
            events = [event async for event in stream]
            assert "error" == events[-1]["type"]
            shown = json.dumps(events)
        except Exception as error:  # noqa: BLE001 - whichever it is, it must hold no key
            shown = f"{error!r} {error} {getattr(error, 'hint', '')}"
    assert KEY not in shown + str(told)


# ---- the decoder alone --------------------------------------------------------------------------------


def decoded(*chunks: Any, done: bool = True) -> dict[str, Any]:
    decoder = ChatDecoder(Model("p", "m", "a"))
    events = decoder.feed(b"".join(sse(chunk) for chunk in chunks) + b"data: [DONE]\n\n" * done)
    events += decoder.close()
    if decoder.error is not None:
        events.append(decoder.fail())
    last = events[-1]
    return last["message"] if last["type"] == "done" else last["error"]


def test_reasoning_details_are_joined() -> None:
    """Parts of a text become one entry; encrypted entries are unchanged and in order."""
    pieces = [
        {"type": "reasoning.text", "text": "h", "index": 0, "format": "x"},
        {"type": "reasoning.text", "text": "m", "index": 0},
        {"type": "reasoning.text", "signature": "S", "index": 0},
        {"type": "reasoning.encrypted", "data": "QQ", "index": 1, "id": "e1"},
        {"type": "reasoning.encrypted", "data": "QQ", "index": 2, "id": "e2"},
    ]
    message = decoded(
        *[chat_chunk({"reasoning_details": [piece]}) for piece in pieces], chat_chunk("Hi", "stop")
    )
    assert ["hm", "Hi"] == [block.get("thinking") or block.get("text") for block in message["content"]]
    back = chat_request(Model("p", "m", "a"), Context(messages=[message]), {})["messages"][0]
    assert [
        {"type": "reasoning.text", "text": "hm", "index": 0, "format": "x", "signature": "S"},
        *pieces[3:],
    ] == back["reasoning_details"]


def test_encrypted_reasoning_is_sent_back() -> None:
    """Encrypted reasoning without text is preserved."""
    detail = {"type": "reasoning.encrypted", "data": "QQ", "index": 0}
    message = decoded(chat_chunk({"content": "Hi", "reasoning_details": [detail]}), chat_chunk({}, "stop"))
    back = chat_request(Model("p", "m", "a"), Context(messages=[message]), {})["messages"][0]
    assert ("Hi", [detail]) == (back["content"], back["reasoning_details"])


def test_reasoning_between_texts() -> None:
    """Each part is a separate block, in order, and all reasoning is sent back."""
    message = decoded(
        chat_chunk({"reasoning": "a"}),
        chat_chunk("1"),
        chat_chunk({"reasoning": "b"}),
        chat_chunk("2", "stop"),
    )
    assert ["thinking", "text", "thinking", "text"] == [block["type"] for block in message["content"]]
    back = chat_request(Model("p", "m", "a"), Context(messages=[message]), {})["messages"][0]
    assert ("12", "ab") == (back["content"], back["reasoning"])


def test_length_with_calls_is_length() -> None:
    """`length` takes precedence over tool calls, so no call runs."""
    call = {"index": 0, "id": "a", "function": {"name": "w", "arguments": "{}"}}
    assert "length" == decoded(chat_chunk({"tool_calls": [call]}), chat_chunk({}, "length"))["stop_reason"]


def test_calls_of_one_name_without_ids() -> None:
    """Without index and id, a name after complete arguments starts another call."""

    def piece(name: str | None, arguments: str) -> Any:
        return chat_chunk({"tool_calls": [{"function": {"name": name, "arguments": arguments}}]})

    message = decoded(piece("w", '{"a":'), piece(None, "1}"), piece("w", '{"a":2}'), chat_chunk({}, "stop"))
    assert [{"a": 1}, {"a": 2}] == [block["arguments"] for block in message["content"]]
    assert 2 == len({block["id"] for block in message["content"]})


# ---- unknown fields ---------------------------------------------------------------------------------


def sent_back(message: Any, model: Any = None) -> Any:
    """Return the message in the next request, for the same model or another one."""
    context = Context(messages=[message, *(result(block["id"]) for block in calls_of(message))])
    return chat_request(model or Model("p", "m", "a"), context, {})["messages"][0]


def calls_of(message: Any) -> list[Any]:
    return [block for block in message["content"] if block["type"] == "tool_call"]


SIGNED = {"google": {"thought_signature": "c2ln"}}


def tool_delta(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "w", "arguments": "{}"}, **fields}]}


@pytest.mark.parametrize(
    "fields", [{"extra_content": SIGNED}, {"state": {"a": [1]}}, {"state": "x", "extra_content": SIGNED}]
)
def test_unknown_fields_of_a_call_are_sent_back(fields: dict[str, Any]) -> None:
    """They are at the same place in the next request, but not for another model."""
    message = decoded(chat_chunk(tool_delta(**fields)), chat_chunk({}, "tool_calls"))
    call = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": "{}"}}
    assert [{**call, **fields}] == sent_back(message)["tool_calls"]
    assert [call] == sent_back(message, Model("p", "other", "a"))["tool_calls"]


def test_unknown_fields_of_a_call_may_come_later() -> None:
    """Later deltas, also inside the function, belong to the call with their index."""
    message = decoded(
        chat_chunk(tool_delta()),
        chat_chunk({"tool_calls": [{"index": 0, "extra_content": SIGNED}]}),
        chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": "", "sig": "s"}}]}),
        chat_chunk({}, "tool_calls"),
    )
    (call,) = sent_back(message)["tool_calls"]
    assert (SIGNED, "s") == (call["extra_content"], call["function"]["sig"])


@pytest.mark.parametrize(
    "fields", [{"extra_content": SIGNED}, {"reasoning_opaque": "op"}, {"novel": {"x": "y"}}]
)
@pytest.mark.parametrize("delta", [{"content": "Hi"}, {"reasoning_text": "hm"}, {}, tool_delta()])
def test_unknown_fields_of_a_message_are_sent_back(delta: dict[str, Any], fields: dict[str, Any]) -> None:
    """For another model they are omitted."""
    message = decoded(chat_chunk(delta), chat_chunk(fields), chat_chunk({}, "stop"))
    back = sent_back(message)
    assert fields == {name: back.get(name) for name in fields}
    if "content" in delta or "tool_calls" in delta:
        assert not fields.keys() & sent_back(message, Model("p", "other", "a")).keys()


def test_unknown_fields_are_merged() -> None:
    """Objects grow, other values are replaced; numbers, flags, citations and usage are omitted."""
    message = decoded(
        chat_chunk({"content": "Hi", "state": {"a": "1"}, "opaque": "first", "token_id": 5, "flag": True}),
        chat_chunk(
            {"state": {"b": "2"}, "opaque": "last", "citations": ["c"], "usage": {"a": 1}, "gone": None},
            "stop",
        ),
    )
    back = sent_back(message)
    assert {"state": {"a": "1", "b": "2"}, "opaque": "last"} == {
        key: value for key, value in back.items() if key not in ("role", "content")
    }


def test_unknown_lists_are_merged() -> None:
    """The parts of a LiteLLM thinking block are one block in the next request."""
    deltas: list[dict[str, Any]] = [
        {
            "reasoning_content": "a",
            "thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": None}],
        },
        {"reasoning_content": "b", "thinking_blocks": [{"type": "thinking", "thinking": "b"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "d"}]},
        {"content": "Hi"},
    ]
    message = decoded(*map(chat_chunk, deltas), chat_chunk({}, "stop"))
    blocks = [
        {"type": "thinking", "thinking": "ab", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    assert blocks == sent_back(message)["thinking_blocks"]


def test_known_fields_are_never_overwritten() -> None:
    """Unknown fields with our field names are ignored."""
    message = decoded(chat_chunk(tool_delta(**{"<extra>": {"id": "evil"}})), chat_chunk({}, "tool_calls"))
    assert "c1" == sent_back(message)["tool_calls"][0]["id"]


def test_a_thought_of_gemini_is_reasoning() -> None:
    """Content marked as a thought is not part of the answer, and its tags are removed."""
    mark = {"extra_content": {"google": {"thought": True}}}
    message = decoded(
        chat_chunk({"content": "<thought>I th", **mark}),
        chat_chunk({"content": "ink", **mark}),
        chat_chunk({"content": "</thought>Hi"}),
        chat_chunk({"content": "!", "extra_content": SIGNED}, "stop"),
    )
    assert [("thinking", "I think"), ("text", "Hi!")] == [
        (block["type"], block[block["type"]]) for block in message["content"]
    ]
    assert ("Hi!", SIGNED) == (sent_back(message)["content"], sent_back(message)["extra_content"])


@pytest.mark.parametrize(("model_id", "signed"), [("gemini-3-pro", True), ("gemini-2.5-flash", False)])
def test_calls_of_others_are_marked_for_gemini_3(model_id: str, signed: bool) -> None:
    """Gemini requires a signature for a first call, or a mark that there is none."""
    gemini = OpenAICompatModel("gemini", model_id, base_url="http://127.0.0.1/v1")
    body = sent(assistant(called("a"), called("b")), result("a"), result("b"), model=gemini)
    first, second = body["messages"][0]["tool_calls"]
    assert (signed, False) == ("extra_content" in first, "extra_content" in second)


@pytest.mark.parametrize(("provider", "filler"), [("deepseek", ""), ("moonshot", "."), ("acme", None)])
def test_reasoning_after_a_change_of_models(provider: str, filler: str | None) -> None:
    """DeepSeek and Kimi require reasoning_content: it is added, and their own is preserved."""
    model = OpenAICompatModel(provider, "m", base_url="http://127.0.0.1/v1")
    text = {"type": "text", "text": "Hi"}
    own = assistant(thought("hm", "reasoning_content"), text, model=model)
    body = sent(assistant(called("a")), result("a"), assistant(text), own, model=model)
    replies = [message for message in body["messages"] if message["role"] == "assistant"]
    assert [filler, filler, "hm"] == [message.get("reasoning_content") for message in replies]


# ---- caching ------------------------------------------------------------------------------------------


def router(model_id: str) -> OpenAICompatModel:
    return OpenAICompatModel("openrouter", model_id, base_url="http://127.0.0.1/v1")


MARK = {"type": "ephemeral", "ttl": "1h"}


def marked(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": MARK}


def test_claude_through_openrouter_is_cached() -> None:
    """The top-level field is sent for Claude only, to servers that support it."""
    asked = {"type": "ephemeral"}
    assert asked == sent(user("hi"), model=router("anthropic/claude-sonnet-4.5"))["cache_control"]
    assert "cache_control" not in sent(user("hi"), model=router("openai/gpt-5"))
    assert "cache_control" not in sent(
        user("hi"), model=OpenAICompatModel("groq", "claude", base_url=ACME.base_url)
    )
    off = router("anthropic/claude-sonnet-4.5")
    off.extra_body = {"cache_control": None}
    assert "cache_control" not in sent(user("hi"), model=off)


def test_cache_marks_of_the_user_are_preserved() -> None:
    """No other mark is added; a server without support gets none."""
    messages = user(marked("a"), "b"), assistant(called("c")), result("c", marked("r"))
    body = sent(*messages, model=router("anthropic/claude-sonnet-4.5"))
    assert "cache_control" not in body
    first, _, last = body["messages"]
    assert [{**marked("a")}, {"type": "text", "text": "b"}] == first["content"]
    assert [marked("r")] == last["content"]
    assert ["a\nb", "r"] == [
        message["content"] for message in sent(*messages)["messages"] if message["content"]
    ]


# ---- images and audio ---------------------------------------------------------------------------------

PNG = "data:image/png;base64,iVBORw0KGgo="
PART = {"type": "image_url", "image_url": {"url": PNG}}


@pytest.mark.parametrize(
    "delta",
    [
        {"images": [PART]},
        {"content": [PART]},
        {"images": [{"image_url": PNG}]},
        {"content": "", "images": [PART]},
    ],
)
def test_an_image_is_stored(delta: dict[str, Any]) -> None:
    """A reply with only an image is complete and has it once."""
    message = decoded(chat_chunk(delta), chat_chunk(delta), chat_chunk({}, "novel"))
    assert [{"type": "image", "url": PNG, "mime_type": "image/png"}] == message["content"]
    assert "stop" == message["stop_reason"]


def test_images_follow_the_text() -> None:
    """Images follow the text, also in an interrupted reply."""
    message = decoded(chat_chunk({"images": [PART]}), chat_chunk("Here"), chat_chunk({}, "stop"))
    assert ["text", "image"] == [block["type"] for block in message["content"]]
    broken = decoded(chat_chunk({"content": "Here", "images": [PART]}), done=False)
    assert ("error", ["text", "image"]) == (
        broken["stop_reason"],
        [block["type"] for block in broken["content"]],
    )


def test_an_image_is_sent_back() -> None:
    """OpenRouter gets an image; other servers get a note."""
    message = decoded(chat_chunk({"images": [PART]}), chat_chunk({}, "stop"))
    context = Context(messages=[message])
    openrouter = chat_request(router("m"), context, {})["messages"]
    assert [{"role": "assistant", "content": "", "images": [PART]}] == openrouter
    assert [{"role": "assistant", "content": "(an image)"}] == chat_request(ACME, context, {})["messages"]


def test_the_transcript_is_the_text_of_an_audio_reply() -> None:
    """Without a transcript, the text is a note about the audio."""
    parts = [{"audio": {"id": "a", "transcript": text, "data": "AAAA"}} for text in ("Hel", "lo")]
    message = decoded(*map(chat_chunk, parts), chat_chunk({}, "stop"))
    assert [{"type": "text", "text": "Hello"}] == message["content"]
    silent = decoded(chat_chunk({"audio": {"data": "AAAA"}}), chat_chunk({}, "stop"))
    assert [{"type": "text", "text": "(audio without a transcript)"}] == silent["content"]


# ---- citations ----------------------------------------------------------------------------------------


def test_citations_are_stored() -> None:
    """Sources of OpenRouter, Perplexity and xAI are in the text block, each once."""
    note = {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 2}
    message = decoded(
        chat_chunk("Hi"),
        chat_chunk({"annotations": [{"type": "url_citation", "url_citation": note}]}),
        {**chat_chunk({}, "stop"), "citations": ["https://b.example"]},
    )
    first = {"url": "https://a.example", "title": "A", "start": 0, "end": 2}
    assert [first, {"url": "https://b.example"}] == message["content"][0]["citations"]
    results = [{"url": "https://c.example", "title": "C"}]
    many = {**chat_chunk("Hi"), "citations": ["https://c.example"], "search_results": results}
    inside = decoded(
        chat_chunk({"content": "Hi", "citations": ["https://d.example"]}), chat_chunk({}, "stop")
    )
    assert [{"url": "https://d.example"}] == inside["content"][0]["citations"]
    assert results == decoded(many, {**many, **chat_chunk({}, "stop")}, many)["content"][0]["citations"]


def test_invalid_citations_are_ignored() -> None:
    """Citations without a text or with wrong types are omitted."""
    assert [] == decoded({**chat_chunk({}, "stop"), "citations": ["https://b.example"]})["content"]
    for odd in (5, "x", {"a": 1}, [None, 3, {}]):
        message = decoded({**chat_chunk({"content": "Hi", "annotations": odd}, "stop"), "citations": odd})
        assert [{"type": "text", "text": "Hi"}] == message["content"]


# ---- usage --------------------------------------------------------------------------------------------


def test_usage_in_a_choice() -> None:
    """Moonshot's usage is in a choice, with its count of cached tokens."""
    chunk = chat_chunk({}, "stop")
    chunk["choices"][0]["usage"] = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    usage = decoded(chat_chunk("Hi"), chunk)["usage"]
    assert (3, 2, 1) == (usage["input"], usage["output"], usage["cache_read"])


def test_usage_in_a_choice_beside_zeros() -> None:
    """An empty usage in each chunk does not hide the real one."""
    chunk = {**chat_chunk({}, "stop"), "usage": {"prompt_tokens": 0, "completion_tokens": None}}
    chunk["choices"][0]["usage"] = {"prompt_tokens": 3, "completion_tokens": 2}
    usage = decoded(chat_chunk("Hi"), chunk)["usage"]
    assert (3, 2) == (usage["input"], usage["output"])


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.5}, 0.5),
        ({"cost": 0}, 0.0),
        ({"cost": -1}, None),
        ({"cost": "0.5"}, None),
        ({"cost": 10**400}, None),
        ({}, None),
    ],
)
def test_the_reported_cost(usage: dict[str, Any], cost: float | None) -> None:
    """A cost is a number of at least zero; other values do not affect a budget."""
    chunk = {**chat_chunk({}, "stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 2, **usage}}
    assert cost == decoded(chat_chunk("Hi"), chunk)["usage"]["cost"]


def test_invalid_counts_are_ignored() -> None:
    """Negative counts and NaN are ignored; other names of the counts are supported."""
    data = b'{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}],"usage":%s}'
    for usage, expected in (
        (b'{"prompt_tokens":NaN,"completion_tokens":-2,"cost":NaN}', (0, 0, None)),
        (b'{"input_tokens":3,"output_tokens":2}', (3, 2, None)),
    ):
        message = fed(b"data: " + data % usage + b"\n\ndata: [DONE]\n\n")
        counted = message["usage"]
        assert expected == (counted["input"], counted["output"], counted["cost"])


JSON_BODY = {"content-type": "application/json"}
REFUSALS = [
    (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
    (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
    (400, {"error": {"message": "Unknown parameter.", "param": "stream_options.include_usage"}}),
    (400, {"object": "error", "message": "Stream options can not be used here."}),
]


@pytest.mark.parametrize(("status", "refusal"), REFUSALS)
async def test_a_server_without_stream_options(status: int, refusal: dict[str, Any]) -> None:
    """The request is repeated once without the field, and later requests omit it."""
    answer = FakeReply([sse(chat_chunk("Hi")), sse(chat_chunk({}, "stop")), b"data: [DONE]\n\n"])
    refuse = FakeReply([json.dumps(refusal).encode()], status=status, headers=JSON_BODY)
    async with FakeServer(refuse, answer, answer) as server:
        notes: list[str] = []
        for _ in range(2):
            options: Any = {"on_note": notes.append}
            stream = await stream_openai_completions(
                model_at(server), Context(messages=[user("hi")]), options
            )
            assert "stop" == (await stream.result())["stop_reason"]
        assert ["acme: the server refuses stream_options, so it is omitted."] == notes
        asked = ["stream_options" in json.loads(request.body) for request in server.requests]
    assert [True, False, False] == asked


async def test_other_refusals_are_reported() -> None:
    """A request that fails for another reason is not repeated."""
    other = FakeReply([b'{"error":{"message":"bad tools"}}'], status=400, headers=JSON_BODY)
    body = json.dumps(REFUSALS[0][1]).encode()
    refuse = FakeReply([body], status=400, headers=JSON_BODY)
    for replies, count in (([other], 1), ([refuse, refuse], 2)):
        async with FakeServer(*replies) as server:
            with pytest.raises(ProviderError):
                await stream_openai_completions(model_at(server), Context(messages=[user("hi")]))
            assert count == len(server.requests)


# ---- limits -----------------------------------------------------------------------------------------


def fed(*parts: bytes) -> dict[str, Any]:
    """Return the message that a decoder makes from these parts."""
    decoder = ChatDecoder(ACME)
    for part in parts:
        decoder.feed(part)
        if decoder.ended:
            break
    return decoder.fail()["error"] if decoder.error else decoder.builder.message()  # type: ignore[no-any-return]


def test_an_endless_reply_is_an_error() -> None:
    """Text beyond 32 Mi characters ends the reply with an error and the partial text."""
    part = sse(chat_chunk("x" * (12 << 20)))
    message = fed(*[part] * 10)
    assert ("error", "invalid_reply") == (message["stop_reason"], message["error_kind"])
    assert "acme: the reply was cut off after 32 Mi characters" == message["error_message"]
    assert 36 << 20 == len(message["content"][0]["text"])


def test_a_reply_with_too_many_calls_is_an_error() -> None:
    """The number of tool calls in a message is limited."""
    function = {"name": "w", "arguments": "{}"}
    calls = [
        sse(chat_chunk({"tool_calls": [{"index": n, "id": f"c{n}", "function": function}]}))
        for n in range(10_001)
    ]
    message = fed(b"".join(calls))
    assert "acme: the reply has more than 10,000 blocks" in message["error_message"]
    assert ("error", 10_000) == (message["stop_reason"], len(message["content"]))
