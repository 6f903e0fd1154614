"""The Messages API: requests, replies and HTTP."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest

from tinyagent._stream import reply as _wire
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Context, Model, ThinkingLevel
from tinyagent.anthropic_provider import (
    AnthropicDecoder,
    AnthropicModel,
    list_anthropic_models,
    request_body,
    stream_anthropic,
)
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ContextOverflowError,
    InvalidReplyError,
    MissingKeyError,
    ProviderError,
    RateLimitError,
)
from tinyagent.testing import FakeServer, assistant, check_grammar, collect, tool_result, user
from tinyagent.testing.contract import advance_clock
from tinyagent.testing.server import FakeReply, Hangup, Hold, Reset, Wait, sse

KEY = "sk-test-CANARY-0123456789"
OWN = {"api": "anthropic-messages", "provider": "anthropic", "model": "claude-sonnet-4-5"}
PNG = "iVBORw0KGgo="

# ---- replies as the API sends them ------------------------------------------------------------------


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def tool_block(index: int, call_id: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, {"type": "tool_use", "id": call_id, "name": name, "input": {}}, *deltas)


def begin(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 3, **usage}}}


def ending(stop_reason: str | None, **fields: Any) -> list[dict[str, Any]]:
    delta = {"stop_reason": stop_reason, **fields}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]


def says(*events: Any, stop: str | None = "end_turn", **fields: Any) -> list[Any]:
    flat = [each for event in events for each in (event if isinstance(event, list) else [event])]
    return [begin(), *flat, *ending(stop, **fields)]


def steps(events: list[Any]) -> list[Any]:
    return [sse(event, event=event["type"]) if isinstance(event, dict) else event for event in events]


def reply(*events: Any, stop: str | None = "end_turn", **fields: Any) -> FakeReply:
    return FakeReply(steps(says(*events, stop=stop, **fields)))


def decode(events: list[Any], **options: Any) -> list[Any]:
    decoder = AnthropicDecoder(AnthropicModel(), **options)
    out = decoder.feed(b"".join(step for step in steps(events) if isinstance(step, bytes)))
    out += decoder.close()
    return out if decoder.error is None else [*out, decoder.fail()]


def final(events: list[Any]) -> Any:
    last = events[-1]
    return last["message"] if last["type"] == "done" else last["error"]


async def ask(server: Any, context: Context | None = None, /, model: Any = None, **options: Any) -> list[Any]:
    model = model or AnthropicModel(base_url=server.origin)
    given = {"api_key": KEY, **options}
    return await collect(await stream_anthropic(model, context or Context(messages=[user("Hi")]), given))


# ---- requests -----------------------------------------------------------------------------------


def body(*messages: Any, model: Any = None, system: str = "", tools: Any = None, **options: Any) -> Any:
    return request_body(model or AnthropicModel(cache=None), Context(system, list(messages), tools), options)


def test_a_conversation() -> None:
    """User and assistant alternate; the results of a turn's tools come first in the next message."""
    call = {"type": "tool_call", "id": "t1", "name": "add", "arguments": {"a": 1}}
    other = {"type": "tool_call", "id": "t2", "name": "add", "arguments": {}}
    sent = body(
        user("Hi"),
        assistant("Let me see.", call, other, **OWN),
        tool_result("t1", "add", "2"),
        tool_result("t2", "add", "no", is_error=True),
        user("and now?"),
        system="Be brief.",
    )
    assert sent["system"] == [{"type": "text", "text": "Be brief."}]
    assert sent["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
                {"type": "tool_use", "id": "t2", "name": "add", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    assert sent["stream"] is True
    assert sent["max_tokens"] == 16_384
    assert "thinking" not in sent


def test_tools() -> None:
    """A tool has its name, its description and an object schema."""
    tool = AgentTool("add", "Adds.", {"properties": {"a": {"type": "integer"}}})
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert body(user("Hi"), tools=[tool])["tools"] == [
        {"name": "add", "description": "Adds.", "input_schema": schema}
    ]


def test_blank_text_is_omitted() -> None:
    """The API refuses empty text, so blank blocks and messages are not sent."""
    sent = body(user("Hi"), assistant("", "  \n", **OWN), user(" "), assistant("Yes", "", **OWN))
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant"]
    assert sent["messages"][1]["content"] == [{"type": "text", "text": "Yes"}]


def test_a_result_without_content() -> None:
    """An empty tool result is sent without content."""
    call = {"type": "tool_call", "id": "t1", "name": "add", "arguments": {}}
    result = body(user("Hi"), assistant(call, **OWN), tool_result("t1", "add", ""))["messages"][-1]
    assert result["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://example.com/a.png", {"type": "url", "url": "https://example.com/a.png"}),
        (f"data:image/png;base64,{PNG}", {"type": "base64", "media_type": "image/png", "data": PNG}),
        (f"DATA:image/PNG;x=1;BASE64,{PNG}", {"type": "base64", "media_type": "image/png", "data": PNG}),
        (f"data:;base64,{PNG}", {"type": "base64", "media_type": "image/webp", "data": PNG}),
        ("data:image/gif,GIF%38", {"type": "base64", "media_type": "image/gif", "data": "R0lGOA=="}),
    ],
)
def test_images(url: str, source: dict[str, str]) -> None:
    """Images by URL and as data are sent, from the user and from tools."""
    image = {"type": "image", "url": url, "mime_type": "image/webp"}
    call = {"type": "tool_call", "id": "t1", "name": "shot", "arguments": {}}
    sent = body(
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        assistant(call, **OWN),
        {**tool_result("t1", "shot", ""), "content": [image]},
    )["messages"]
    assert sent[0]["content"][1] == {"type": "image", "source": source}
    assert sent[2]["content"][0]["content"] == [{"type": "image", "source": source}]


def test_thinking_goes_back_with_its_signature() -> None:
    """Signed and redacted thinking is sent back unchanged; unsigned thinking is omitted."""
    redacted = {"type": "redacted_thinking", "data": "opaque"}
    sent = body(
        user("Hi"),
        assistant(
            {"type": "thinking", "thinking": "hm", "thinking_signature": "c2ln"},
            {"type": "thinking", "thinking": "", "thinking_signature": json.dumps(redacted)},
            {"type": "thinking", "thinking": "", "thinking_signature": "ZW1wdHk="},
            {"type": "thinking", "thinking": "unsigned"},
            "Hello",
            **OWN,
        ),
    )
    assert sent["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        redacted,
        {"type": "thinking", "thinking": "", "signature": "ZW1wdHk="},
        {"type": "text", "text": "Hello"},
    ]


