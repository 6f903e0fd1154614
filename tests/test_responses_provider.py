"""The Responses API: requests, replies and HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Context, ThinkingLevel
from tinyagent.errors import AuthenticationError, MissingKeyError, ProviderError, RateLimitError
from tinyagent.responses_provider import (
    OpenAIResponsesModel,
    ResponsesDecoder,
    request_body,
    stream_openai_responses,
)
from tinyagent.testing import FakeServer, assistant, check_grammar, collect, tool_result, user
from tinyagent.testing.server import FakeReply, Hangup, Hold, Reset, Wait, sse

KEY = "sk-test-CANARY-0123456789"
OWN = {"api": "openai-responses", "provider": "openai", "model": "gpt-5"}
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 27,
}

# ---- replies as the API sends them ------------------------------------------------------------------

Items = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def message_item(*pieces: str, item_id: str = "msg_1", refusal: bool = False, **fields: Any) -> Any:
    kind, key = ("refusal", "refusal") if refusal else ("output_text", "text")
    part = {"type": kind, key: "".join(pieces)}
    if not refusal:
        part["annotations"] = []  # type: ignore[assignment]
    item = {"type": "message", "id": item_id, "role": "assistant", "content": [part], **fields}
    deltas = [{"type": f"response.{kind}.delta", "content_index": 0, "delta": piece} for piece in pieces]
    return item, [
        {"type": "response.content_part.added", "content_index": 0, "part": {"type": kind, key: ""}},
        *deltas,
        {"type": f"response.{kind}.done", "content_index": 0, key: "".join(pieces)},
        {"type": "response.content_part.done", "content_index": 0, "part": part},
    ]


def reasoning_item(*parts: str, item_id: str = "rs_1", **fields: Any) -> Any:
    summary = [{"type": "summary_text", "text": part} for part in parts]
    item = {"type": "reasoning", "id": item_id, "summary": summary, "encrypted_content": "gAAA", **fields}
    events = []
    for n, part in enumerate(parts):
        events += [
            {"type": "response.reasoning_summary_part.added", "summary_index": n, "part": {}},
            *[
                {"type": "response.reasoning_summary_text.delta", "summary_index": n, "delta": piece}
                for piece in (part[:2], part[2:])
            ],
            {"type": "response.reasoning_summary_text.done", "summary_index": n, "text": part},
        ]
    return item, events


def call_item(name: str, *pieces: str, call_id: str = "call_x", item_id: str = "fc_1") -> Any:
    item = {
        "type": "function_call",
        "id": item_id,
        "call_id": call_id,
        "name": name,
        "arguments": "".join(pieces),
        "status": "completed",
    }
    deltas = [{"type": "response.function_call_arguments.delta", "delta": piece} for piece in pieces]
    done = {"type": "response.function_call_arguments.done", "arguments": "".join(pieces)}
    return item, [*deltas, done]


EMPTY = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}


def streamed(*items: Any, first: int = 0) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for n, (item, steps) in enumerate(items, first):
        bare = {**item, **EMPTY.get(item["type"], {})}
        bare.pop("encrypted_content", None)
        events.append({"type": "response.output_item.added", "output_index": n, "item": bare})
        events += [{**step, "output_index": n, "item_id": item["id"]} for step in steps]
        events.append({"type": "response.output_item.done", "output_index": n, "item": item})
    return events


def says(*items: Any, status: str = "completed", **fields: Any) -> list[dict[str, Any]]:
    output = [item for item, _ in items]
    response = {"id": "resp_1", "status": status, "output": output, "usage": USAGE, "error": None, **fields}
    return [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
        {"type": "response.in_progress", "response": {"id": "resp_1"}},
        *streamed(*items),
        {"type": f"response.{status}", "response": response},
    ]


def steps(events: list[Any]) -> list[Any]:
    return [sse(event, event=event["type"]) if isinstance(event, dict) else event for event in events]


def reply(*items: Any, **fields: Any) -> FakeReply:
    return FakeReply(steps(says(*items, **fields)))


def decode(events: list[Any]) -> list[Any]:
    decoder = ResponsesDecoder(OpenAIResponsesModel())
    out = decoder.feed(b"".join(steps(events)))
    out += decoder.close()
    return out if decoder.error is None else [*out, decoder.fail()]


def final(events: list[Any]) -> Any:
    last = events[-1]
    return last["message"] if last["type"] == "done" else last["error"]


def ended(events: list[Any]) -> Any:
    """Return the message that these events make."""
    return final(decode(events))


async def ask(server: Any, context: Context | None = None, /, model: Any = None, **options: Any) -> list[Any]:
    model = model or OpenAIResponsesModel(base_url=server.url)
    given = {"api_key": KEY, **options}
    return await collect(
        await stream_openai_responses(model, context or Context(messages=[user("Hi")]), given)
    )


# ---- requests -----------------------------------------------------------------------------------


def body(*messages: Any, model: Any = None, system: str = "", tools: Any = None, **options: Any) -> Any:
    return request_body(model or OpenAIResponsesModel(), Context(system, list(messages), tools), options)


def test_a_request() -> None:
    """Responses are not stored; the system prompt, tools and limits have the API's fields."""
    tool = AgentTool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    sent = body(user("Hi"), system="Be brief.", tools=[tool], max_tokens=100, session_id="s1")
    assert sent == {
        "model": "gpt-5",
        "stream": True,
        "store": False,
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "tools": [
            {
                "type": "function",
                "name": "add",
                "description": "Adds.",
                "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
                "strict": False,
            }
        ],
        "max_output_tokens": 100,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "s1",
    }


