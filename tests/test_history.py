"""Histories after a change of the model: what each protocol sends back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tinyagent import jsonl
from tinyagent._stream.history import NO_RESULT, adapt_history, is_own, repair_history
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Context, Model
from tinyagent.anthropic_provider import AnthropicDecoder, AnthropicModel, stream_anthropic
from tinyagent.anthropic_provider import request_body as anthropic_request
from tinyagent.openai_wire import ChatDecoder, OpenAICompatModel, chat_request, stream_openai_completions
from tinyagent.responses_provider import OpenAIResponsesModel, ResponsesDecoder, stream_openai_responses
from tinyagent.responses_provider import request_body as responses_request
from tinyagent.testing import FakeServer, assistant, collect, tool_result, user
from tinyagent.testing.server import FakeReply, chat_chunk, sse

TEXT = "Let me add."
THOUGHT = "They want a sum."
CALLS = [("call_a|x", {"a": 1}), ("call_b|x", {"a": 2})]
"""Ids that no other provider takes as they are."""


@dataclass(frozen=True)
class Side:
    """One protocol: its streams, its requests, and functions that inspect them."""

    model: Any
    decoder: Any
    request: Callable[[Any, Context, Any], Any]
    stream: bytes
    secrets: tuple[str, ...]
    """What means something to this model only."""
    own: Callable[[Any], bool]
    """Whether a request has all of it."""
    calls: Callable[[Any], list[tuple[str, Any]]]
    results: Callable[[Any], list[tuple[str, str]]]
    ids: str


def events(*values: Any) -> bytes:
    return b"".join(sse(value) for value in values)


# ---- chat/completions, in both of its ways to keep reasoning ------------------------------------------

CHAT_CALLS = [
    {"index": n, "id": call_id, "function": {"name": "add", "arguments": json.dumps(arguments)}}
    for n, (call_id, arguments) in enumerate(CALLS)
]
DETAILS = [
    {"type": "reasoning.text", "text": THOUGHT, "signature": "c2lnbmVk", "index": 0},
    {"type": "reasoning.encrypted", "data": "0PAQUE", "id": "call_a|x", "index": 1},
]


def chat_stream(**reasoning: Any) -> bytes:
    return events(
        chat_chunk(reasoning),
        chat_chunk(TEXT),
        chat_chunk({"tool_calls": CHAT_CALLS}),
        chat_chunk({}, "tool_calls"),
        "[DONE]",
    )


def chat_messages(body: Any, role: str) -> list[Any]:
    return [message for message in body["messages"] if message["role"] == role]


def chat_calls(body: Any) -> list[tuple[str, Any]]:
    calls = [call for message in chat_messages(body, "assistant") for call in message.get("tool_calls", ())]
    return [(call["id"], json.loads(call["function"]["arguments"])) for call in calls]


def chat_results(body: Any) -> list[tuple[str, str]]:
    return [(message["tool_call_id"], message["content"]) for message in chat_messages(body, "tool")]


def chat(model_id: str, own: Callable[[Any], bool], secrets: tuple[str, ...], **reasoning: Any) -> Side:
    return Side(
        OpenAICompatModel(provider="house", id=model_id, base_url="http://127.0.0.1:1/v1"),
        ChatDecoder,
        chat_request,
        chat_stream(**reasoning),
        secrets,
        own,
        chat_calls,
        chat_results,
        r"[^|]{1,40}",
    )


DEEPSEEK = chat(
    "deepseek-reasoner",
    lambda body: chat_messages(body, "assistant")[0].get("reasoning_content") == THOUGHT,
    ("reasoning_content",),
    reasoning_content=THOUGHT,
)
GEMINI = chat(
    "google/gemini-3",
    lambda body: chat_messages(body, "assistant")[0].get("reasoning_details") == DETAILS,
    ("reasoning_details", "c2lnbmVk", "0PAQUE"),
    reasoning_details=DETAILS,
)

# ---- Anthropic --------------------------------------------------------------------------------------

ANTHROPIC_BLOCKS: list[Any] = [
    {"type": "thinking", "thinking": THOUGHT, "signature": "QW50aHJvcGlj"},
    {"type": "redacted_thinking", "data": "r3dacted"},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sums"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"encrypted_content": "f0und"}],
    },
    {"type": "text", "text": TEXT},
    *[
        {"type": "tool_use", "id": call_id.replace("|", "_"), "name": "add", "input": arguments}
        for call_id, arguments in CALLS
    ],
]


def anthropic_blocks(body: Any, role: str) -> list[Any]:
    return [block for message in body["messages"] if message["role"] == role for block in message["content"]]


def anthropic_calls(body: Any) -> list[tuple[str, Any]]:
    uses = [block for block in anthropic_blocks(body, "assistant") if block["type"] == "tool_use"]
    return [(use["id"], use["input"]) for use in uses]


def anthropic_results(body: Any) -> list[tuple[str, str]]:
    results = [block for block in anthropic_blocks(body, "user") if block["type"] == "tool_result"]
    return [(result["tool_use_id"], result["content"][0]["text"]) for result in results]


def anthropic_stream() -> bytes:
    return events(
        *[
            event
            for n, block in enumerate(ANTHROPIC_BLOCKS)
            for event in (
                {"type": "content_block_start", "index": n, "content_block": block},
                {"type": "content_block_stop", "index": n},
            )
        ],
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    )


ANTHROPIC = Side(
    AnthropicModel(cache=None),
    AnthropicDecoder,
    anthropic_request,
    anthropic_stream(),
    ("QW50aHJvcGlj", "r3dacted", "f0und", "srvtoolu_1"),
    lambda body: anthropic_blocks(body, "assistant") == ANTHROPIC_BLOCKS,
    anthropic_calls,
    anthropic_results,
    r"[a-zA-Z0-9_-]{1,64}",
)

# ---- Responses --------------------------------------------------------------------------------------

RESPONSES_ITEMS: list[Any] = [
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": THOUGHT}],
        "encrypted_content": "gAAAencrypted",
    },
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
    },
    *[
        {
            "type": "function_call",
            "id": f"fc_{n}",
            "call_id": call_id.replace("|", "_"),
            "name": "add",
            "arguments": json.dumps(arguments, separators=(",", ":")),
        }
        for n, (call_id, arguments) in enumerate(CALLS)
    ],
]


def responses_items(body: Any, kind: str) -> list[Any]:
    return [item for item in body["input"] if item["type"] == kind]


RESPONSES = Side(
    OpenAIResponsesModel(),
    ResponsesDecoder,
    responses_request,
    events({"type": "response.completed", "response": {"status": "completed", "output": RESPONSES_ITEMS}}),
    ("rs_1", "msg_1", "fc_0", "fc_1", "gAAAencrypted"),
    lambda body: body["input"][1 : 1 + len(RESPONSES_ITEMS)] == RESPONSES_ITEMS,
    lambda body: [
        (item["call_id"], json.loads(item["arguments"])) for item in responses_items(body, "function_call")
    ],
    lambda body: [
        (item["call_id"], item["output"]) for item in responses_items(body, "function_call_output")
    ],
    r"[a-zA-Z0-9_-]{1,64}",
)

SIDES = {"deepseek": DEEPSEEK, "gemini": GEMINI, "anthropic": ANTHROPIC, "responses": RESPONSES}
PAIRS = [(origin, target) for origin in SIDES for target in SIDES]


def reply_of(side: Side) -> Any:
    """Return the reply of a protocol's stream."""
    decoder = side.decoder(side.model)
    last = [*decoder.feed(side.stream), *decoder.close()][-1]
    assert last["type"] == "done"
    return last["message"]