def test_names_and_ids_that_the_api_refuses() -> None:
    """Invalid ids are replaced in calls and results; invalid names are made valid."""
    calls = [
        {"type": "tool_call", "id": "functions.add:0", "name": "fs.read", "arguments": {}},
        {"type": "tool_call", "id": "x" * 80, "name": "", "arguments": {}},
    ]
    results = [tool_result("functions.add:0", "fs.read", "1"), tool_result("x" * 80, "", "2")]
    sent = body(user("Hi"), assistant(*calls), *results)["messages"]
    uses, results = sent[1]["content"], sent[2]["content"]
    assert [use["name"] for use in uses] == ["fs_read", "unknown"]
    assert [use["id"] for use in uses] == [result["tool_use_id"] for result in results]
    assert all(len(use["id"]) <= 64 and use["id"].replace("_", "").isalnum() for use in uses)


def test_a_failed_turn_does_not_make_the_session_unusable() -> None:
    """Failed replies and orphaned results are omitted; a call without a result gets one."""
    call = {"type": "tool_call", "id": "t1", "name": "add", "arguments": {}}
    lost = {"type": "tool_call", "id": "t0", "name": "add", "arguments": {}}
    sent = body(
        user("Hi"),
        assistant("half", lost, stop_reason="error", **OWN),
        tool_result("t0", "add", "2"),
        assistant(call, **OWN),
        user("go on"),
    )["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[2]["content"][0]["tool_use_id"] == "t1"
    assert sent[2]["content"][0]["is_error"] is True


# ---- caching ------------------------------------------------------------------------------------


def points(value: Any) -> list[Any]:
    """Return every cache point in a request."""
    if isinstance(value, list):
        return [point for item in value for point in points(item)]
    if isinstance(value, dict):
        own = [value["cache_control"]] if "cache_control" in value else []
        return own + [point for item in value.values() for point in points(item)]
    return []


def test_cache_points() -> None:
    """The system prompt, the last tool and the last two user messages are cache points, at most four."""
    history = [user("a"), assistant("b", **OWN), user("c"), assistant("d", **OWN), user("e")]
    tools = [AgentTool("one"), AgentTool("two")]
    sent = body(*history, model=AnthropicModel(), system="s", tools=tools)
    point = {"type": "ephemeral"}
    assert points(sent) == [point] * 4
    assert sent["system"][0]["cache_control"] == point
    assert sent["tools"][1]["cache_control"] == point
    said = [message for message in sent["messages"] if message["role"] == "user"]
    assert [bool(points(message)) for message in said] == [False, True, True]


@pytest.mark.parametrize("place", ["user", "result", "assistant"])
def test_cache_marks_of_the_user_are_preserved(place: str) -> None:
    """No other marks are sent: the API allows four, and requires longer ones first."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    marked: Any = {"type": "text", "text": "Long.", "cache_control": mark}
    messages: list[Any] = [user("Hi"), assistant(CALL, **OWN), RESULT, assistant("2", **OWN), user("and?")]
    number = {"user": 0, "result": 2, "assistant": 3}[place]
    messages[number] = {**messages[number], "content": [marked]}
    sent = json.dumps(body(*messages, model=AnthropicModel(), tools=[AgentTool("add")]))
    assert (1, 1) == (sent.count("cache_control"), sent.count(json.dumps({**marked})))


def test_caching_can_be_configured() -> None:
    """Caching can be off, or last for an hour."""
    assert points(body(user("a"), system="s", model=AnthropicModel(cache=None))) == []
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert points(body(user("a"), system="s", model=AnthropicModel(cache="1h"))) == [hour] * 2


def test_cache_points_do_not_change_the_users_objects() -> None:
    """The system prompt and the tools in `extra_body` stay unmarked, so the next request has points, too."""
    own = {"system": [{"type": "text", "text": "s"}], "tools": [{"type": "web_search_20250305"}]}
    model = AnthropicModel(extra_body=copy.deepcopy(own))
    first = body(user("a"), model=model)
    assert 3 == len(points(first))
    assert own == model.extra_body
    assert first == body(user("a"), model=model)


def test_a_longer_conversation_has_the_same_prefix() -> None:
    """Only the cache points differ."""

    def bare(sent: Any) -> str:
        return json.dumps(sent["messages"]).replace(', "cache_control": {"type": "ephemeral"}', "")

    first = bare(body(user("a"), model=AnthropicModel()))
    second = bare(body(user("a"), assistant("b", **OWN), user("c"), model=AnthropicModel()))
    assert second.startswith(first[:-1])


SUMMARIZED = {"type": "adaptive", "display": "summarized"}

# ---- thinking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "level", "expected"),
    [
        ("claude-sonnet-4-5", "off", (None, None, 16_384)),
        ("claude-sonnet-4-5", "minimal", ({"type": "enabled", "budget_tokens": 1024}, None, 16_384)),
        ("claude-sonnet-4-20250514", "high", ({"type": "enabled", "budget_tokens": 16_384}, None, 20_480)),
        ("claude-opus-4-1-20250805", "xhigh", ({"type": "enabled", "budget_tokens": 24_576}, None, 28_672)),
        ("claude-3-7-sonnet-20250219", "low", ({"type": "enabled", "budget_tokens": 4096}, None, 16_384)),
        ("kimi-k2-thinking", "low", ({"type": "enabled", "budget_tokens": 4096}, None, 16_384)),
        ("claude-opus-4-6", "medium", ({"type": "adaptive"}, "medium", 16_384)),
        ("claude-sonnet-4-6", "xhigh", ({"type": "adaptive"}, "max", 16_384)),
        ("claude-opus-4-7", "xhigh", (SUMMARIZED, "xhigh", 16_384)),
        ("anthropic.claude-sonnet-5", "minimal", (SUMMARIZED, "low", 16_384)),
        ("claude-fable-5-1", "high", (SUMMARIZED, "high", 16_384)),
        ("claude-mythos-preview", "low", (SUMMARIZED, "low", 16_384)),
    ],
)
def test_thinking_levels(model_id: str, level: str, expected: Any) -> None:
    """A level becomes a budget or an effort, with room for the answer."""
    model = AnthropicModel(id=model_id)
    sent = body(user("Hi"), model=model, thinking_level=ThinkingLevel(level), temperature=0.5)
    effort = sent.get("output_config", {}).get("effort")
    assert expected == (sent.get("thinking"), effort, sent["max_tokens"])
    assert ("temperature" in sent) == (level == "off")


def test_notes_about_thinking() -> None:
    """Every changed or omitted setting has a note."""
    for model_id, options, expected in (
        ("claude-opus-4-6", {"thinking_level": "xhigh"}, "'max' is used"),
        ("claude-opus-4-7", {"thinking_level": "minimal"}, "'low' is used"),
        ("claude-3-5-haiku", {"thinking_level": "low"}, "does not reason"),
        ("claude-opus-4-7", {"temperature": 0.5}, "accepts no temperature"),
        ("claude-sonnet-4-5", {"thinking_level": "low", "temperature": 1}, "while it reasons"),
        ("claude-sonnet-4-5", {"thinking_level": "low", "max_tokens": 500}, "no room to think"),
        ("claude-sonnet-4-5", {"thinking_level": "high"}, None),
    ):
        notes: list[str] = []
        body(user("Hi"), model=AnthropicModel(id=model_id), on_note=notes.append, **options)
        assert (0 if expected is None else 1) == len(notes), notes
        assert expected is None or expected in notes[0]


def test_thinking_budgets() -> None:
    """The user's budget is used, within the user's output limit and with room for the answer."""
    own = {"thinking_level": "high", "thinking_budgets": {"high": 2000}}
    assert body(user("Hi"), **own)["thinking"]["budget_tokens"] == 2000
    cut = body(user("Hi"), thinking_level="high", max_tokens=6000)
    assert (6000, 3000) == (cut["max_tokens"], cut["thinking"]["budget_tokens"])
    small = body(user("Hi"), thinking_level="high", max_tokens=1000, temperature=0.5)
    assert (1000, 0.5, False) == (small["max_tokens"], small["temperature"], "thinking" in small)
    fixed = body(user("Hi"), model=AnthropicModel(id="claude-opus-4-6"), **own)
    assert fixed["thinking"] == {"type": "enabled", "budget_tokens": 2000}


def test_thinking_of_a_model_can_be_set() -> None:
    """The model's fields set whether and how it thinks."""
    adaptive = body(user("Hi"), model=AnthropicModel(id="house", thinking="adaptive"), thinking_level="low")
    assert adaptive["thinking"] == {"type": "adaptive"}
    budget = body(
        user("Hi"), model=AnthropicModel(id="claude-opus-5", thinking="budget"), thinking_level="low"
    )
    assert budget["thinking"]["type"] == "enabled"
    assert "thinking" not in body(user("Hi"), model=AnthropicModel(reasoning=False), thinking_level="high")


def test_thinking_at_the_end_of_a_reply_is_omitted() -> None:
    """The API would refuse a history with it."""
    cut = assistant("So", THOUGHT, stop_reason="length", **OWN)
    sent = body(user("Hi"), cut, user("Go on"))["messages"]
    assert [["Hi"], ["So"], ["Go on"]] == [[one["text"] for one in message["content"]] for message in sent]
    only = assistant(THOUGHT, stop_reason="length", **OWN)
    assert ["user"] == [message["role"] for message in body(user("Hi"), only, user("Go on"))["messages"]]


def test_thinking_in_extra_body() -> None:
    """It takes precedence, and the other fields fit it."""
    thinking = {"type": "enabled", "budget_tokens": 20_000}
    model = AnthropicModel(extra_body={"thinking": thinking})
    sent = body(user("Hi"), model=model, thinking_level="low", temperature=0.5)
    assert (thinking, 24_096, False) == (sent["thinking"], sent["max_tokens"], "temperature" in sent)
    assert 21_000 == body(user("Hi"), model=model, max_tokens=21_000)["max_tokens"]
    off = AnthropicModel(extra_body={"thinking": {"type": "disabled"}})
    sent = body(user("Hi"), model=off, temperature=0.5)
    assert (16_384, 0.5) == (sent["max_tokens"], sent["temperature"])
    assert 1000 == body(user("Hi"), model=AnthropicModel(max_tokens=1000))["max_tokens"]
    none = AnthropicModel(extra_body={"thinking": None})
    assert "thinking" not in body(user("Hi"), model=none, thinking_level="low")


def test_newer_models_get_no_temperature() -> None:
    """From Claude 4.7 on, temperature is omitted."""
    assert "temperature" not in body(user("Hi"), model=AnthropicModel(id="claude-opus-4-7"), temperature=0.5)
    assert body(user("Hi"), temperature=0.5)["temperature"] == 0.5


def test_a_turn_of_another_model_continues_without_thinking() -> None:
    """A budget requires thinking before calls, which this turn does not have."""
    call = {"type": "tool_call", "id": "t1", "name": "add", "arguments": {}}
    turn = [user("Hi"), assistant("See:", call), tool_result("t1", "add", "2")]
    assert "thinking" not in body(*turn, thinking_level="high")
    assert "thinking" in body(*turn, assistant("2", **OWN), user("more"), thinking_level="high")
    own = assistant({"type": "thinking", "thinking": "", "thinking_signature": "c2ln"}, call, **OWN)
    assert "thinking" in body(user("Hi"), own, tool_result("t1", "add", "2"), thinking_level="high")


CALL = {"type": "tool_call", "id": "t1", "name": "add", "arguments": {}}
THOUGHT = {"type": "thinking", "thinking": "hm", "thinking_signature": "c2ln"}
RESULT = tool_result("t1", "add", "2")


@pytest.mark.parametrize("model_id", ["claude-sonnet-4-5", "claude-opus-4-7"])
def test_the_thinking_of_a_turn_does_not_change(model_id: str) -> None:
    """Between a call and its result the level stays, and a note reports it."""
    own = {**OWN, "model": model_id}

    def thinks(level: str, *messages: Any) -> tuple[Any, int]:
        notes: list[str] = []
        model = AnthropicModel(id=model_id)
        sent = body(*messages, model=model, thinking_level=level, on_note=notes.append)
        effort = sent.get("output_config", {}).get("effort")
        return ("thinking" in sent) and (effort or sent["thinking"]["budget_tokens"]), len(notes)

    high = 16_384 if model_id == "claude-sonnet-4-5" else "high"
    low = 4096 if model_id == "claude-sonnet-4-5" else "low"
    without = [user("Hi"), assistant(CALL, **own), RESULT]
    thought = [user("Hi"), assistant(THOUGHT, CALL, **own), RESULT]
    began = [user("Hi"), {**assistant(CALL, **own), "thinking_level": "high"}, RESULT]
    assert (False, 1) == thinks("high", *without)
    assert (low, 1) == thinks("off", *thought)
    assert (high, 0) == thinks("high", *thought)
    assert (high, 1) == thinks("low", *began)
    assert (high, 1) == thinks("off", *began, user("steering"), user("more"))
    # The last reply of the turn has no thinking block, which does not mean that thinking was off.
    later = {**CALL, "id": "t2"}
    assert (high, 0) == thinks("high", *thought, assistant(later, **own), tool_result("t2", "add", "3"))
    assert (False, 0) == thinks("off", *began, assistant("4", **own), user("Next"))
    assert (high, 0) == thinks("high", *without, assistant("4", **own), user("Next"))


@pytest.mark.parametrize("level", ["off", "high"])
def test_models_that_always_think(level: str) -> None:
    """From Claude 5 on, a reply without a level does not show how its turn began."""
    own = {**OWN, "model": "claude-opus-5"}
    notes: list[str] = []
    for reply in (assistant(CALL, **own), assistant(THOUGHT, CALL, **own)):
        model = AnthropicModel(id="claude-opus-5")
        sent = body(user("Hi"), reply, RESULT, model=model, thinking_level=level, on_note=notes.append)
        assert (level == "high", []) == ("thinking" in sent, notes)


@pytest.mark.parametrize(
    ("model_id", "thought", "bound"),
    [
        ("claude-fable-5-1", True, True),
        ("claude-fable-5-2", True, True),
        ("claude-fable-5-1", False, False),
        ("claude-fable-5", True, False),
        ("claude-opus-4-7", True, False),
    ],
)
@pytest.mark.parametrize("level", ["off", "high"])
async def test_thinking_after_a_change_of_tools(
    model_id: str, thought: bool, bound: bool, level: str
) -> None:
    """A change of tools or system prompt does not make the session unusable."""
    async with FakeServer(reply(text_block(0, "Hi")), repeat=True) as server:
        model = AnthropicModel(id=model_id, base_url=server.url, headers={"anthropic-beta": "one"})
        blocks = [THOUGHT, "Yes"] if thought else ["Yes"]
        history = [user("Hi"), assistant(*blocks, **{**OWN, "model": model_id}), user("and?")]
        options: Any = {"api_key": KEY, "thinking_level": level}
        await collect(await stream_anthropic(model, Context(messages=history), options))
        request = server.requests[0]
    binding = request.json.get("thinking", {}).get("block_binding")
    assert ({"prefix_mismatch_behavior": "drop_block"} if bound else None) == binding
    expected = "one,thinking-binding-controls-2026-08-01" if bound else "one"
    assert expected == request.headers["anthropic-beta"]


async def test_the_message_stores_the_thinking_level() -> None:
    """Later requests of the turn use the same level."""
    async with FakeServer(reply(text_block(0, "Hi")), repeat=True) as server:
        model = AnthropicModel(base_url=server.url)
        for level in ("high", "off"):
            context = Context(messages=[user("Hi")])
            stream = await stream_anthropic(model, context, {"api_key": KEY, "thinking_level": level})
            message = await stream.result()
            assert ("high" if level == "high" else None) == message.get("thinking_level")


def test_extra_body() -> None:
    """Extra fields take precedence, None removes a field, and server tools are added to the agent's."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    model = AnthropicModel(extra_body={"tools": [search], "top_k": 5, "stream": None})
    sent = body(user("Hi"), model=model, tools=[AgentTool("add")])
    assert [tool["name"] for tool in sent["tools"]] == ["add", "web_search"]
    assert sent["top_k"] == 5
    assert "stream" not in sent
    assert model.extra_body["tools"] == [search]


# ---- replies ------------------------------------------------------------------------------------


def test_redacted_thinking_is_stored() -> None:
    """It has no text and is sent back unchanged."""
    redacted = {"type": "redacted_thinking", "data": "opaque"}
    message = final(decode(says(block(0, redacted), text_block(1, "Hi"))))
    assert message["content"][0] == {
        "type": "thinking",
        "thinking": "",
        "thinking_signature": '{"type":"redacted_thinking","data":"opaque"}',
    }
    sent = body(user("Hi"), json.loads(json.dumps(message)), model=AnthropicModel())
    assert sent["messages"][1]["content"][0] == redacted


@pytest.mark.parametrize(
    ("stop", "calls", "reason"),
    [
        ("end_turn", False, "stop"),
        ("stop_sequence", False, "stop"),
        ("tool_use", True, "tool_use"),
        ("end_turn", True, "tool_use"),
        ("tool_use", False, "stop"),
        ("max_tokens", False, "length"),
        ("max_tokens", True, "length"),
        ("model_context_window_exceeded", False, "length"),
        ("pause_turn", False, "length"),
        ("something_new", False, "stop"),
        ("network_error", False, "error"),
        ("content_filter: hate", True, "error"),
    ],
)
def test_stop_reasons(stop: str, calls: bool, reason: str) -> None:
    """The message has our stop reason and the API's own; calls run only in complete replies."""
    content = [text_block(0, "Hi"), tool_block(1, "t1", "add", "{}")] if calls else [text_block(0, "Hi")]
    message = final(decode(says(*content, stop=stop)))
    assert (reason, stop) == (message["stop_reason"], message["finish_reason"])


def test_a_refusal() -> None:
    """A refusal is a failure with the partial text and the reason."""
    details = {"type": "refusal", "category": "cyber", "explanation": "Could do harm."}
    message = final(decode(says(text_block(0, "Hal"), stop="refusal", stop_details=details)))
    assert ("error", "refusal", "content_filter") == tuple(
        message[key] for key in ("stop_reason", "finish_reason", "error_kind")
    )
    assert message["content"] == [{"type": "text", "text": "Hal"}]
    assert "cyber: Could do harm." in message["error_message"]


def test_tool_arguments() -> None:
    """Parts are joined, empty arguments are {}, and other values make the call invalid."""
    message = final(
        decode(
            says(
                tool_block(0, "a", "add", '{"z": 1234567', '8901234567890, "a', '": "\\ud83d\\ude00"}'),
                tool_block(1, "b", "add"),
                tool_block(2, "c", "add", '{"a": '),
                block(3, {"type": "tool_use", "id": "d", "name": "add", "input": {"a": 1}}),
                tool_block(4, "a", "add", "{}"),
                tool_block(5, "e", "", '{"a": 1}'),
                stop="tool_use",
            )
        )
    )
    calls = message["content"]
    assert [call["arguments"] for call in calls] == [
        {"z": 12345678901234567890, "a": "😀"},
        {},
        {},
        {"a": 1},
        {},
        {},
    ]
    assert [call.get("partial_json") for call in calls] == [None, None, '{"a": ', None, None, '{"a": 1}']
    assert len({call["id"] for call in calls}) == len(calls)


def test_usage() -> None:
    """The input includes cached tokens; the last report of a count is used."""
    events = [
        begin(cache_read_input_tokens=10, cache_creation_input_tokens=5, output_tokens=1),
        *text_block(0, "Hi"),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {
                "output_tokens": 7,
                "input_tokens": None,
                "output_tokens_details": {"thinking_tokens": 4},
            },
        },
        {"type": "message_stop"},
    ]
    assert final(decode(events))["usage"] == {
        "input": 18, "output": 7, "cache_read": 10, "cache_write": 5, "reasoning": 4, "total": 25,
        "cost": None,
    }  # fmt: skip