def test_a_long_session_id() -> None:
    """The cache key has a limit, and is the same for the same session."""
    keys = {body(user("Hi"), session_id="s" * 100)["prompt_cache_key"] for _ in range(2)}
    assert len(keys) == 1
    assert len(keys.pop()) == 64


def test_images() -> None:
    """Images by URL and as data are sent, from the user and from tools."""
    image = {"type": "image", "url": "data:image/png;base64,iVBORw0KGgo="}
    call = {"type": "tool_call", "id": "c1", "name": "shot", "arguments": {}}
    sent = body(
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        assistant(call),
        {**tool_result("c1", "shot", "done"), "content": [{"type": "text", "text": "done"}, image]},
    )["input"]
    there = {"type": "input_image", "image_url": image["url"], "detail": "auto"}
    assert sent[0]["content"] == [{"type": "input_text", "text": "see"}, there]
    assert sent[2]["output"] == [{"type": "input_text", "text": "done"}, there]


def test_results_are_text_if_possible() -> None:
    """Text is sent as text; an empty result gets a note."""
    calls = [{"type": "tool_call", "id": f"c{n}", "name": "t", "arguments": {"n": n}} for n in range(2)]
    sent = body(user("Hi"), assistant(*calls), tool_result("c0", "t", "4"), tool_result("c1", "t", ""))[
        "input"
    ]
    assert sent[1] == {"type": "function_call", "call_id": "c0", "name": "t", "arguments": '{"n":0}'}
    assert [item.get("output") for item in sent[3:]] == ["4", "(no output)"]


@pytest.mark.parametrize(
    ("model_id", "level", "effort"),
    [
        ("gpt-5", "minimal", "minimal"),
        ("gpt-5-mini-2025-08-07", "minimal", "minimal"),
        ("gpt-5.1", "minimal", "low"),
        ("gpt-5-codex", "minimal", "low"),
        ("o3", "minimal", "low"),
        ("gpt-5", "xhigh", "high"),
        ("gpt-5.2", "xhigh", "xhigh"),
        ("gpt-5.1-codex-max", "xhigh", "xhigh"),
        ("openai/o4-mini", "medium", "medium"),
        ("gpt-5", "off", None),
        ("gpt-4o", "high", None),
        ("gpt-5-chat-latest", "high", None),
    ],
)
def test_thinking_levels(model_id: str, level: str, effort: str | None) -> None:
    """A level becomes an effort of the model; other models get none."""
    sent = body(user("Hi"), model=OpenAIResponsesModel(id=model_id), thinking_level=ThinkingLevel(level))
    assert sent.get("reasoning") == (None if effort is None else {"effort": effort, "summary": "auto"})


def test_reasoning_of_a_model_can_be_set() -> None:
    """Reasoning models get no temperature and return their reasoning; others do not."""
    house = OpenAIResponsesModel(id="house", reasoning=True, reasoning_summary=None)
    sent = body(user("Hi"), model=house, temperature=0.5, thinking_level="low")
    assert sent["reasoning"] == {"effort": "low"}
    assert ("temperature" in sent, "include" in sent) == (False, True)
    plain = body(user("Hi"), model=OpenAIResponsesModel(reasoning=False), temperature=0.5)
    assert ("temperature" in plain, "include" in plain) == (True, False)


def test_extra_body() -> None:
    """Extra fields take precedence, None removes a field, and the API's tools are added to the agent's."""
    model = OpenAIResponsesModel(
        extra_body={"tools": [{"type": "web_search"}], "store": True, "include": None}
    )
    sent = body(user("Hi"), model=model, tools=[AgentTool("add")])
    assert [tool["type"] for tool in sent["tools"]] == ["function", "web_search"]
    assert sent["store"] is True
    assert "include" not in sent


# ---- what is sent back ----------------------------------------------------------------------------


def replayed(*items: Any, model: Any = None, **fields: Any) -> Any:
    """Return the items that are sent back for a reply, after a JSON round trip."""
    message = json.loads(json.dumps(final(decode(says(*items, **fields)))))
    return body(user("Hi"), message, user("and?"), model=model)["input"][1:-1]