def as_json(messages: list[Any]) -> list[Any]:
    return json.loads(json.dumps(messages))  # type: ignore[no-any-return]


def as_history(messages: list[Any]) -> list[Any]:
    lines = [json.dumps({"type": "history", "message": message}).encode() + b"\n" for message in messages]
    return jsonl.messages(lines)


def conversation(side: Side) -> list[Any]:
    reply = reply_of(side)
    calls = [block for block in reply["content"] if block["type"] == "tool_call"]
    results = [tool_result(call["id"], "add", f"sum {n}") for n, call in enumerate(calls)]
    return [user("Add!"), reply, *results, user("And now?")]


@pytest.mark.parametrize("through", [list, as_json, as_history])
@pytest.mark.parametrize(("origin", "target"), PAIRS)
def test_every_pair(origin: str, target: str, through: Callable[[list[Any]], list[Any]]) -> None:
    """Text, calls and results go to every protocol; provider data only to its own model, unchanged."""
    source, to = SIDES[origin], SIDES[target]
    messages = through(conversation(source))
    before = json.dumps(messages)
    body = to.request(to.model, Context("Be brief.", messages, [AgentTool("add")]), {})
    assert before == json.dumps(messages)

    sent = json.dumps(body)
    assert TEXT in sent
    calls, results = to.calls(body), to.results(body)
    assert [arguments for _, arguments in calls] == [arguments for _, arguments in CALLS]
    assert [text for _, text in results] == ["sum 0", "sum 1"]
    assert [call_id for call_id, _ in calls] == [call_id for call_id, _ in results]
    assert len({call_id for call_id, _ in calls}) == 2
    if origin == target:
        assert to.own(body)
        assert all(secret in sent for secret in source.secrets)
    else:
        assert all(re.fullmatch(to.ids, call_id) for call_id, _ in calls)
        assert THOUGHT not in sent
        assert [] == [secret for secret in source.secrets if secret in sent]
        assert "signature" not in sent