def test_unknown_data_is_ignored() -> None:
    """Unknown events and deltas, blocks without a type, invalid citations and pings are ignored."""
    citation = {"type": "citations_delta", "citation": {"type": "page", "cited_text": "x"}}
    message = final(
        decode(
            says(
                {"type": "ping"},
                {"type": "weather_report"},
                block(0, {"text": "?"}, {"type": "text_delta", "text": "no"}),
                block(
                    1,
                    {"type": "text", "text": "", "citations": []},
                    citation,
                    {"type": "citations_delta", "citation": "?"},
                    {"type": "text_delta", "text": "Hi"},
                ),
                block(2, {"type": "text"}, {"type": "smell_delta", "smell": "rose"}, {"type": "text_delta"}),
                {"type": "content_block_stop", "index": 9},
            )
        )
    )
    assert [part["text"] for part in message["content"]] == ["Hi", ""]


def replayed(*events: Any) -> Any:
    """Return the blocks that are sent back for a reply, after a JSON round trip."""
    message = json.loads(json.dumps(final(decode(says(*events)))))
    return body(user("Hi"), message, user("and?"))["messages"][1]["content"]


SEARCH_RESULT = {
    "type": "web_search_result",
    "url": "https://example.org/a",
    "title": "A",
    "encrypted_content": "E",
}
KINDS = [
    {"type": "redacted_thinking", "data": "opaque"},
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [SEARCH_RESULT]},
    {"type": "mcp_tool_use", "id": "mcp_1", "name": "n", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "mcp_1", "is_error": False, "content": []},
    {"type": "container_upload", "file_id": "file_1"},
    {"type": "fallback", "from": {"model": "claude-opus-5"}, "to": {"model": "claude-opus-4-8"}},
    {"type": "hologram", "shape": {"sides": 4}},
]


