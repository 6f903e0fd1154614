"""Recorded replies of real servers, cut in many ways, give the recorded messages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tinyagent._net.transport import TransportChoice
from tinyagent.agent_types import Context, Model
from tinyagent.anthropic_provider import AnthropicDecoder, AnthropicModel, request_body, stream_anthropic
from tinyagent.openai_wire import ChatDecoder, OpenAICompatModel, stream_openai_completions
from tinyagent.testing.server import FakeReply, FakeServer, split_bytes

RECORDED = Path(__file__).parent.parent / "data" / "recorded"
SEED = 20260101

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Recordings:
    """The recorded replies of a protocol.

    Attributes:
        name: Their folder.
        check: Asserts that the events of a reply are those that are expected.
        check_cut: Asserts that the events of a reply without its end are a failure, or complete.
    """

    name: str
    decoder: Any
    model: Model
    check: Callable[[Events, dict[str, Any]], None]
    check_cut: Callable[[Events, dict[str, Any]], None]

    @cached_property
    def expected(self) -> dict[str, dict[str, Any]]:
        """What each reply contains, by its name."""
        found: dict[str, dict[str, Any]] = json.loads(
            (RECORDED / f"{self.name}_expected.json").read_text("utf-8")
        )
        return found

    def data(self, name: str) -> bytes:
        """Return the bytes of a reply."""
        return (RECORDED / self.name / name).read_bytes()

    def decode(self, pieces: Iterable[bytes]) -> Events:
        """Return the events of a reply that arrives in these pieces."""
        decoder = self.decoder(self.model)
        events: Events = []
        for piece in pieces:
            events += decoder.feed(piece)
            if decoder.ended:
                break
        events += decoder.close()
        if decoder.error is not None:
            events.append(decoder.fail())
        return events

    def in_random_pieces(self, name: str) -> list[bytes]:
        """Return a reply in pieces of some hundred bytes."""
        data, source = self.data(name), random.Random(f"socket {SEED} {name}")
        return split_bytes(data, [source.randrange(len(data)) for _ in range(len(data) // 400)])


def check_chat(events: Events, expected: dict[str, Any]) -> None:
    last = events[-1]
    message = last["message"] if last["type"] == "done" else last["error"]
    content = message["content"]
    deltas = {"text": "", "thinking": ""}
    for event in events:
        kind, _, step = event["type"].rpartition("_")
        if step == "delta" and kind in deltas:
            deltas[kind] += event["delta"]
    text = "".join(block["text"] for block in content if block["type"] == "text")
    thinking = "".join(block["thinking"] for block in content if block["type"] == "thinking")
    assert expected["text"] + expected["refusal"] == text == deltas["text"]
    assert expected["reasoning"] == thinking == deltas["thinking"]

    calls = [block for block in content if block["type"] == "tool_call"]
    assert len(expected["tool_calls"]) == len(calls)
    for want, call in zip(expected["tool_calls"], calls, strict=True):
        assert want["name"] == call["name"]
        assert call["id"]
        assert want["id"] in ("", call["id"])
        if want["arguments_raw"] == "null":
            assert call["arguments"] == {}  # a call without arguments, as some servers write it
        elif want["arguments_ok"]:
            assert want["arguments"] == call["arguments"]
            assert "partial_json" not in call
        else:
            assert want["arguments_raw"] == call["partial_json"]
            assert call["arguments"] == {}

    assert expected["finish_reason"] == message.get("finish_reason")
    assert (last["type"] == "done") == (expected["complete"] and not expected["error"])
    if expected["error"]:
        assert expected["error"]["message"] in message["error_message"]
    if last["type"] == "done":
        assert (message["stop_reason"] == "tool_use") == (
            bool(calls) and message.get("finish_reason") != "length"
        )
    usage, wanted = message["usage"], expected["usage"]
    assert (usage is None) == (wanted is None)
    if usage is not None:
        names = {"input": "input", "output": "output", "cache_read": "cached", "reasoning": "reasoning"}
        assert {name: wanted[key] or 0 for name, key in names.items()} == {
            name: usage[name] for name in names
        }
        assert wanted["cost"] == usage["cost"]


def check_cut_chat(events: Events, expected: dict[str, Any]) -> None:
    last = events[-1]
    if last["type"] == "done":
        assert last["message"].get("finish_reason") or expected["finish_reason"] is None
    else:
        assert last["error"]["error_message"]
        assert last["error"]["stop_reason"] == "error"


def own_signature(block: dict[str, Any]) -> str:
    """The API's signature; not a block that is stored unchanged."""
    signature = block.get("thinking_signature", "")
    return "" if signature.startswith("{") else signature