@pytest.mark.parametrize("origin", SIDES)
def test_another_model_of_the_same_provider(origin: str) -> None:
    """The reasoning data of another model is not sent."""
    side = SIDES[origin]
    other = type(side.model)(**{**vars(side.model), "id": "another-5"})
    sent = json.dumps(side.request(other, Context("", conversation(side)), {}))
    assert TEXT in sent
    assert [] == [secret for secret in (*side.secrets, THOUGHT) if secret in sent]


def test_nothing_but_reasoning() -> None:
    """A message of another model with only reasoning is omitted."""
    thought = {"type": "thinking", "thinking": THOUGHT, "thinking_signature": "s"}
    history: Any = [user("a"), assistant(thought, "  "), user("b")]
    assert [user("a"), user("b")] == adapt_history(history, Model("p", "m", "a"))


def test_duplicate_ids_become_unique() -> None:
    """Equal ids in two turns become different ids, in calls and results."""
    call = {"type": "tool_call", "id": "call_1", "name": "add", "arguments": {}}
    turn: Any = [assistant(call), tool_result("call_1", "add", "1")]
    taken: Any = adapt_history([*turn, *turn, *turn], Model("p", "m", "a"), ids=re.compile(r"\w{1,64}"))
    ids = [message["content"][0]["id"] for message in taken[::2]]
    assert len(set(ids)) == 3
    assert ids == [message["tool_call_id"] for message in taken[1::2]]
    longest = {**call, "id": "x" * 64}
    turn = [assistant(longest), tool_result("x" * 64, "add", "1")]
    taken = adapt_history([*turn, *turn], Model("p", "m", "a"), ids=re.compile(r"\w{1,64}"))
    assert all(len(message["content"][0]["id"]) <= 64 for message in taken[::2])


MODEL = Model("p", "m", "a")


def call(call_id: str, name: str = "add") -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": {}}


@pytest.mark.parametrize(
    ("name", "fitting"),
    [
        ("add", "add"),
        ("functions.add", "functions_add"),
        ("read file", "read_file"),
        ("größe", "gr__e"),
        ("x" * 100, "x" * 64),
        ("", "unknown"),
        ("a\nb", "a_b"),
        ("7zip", "_7zip"),
        ("-" * 70, "_" + "-" * 63),
    ],
)
def test_invalid_names_become_valid(name: str, fitting: str) -> None:
    """Call and result get the same valid name."""
    history: Any = [user("Hi"), assistant(call("c1", name)), tool_result("c1", name, "no such tool")]
    sent: Any = adapt_history(history, MODEL)
    assert (fitting, fitting) == (sent[1]["content"][0]["name"], sent[2]["tool_name"])
    assert name == history[1]["content"][0]["name"]


def test_names_of_offered_tools_do_not_change() -> None:
    """The history has the name under which a tool is offered."""
    name = "mcp.server.tool"
    history: Any = [user("Hi"), assistant(call("c1", name)), tool_result("c1", name, "4")]
    sent: Any = adapt_history(history, MODEL, tools=[AgentTool(name)])
    assert (name, name) == (sent[1]["content"][0]["name"], sent[2]["tool_name"])