def test_all_blocks_are_sent_back_in_order() -> None:
    """Blocks of server tools and unknown blocks are unchanged."""
    blocks = [one for kind in KINDS for one in (kind, {"type": "text", "text": kind["type"]})]
    assert blocks == replayed(*(block(n, one) for n, one in enumerate(blocks)))


def test_unknown_blocks_are_merged() -> None:
    """Texts grow, other fields are replaced, and arguments are joined."""
    pieces = [{"type": "hum_delta", "sound": piece, "pitch": n} for n, piece in enumerate("abc")]
    begun = {"type": "hum", "sound": "-", "pitch": None}
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    arguments = [{"type": "input_json_delta", "partial_json": piece} for piece in ('{"q":', "1}")]
    assert [
        {"type": "hum", "sound": "-abc", "pitch": 2},
        {**search, "input": {"q": 1}},
        {"type": "text", "text": "Hm"},
    ] == replayed(block(0, begun, *pieces), block(1, search, *arguments), text_block(2, "Hm"))


def test_extra_fields_of_calls_are_sent_back() -> None:
    """For example, the field that shows which code called a tool."""
    call = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}, "caller": {"type": "code"}}
    assert [call] == replayed(block(0, call))


# ---- citations ----------------------------------------------------------------------------------

CITATION = {
    "type": "web_search_result_location",
    "url": "https://example.org/a",
    "title": "A",
    "encrypted_index": "E",
    "cited_text": "It rains.",
}


