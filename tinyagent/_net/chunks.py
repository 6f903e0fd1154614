"""Makes one chunk of all the chunks of an HTTP/1.1 body that one read brought; no I/O.

Servers send each token as a chunk of its own, and a busy one sends many between two reads of ours. The
HTTP library takes 10 µs for a chunk, one after the other through all of its layers: more than everything
that we do with the token. Merged before it sees them, they cost it one.

    merger = ChunkMerger()
    for data in reads:
        library.receive(merger.feed(data))
    library.receive(merger.close())

The framing is all that changes. Bytes of the body are handed on as they come, never held back; what is not
exactly the framing that is expected is handed on as it stands, for the library to judge.
"""

from __future__ import annotations

import re

from tinyagent.errors import InvalidReplyError

__all__ = ["ChunkMerger"]

MAX_HEAD = 64 << 10
MAX_INTERIM = 100
"""Interim responses (HTTP 1xx) before a response; a server that sends more of them never answers."""

_HEAD_END = re.compile(rb"\n\r?\n")
_INFORMATIONAL = re.compile(rb"HTTP/1\.1 1\d\d[ \r\n]")
_CHUNKED = re.compile(rb"(?i)HTTP/1\.1 [^\x00]*\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~]*)?[ \t]*\r\n")
_HEAD, _CHUNKS, _AS_IT_IS = range(3)


class ChunkMerger:
    """The bytes of the responses of one connection, one response after the other."""

    __slots__ = ("_held", "_interim", "_left", "_state")

    def __init__(self) -> None:
        self._state = _HEAD
        self._held = b""
        """The beginning of a head, or of the line with a chunk's size."""
        self._left = 0
        """Bytes of the chunk that are still to come, the line end behind it among them."""
        self._interim = 0
        """Interim responses (HTTP 1xx) before the head."""

    def begin(self) -> None:
        """A request was sent: what comes next is the head of its response."""
        self._state, self._held, self._left, self._interim = _HEAD, b"", 0, 0

    def close(self) -> bytes:
        """The connection is at its end; what was held."""
        held, self._held, self._state = self._held, b"", _AS_IT_IS
        return held

    def feed(self, data: bytes) -> bytes:
        """Take in what was read; return what to hand on, which may be empty.

        Raises:
            InvalidReplyError: more than `MAX_INTERIM` interim responses came before the response.
        """
        if self._state == _AS_IT_IS:
            return data
        if self._held:
            data, self._held = self._held + data, b""
        if self._state == _CHUNKS:
            return self._merge(data, 0)
        start = 0
        while True:
            found = _HEAD_END.search(data, start)
            if found is None:
                if len(data) - start > MAX_HEAD:
                    self._state = _AS_IT_IS
                    return data
                self._held = data[start:]
                return data[:start]
            end = found.end()
            if not _INFORMATIONAL.match(data, start):
                break
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise InvalidReplyError("the server sends interim responses (HTTP 1xx) without end")
            start = end
        if _CHUNKED.match(data, start, end) is None:
            self._state = _AS_IT_IS
            return data
        self._state = _CHUNKS
        return data[:end] + self._merge(data, end)

    def _merge(self, data: bytes, at: int) -> bytes:
        """The chunks in `data` from `at` on as one, and what is behind the last one."""
        pieces: list[bytes] = []
        rest, end, left = b"", len(data), self._left
        match_size = _SIZE.match
        while True:
            if left > 2:
                piece = data[at : at + left - 2]
                if piece:
                    pieces.append(piece)
                    at += len(piece)
                    left -= len(piece)
            if left:
                # The line end behind a chunk is written anew, so here it is only checked and dropped.
                if at == end or left > 2:
                    break
                line_end = data[at : at + left]
                if not b"\r\n"[2 - left :].startswith(line_end):
                    # The library must stumble over this as well: no size begins with a CR.
                    self._state, rest, left = _AS_IT_IS, b"\r" + data[at:], 0
                    break
                at += len(line_end)
                left -= len(line_end)
                if left:
                    break
            size = match_size(data, at)
            if size is None:
                if b"\n" in data[at:] or end - at > MAX_HEAD:
                    self._state, rest = _AS_IT_IS, data[at:]
                else:
                    self._held = data[at:]
                break
            left = int(size[1], 16)
            if left == 0:
                self._state, rest = _AS_IT_IS, data[at:]
                break
            left += 2
            at = size.end()
        self._left = left
        if not pieces:
            return rest
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return b"%x\r\n%b\r\n%b" % (len(body), body, rest)
