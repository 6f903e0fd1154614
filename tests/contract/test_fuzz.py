"""For any bytes, cuts, orders of events and types, each reply has one end that states the outcome."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyagent.agent_types import Context, Model
from tinyagent.anthropic_provider import AnthropicDecoder, AnthropicModel, stream_anthropic
from tinyagent.errors import TinyAgentError
from tinyagent.openai_wire import ChatDecoder, OpenAICompatModel, stream_openai_completions
from tinyagent.proxy import stream_proxy
from tinyagent.proxy_event_handlers import ProxyDecoder
from tinyagent.responses_provider import OpenAIResponsesModel, ResponsesDecoder, stream_openai_responses
from tinyagent.testing import AnthropicWire, ChatWire, ProxyWire, ResponsesWire, Script, Wire, check_reply
from tinyagent.testing.server import FakeReply, FakeServer, split_bytes

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", min(60, settings.default.max_examples)))
"""How many of each; `FUZZ_EXAMPLES=5000` looks for longer."""
quick = settings(max_examples=EXAMPLES, database=None)

CONTENT = [
    {"type": "thinking", "thinking": "Let me sée.", "thinking_signature": "c2ln"},
    {"type": "text", "text": "I look 😀 now."},
    {"type": "tool_call", "id": "call_a", "name": "look", "arguments": {"at": "sky"}},
    {"type": "tool_call", "id": "call_b", "name": "look", "arguments": {"at": "é", "n": 1}},
]
USAGE = {"input": 11, "output": 7, "cache_read": 3, "total": 18}


@dataclass(frozen=True)
class Protocol:
    """Both sides of a protocol."""

    wire: Wire
    decoder: Any
    ends: tuple[bytes, ...]
    """What may make a reply complete; without one of these in its bytes it cannot be."""
    stream_fn: Any
    model: Any

    def frames(self) -> list[bytes]:
        """Return the events of a complete reply, those of another one, and an error."""
        other = [{"type": "text", "text": "b"}, {**CONTENT[3], "partial_json": "{]"}]
        return [
            *self.wire.begin(), *self.wire.say(CONTENT), *self.wire.say(other),
            *self.wire.end("tool_use", USAGE), *self.wire.end("length", None), *self.wire.error("broken"),
            b": comment\n\n", b"data:\n\n", b"event: ping\ndata: {}\n\n",
            b"data: [DONE]\n\n", b"data: null\n\n",
        ]  # fmt: skip

    def stream(self) -> bytes:
        """Return the bytes of a complete reply."""
        reply = self.wire.reply(Script(CONTENT, stop_reason="tool_use", usage=USAGE))  # type: ignore[arg-type]
        return b"".join(step for step in reply.steps if isinstance(step, bytes))


PROTOCOLS = {
    "chat": Protocol(
        ChatWire(details=True), ChatDecoder, (b"[DONE]", b"finish_reason", b"choices"),
        stream_openai_completions, lambda url: OpenAICompatModel(id="m", base_url=url),
    ),
    "anthropic": Protocol(
        AnthropicWire(), AnthropicDecoder, (b"message_stop", b"stop_reason", b"[DONE]", b"content"),
        stream_anthropic, lambda url: AnthropicModel(id="m", base_url=url),
    ),
    "responses": Protocol(
        ResponsesWire(), ResponsesDecoder, (b"response.", b"[DONE]", b"output"),
        stream_openai_responses, lambda url: OpenAIResponsesModel(id="m", base_url=url),
    ),
    "proxy": Protocol(ProxyWire(), ProxyDecoder, (b"done",), stream_proxy, lambda url: _Proxied(url)),
}  # fmt: skip


class _Proxied(Model):
    def __init__(self, url: str) -> None:
        super().__init__("p", "m", "a")
        self.proxy_url = url


each = pytest.mark.parametrize("name", PROTOCOLS)


def decode(protocol: Protocol, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Decode the bytes, check the events, and return the message."""
    decoder = protocol.decoder(Model("p", "m", "a"))
    events = [decoder.builder.start()]
    data = b""
    for piece in pieces:
        data += piece
        events += decoder.feed(piece)
        if decoder.ended:
            break
    else:
        events += decoder.close()
    assert decoder.ended
    if decoder.error is not None:
        events.append(decoder.fail())
    check_reply(events)
    last = events[-1]
    message: dict[str, Any] = last["message" if last["type"] == "done" else "error"]
    json.dumps(message).encode()  # JSON can represent it: no surrogates, no odd values
    if last["type"] == "done":
        assert any(end in data for end in protocol.ends), "a success without an end"
    else:
        assert message["error_message"]
        assert message["error_kind"] or message["stop_reason"] == "aborted"
    for block in message["content"]:
        if block["type"] == "tool_call":
            assert isinstance(block["arguments"] or {}, dict)
    return {**message, "timestamp": 0}


def same_at_any_cut(protocol: Protocol, data: bytes, cuts: list[int]) -> dict[str, Any]:
    whole = decode(protocol, [data])
    assert whole == decode(protocol, split_bytes(data, cuts)), "the message depends on where it was cut"
    return whole


CUTS = st.lists(st.integers(1, 4000), max_size=30)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = (
    LEAVES
    | st.lists(LEAVES | st.lists(LEAVES, max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=8), LEAVES | st.lists(LEAVES, max_size=2), max_size=3)
)