def check_messages(events: Events, expected: dict[str, Any]) -> None:
    last = events[-1]
    message = last["message"] if last["type"] == "done" else last["error"]
    content = message["content"]
    deltas = {"text": "", "thinking": ""}
    for event in events:
        kind, _, step = event["type"].rpartition("_")
        if step == "delta" and kind in deltas:
            deltas[kind] += event["delta"]
    text = "".join(block["text"] for block in content if block["type"] == "text")
    thoughts = [block for block in content if block["type"] == "thinking"]
    assert expected["text"] == text == deltas["text"]
    assert expected["reasoning"] == "".join(block["thinking"] for block in thoughts) == deltas["thinking"]
    assert expected["signatures"] == [sign for sign in map(own_signature, thoughts) if sign]

    calls = [block for block in content if block["type"] == "tool_call"]
    assert len(expected["tool_calls"]) == len(calls)
    for want, call in zip(expected["tool_calls"], calls, strict=True):
        assert (want["id"], want["name"]) == (call["id"], call["name"])
        if want["arguments_ok"]:
            assert want["arguments"] == call["arguments"]
            assert "partial_json" not in call
        else:
            assert want["arguments_raw"] == call["partial_json"]
            assert call["arguments"] == {}

    assert expected["finish_reason"] == message["finish_reason"]
    assert expected["complete"] == (last["type"] == "done")
    usage, recorded = message["usage"], expected["usage"]
    cached = [recorded.get(key) or 0 for key in ("cache_read_input_tokens", "cache_creation_input_tokens")]
    assert cached == [usage["cache_read"], usage["cache_write"]]
    assert recorded["input_tokens"] + sum(cached) == usage["input"]
    assert recorded["output_tokens"] == usage["output"]
    assert recorded.get("output_tokens_details", {}).get("thinking_tokens", 0) == usage["reasoning"]
    assert usage["input"] + usage["output"] == usage["total"]

    # Every block of the reply can be sent back at its position.
    sent = request_body(
        Model("anthropic", "m", "anthropic-messages"),
        Context(messages=[json.loads(json.dumps(message))]),
        {},
    )["messages"][0]["content"]
    wanted = [kind for kind in expected["block_types"] if kind != "text"]
    assert wanted == [block["type"] for block in sent if block["type"] != "text"]


def check_cut_messages(events: Events, expected: dict[str, Any]) -> None:
    last = events[-1]
    if last["type"] == "done":
        assert expected["finish_reason"] == last["message"]["finish_reason"]
        return
    message = last["error"]
    assert ("error", "stream_interrupted") == (message["stop_reason"], message["error_kind"])
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    assert expected["text"].startswith(text)


CHAT = Recordings("chat", ChatDecoder, Model("p", "m", "a"), check_chat, check_cut_chat)
MESSAGES = Recordings(
    "anthropic",
    AnthropicDecoder,
    Model("anthropic", "m", "anthropic-messages"),
    check_messages,
    check_cut_messages,
)

each = pytest.mark.parametrize(
    ("recordings", "name"),
    [pytest.param(found, name, id=name) for found in (CHAT, MESSAGES) for name in found.expected],
)


@each
def test_whole(recordings: Recordings, name: str) -> None:
    """A recording in one piece gives its message."""
    recordings.check(recordings.decode([recordings.data(name)]), recordings.expected[name])


@each
def test_byte_by_byte(recordings: Recordings, name: str) -> None:
    """A recording byte by byte gives the same message and the same text deltas."""
    data = recordings.data(name)
    events = recordings.decode(data[n : n + 1] for n in range(len(data)))
    recordings.check(events, recordings.expected[name])
    assert [event["type"] for event in recordings.decode([data])] == [event["type"] for event in events]


@each
def test_random_cuts(recordings: Recordings, name: str) -> None:
    """A recording that is cut at random positions gives the same message."""
    data, source = recordings.data(name), random.Random(f"{SEED} {name}")
    for _ in range(10):
        cuts = [source.randrange(len(data)) for _ in range(source.choice([1, 3, 20, 100]))]
        recordings.check(recordings.decode(split_bytes(data, cuts)), recordings.expected[name])


@each
def test_cut_short(recordings: Recordings, name: str) -> None:
    """A recording without its end is a failure, unless its finish reason has arrived."""
    data, source = recordings.data(name), random.Random(f"short {SEED} {name}")
    for _ in range(10):
        recordings.check_cut(
            recordings.decode([data[: source.randrange(len(data))]]), recordings.expected[name]
        )


@pytest.mark.parametrize("transport", ["direct", "httpx"])
async def test_chat_over_a_socket(transport: TransportChoice) -> None:
    """A recording over HTTP, in chunks of some hundred bytes, gives the same message."""
    async with FakeServer(*(FakeReply(CHAT.in_random_pieces(name)) for name in CHAT.expected)) as server:
        model = OpenAICompatModel(provider="p", id="m", base_url=server.url, transport=transport)
        for expected in CHAT.expected.values():
            reply = await stream_openai_completions(model, Context(), {"api_key": "k"})
            CHAT.check([event async for event in reply], expected)
        assert server.connections <= 3  # only an error in the stream may close a connection


@pytest.mark.parametrize("transport", ["direct", "httpx"])
async def test_messages_over_a_socket(transport: TransportChoice) -> None:
    """A recording of the Messages API over HTTP gives the same message; all requests share a connection."""
    names = list(MESSAGES.expected)
    async with FakeServer(*(FakeReply(MESSAGES.in_random_pieces(name)) for name in names)) as server:
        model = AnthropicModel(id="m", base_url=server.origin, transport=transport)
        for name in names:
            reply = await stream_anthropic(model, Context(), {"api_key": "k"})
            MESSAGES.check([event async for event in reply], MESSAGES.expected[name])
        assert ["/v1/messages"] * len(names) == [request.path for request in server.requests]
        assert server.connections == 1