@pytest.mark.parametrize("whole", [False, True])
def test_citations_are_stored_and_sent_back(whole: bool) -> None:
    """Users get the common form; the API gets its own, which has an encrypted index."""
    delta = {"type": "citations_delta", "citation": CITATION}
    event = (
        block(0, {"type": "text", "text": "Rain.", "citations": [CITATION]})
        if whole
        else block(0, {"type": "text", "text": ""}, delta, {"type": "text_delta", "text": "Rain."})
    )
    cited = {"url": "https://example.org/a", "title": "A", "cited_text": "It rains."}
    assert [cited] == final(decode(says(event)))["content"][0]["citations"]
    assert [{"type": "text", "text": "Rain.", "citations": [CITATION]}] == replayed(event)


def test_citations_are_for_their_own_model() -> None:
    """Another model gets the text only."""
    message = final(decode(says(block(0, {"type": "text", "text": "Rain.", "citations": [CITATION]}))))
    sent = body(user("Hi"), message, user("and?"), model=AnthropicModel(id="claude-opus-4-1"))
    assert [{"type": "text", "text": "Rain."}] == sent["messages"][1]["content"]


def test_search_results_are_citations() -> None:
    """If the text has no citations, the results of a search are used."""
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [SEARCH_RESULT, SEARCH_RESULT]}
    message = final(decode(says(block(0, result), text_block(1, "Rain."))))
    assert [{"url": "https://example.org/a", "title": "A"}] == message["content"][1]["citations"]
    error = {**result, "content": {"type": "web_search_tool_result_error", "error_code": "unavailable"}}
    message = final(decode(says(block(0, error), text_block(1, "Rain."))))
    assert "citations" not in message["content"][1]


