"""The server side and the client side of the protocol agree, without a network."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tinyagent import Context, Model
from tinyagent.proxy_event_handlers import ProxyDecoder
from tinyagent.testing import Reply, ScriptedProvider, call, collect, text, thinking
from tinyagent_proxy_server._protocol import BadRequestError, EventWriter, Failure, read_request

MODEL = Model("proxy", "up/m", "proxy")

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_blocks = st.one_of(
    _texts.map(text),
    _texts.map(thinking),
    st.dictionaries(_texts, _values, max_size=3).map(lambda arguments: call("look", **arguments)),
)


def decoded(data: bytes, *cuts: int) -> tuple[list[Any], Any]:
    """Decode bytes with our client: return the events and the final message."""
    decoder = ProxyDecoder(MODEL)
    places = [0, *sorted(cuts), len(data)]
    events = [event for begin, end in pairwise(places) for event in decoder.feed(data[begin:end])]
    events += decoder.close()
    if decoder.error is not None:
        events.append(decoder.fail())
    return events, events[-1].get("message") or events[-1]["error"]


async def encoded(reply: Reply) -> tuple[list[Any], bytes]:
    """Return the events of a provider, and the bytes that the server writes for them."""
    events = await collect(await ScriptedProvider(reply)(MODEL, Context(), {}))
    writer = EventWriter()
    return events, b"".join(map(writer.event, events))


async def test_images_pass_through() -> None:
    """An image from the model is in the message on the client."""
    content: Any = [{"type": "text", "text": "Here"}, {"type": "image", "url": "https://127.0.0.1/a.png"}]
    _, written = await encoded(Reply("Here", content=content))
    assert content == decoded(written)[1]["content"]


@settings(deadline=None, max_examples=60)
@given(st.lists(_blocks, max_size=6), st.sampled_from(["stop", "length"]), st.data())
async def test_every_reply_survives_the_protocol(blocks: list[Any], reason: Any, data: st.DataObject) -> None:
    """Any reply is the same on the client, however the bytes are cut."""
    calls = any(block.kind == "tool_call" for block in blocks)
    usage = {
        "input": 5,
        "output": 2,
        "cache_read": 3,
        "cache_write": 0,
        "reasoning": 1,
        "total": 7,
        "cost": 0.5,
    }
    reason = "tool_use" if calls and reason == "stop" else reason
    events, written = await encoded(Reply(*blocks, stop_reason=reason, usage=usage, finish_reason="own word"))
    cuts = data.draw(st.lists(st.integers(0, len(written)), max_size=5))
    read, message = decoded(written, *cuts)
    wanted = events[-1]["message"]
    assert {**wanted, "timestamp": 0} == {**message, "timestamp": 0}
    # `start` comes from the connection, not from the bytes.
    assert [event["type"] for event in events[1:]] == [event["type"] for event in read]


async def test_signatures_arrive_with_their_blocks() -> None:
    """Signatures of text and thinking are in the end events of their blocks."""
    parts = [thinking("hm", signature="one"), text("Hi", signature="two")]
    _, written = await encoded(Reply(*parts))
    _, message = decoded(written)
    assert ["one", "two"] == [
        block.get("thinking_signature") or block.get("text_signature") for block in message["content"]
    ]
    assert b"signatures" not in written


async def test_citations_arrive() -> None:
    """A caller gets the citations of a text as from the provider itself."""
    cited = [{"url": "https://example.org", "title": "A", "start": 0, "end": 2}, {"title": "a.pdf"}]
    content: Any = [{"type": "text", "text": "Hi", "citations": cited}]
    _, written = await encoded(Reply("Hi", content=content))
    _, message = decoded(written)
    assert cited == message["content"][0]["citations"]


async def test_the_thinking_level_arrives() -> None:
    """A caller gets the thinking level, so that it can send it back in the same turn."""
    _, written = await encoded(Reply("Hi", thinking_level="high"))
    assert "high" == decoded(written)[1]["thinking_level"]
    _, written = await encoded(Reply("Hi"))
    assert "thinking_level" not in decoded(written)[1]


async def test_a_refusal_arrives() -> None:
    """A caller learns that the text is a refusal, so that an answer with a schema is not repaired."""
    _, written = await encoded(Reply("I will not.", refusal=True))
    assert decoded(written)[1]["refusal"] is True
    _, written = await encoded(Reply("Hi"))
    assert b"refusal" not in written
    assert "refusal" not in decoded(written)[1]


async def test_half_a_surrogate_pair_does_not_stop_a_reply() -> None:
    """A delta with half of a surrogate pair is sent as escapes."""
    _, written = await encoded(Reply(text("a\ud83d", "\ude00b")))
    _, message = decoded(written)
    assert message["content"][0]["text"].startswith("a")
    assert message["content"][0]["text"].endswith("b")


async def test_events_have_the_fields_of_the_protocol() -> None:
    """Names, reasons and usage are the protocol's; cached tokens are not part of the input."""
    usage = {"input": 5, "output": 2, "cache_read": 3, "cache_write": 1, "total": 7, "cost": None}
    _, written = await encoded(Reply(call("look", at=1, call_id="c1"), usage=usage))
    lines = [json.loads(line.removeprefix(b"data: ")) for line in written.split(b"\n\n") if line]
    assert ["start", "toolcall_start", "toolcall_delta", "toolcall_end", "done"] == [
        line["type"] for line in lines
    ]
    assert {"type": "toolcall_start", "contentIndex": 0, "id": "c1", "toolName": "look"} == lines[1]
    assert ("toolUse", 1, 2, 3, 1, 7) == (
        lines[-1]["reason"],
        *(lines[-1]["usage"][name] for name in ("input", "output", "cacheRead", "cacheWrite", "totalTokens")),
    )
    assert 0 == lines[-1]["usage"]["cost"]["total"]


def test_a_failure_has_kind_message_and_hint() -> None:
    """The client's error has the kind, the message and the hint of the provider's error."""
    failure = Failure("context_overflow", "too long", "Shorten it.", retry_after=3)
    _, message = decoded(EventWriter().error(failure))
    assert ("error", "context_overflow", "proxy: too long", "Shorten it.") == (
        message["stop_reason"], message["error_kind"], message["error_message"], message["error_hint"],
    )  # fmt: skip


def test_only_kinds_of_providers_are_accepted() -> None:
    """A failure of the proxy never becomes a configuration error of the caller."""
    for kind in ("authentication", "internal", "tool", "no such kind"):
        _, message = decoded(EventWriter().error(Failure(kind, "no")))
        assert "provider" == message["error_kind"]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | _values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    """Invalid requests raise only `BadRequestError`."""
    try:
        read_request(body)
    except BadRequestError:
        pass


def test_integers_of_any_size_are_preserved() -> None:
    """Arguments of earlier tool calls are sent back unchanged."""
    call_block = {"type": "tool_call", "id": "c", "name": "n", "arguments": {"n": 2**90}}
    asked = {
        "model": {"id": "demo"},
        "context": {"messages": [{"role": "assistant", "content": [call_block]}]},
    }
    [message] = read_request(json.dumps(asked).encode()).context.messages
    assert 2**90 == message["content"][0]["arguments"]["n"]  # type: ignore[typeddict-item]
