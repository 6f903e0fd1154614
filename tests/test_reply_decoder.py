"""The states of a reply, with small decoders of all protocols."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tinyagent._stream.decoder import ReplyDecoder, ReplyState
from tinyagent.agent_types import Model
from tinyagent.anthropic_provider import AnthropicDecoder
from tinyagent.errors import StreamInterruptedError
from tinyagent.openai_wire import ChatDecoder
from tinyagent.proxy_event_handlers import ProxyDecoder
from tinyagent.responses_provider import ResponsesDecoder

MODEL = Model("acme", "m", "a")
DECODERS = (AnthropicDecoder, ChatDecoder, ProxyDecoder, ResponsesDecoder)


def sse(**event: object) -> bytes:
    return b"data: %s\n\n" % json.dumps(event).encode()


TEXT = sse(choices=[{"delta": {"content": "Hi"}}])
END = sse(choices=[{"delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


def fed(*chunks: bytes) -> ChatDecoder:
    decoder = ChatDecoder(MODEL)
    for chunk in chunks:
        decoder.feed(chunk)
    return decoder


def test_a_stream_is_complete_with_its_last_event() -> None:
    """The format is detected at the first byte that is not blank."""
    decoder = fed(b"\r\n")
    assert ReplyState.DETECTING is decoder.state
    decoder.feed(TEXT)
    assert (ReplyState.STREAMING, False) == (decoder.state, decoder.ended)
    assert "done" == decoder.feed(END)[-1]["type"]
    assert (ReplyState.COMPLETE, True) == (decoder.state, decoder.ended)


def test_a_document_is_decoded_at_its_end() -> None:
    """The body is collected until `close`."""
    decoder = fed(b' {"choices": [{"message": ', b'{"content": "Hi"}}]}')
    assert ReplyState.COLLECTING is decoder.state
    assert "done" == decoder.close()[-1]["type"]
    assert ReplyState.COMPLETE is decoder.state


@pytest.mark.parametrize(
    "end",
    [
        lambda decoder: decoder.feed(sse(error={"message": "no"})),
        lambda decoder: decoder.feed(b"error: no\n\n"),
        lambda decoder: decoder.feed(b"data: no\n\n"),
        lambda decoder: decoder.close(),
        lambda decoder: decoder.fail(StreamInterruptedError("no")),
    ],
)
def test_a_failed_reply_has_an_error(end: Callable[[ChatDecoder], object]) -> None:
    """A reply fails by an error of the provider, a malformed event, or a connection that broke off."""
    decoder = fed(TEXT)
    end(decoder)
    assert ReplyState.FAILED is decoder.state
    assert decoder.error is not None
    assert str(decoder.error) == decoder.fail()["error"]["error_message"]


def test_an_incomplete_last_event_does_not_fail_a_complete_reply() -> None:
    """After the finish reason, an event that the connection cut off is not needed."""
    decoder = fed(TEXT, sse(choices=[{"finish_reason": "stop"}]), b'data: {"choi')
    assert "done" == decoder.close()[-1]["type"]
    assert ReplyState.COMPLETE is decoder.state


def test_a_paused_reply_starts_again() -> None:
    """A paused reply has the request for the rest, and then waits for its response."""
    decoder = AnthropicDecoder(MODEL, make_continuation=lambda message: b"{}", max_pauses=1)
    decoder.feed(sse(type="message_delta", delta={"stop_reason": "pause_turn"}) + sse(type="message_stop"))
    assert (ReplyState.PAUSED, True, b"{}") == (decoder.state, decoder.ended, decoder.continuation)
    decoder.start_continuation()
    assert (ReplyState.DETECTING, False) == (decoder.state, decoder.ended)


def test_an_aborted_reply() -> None:
    """`abort` ends a reply in any state."""
    decoder = fed(TEXT)
    assert "aborted" == decoder.abort()["error"]["stop_reason"]
    assert ReplyState.ABORTED is decoder.state


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"error: no\n\n"])
def test_nothing_follows_the_end(end: bytes) -> None:
    """Events after the end of a reply are ignored, in the same chunk and in later ones."""
    decoder = fed(TEXT, end + TEXT)
    state = decoder.state
    assert ([], []) == (decoder.feed(TEXT), decoder.close())
    assert (state, "Hi") == (decoder.state, decoder.builder.text(0))


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_blank_and_cut_off_events(decoder_type: type[ReplyDecoder]) -> None:
    """A blank event is not counted. A last event that is cut off is no content."""
    decoder = decoder_type(MODEL)
    assert [] == decoder.feed(b'data:   \n\ndata: {"ty')
    assert (0, ReplyState.STREAMING) == (decoder.seen, decoder.state)
    decoder.close()
    assert isinstance(decoder.error, StreamInterruptedError)


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_protocols_have_one_extension_point(decoder_type: type[ReplyDecoder]) -> None:
    """The loop over events is in the base class; a protocol defines what one event means."""
    own = vars(decoder_type)
    assert "_take_event" in own
    assert not {"feed", "close", "broken", "_take"} & own.keys()