@each
@quick
@given(pieces=st.lists(st.binary(max_size=80), max_size=12))
def test_any_bytes(name: str, pieces: list[bytes]) -> None:
    """Random bytes end in an error with a reason."""
    decode(PROTOCOLS[name], pieces)


@each
@quick
@given(data=st.data(), cuts=CUTS)
def test_any_order_of_events(name: str, data: st.DataObject, cuts: list[int]) -> None:
    """Events of the protocol in any order have one end, and the result does not depend on the cuts."""
    protocol = PROTOCOLS[name]
    frames = data.draw(st.lists(st.sampled_from(protocol.frames()), max_size=24))
    same_at_any_cut(protocol, b"".join(frames), cuts)


@each
@quick
@given(data=st.data(), cuts=CUTS)
def test_any_fault_in_a_reply(name: str, data: st.DataObject, cuts: list[int]) -> None:
    """A good reply with replaced, added or missing bytes has one end, whatever the cuts."""
    protocol = PROTOCOLS[name]
    stream = bytearray(protocol.stream())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(stream)))
        stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    same_at_any_cut(protocol, bytes(stream), cuts)


@each
@quick
@given(at=st.integers(0, 10_000), cuts=CUTS)
def test_cut_short(name: str, at: int, cuts: list[int]) -> None:
    """An incomplete reply keeps its content, and is not a success before its end."""
    protocol = PROTOCOLS[name]
    stream = protocol.stream()
    whole = decode(protocol, [stream])
    part = same_at_any_cut(protocol, stream[: at % len(stream)], cuts)
    if part["stop_reason"] != "error":
        assert whole["content"] == part["content"], "a success that is not whole"
    else:
        assert "stream_interrupted" == part["error_kind"]
        for had, full in zip(part["content"], whole["content"], strict=False):
            if had["type"] == "text":
                assert full["text"].startswith(had["text"])


@each
@quick
@given(data=st.data(), value=JSON)
def test_any_types(name: str, data: st.DataObject, value: Any) -> None:
    """A value of any type at any place of any event leads to one end."""
    protocol = PROTOCOLS[name]
    frames = [*protocol.wire.begin(), *protocol.wire.say(CONTENT), *protocol.wire.end("tool_use", USAGE)]
    at = data.draw(st.integers(0, len(frames) - 1))
    head, _, text = frames[at].partition(b"data: ")
    try:
        event = json.loads(text)
    except ValueError:
        event = {}  # the end marker
    places = list(_places(event))
    if places:
        parent, key = data.draw(st.sampled_from(places))
        parent[key] = value
    frames[at] = head + b"data: " + json.dumps(event).encode() + b"\n\n"
    decode(protocol, frames)


ODD: Any = st.sampled_from([None, True, -1, 0, 1, 2**70, 1.5, "", "x", [], [1], [{}], {}, {"a": 1}])


@each
@quick
@given(data=st.data())
def test_any_objects(name: str, data: st.DataObject) -> None:
    """Events with the protocol's own names and words, and any values, lead to one end."""
    protocol = PROTOCOLS[name]
    events = [json.loads(text) for frame in protocol.frames() if (text := _json_of(frame))]
    names = st.sampled_from(
        sorted({key for event in events for _, key in _places(event) if isinstance(key, str)})
    )
    words = {
        holder[key] for event in events for holder, key in _places(event) if isinstance(holder[key], str)
    }
    values = ODD | st.sampled_from(sorted(words))
    odd = st.dictionaries(names, values | st.dictionaries(names, values, max_size=4), max_size=6)
    drawn = data.draw(st.lists(odd | st.sampled_from(events), max_size=10))
    decode(protocol, [b"data: " + json.dumps(event).encode() + b"\n\n" for event in drawn])


def _json_of(frame: bytes) -> bytes:
    """Return the object in a frame; nothing for other frames."""
    text = frame.partition(b"data: ")[2]
    return text if text.startswith(b"{") else b""


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@each
@settings(quick, max_examples=max(EXAMPLES // 6, 5))
@given(data=st.data(), cuts=CUTS, hangup=st.booleans())
def test_over_a_socket(name: str, data: st.DataObject, cuts: list[int], hangup: bool) -> None:
    """Over HTTP any bytes end the call, and its connection is closed or still usable."""
    protocol = PROTOCOLS[name]
    frames = data.draw(st.lists(st.sampled_from(protocol.frames()) | st.binary(max_size=40), max_size=12))
    steps = split_bytes(b"".join(frames), cuts)

    async def call() -> None:
        async with FakeServer(FakeReply(steps, framing="close" if hangup else "chunked")) as server:
            options = {"api_key": "sk-test-0123456789", "timeout": 60.0, "on_retry": _no_more}
            async with asyncio.timeout(60):
                try:
                    reply = await protocol.stream_fn(protocol.model(server.url), Context(), options)
                    events = [event async for event in reply]
                except _AskedAgainError:
                    return  # no event was yielded, so the request may be sent again
                except TinyAgentError:
                    return
            check_reply(events)
            assert events[-1].get("message", events[-1].get("error")) == await reply.result()

    asyncio.run(call())


class _AskedAgainError(Exception):
    pass


def _no_more(why: str) -> None:
    raise _AskedAgainError(why)
