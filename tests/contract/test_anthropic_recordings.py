"""Recorded replies of the Messages API, cut in many ways, give the recorded messages."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tinyagent._net.transport import TransportChoice
from tinyagent.agent_types import Context, Model
from tinyagent.anthropic_provider import AnthropicDecoder, AnthropicModel, request_body, stream_anthropic
from tinyagent.testing.server import FakeReply, FakeServer, split_bytes

RECORDED = Path(__file__).parent.parent / "data" / "recorded"
EXPECTED: dict[str, Any] = json.loads((RECORDED / "anthropic_expected.json").read_text("utf-8"))
SEED = 20260101


def recording(name: str) -> bytes:
    return (RECORDED / "anthropic" / name).read_bytes()


def decode(pieces: Iterable[bytes]) -> list[dict[str, Any]]:
    decoder = AnthropicDecoder(Model("anthropic", "m", "anthropic-messages"))
    events: list[dict[str, Any]] = []
    for piece in pieces:
        events += decoder.feed(piece)
        if decoder.ended:
            break
    events += decoder.close()
    if decoder.error is not None:
        events.append(decoder.fail())
    return events


def own_signature(block: dict[str, Any]) -> str:
    """The API's signature; not a block that is stored unchanged."""
    signature = block.get("thinking_signature", "")
    return "" if signature.startswith("{") else signature


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
    assert [event["type"] for event in decode([stream])] == [event["type"] for event in events]


@pytest.mark.parametrize("name", EXPECTED)
def test_random_cuts(name: str) -> None:
    """A recording that is cut at random positions gives the same message."""
    stream, source = recording(name), random.Random(f"{SEED} {name}")
    for _ in range(10):
        cuts = [source.randrange(len(stream)) for _ in range(source.choice([1, 3, 20, 100]))]
        check(decode(split_bytes(stream, cuts)), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_cut_short(name: str) -> None:
    """A recording without its end is a failure, unless its stop reason has arrived."""
    stream, source = recording(name), random.Random(f"short {SEED} {name}")
    for _ in range(10):
        last = decode([stream[: source.randrange(len(stream))]])[-1]
        if last["type"] == "done":
            assert EXPECTED[name]["finish_reason"] == last["message"]["finish_reason"]
        else:
            assert ("error", "stream_interrupted") == (
                last["error"]["stop_reason"],
                last["error"]["error_kind"],
            )
            assert EXPECTED[name]["text"].startswith(
                "".join(block["text"] for block in last["error"]["content"] if block["type"] == "text")
            )


@pytest.mark.parametrize("transport", ["direct", "httpx"])
async def test_over_a_socket(transport: TransportChoice) -> None:
    """A recording over HTTP, in chunks of some hundred bytes, gives the same message."""
    replies = []
    for name in EXPECTED:
        stream, source = recording(name), random.Random(f"socket {SEED} {name}")
        cuts = [source.randrange(len(stream)) for _ in range(len(stream) // 400)]
        replies.append(FakeReply(split_bytes(stream, cuts)))
    async with FakeServer(*replies) as server:
        model = AnthropicModel(id="m", base_url=server.origin, transport=transport)
        for name in EXPECTED:
            reply = await stream_anthropic(model, Context(), {"api_key": "k"})
            check([event async for event in reply], EXPECTED[name])
        assert ["/v1/messages"] * len(EXPECTED) == [request.path for request in server.requests]
        assert server.connections == 1