def test_a_reply_is_sent_back_unchanged() -> None:
    """Reasoning, text and calls are the same items with their ids."""
    items = [
        reasoning_item("First.", "Then."),
        message_item("Let me see.", phase="commentary"),
        call_item("add", '{"a": ', "1}"),
    ]
    reasoning, message, call, result = replayed(*items)
    assert reasoning == items[0][0]
    assert message == {**items[1][0], "status": "completed"}
    assert call == {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_x",
        "name": "add",
        "arguments": '{"a":1}',
    }
    assert result["call_id"] == "call_x"


def test_parts_of_one_message_stay_together() -> None:
    """Two parts of a message item are two blocks and one item again; a refusal is part of it."""
    parts = [
        {"type": "output_text", "text": "Yes, ", "annotations": []},
        {"type": "refusal", "refusal": "but no."},
    ]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts}
    message = final(decode(says((item, []))))
    assert [block["text"] for block in message["content"]] == ["Yes, ", "but no."]
    assert replayed((item, [])) == [item]


def test_reasoning_without_encrypted_content_is_omitted() -> None:
    """Such reasoning, and reasoning at the end, is not sent back."""
    bare = reasoning_item("Hm.", encrypted_content=None)
    assert [item["type"] for item in replayed(bare, message_item("Hi"))] == ["message"]
    stored = OpenAIResponsesModel(extra_body={"store": True})
    assert [item["type"] for item in replayed(bare, message_item("Hi"), model=stored)] == [
        "reasoning",
        "message",
    ]
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert replayed(message_item("Hi"), reasoning_item("Hm.", item_id="rs_2"), **cut) == [
        {**message_item("Hi")[0], "status": "completed"}
    ]


def test_plain_reasoning_is_sent_back_as_text() -> None:
    """A server that sends plain reasoning gets it back."""
    content = [{"type": "reasoning_text", "text": "Hm."}]
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
    deltas = [{"type": "response.reasoning_text.delta", "content_index": 0, "delta": "Hm."}]
    assert final(decode(says((item, deltas))))["content"][0]["thinking"] == "Hm."
    assert replayed((item, deltas), message_item("Hi"))[0] == item


def test_items_without_text_are_sent_back() -> None:
    """Items of the API's own tools are unchanged."""
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    message = final(decode(says((search, []), message_item("Found."))))
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert replayed((search, []), message_item("Found."))[0] == search


# ---- replies ------------------------------------------------------------------------------------


def test_a_reply() -> None:
    """Paragraphs of a summary are one thinking block; text and calls are unchanged."""
    events = decode(
        says(reasoning_item("First.", "Then."), message_item("He", "llo"), call_item("add", "{}"))
    )
    message = final(events)
    kinds = [(block["type"], block.get("thinking", block.get("text"))) for block in message["content"]]
    assert kinds == [("thinking", "First.\n\nThen."), ("text", "Hello"), ("tool_call", None)]
    assert ("tool_use", "completed") == (message["stop_reason"], message["finish_reason"])
    assert message["usage"] == {
        "input": 20, "output": 7, "cache_read": 8, "cache_write": 0, "reasoning": 4, "total": 27,
        "cost": None,
    }  # fmt: skip
    deltas = [event["delta"] for event in events if event["type"] == "text_delta"]
    assert deltas == ["He", "llo"]
    starts = [event["type"] for event in events if event["type"].endswith(("_start", "_end"))]
    assert starts == [
        "thinking_start", "thinking_end", "text_start", "text_end", "tool_call_start", "tool_call_end",
    ]  # fmt: skip


def test_tool_arguments() -> None:
    """Parts are joined, empty arguments are {}, and other values make the call invalid."""
    message = final(
        decode(
            says(
                call_item("add", '{"z": 12345678901234567890, "a', '": 1}', call_id="a", item_id="fc_a"),
                call_item("add", call_id="b", item_id="fc_b"),
                call_item("add", '{"a": ', call_id="c", item_id="fc_c"),
                call_item("", "{}", call_id="d", item_id="fc_d"),
            )
        )
    )
    calls = message["content"]
    assert [call["arguments"] for call in calls] == [{"z": 12345678901234567890, "a": 1}, {}, {}, {}]
    assert [call.get("partial_json") for call in calls] == [None, None, '{"a": ', "{}"]
    assert [call["id"] for call in calls] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("dropped", ["delta", "added", "done", "output_item.done", ".added .done", "all"])
def test_missing_events_are_tolerated(dropped: str) -> None:
    """The API repeats its data, so the message is complete without any one event."""
    events = says(reasoning_item("Hm, hm."), message_item("He", "llo"), call_item("add", '{"a":', "1}"))
    if dropped == "all":
        kept = [events[-1]]
    else:
        kept = [
            event
            for event in events
            if not event["type"].endswith(tuple(dropped.split())) or "complete" in event["type"]
        ]
    whole, repaired = final(decode(events)), final(decode(kept))
    assert {**whole, "timestamp": 0} == {**repaired, "timestamp": 0}