def test_citations_of_a_reply_that_breaks_off() -> None:
    """An interrupted reply has the citations so far."""
    events = says(block(0, {"type": "text", "text": "Rain.", "citations": [CITATION]}))
    message = final(decode(events[:2]))
    assert ("error", "A") == (message["stop_reason"], message["content"][0]["citations"][0]["title"])


def test_faults_of_servers_are_tolerated() -> None:
    """Missing starts, ends, indexes and event names lose no text."""
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}
    thought = {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "thinking_delta", "thinking": "hm"},
    }
    mixed = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "!"}}
    stray = {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    }
    message = final(decode([delta, thought, mixed, stray, *ending("end_turn")]))
    assert [part["type"] for part in message["content"]] == ["text", "thinking", "text", "tool_call"]
    assert message["content"][3]["partial_json"] == "{}"  # a call without a name does not run


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "provider", "Overloaded"),
        ({"type": "rate_limit_error", "message": "slow down"}, "rate_limit", "slow down"),
        ({"type": "authentication_error", "message": "invalid x-api-key"}, "authentication", "invalid"),
        (
            {"type": "invalid_request_error", "message": "prompt is too long: 9"},
            "context_overflow",
            "too long",
        ),
        ("boom", "provider", "boom"),
    ],
)
def test_errors_in_the_stream(error: Any, kind: str, words: str) -> None:
    """The message has the provider's text and the partial content."""
    message = final(decode([begin(), *text_block(0, "Half")[:-1], {"type": "error", "error": error}]))
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert words in message["error_message"]
    assert message["content"] == [{"type": "text", "text": "Half"}]
    assert message["usage"]["input"] == 3


def test_a_reply_without_its_end_is_an_error() -> None:
    """A stop reason or `message_stop` ends a reply."""
    begun = [begin(), *text_block(0, "Half")]
    assert final(decode(begun))["error_kind"] == "stream_interrupted"
    assert final(decode([*begun, ending("end_turn")[0]]))["stop_reason"] == "stop"
    assert final(decode([*begun, ending("end_turn")[1]]))["stop_reason"] == "stop"
    assert final(decode([*begun, b"data: [DONE]\n\n"]))["stop_reason"] == "stop"
    assert final(decode([begin(), {"type": "message_stop"}]))["error_kind"] == "invalid_reply"
    assert final(decode(says()))["content"] == []  # the API may end a turn without content


def test_an_event_that_is_not_json_is_an_error() -> None:
    """It is never skipped, because it may have text."""
    message = final(decode([begin(), *text_block(0, "Half")[:2], b"data: {oops\n\n", *ending("end_turn")]))
    assert ("error", "invalid_reply") == (message["stop_reason"], message["error_kind"])


def test_a_message_instead_of_a_stream() -> None:
    """A server may ignore `stream`; an error with status 200 is an error."""
    whole = {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    message = final(decode([json.dumps(whole).encode()]))
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "thinking_signature": "c2ln"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_call", "id": "t1", "name": "add", "arguments": {"a": 1}},
    ]
    assert ("tool_use", 3) == (message["stop_reason"], message["usage"]["total"])
    failed = final(decode([b'{"type":"error","error":{"type":"api_error","message":"quota exceeded"}}']))
    assert "quota exceeded" in failed["error_message"]
    assert final(decode([b"<html><body>Log in</body></html>"]))["error_kind"] == "invalid_reply"


# ---- over the wire --------------------------------------------------------------------------------


async def test_a_call() -> None:
    """Method, URL, headers and body are the API's; the events are correct."""
    async with FakeServer(reply(text_block(0, "Hel", "lo"))) as server:
        model = AnthropicModel(base_url=server.origin, headers={"anthropic-beta": "a,b"})
        events = await ask(server, model=model)
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert (KEY, "2023-06-01", "a,b") == tuple(
        request.headers[name] for name in ("x-api-key", "anthropic-version", "anthropic-beta")
    )
    assert "authorization" not in request.headers
    assert request.json["model"] == "claude-sonnet-4-5"
    assert [event["type"] for event in events] == [
        "start", "text_start", "text_delta", "text_delta", "text_end", "done",
    ]  # fmt: skip
    assert ("anthropic", "anthropic-messages", "claude-sonnet-4-5") == tuple(
        events[-1]["message"][key] for key in ("provider", "api", "model")
    )


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/v1/messages", "/v1/messages/"])
async def test_base_urls(base: str) -> None:
    """The base URL may end at any part of the endpoint's path."""
    async with FakeServer(reply(text_block(0, "Hi"))) as server:
        await ask(server, model=AnthropicModel(base_url=server.origin + base))
        assert server.requests[0].path == "/v1/messages"


@pytest.mark.parametrize("base", ["/anthropic", "/anthropic/v1", "/anthropic/v1/messages"])
async def test_base_urls_of_others(base: str) -> None:
    """Other servers may have a path of their own; a query is preserved."""
    async with FakeServer(reply(text_block(0, "Hi"))) as server:
        await ask(server, model=AnthropicModel(base_url=f"{server.origin}{base}?tenant=1"))
        assert server.requests[0].path == "/anthropic/v1/messages?tenant=1"


