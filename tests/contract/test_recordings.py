"""Recorded replies of real servers, cut in many ways, give the recorded messages."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tinyagent._net.transport import TransportChoice
from tinyagent.agent_types import Context, Model
from tinyagent.openai_wire import ChatDecoder, OpenAICompatModel, stream_openai_completions
from tinyagent.testing.server import FakeReply, FakeServer, split_bytes

RECORDED = Path(__file__).parent.parent / "data" / "recorded"
EXPECTED: dict[str, Any] = json.loads((RECORDED / "chat_expected.json").read_text("utf-8"))
SEED = 20260101


def recording(name: str) -> bytes:
    return (RECORDED / "chat" / name).read_bytes()


def decode(pieces: Iterable[bytes]) -> list[dict[str, Any]]:
    decoder = ChatDecoder(Model("p", "m", "a"))
    events: list[dict[str, Any]] = []
    for piece in pieces:
        events += decoder.feed(piece)
        if decoder.ended:
            break
    events += decoder.close()
    if decoder.error is not None:
        events.append(decoder.fail())
    return events


def check(events: list[dict[str, Any]], expected: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("name", EXPECTED)
def test_whole(name: str) -> None:
    """A recording in one piece gives its message."""
    check(decode([recording(name)]), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_byte_by_byte(name: str) -> None:
    """A recording byte by byte gives the same message and the same text deltas."""
    stream = recording(name)
    events = decode(stream[n : n + 1] for n in range(len(stream)))
    check(events, EXPECTED[name])
    whole = decode([stream])
    assert [event["type"] for event in whole] == [event["type"] for event in events]


@pytest.mark.parametrize("name", EXPECTED)
def test_random_cuts(name: str) -> None:
    """A recording that is cut at random positions gives the same message."""
    stream, source = recording(name), random.Random(f"{SEED} {name}")
    for _ in range(10):
        cuts = [source.randrange(len(stream)) for _ in range(source.choice([1, 3, 20, 100]))]
        check(decode(split_bytes(stream, cuts)), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_cut_short(name: str) -> None:
    """A recording without its end is a failure, unless its finish reason has arrived."""
    stream, source = recording(name), random.Random(f"short {SEED} {name}")
    for _ in range(5):
        events = decode([stream[: source.randrange(len(stream))]])
        last = events[-1]
        if last["type"] == "done":
            assert last["message"].get("finish_reason") or EXPECTED[name]["finish_reason"] is None
        else:
            assert last["error"]["error_message"]
            assert last["error"]["stop_reason"] == "error"


@pytest.mark.parametrize("transport", ["direct", "httpx"])
async def test_over_a_socket(transport: TransportChoice) -> None:
    """A recording over HTTP, in chunks of some hundred bytes, gives the same message."""
    names = list(EXPECTED)
    replies = []
    for name in names:
        stream, source = recording(name), random.Random(f"socket {SEED} {name}")
        cuts = [source.randrange(len(stream)) for _ in range(len(stream) // 400)]
        replies.append(FakeReply(split_bytes(stream, cuts)))
    async with FakeServer(*replies) as server:
        model = OpenAICompatModel(provider="p", id="m", base_url=server.url, transport=transport)
        for name in names:
            reply = await stream_openai_completions(model, Context(), {"api_key": "k"})
            check([event async for event in reply], EXPECTED[name])
        assert server.connections <= 3  # only an error in the stream may close a connection
