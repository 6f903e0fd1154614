"""Server-sent events from bytes, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent._stream.sse import ServerSentEvent, SSEDecoder
from tinyagent.errors import InvalidReplyError


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.close()


def data(*chunks: bytes) -> list[bytes]:
    return [event[1] for event in decode(*chunks)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends(end: bytes) -> None:
    """LF, CRLF and CR end a line, and a blank line ends an event."""
    assert [b"a", b"b"] == data(b"data: a\n\ndata: b\n\n".replace(b"\n", end))


def test_mixed_line_ends() -> None:
    """One stream may have different line ends."""
    assert [b"a", b"b", b"c"] == data(b"data: a\r\n\ndata: b\r\rdata: c\n\r\n")


def test_nothing_else_ends_a_line() -> None:
    """Other separators of str.splitlines are part of the data."""
    text = "x\u2028y\u2029z\u0085\x0b\x0c\x1c\x1dw".encode()
    assert [text] == data(b"data: " + text + b"\n\n")


def test_crlf_across_chunks() -> None:
    """A CRLF that is split between two chunks is one line end."""
    assert [(b"e", b"a", b"")] == decode(b"event: e\r", b"\ndata: a\r", b"\n\r", b"\n")
    assert [b"a\nb"] == data(b"data: a\r", b"\n", b"data: b\r", b"\n", b"\r", b"\n")
    assert [b"a", b"b"] == data(b"data: a\r", b"\n", b"\n", b"data: b\n\n")


def test_byte_order_mark() -> None:
    """One BOM at the start is removed, even if it is split; a second one is data."""
    assert [b"a"] == data(b"\xef\xbb\xbfdata: a\n\n")
    assert [b"a"] == data(b"\xef", b"\xbb", b"\xbf", b"data: a\n\n")
    assert [] == data(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n")
    assert [] == data(b"\xef\xbb", b"data: a\n\n")


def test_fields() -> None:
    """`event`, `data` and `error` are read, one space is removed, and other fields are ignored."""
    stream = b"event: e\nid: 7\nretry: 10\nfoo: x\ndata:a\ndata:  b\ndata\nerror: oops\n\n"
    assert [(b"e", b"a\n b\n", b"oops")] == decode(stream)
    assert [] == decode(b" data: a\n\nDATA: b\n\n")


def test_comments_and_empty_events() -> None:
    """Comments, events without data and bare names give no event."""
    stream = b": hi\n\n:\n\ndata:\n\ndata: \n\nevent: ping\n\ndata: a\n\n"
    assert [(b"", b"a", b"")] == decode(stream)


def test_end_without_blank_line() -> None:
    """The last event needs no blank line and no line end."""
    assert [b"a"] == data(b"data: a\n")
    assert [b"a"] == data(b"data: a")
    assert [b"a"] == data(b"data: a\r")
    assert [] == data(b"")


def test_each_event_comes_with_its_last_byte() -> None:
    """No event waits for the chunk after its last byte."""
    decoder = SSEDecoder()
    assert [] == decoder.feed(b"data: a\n")
    assert [(b"", b"a", b"")] == decoder.feed(b"\n")
    assert [(b"", b"b", b"")] == decoder.feed(b"data: b\r\n\r")
    assert [(b"", b"c", b"")] == decoder.feed(b"\ndata: c\n\n")


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"data: ", b"event: e", b": c", b"", b"", b"", b"id: 1", b"error: z",
     "data: \u20ac\u2028\U0001f600".encode(), b" data: n", b"data: a:b: c", b"foo", b"\xff\xfe"]
)  # fmt: skip


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))),
    st.booleans(),
    st.lists(st.integers(0, 400)),
)
def test_any_cut_gives_the_same(lines: list[tuple[bytes, bytes]], bom: bool, cuts: list[int]) -> None:
    """The events do not depend on the cuts, also byte by byte."""
    stream = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in lines)
    places = sorted({cut for cut in cuts if cut < len(stream)})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    whole = decode(stream)
    assert whole == decode(*pieces)
    assert whole == decode(*(stream[n : n + 1] for n in range(len(stream))))


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_are_decoded(chunks: list[bytes]) -> None:
    """No bytes raise an error, and an event never has a line end of the framing."""
    for _, value, error in decode(*chunks):
        assert b"\r" not in value + error


def test_an_event_that_is_too_large() -> None:
    """An event beyond the limit is refused while it is read, in one line or in many."""

    def feed_all(line: bytes) -> None:
        decoder = SSEDecoder(max_bytes=64 << 10)
        for _ in range(100):
            decoder.feed(line)

    for line in (b"x" * 1024, b"data: xxxxxxxxxxxxxxxx\n" * 64):
        with pytest.raises(InvalidReplyError, match="event of more than"):
            feed_all(line)


def test_small_events_have_no_limit_together() -> None:
    """The limit applies to each event."""
    decoder = SSEDecoder(max_bytes=1000)
    for _ in range(1000):
        assert 1 == len(decoder.feed(b"data: " + b"x" * 50) + decoder.feed(b"y\n\n"))
        assert 1 == len(decoder.feed(b"event: e\ndata: " + b"x" * 50 + b"\n") + decoder.feed(b"\n"))


class CountingPieces(list[bytes]):
    """The pieces of a line, which are cleared when they are joined, and the number of bytes joined."""

    joined = 0

    def clear(self) -> None:
        self.joined += sum(map(len, self))
        super().clear()


@pytest.mark.parametrize(
    ("unit", "size"),
    [(b"x", 8192), (b"data: x\n\n", 9), (b"data: x\n", 8), (b"data: x\n\n", 1), (b": c\n\n", 7)],
)
def test_a_line_is_not_joined_again_for_each_chunk(unit: bytes, size: int) -> None:
    """A byte is joined twice at most: in one long line, many events, and single bytes."""
    stream = b"data: " + unit * ((1 << 16) // len(unit))
    decoder = SSEDecoder()
    pieces = decoder._pieces = CountingPieces()
    for n in range(0, len(stream), size):
        decoder.feed(stream[n : n + size])
    decoder.close()
    assert 0 < pieces.joined <= 2 * len(stream)