async def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the call, else from the environment; it is required unless the model needs none."""
    context = Context(messages=[user("Hi")])
    with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
        await stream_anthropic(AnthropicModel(), context, {})
    async with FakeServer(reply(text_block(0, "Hi")), repeat=True) as server:
        bearer = AnthropicModel(base_url=server.origin, headers={"Authorization": "Bearer t"})
        keyless = AnthropicModel(base_url=server.origin, api_key_env=None)
        for model in (bearer, keyless):
            await collect(await stream_anthropic(model, context, {}))
        monkeypatch.setenv("ANTHROPIC_API_KEY", " from-env \n")
        await collect(await stream_anthropic(AnthropicModel(base_url=server.origin), context, {}))
        seen = [request.headers.get("x-api-key") for request in server.requests]
    assert seen == [None, None, "from-env"]


async def test_incomplete_models_are_errors() -> None:
    """A missing URL or id is an error before anything is sent."""
    with pytest.raises(ConfigurationError, match="base_url"):
        await stream_anthropic(Model(id="m"), Context(), {"api_key": KEY})
    with pytest.raises(ConfigurationError, match="no id"):
        await stream_anthropic(AnthropicModel(id=""), Context(), {"api_key": KEY})


@pytest.mark.parametrize("base", ["", "/v1", "/v1/messages"])
async def test_the_list_of_models(base: str) -> None:
    """The list has the limits of each model; an invalid list is an error."""
    listed = {"id": "claude-x", "display_name": "Claude X", "max_input_tokens": 200, "max_tokens": 64}
    async with FakeServer(FakeReply.json({"data": [listed, {}, 1]}), FakeReply.json({"data": 1})) as server:
        model = AnthropicModel(id="", base_url=server.origin + base)
        found = await list_anthropic_models(model, {"api_key": KEY})
        assert [(item.id, item.name, item.context_window, item.max_tokens) for item in found] == [
            ("claude-x", "Claude X", 200, 64)
        ]
        request = server.requests[0]
        assert ("GET", "/v1/models?limit=1000") == (request.method, request.path)
        assert request.headers["x-api-key"] == KEY
        with pytest.raises(InvalidReplyError, match="not a list"):
            await list_anthropic_models(model, {"api_key": KEY})


def http_error(status: int, kind: str, message: str, **headers: str) -> FakeReply:
    return FakeReply.json({"type": "error", "error": {"type": kind, "message": message}}, status, **headers)


@pytest.mark.parametrize(
    ("status", "kind", "message", "error", "requests"),
    [
        (400, "invalid_request_error", "max_tokens: too big", ProviderError, 1),
        (400, "invalid_request_error", "prompt is too long: 9 > 8", ContextOverflowError, 1),
        (401, "authentication_error", f"invalid x-api-key {KEY}", AuthenticationError, 1),
        (404, "not_found_error", "model: claude-0", ProviderError, 1),
        (413, "request_too_large", "Request exceeds the maximum size", ProviderError, 1),
        (429, "rate_limit_error", "slow down", RateLimitError, 3),
        (500, "api_error", "Internal server error", ProviderError, 3),
        (529, "overloaded_error", "Overloaded", ProviderError, 3),
    ],
)
async def test_http_errors(
    status: int, kind: str, message: str, error: type[Exception], requests: int, waits: list[float]
) -> None:
    """After the retries, the error has the provider's text without the key."""
    async with FakeServer(http_error(status, kind, message), repeat=True) as server:
        with pytest.raises(error) as caught:
            await ask(server)
        assert requests == len(server.requests)
    assert message.split(KEY)[0].strip() in str(caught.value)
    assert KEY not in str(caught.value)


async def test_errors_before_output_are_retried(waits: list[float]) -> None:
    """Errors after output are not retried."""
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    async with FakeServer(FakeReply(steps([begin(), overloaded])), reply(text_block(0, "Hi"))) as server:
        told: list[str] = []
        events = await ask(server, on_retry=told.append)
        assert final(events)["content"] == [{"type": "text", "text": "Hi"}]
        assert (2, 1) == (len(server.requests), len(told))
    async with FakeServer(FakeReply(steps([begin(), *text_block(0, "Half")[:2], overloaded]))) as server:
        message = final(await ask(server))
        assert ("error", 1) == (message["stop_reason"], len(server.requests))
        assert message["content"] == [{"type": "text", "text": "Half"}]


@pytest.mark.parametrize("cut", [Reset(), Hangup()])
async def test_a_connection_that_breaks(cut: Any) -> None:
    """The message is an error with the partial text."""
    half = steps([begin(), *text_block(0, "Half")[:2]])
    async with FakeServer(FakeReply([*half, Wait(), cut])) as server:
        response = await stream_anthropic(
            AnthropicModel(base_url=server.origin), Context(messages=[user("Hi")]), {"api_key": KEY}
        )
        async for event in response:
            if event["type"] == "text_delta":
                server.release()
        message = await response.result()
    assert ("error", "stream_interrupted") == (message["stop_reason"], message["error_kind"])
    assert message["content"] == [{"type": "text", "text": "Half"}]


async def test_silence() -> None:
    """A reply that stops ends at the time-out with the partial text."""
    half = b"".join(steps([begin(), *text_block(0, "Half")[:2]]))
    async with FakeServer(FakeReply([half, Hold()])) as server:
        message = final(await ask(server, timeout={"idle": 0.1}))
    assert ("error", "timeout") == (message["stop_reason"], message["error_kind"])
    assert message["content"] == [{"type": "text", "text": "Half"}]