def test_without_the_list_at_the_end() -> None:
    """The streamed items are enough; `response.done` is an end, too."""
    events = says(message_item("Hi"), call_item("add", "{}"))
    events[-1] = {"type": "response.done", "response": {"status": "completed"}}
    message = final(decode(events))
    assert [block["type"] for block in message["content"]] == ["text", "tool_call"]


def test_a_server_with_wrong_indexes() -> None:
    """If indexes and ids are wrong, text and calls are still separated."""
    calls = [call_item("add", f'{{"n":{n}}}', call_id=f"c{n}", item_id=f"fc_{n}") for n in range(2)]
    events = says(reasoning_item("Hm."), message_item("Hi"), *calls)
    for n, event in enumerate(events):
        if "output_index" in event:
            event |= {"output_index": 0, "item_id": f"x{n}"}
    message = final(decode(events))
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_call", "tool_call"]
    assert [block["arguments"] for block in message["content"][2:]] == [{"n": 0}, {"n": 1}]


def test_a_refusal_is_text() -> None:
    """The model's refusal is shown as text."""
    message = final(decode(says(message_item("I ", "cannot.", refusal=True))))
    assert message["content"][0]["text"] == "I cannot."
    assert message["stop_reason"] == "stop"


@pytest.mark.parametrize(
    ("reason", "stop", "kind"),
    [
        ("max_output_tokens", "length", None),
        ("content_filter", "error", "content_filter"),
        ("new", "length", None),
    ],
)
def test_incomplete_replies(reason: str, stop: str, kind: str | None) -> None:
    """They are failures with a reason and the partial content."""
    message = final(
        decode(says(message_item("Half"), status="incomplete", incomplete_details={"reason": reason}))
    )
    assert (stop, reason, kind) == (
        message["stop_reason"],
        message["finish_reason"],
        message.get("error_kind"),
    )
    assert message["content"][0]["text"] == "Half"


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        ({"type": "error", "code": "server_error", "message": "Sorry."}, "provider", "Sorry."),
        (
            {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "Slow."}},
            "rate_limit",
            "Slow.",
        ),
        (
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "server_error", "message": "Oh no."}},
            },
            "provider",
            "Oh no.",
        ),
        (
            {"type": "error", "code": "context_length_exceeded", "message": "exceeds the context window"},
            "context_overflow",
            "context window",
        ),
        ({"type": "response.cancelled", "response": {}}, "provider", "cancelled"),
    ],
)
def test_errors_in_the_stream(event: Any, kind: str, words: str) -> None:
    """The message has the provider's text and the partial content."""
    half = streamed(message_item("Half"))[:3]
    message = final(decode([*half, event]))
    assert ("error", kind) == (message["stop_reason"], message["error_kind"])
    assert words in message["error_message"]
    assert [block["text"] for block in message["content"]] == ["Half"]


def test_a_reply_without_its_end_is_an_error() -> None:
    """Complete items are not enough, because more may have followed."""
    message = final(decode(says(message_item("Hi"), call_item("add", "{}"))[:-1]))
    assert ("error", "stream_interrupted") == (message["stop_reason"], message["error_kind"])
    assert message["content"][0]["text"] == "Hi"
    assert final(decode([b"data: [DONE]\n\n"]))["error_kind"] == "invalid_reply"
    assert final(decode([*streamed(message_item("Hi")), b"data: [DONE]\n\n"]))["stop_reason"] == "stop"