@pytest.mark.parametrize("results", [0, 1, 2])
def test_two_calls_with_one_id(results: int) -> None:
    """Each call has its own id and result, in order."""
    given = [tool_result("c1", "add", str(n)) for n in range(results)]
    history: Any = [user("Hi"), assistant(call("c1"), call("c1")), *given]
    sent: Any = adapt_history(history, MODEL, ids=re.compile(r"\w{1,40}"))
    ids = [block["id"] for block in sent[1]["content"]]
    assert 2 == len(set(ids))
    assert ids == [message["tool_call_id"] for message in sent[2:]]
    texts = [message["content"][0]["text"] for message in sent[2:]]
    assert [*map(str, range(results)), *[NO_RESULT] * (2 - results)] == texts


def test_unknown_blocks_are_omitted() -> None:
    """A message with only unknown blocks is omitted, and so are results without calls."""
    odd: Any = {"type": "hologram", "data": 1}
    history: Any = [user("Hi"), assistant(odd), assistant(odd, "Yes"), tool_result("c9", "add", "4")]
    made: Any = adapt_history(history, MODEL)
    assert [["Hi"], ["Yes"]] == [[block["text"] for block in message["content"]] for message in made]


def test_the_origin_of_a_message() -> None:
    """The same model over another protocol or provider counts as another model."""
    made: Any = {"api": "a", "provider": "p", "model": "m"}
    assert is_own(made, Model(provider="p", id="m", api="a"))
    for other in (Model("p", "m", "b"), Model("q", "m", "a"), Model("p", "n", "a")):
        assert not is_own(made, other)


def test_failed_replies_are_omitted() -> None:
    """Their results are omitted, too; a call without a result gets one."""
    call = {"type": "tool_call", "id": "c1", "name": "add", "arguments": {}}
    history: Any = [
        user("a"),
        assistant(call, stop_reason="aborted"),
        tool_result("c1", "add", "1"),
        assistant(call),
        user("b"),
    ]
    sent: Any = repair_history(history)
    assert [message["role"] for message in sent] == ["user", "assistant", "tool_result", "user"]
    assert sent[2]["is_error"] is True
    assert sent == repair_history(sent)


async def test_a_conversation_over_three_protocols() -> None:
    """At the end the first protocol gets its own reasoning back."""

    async def add(*_: Any) -> AgentToolResult:
        return AgentToolResult([{"type": "text", "text": "3"}])

    round_trip: list[Any] = [
        (ANTHROPIC, stream_anthropic, ""),
        (RESPONSES, stream_openai_responses, "/v1"),
        (DEEPSEEK, stream_openai_completions, "/v1"),
        (ANTHROPIC, stream_anthropic, ""),
    ]
    agent = Agent(AgentOptions(get_api_key=lambda _: "k"))
    agent.set_tools([AgentTool("add", execute=add)])
    bodies = []
    for side, stream, path in round_trip:
        async with FakeServer(FakeReply([side.stream]), FakeReply([_answer(side)])) as server:
            agent.options.stream_fn = stream
            agent.set_model(type(side.model)(**{**vars(side.model), "base_url": server.origin + path}))
            await collect(agent.stream("Go on."))
            assert agent.state["error"] is None
            bodies += [request.json for request in server.requests]
            agent.replace_messages(as_json(agent.state["messages"]))
    last = bodies[-1]
    assert anthropic_blocks(last, "assistant")[: len(ANTHROPIC_BLOCKS)] == ANTHROPIC_BLOCKS
    assert [] == [secret for secret in (*RESPONSES.secrets, *DEEPSEEK.secrets) if secret in json.dumps(last)]
    ids = [call_id for call_id, _ in anthropic_calls(last)]
    assert len(set(ids)) == len(ids) == 8
    assert ids == [call_id for call_id, _ in anthropic_results(last)]


def _answer(side: Side) -> bytes:
    """Return a final answer in this protocol."""
    if side is ANTHROPIC:
        return events(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Done."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {"type": "message_stop"},
        )
    if side is RESPONSES:
        return events({"type": "response.completed", "response": {"output": [RESPONSES_ITEMS[1]]}})
    return events(chat_chunk("Done."), chat_chunk({}, "stop"), "[DONE]")