@pytest.mark.parametrize("pings", [4, 40])
async def test_pings_keep_a_reply_open_for_a_while(pings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that thinks silently sends only pings: they hold off the idle time-out, but not for ever.

    The clock of the loop is moved by hand: by more than half the time-out before each ping.
    """
    monkeypatch.setattr(_wire, "MAX_PINGED_TIMEOUTS", 4)
    idle, fed = 100.0, asyncio.Semaphore(0)
    feed = AnthropicDecoder.feed

    def counting_feed(self: AnthropicDecoder, data: bytes) -> Any:
        fed.release()
        return feed(self, data)

    monkeypatch.setattr(AnthropicDecoder, "feed", counting_feed)
    ping = sse({"type": "ping"}, event="ping")
    silence = [part for _ in range(pings) for part in (Wait(), ping)]
    script = FakeReply([b"".join(steps([begin()])), *silence, Wait(), *steps(says(text_block(0, "Hi")))])
    advance_clock(0)
    async with FakeServer(script) as server:
        asking = asyncio.create_task(ask(server, timeout={"idle": idle}))
        for _ in range(pings + 1):
            feeding = asyncio.create_task(fed.acquire())
            await asyncio.wait([feeding, asking], return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                feeding.cancel()
                break
            await asyncio.sleep(0)  # the reply restarts its timer
            advance_clock(0.6 * idle)
            server.release()
        message = final(await asking)
    expected = ("stop", None) if pings == 4 else ("error", "timeout")
    assert expected == (message["stop_reason"], message.get("error_kind"))


async def test_an_end_without_the_last_event() -> None:
    """After the stop reason the reply is complete, even if the connection stays open."""
    events = says(text_block(0, "Hi"))[:-1]
    async with FakeServer(FakeReply([b"".join(steps(events)), Hold()])) as server:
        assert final(await ask(server, timeout={"idle": 0.1}))["stop_reason"] == "stop"


async def test_an_abort_closes_the_connection() -> None:
    """The signal ends the reply at once with the partial text."""
    signal = asyncio.Event()
    half = steps([begin(), *text_block(0, "Half")[:2]])
    async with FakeServer(FakeReply([*half, Hold()])) as server:
        stream = await stream_anthropic(
            AnthropicModel(base_url=server.origin),
            Context(messages=[user("Hi")]),
            {"api_key": KEY, "signal": signal},
        )
        async for event in stream:
            if event["type"] == "text_delta":
                signal.set()
        message = await stream.result()
        await server.wait_closed()
    assert message["stop_reason"] == "aborted"
    assert message["content"] == [{"type": "text", "text": "Half"}]


async def test_closing_early_closes_the_connection() -> None:
    """A reply that is closed early leaves nothing open."""
    half = steps([begin(), *text_block(0, "Half")[:2]])
    async with FakeServer(FakeReply([*half, Hold()])) as server:
        stream = await stream_anthropic(
            AnthropicModel(base_url=server.origin), Context(messages=[user("Hi")]), {"api_key": KEY}
        )
        async for event in stream:
            if event["type"] == "text_delta":
                break
        await stream.aclose()
        await server.wait_closed()


# ---- paused turns ------------------------------------------------------------------------------------

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
USE = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"encrypted_content": "x"}],
}


def searching(server: Any, **fields: Any) -> AnthropicModel:
    return AnthropicModel(base_url=server.origin, extra_body={"tools": [SEARCH]}, **fields)


async def test_a_paused_turn_continues() -> None:
    """The reply so far is sent back, and the continuation is part of the same message."""
    query = {"type": "input_json_delta", "partial_json": '{"query": "x"}'}
    first = reply(text_block(0, "Let me look."), block(1, USE, query), stop="pause_turn")
    second = reply(block(0, FOUND), text_block(1, "Found."))
    async with FakeServer(first, second) as server:
        events = await ask(server, model=searching(server))
        asked, again = (request.json["messages"] for request in server.requests)
    assert again == [
        *asked,
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me look."}, {**USE, "input": {"query": "x"}}],
        },
    ]
    message = final(events)
    assert ("stop", "end_turn") == (message["stop_reason"], message["finish_reason"])
    assert [part["type"] for part in message["content"]] == ["text", "thinking", "thinking", "text"]
    assert (6, 4) == (message["usage"]["input"], message["usage"]["output"])
    assert [event["type"] for event in events].count("start") == 1


async def test_pauses_have_a_limit() -> None:
    """A turn that pauses too often ends as incomplete."""
    async with FakeServer(reply(text_block(0, "."), stop="pause_turn"), repeat=True) as server:
        message = final(await ask(server, model=searching(server, max_pauses=2)))
        assert len(server.requests) == 3
    assert ("length", "pause_turn") == (message["stop_reason"], message["finish_reason"])
    assert len(message["content"]) == 3


async def test_a_pause_without_tools_on_the_server() -> None:
    """The turn is not continued, because no server tool can be running."""
    async with FakeServer(reply(text_block(0, "."), stop="pause_turn")) as server:
        message = final(await ask(server))
    assert ("length", "pause_turn") == (message["stop_reason"], message["finish_reason"])


async def test_a_continuation_that_fails() -> None:
    """The message is an error with the content so far."""
    paused = reply(text_block(0, "Half"), stop="pause_turn")
    async with FakeServer(paused, http_error(400, "invalid_request_error", "no")) as server:
        message = final(await ask(server, model=searching(server)))
    assert "no" in message["error_message"]
    assert message["content"] == [{"type": "text", "text": "Half"}]
    assert message["usage"]["input"] == 3


async def test_only_a_continuation_is_repeated_without_retries(waits: list[float]) -> None:
    """With `max_retries` 0, the caller repeats the first request; it cannot repeat a continuation."""
    busy = http_error(529, "overloaded_error", "busy")
    paused = reply(text_block(0, "Half"), stop="pause_turn")
    async with FakeServer(paused, busy, reply(text_block(0, "."))) as server:
        message = final(await ask(server, model=searching(server), max_retries=0))
    assert ("stop", 1) == (message["stop_reason"], len(waits))
    async with FakeServer(busy) as server:
        with pytest.raises(ProviderError, match="busy"):
            await ask(server, max_retries=0)
        assert 1 == len(server.requests)


# ---- with the agent ---------------------------------------------------------------------------------


async def test_a_tool_turn() -> None:
    """The second request has all of the first reply: thinking, call and result."""

    async def add(_: str, args: dict[str, Any], *__: Any) -> AgentToolResult:
        return AgentToolResult([{"type": "text", "text": str(args["a"] + args["b"])}])

    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    thought = block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Add them."},
        {"type": "signature_delta", "signature": "c2ln"},
    )
    first = reply(thought, tool_block(1, "toolu_1", "add", '{"a": 1, "b": 2}'), stop="tool_use")
    async with FakeServer(first, reply(text_block(0, "3"))) as server:
        agent = Agent(AgentOptions(stream_fn=stream_anthropic, get_api_key=lambda _: KEY))
        agent.set_model(AnthropicModel(base_url=server.origin))
        agent.set_tools([AgentTool("add", "Adds.", schema, execute=add, read_only=True)])
        agent.set_thinking_level(ThinkingLevel.LOW)
        events = await collect(agent.stream("1 + 2?"))
        check_grammar(events)
        said = server.requests[1].json["messages"]
    assert said[1]["content"] == [
        {"type": "thinking", "thinking": "Add them.", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "b": 2}},
    ]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "3"}]}
    assert said[2]["content"] == [{**result, "cache_control": {"type": "ephemeral"}}]
    assert server.requests[1].json["thinking"] == {"type": "enabled", "budget_tokens": 4096}