def test_unknown_data_is_ignored() -> None:
    """Unknown events, parts and items without a type are ignored."""
    events = says(
        ({"type": "", "id": "h1"}, [{"type": "response.hologram.delta", "delta": "x"}]), message_item("Hi")
    )
    events.insert(1, {"type": "response.output_text.annotation.added", "output_index": 1, "annotation": {}})
    events.insert(1, {"type": "keepalive"})
    message = final(decode(events))
    assert [{"type": "text", "text": "Hi", "text_signature": '{"id":"msg_1"}'}] == message["content"]


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
ITEMS = [
    SEARCH,
    {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"], "results": None},
    {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1", "container_id": "c", "outputs": []},
    {"type": "mcp_list_tools", "id": "ml_1", "server_label": "s", "tools": []},
    {"type": "mcp_call", "id": "mc_1", "name": "n", "arguments": "{}", "output": "4", "server_label": "s"},
    {"type": "computer_call", "id": "cu_1", "call_id": "call_cu", "action": {"type": "wait"}},
    {"type": "search_results", "queries": ["q"], "results": []},
    {"type": "hologram", "id": "ho_1", "shape": {"sides": 4}},
]


def test_all_items_are_sent_back_in_order() -> None:
    """Items of server tools and unknown items are unchanged."""
    items = [item for thing in ITEMS for item in ((thing, []), message_item("Hm", item_id=f"m{len(thing)}"))]
    assert [item for item, _ in items] == [
        {key: value for key, value in item.items() if key != "status" or item["type"] != "message"}
        for item in replayed(*items)
    ]


def test_items_that_overlap_keep_their_order() -> None:
    """Items are ordered by their start."""
    events = says((SEARCH, []), message_item("Found."))
    done = next(n for n, event in enumerate(events) if event["type"] == "response.output_item.done")
    late = events.pop(done)
    events.insert(-1, late)
    assert ["thinking", "text"] == [block["type"] for block in final(decode(events))["content"]]


@pytest.mark.parametrize("kind", ["custom_tool_call", "apply_patch_call"])
def test_calls_that_cannot_be_run_get_an_output(kind: str) -> None:
    """Without an output the API refuses every later request."""
    call = {"type": kind, "id": "ct_1", "call_id": "call_1", "name": "n", "input": "x"}
    sent = replayed((call, []))
    assert [kind, f"{kind}_output"] == [item["type"] for item in sent]
    assert ("call_1", "No result provided") == (sent[1]["call_id"], sent[1]["output"])
    answered = {"type": f"{kind}_output", "call_id": "call_1", "output": "done"}
    assert [call, answered] == replayed((call, []), (answered, []))


def test_an_image_is_a_block_of_the_message() -> None:
    """It appears once, after the text, and is sent back in its item."""
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk="}
    message = final(decode(says((item, []), message_item("Here."))))
    assert ["thinking", "text", "image"] == [block["type"] for block in message["content"]]
    assert message["content"][2]["url"] == "data:image/png;base64,aGk="
    assert 1 == json.dumps(message).count("aGk=")
    assert item == replayed((item, []), message_item("Here."))[0]
    only = final(decode(says((item, []))))
    assert ("stop", "image") == (only["stop_reason"], only["content"][-1]["type"])


# ---- repeated data --------------------------------------------------------------------------------


def test_the_list_at_the_end_is_matched_by_id() -> None:
    """Its order may differ; nothing is duplicated, and missing items are added."""
    first, second = message_item("One", item_id="m1"), message_item("Two", item_id="m2")
    events = says(first, second)
    events[-1]["response"]["output"] = [message_item("Extra", item_id="m0")[0], second[0], first[0]]
    message = final(decode(events))
    assert ["One", "Two", "Extra"] == [block["text"] for block in message["content"]]
    calls = [call_item("add", f'{{"n":{n}}}', call_id=f"c{n}", item_id=f"fc_{n}") for n in range(3)]
    events = [event for event in says(*calls) if event["type"] != "response.output_item.done"]
    events[-1]["response"]["output"].reverse()
    signed = [block["tool_call_signature"] for block in final(decode(events))["content"]]
    assert [f'{{"id":"fc_{n}"}}' for n in range(3)] == signed


def test_items_without_indexes_are_matched_by_id() -> None:
    """Alternating deltas of two items are separated."""
    calls = [call_item("add", '{"n":', f"{n}}}", call_id=f"c{n}", item_id=f"fc_{n}") for n in range(2)]
    steps = streamed(*calls)
    by_turns = [steps[0], steps[4], steps[1], steps[5], steps[2], steps[6], steps[3], steps[7]]
    for event in by_turns:
        event.pop("output_index", None)
    message = final(decode([*by_turns, says(*calls)[-1]]))
    assert [{"n": 0}, {"n": 1}] == [block["arguments"] for block in message["content"]]


@pytest.mark.parametrize("place", [1, 7])
def test_text_with_another_index_is_not_duplicated(place: int) -> None:
    """Deltas and complete items may number or split the parts differently."""
    item, deltas = message_item("He", "llo")
    numbered = [{**event, "content_index": place} if "delta" in event else event for event in deltas]
    annotation = {"type": "url_citation", "url": "https://example.org", "title": "A"}
    item["content"] = [
        {"type": "output_text", "text": "Hel", "annotations": []},
        {"type": "output_text", "text": "lo", "annotations": [annotation]},
    ]
    message = final(decode(says((item, numbered))))
    assert ["Hello"] == [block["text"] for block in message["content"]]
    assert [{"url": "https://example.org", "title": "A"}] == message["content"][0]["citations"]


def test_a_repeated_item_appears_once() -> None:
    """A server repeats an item with a new id."""
    events = says(message_item("Hi"))
    again = {**events[-2], "item": {**events[-2]["item"], "id": "msg_other"}}
    message = final(decode([*events[:-1], again, events[-1]]))
    assert ["Hi"] == [block["text"] for block in message["content"]]


def test_an_item_that_is_listed_twice_appears_once() -> None:
    """Calls are matched by id; equal items with different ids are separate."""
    call, _ = call_item("look", "{}")
    message = ended(
        [{"type": "response.completed", "response": {"status": "completed", "output": [call, call]}}]
    )
    assert ["call_x"] == [block["id"] for block in message["content"]]
    texts = [message_item("Hi", item_id=item_id)[0] for item_id in ("a", "b")]
    message = ended([{"type": "response.completed", "response": {"status": "completed", "output": texts}}])
    assert ["Hi", "Hi"] == [block["text"] for block in message["content"]]


@pytest.mark.parametrize(
    "item", [message_item("Hi ", "you"), call_item("look", "{", "}"), reasoning_item("so")]
)
def test_deltas_after_a_complete_part_are_ignored(item: Any) -> None:
    """The part is not duplicated."""
    added, *events, done = streamed(item)
    wholes = [event for event in events if event["type"].endswith(".done")]
    deltas = [event for event in events if event["type"].endswith(".delta")]
    (block,) = ended([added, *wholes, *deltas, done, *says(item)[-1:]])["content"]
    (expected,) = ended(says(item))["content"]
    assert expected == block


@pytest.mark.parametrize(
    "item", [message_item("Hi"), message_item("No", refusal=True), reasoning_item("a", "b")]
)
def test_the_ends_of_parts_alone_are_enough(item: Any) -> None:
    """A server may send only the ends of its parts."""
    given, _ = item
    pieces = given.get("content") or given["summary"]
    place = "summary_index" if "summary" in given else "content_index"
    event = "response.reasoning_summary_part.done" if "summary" in given else "response.content_part.done"
    ends = [{"type": event, "item_id": given["id"], place: n, "part": part} for n, part in enumerate(pieces)]
    (block,) = ended([*ends, {"type": "response.completed", "response": {"status": "completed"}}])["content"]
    (expected,) = ended(says(item))["content"]
    assert expected[expected["type"]] == block[block["type"]]


def test_reasoning_keeps_its_place_before_a_text_that_ends_first() -> None:
    """Blocks are in the order in which their items began."""
    thought, text = reasoning_item(), message_item("Hi")
    first, second = streamed(thought), streamed(text, first=1)
    events = [first[0], *second, *first[1:], *says(thought, text)[-1:]]
    assert ["thinking", "text"] == [block["type"] for block in ended(events)["content"]]


def test_the_transcript_is_the_text_of_an_audio_reply() -> None:
    """Without a transcript, the text is a note about the audio."""
    end = {"type": "response.completed", "response": {"status": "completed"}}
    sound = {"type": "response.audio.delta", "delta": "AAAA"}
    said = [{"type": "response.audio.transcript.delta", "delta": piece} for piece in ("Hi ", "you")]
    part = {"type": "output_audio", "data": "AAAA", "transcript": "Hi you"}
    item = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
    for events, expected in (
        ([sound, *said, end], "Hi you"),
        ([{"type": "response.completed", "response": {"status": "completed", "output": [item]}}], "Hi you"),
        ([sound, end], "(audio without a transcript)"),
    ):
        (block,) = ended(events)["content"]
        assert expected == block["text"]


@pytest.mark.parametrize("status", ["success", "in_progress", "", None])
def test_unknown_statuses_of_a_complete_reply(status: str | None) -> None:
    """The event marks the reply as complete; an unknown status does not change that."""
    item, _ = message_item("Hi")
    message = ended([{"type": "response.completed", "response": {"status": status, "output": [item]}}])
    assert "stop" == message["stop_reason"]


@pytest.mark.parametrize("item", [message_item("Hi", status="incomplete"), call_item("look", "{}")])
def test_an_incomplete_item_makes_the_reply_incomplete(item: Any) -> None:
    """An incomplete call does not run."""
    given, events = item
    message = ended(says(({**given, "status": "incomplete"}, events)))
    assert "length" == message["stop_reason"]


def test_complete_parts_are_enough() -> None:
    """A server may send no deltas."""
    events: list[Any] = [
        {"type": "response.reasoning_summary_text.done", "summary_index": 0, "item_id": "rs", "text": "Hm."},
        {"type": "response.output_text.done", "content_index": 0, "item_id": "m", "text": "Hi"},
        {"type": "response.completed", "response": {"status": "completed"}},
    ]
    message = final(decode(events))
    assert ["Hm.", "Hi"] == [block.get("thinking", block.get("text")) for block in message["content"]]


@pytest.mark.parametrize(
    "source",
    ["reasoning", "reasoning_text", "reasoning_summary", "reasoning_summary_text"],
)
@pytest.mark.parametrize("in_object", [False, True])
def test_reasoning_streams_under_every_name(source: str, in_object: bool) -> None:
    """Servers use different event names; each delta arrives once."""
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}
    pieces: list[Any] = [{"text": "Hm"}, {"text": "."}] if in_object else ["Hm", "."]
    deltas = [{"type": f"response.{source}.delta", "delta": piece} for piece in pieces]
    done = {"type": f"response.{source}.done", "text": "Hm."}
    events = decode(says((item, [*deltas, done]), message_item("Hi")))
    assert ["Hm", "."] == [event["delta"] for event in events if event["type"] == "thinking_delta"]


def test_reasoning_in_two_forms_is_shown_once() -> None:
    """Of reasoning and its summary, the first form is used."""
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Short."}]}
    deltas = [
        {"type": "response.reasoning_text.delta", "delta": "Long."},
        {"type": "response.reasoning_summary_text.delta", "summary_index": 0, "delta": "Short."},
    ]
    assert "Long." == final(decode(says((item, deltas))))["content"][0]["thinking"]


# ---- citations ------------------------------------------------------------------------------------

CITED = {
    "type": "url_citation",
    "url": "https://example.org/a",
    "title": "A",
    "start_index": 0,
    "end_index": 5,
}


def cited_item(streamed_too: bool = True, whole: bool = True) -> Any:
    item, deltas = message_item("It rains.")
    added = {"type": "response.output_text.annotation.added", "content_index": 0, "annotation": CITED}
    item["content"][0]["annotations"] = [CITED] if whole else []
    return item, [*deltas, added] if streamed_too else deltas


@pytest.mark.parametrize(("streamed_too", "whole"), [(True, True), (True, False), (False, True)])
def test_annotations_are_stored_and_sent_back(streamed_too: bool, whole: bool) -> None:
    """Users get citations; the API gets its annotations."""
    item = cited_item(streamed_too, whole)
    block = final(decode(says(item)))["content"][0]
    assert [{"url": "https://example.org/a", "title": "A", "start": 0, "end": 5}] == block["citations"]
    assert [CITED] == replayed(item)[0]["content"][0]["annotations"]


def test_sources_are_requested() -> None:
    """OpenAI sends the sources of a search only on request."""
    search = [{"type": "web_search"}]
    sent = body(user("Hi"), model=OpenAIResponsesModel(extra_body={"tools": search}))
    assert ["reasoning.encrypted_content", "web_search_call.action.sources"] == sent["include"]
    other = OpenAIResponsesModel(
        provider="house", base_url="http://127.0.0.1/v1", extra_body={"tools": search}
    )
    assert "web_search_call.action.sources" not in body(user("Hi"), model=other)["include"]


def test_sources_of_a_search_follow_the_citations() -> None:
    """Each source is listed once and stays in its item."""
    sources = [{"type": "url", "url": url} for url in (CITED["url"], "https://example.org/b")]
    search = {**SEARCH, "action": {"type": "search", "query": "q", "sources": sources}}
    found = {"type": "search_results", "results": [{"url": "https://example.org/c", "title": "C"}]}
    message = final(decode(says((search, []), (found, []), cited_item())))
    urls = [citation["url"] for citation in message["content"][-1]["citations"]]
    assert ["https://example.org/a", "https://example.org/b", "https://example.org/c"] == urls
    assert [search, found] == replayed((search, []), (found, []), cited_item())[:2]


def test_citations_of_a_reply_that_breaks_off() -> None:
    """An interrupted reply has the citations so far."""
    events = streamed(cited_item())[:-1]
    message = final(decode(events))
    assert ("error", "A") == (message["stop_reason"], message["content"][0]["citations"][0]["title"])


def test_a_response_instead_of_a_stream() -> None:
    """A server may ignore `stream`; an error with status 200 is an error."""
    response = says(reasoning_item("Hm."), message_item("Hi"), call_item("add", '{"a":1}'))[-1]["response"]
    message = final(decode([json.dumps(response).encode()]))
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_call"]
    assert message["usage"]["total"] == 27
    failed = final(decode([b'{"error":{"message":"quota exceeded","type":"insufficient_quota"}}']))
    assert "quota exceeded" in failed["error_message"]


# ---- over the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "/", "/responses", "/responses?api-version=1"])
async def test_a_call(base: str) -> None:
    """Method, URL, headers and body are the API's; the base URL may have the endpoint."""
    async with FakeServer(reply(message_item("Hi"))) as server:
        events = await ask(server, model=OpenAIResponsesModel(base_url=server.url + base))
    request = server.requests[0]
    assert (request.method, request.path) == (
        "POST",
        "/v1/responses" + base.replace("/responses", "").strip("/"),
    )
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json["store"] is False
    assert [event["type"] for event in events] == ["start", "text_start", "text_delta", "text_end", "done"]
    message = events[-1]["message"]
    assert OWN == {key: message[key] for key in OWN}


async def test_an_organization_without_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """If OpenAI refuses summaries, the request is repeated without; later requests omit them."""
    monkeypatch.setattr("tinyagent.responses_provider._refuse_summaries", set())
    message = "Your organization must be verified to generate reasoning summaries."
    refusal = FakeReply.json({"error": {"message": message, "param": "reasoning.summary"}}, status=400)
    async with FakeServer(refusal, reply(message_item("Hi")), reply(message_item("Hi"))) as server:
        model, notes = OpenAIResponsesModel(base_url=server.url), []
        options: Any = {"api_key": KEY, "thinking_level": "low", "on_note": notes.append}
        for _ in range(2):
            stream = await stream_openai_responses(model, Context(messages=[user("Hi")]), options)
            assert "Hi" == (await stream.result())["content"][0]["text"]
        asked = [request.json["reasoning"] for request in server.requests]
    assert [{"effort": "low", "summary": "auto"}, {"effort": "low"}, {"effort": "low"}] == asked
    assert 1 == len(notes)


async def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the call, else from the environment; it is required unless the model needs none."""
    context = Context(messages=[user("Hi")])
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        await stream_openai_responses(OpenAIResponsesModel(), context, {})
    async with FakeServer(reply(message_item("Hi")), repeat=True) as server:
        keyless = OpenAIResponsesModel(base_url=server.url, api_key_env=None)
        await collect(await stream_openai_responses(keyless, context, {}))
        monkeypatch.setenv("OPENAI_API_KEY", "from-env")
        await collect(await stream_openai_responses(OpenAIResponsesModel(base_url=server.url), context, {}))
        seen = [request.headers.get("authorization") for request in server.requests]
    assert seen == [None, "Bearer from-env"]


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [
        (400, ProviderError, 1),
        (401, AuthenticationError, 1),
        (429, RateLimitError, 3),
        (500, ProviderError, 3),
    ],
)
async def test_http_errors(status: int, error: type[Exception], requests: int, waits: list[float]) -> None:
    """After the retries, the error has the provider's text without the key."""
    async with FakeServer(FakeReply.error(status, f"no, {KEY} will not do"), repeat=True) as server:
        with pytest.raises(error, match="will not do") as caught:
            await ask(server)
        assert requests == len(server.requests)
    assert KEY not in str(caught.value)


async def test_errors_before_output_are_retried(waits: list[float]) -> None:
    """Nothing was shown, so the request is sent again."""
    failed = {"status": "failed", "error": {"code": "server_error", "message": "Sorry."}}
    async with FakeServer(
        FakeReply(steps([{"type": "response.failed", "response": failed}])), reply(message_item("Hi"))
    ) as server:
        assert final(await ask(server))["stop_reason"] == "stop"
        assert len(server.requests) == 2


@pytest.mark.parametrize("cut", [Reset(), Hangup()])
async def test_a_connection_that_breaks(cut: Any) -> None:
    """The message is an error with the partial text."""
    half = steps(streamed(message_item("Half"))[:3])
    async with FakeServer(FakeReply([*half, Wait(), cut])) as server:
        response = await stream_openai_responses(
            OpenAIResponsesModel(base_url=server.url), Context(messages=[user("Hi")]), {"api_key": KEY}
        )
        async for event in response:
            if event["type"] == "text_delta":
                server.release()
        message = await response.result()
    assert ("error", "stream_interrupted") == (message["stop_reason"], message["error_kind"])
    assert message["content"][0]["text"] == "Half"


async def test_silence() -> None:
    """A reply that stops ends at the time-out with the partial text."""
    half = b"".join(steps(streamed(message_item("Half"))[:3]))
    async with FakeServer(FakeReply([half, Hold()])) as server:
        message = final(await ask(server, timeout={"idle": 0.1}))
    assert ("error", "timeout") == (message["stop_reason"], message["error_kind"])
    assert message["content"][0]["text"] == "Half"


async def test_an_abort_closes_the_connection() -> None:
    """The signal ends the reply at once with the partial text."""
    half = steps(streamed(message_item("Half"))[:3])
    async with FakeServer(FakeReply([*half, Hold()])) as server:
        options: Any = {"api_key": KEY, "signal": asyncio.Event()}
        model = OpenAIResponsesModel(base_url=server.url)
        stream = await stream_openai_responses(model, Context(messages=[user("Hi")]), options)
        async for event in stream:
            if event["type"] == "text_delta":
                options["signal"].set()
        message: Any = await stream.result()
        await server.wait_closed()
    assert message["stop_reason"] == "aborted"
    assert message["content"][0]["text"] == "Half"


async def test_a_tool_turn() -> None:
    """The second request has all of the first reply: reasoning, call and result."""

    async def add(_: str, args: dict[str, Any], *__: Any) -> AgentToolResult:
        return AgentToolResult([{"type": "text", "text": str(args["a"] + args["b"])}])

    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    items = [reasoning_item("Add them."), call_item("add", '{"a":1,"b":2}')]
    async with FakeServer(reply(*items), reply(message_item("3"))) as server:
        agent = Agent(
            AgentOptions(stream_fn=stream_openai_responses, get_api_key=lambda _: KEY, session_id="s1")
        )
        agent.set_model(OpenAIResponsesModel(base_url=server.url))
        agent.set_tools([AgentTool("add", "Adds.", schema, execute=add, read_only=True)])
        agent.set_thinking_level(ThinkingLevel.LOW)
        check_grammar(await collect(agent.stream("1 + 2?")))
        first, second = (request.json for request in server.requests)
    assert first["prompt_cache_key"] == "s1"
    call = {key: value for key, value in items[1][0].items() if key != "status"}
    assert second["input"] == [
        *first["input"],
        items[0][0],
        call,
        {"type": "function_call_output", "call_id": "call_x", "output": "3"},
    ]
