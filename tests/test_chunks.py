"""Merging chunks changes their number and nothing else: h11 reads the same before and after."""

from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent._net.chunks import ChunkMerger
from tinyagent._net.request import post_stream
from tinyagent.testing.server import FakeReply, FakeServer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(parts: list[bytes], *, closed: bool = False) -> tuple[bytes, bool, str, int]:
    """What h11 makes of a response: the body, whether it is complete, the error, how many pieces."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    body, complete, pieces = b"", False, 0
    try:
        for part in [*parts, *([b""] if closed else [])]:
            if part or closed:
                connection.receive_data(part)
            while True:
                event: Any = connection.next_event()
                if isinstance(event, h11.Data):
                    body += event.data
                    pieces += 1
                elif isinstance(event, h11.EndOfMessage):
                    complete = True
                elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                    break
    except h11.RemoteProtocolError as error:
        return body, complete, str(error), pieces
    return body, complete, "", pieces


def merged(parts: list[bytes]) -> list[bytes]:
    merger = ChunkMerger()
    return [out for out in [*map(merger.feed, parts), merger.close()] if out]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]


def chunked(pieces: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    framed = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces if piece]
    return b"".join(framed) + b"0\r\n" + trailer + b"\r\n"


bodies = st.lists(st.binary(max_size=40), max_size=12)
places = st.lists(st.integers(0, 2000), max_size=20)


@given(
    bodies,
    places,
    st.sampled_from([b"", b";ext=1", b";a;b=c"]),
    st.sampled_from([b"", b"X-After: 1\r\n"]),
    st.sampled_from(
        [HEAD, HEAD.replace(b"\r\n", b"\n"), b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD]
    ),
)
def test_the_body_is_the_same_however_it_is_cut(
    pieces: list[bytes], where: list[int], extension: bytes, trailer: bytes, head: bytes
) -> None:
    """Extensions, trailers, early hints, bare line feeds in the head: all of it at any cut."""
    parts = cut(head + chunked(pieces, extension, trailer), where)
    assert (b"".join(pieces), True, "") == read(merged(parts))[:3]


@given(bodies, places)
def test_nothing_of_the_body_is_held_back(pieces: list[bytes], where: list[int]) -> None:
    """After each read, as much of the body is there as h11 would have had without us."""
    parts = cut(HEAD + chunked(pieces), where)
    merger = ChunkMerger()
    handed = [merger.feed(part) for part in parts]
    for n in range(1, len(parts) + 1):
        assert read(parts[:n])[0] == read(handed[:n])[0]


@given(bodies, places, st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3))
def test_what_h11_refuses_it_still_refuses(
    pieces: list[bytes], where: list[int], place: int, put: bytes, gone: int
) -> None:
    """With bytes lost, added or changed in the framing, nothing becomes a success that was none."""
    data = chunked(pieces)
    place %= len(data) + 1
    parts = cut(HEAD + data[:place] + put + data[place + gone :], where)
    body, complete, error, _ = read(parts, closed=True)
    after = read(merged(parts), closed=True)
    assert (complete, bool(error)) == (after[1], bool(after[2]))
    if complete:
        assert body == after[0]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n",
        b"not HTTP at all\r\n\r\n3\r\nabc\r\n",
        b"SSH-2.0-OpenSSH\r\n" * 10_000,
    ],
)
def test_what_is_not_chunked_passes_as_it_stands(response: bytes) -> None:
    """Only HTTP/1.1 with that one encoding is touched."""
    assert response == b"".join(merged(cut(response, [1, 20, 50, 70_000])))


def test_a_thousand_chunks_become_one() -> None:
    """That is what it is for."""
    pieces = [b"data: %d\n\n" % n for n in range(1000)]
    out = merged([HEAD + chunked(pieces)])
    assert (b"".join(pieces), True, "", 1) == read(out)


def test_the_next_response_of_the_connection_is_merged_as_well() -> None:
    """`begin` makes ready for the head that comes."""
    merger = ChunkMerger()
    first = merger.feed(HEAD + chunked([b"a", b"b"]))
    merger.begin()
    assert first == merger.feed(HEAD + chunked([b"a", b"b"])) == HEAD + b"2\r\nab\r\n0\r\n\r\n"


async def test_the_http_client_has_it_built_in() -> None:
    """Without this a token costs ten times as much; it hangs on an attribute of httpx that is private."""
    pieces = [b"data: %d\n\n" % n for n in range(100)]
    reply = FakeReply([chunked(pieces)], head=HEAD, framing="close")
    async with FakeServer(reply) as server, post_stream(server.url) as response:
        reads = []
        while data := await response.read():
            reads.append(data)
    assert b"".join(pieces) == b"".join(reads)
    assert len(reads) < 5
