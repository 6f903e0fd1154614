r"""Decodes bytes to server-sent events, without I/O.

Lines end only at CRLF, LF or CR. The last event counts even if the stream ends before its blank line, because
some servers omit the line, and text would be lost. `id`, `retry` and comments are dropped.

Most events are `data: {...}\n\n`, one or more in a network chunk. So they have a fast path: two splits, and
no copy except the data itself. A line that arrives in many chunks is joined once.
"""

from __future__ import annotations

from typing import TypeAlias

from tinyagent.errors import InvalidReplyError

__all__ = ["MAX_EVENT_BYTES", "SSEDecoder", "ServerSentEvent"]

MAX_EVENT_BYTES = 64 << 20

ServerSentEvent: TypeAlias = tuple[bytes, bytes, bytes]
"""The event's name, its data, and the value of its `error` field, which llama.cpp uses."""

_BOM = b"\xef\xbb\xbf"
CR, LF = b"\r\n"  # as integers: `bytes in bytes` is five times slower


class SSEDecoder:
    """Decodes one stream. Its bytes may be split anywhere.

    Args:
        max_bytes: The size of the largest event that is accepted.
    """

    __slots__ = (
        "_after_cr", "_clean", "_data", "_error", "_held", "_max", "_name", "_open", "_pieces", "_size",
        "_started",
    )  # fmt: skip

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_bytes
        self._started = False
        self._clean = False
        """Whether the stream has started, and no part of an event or of a line is held."""
        self._after_cr = False
        """Whether the last byte was a CR. An LF that follows belongs to it."""
        self._pieces: list[bytes] = []
        """The pieces of the incomplete line."""
        self._held = 0
        """The bytes of these pieces."""
        self._open = False
        """Whether an event has lines so far."""
        self._name = b""
        self._data: list[bytes] = []
        self._error = b""
        self._size = 0
        """The bytes of these lines."""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Decode the next bytes, and return the events that they complete.

        Raises:
            InvalidReplyError: An event is too large.
        """
        if self._clean and chunk[:6] == b"data: " and chunk[-2:] == b"\n\n":
            # Most chunks of most servers are exactly one event.
            end = len(chunk) - 2
            if chunk.find(LF, 6) == end and CR not in chunk and end > 6:
                return [(b"", chunk[6:end], b"")]
        if not self._started:
            chunk = self._start(chunk)
            if not chunk:
                return []
        if CR in chunk or (self._after_cr and chunk):
            chunk = self._one_kind_of_line_end(chunk)
        if self._pieces:
            self._pieces.append(chunk)
            if LF not in chunk:
                self._held += len(chunk)
                self._check()
                return []
            chunk = b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
        events: list[ServerSentEvent] = []
        if not self._open:
            whole = chunk.rfind(b"\n\n")
            if whole >= 0:
                for block in chunk[:whole].split(b"\n\n"):
                    if block[:6] == b"data: " and LF not in block:
                        if len(block) > 6:
                            events.append((b"", block[6:], b""))
                    else:
                        for line in block.split(b"\n"):
                            self._take(line, events)
                        self._dispatch(events)
                chunk = chunk[whole + 2 :]
        if chunk:
            lines = chunk.split(b"\n")
            rest = lines.pop()
            for line in lines:
                self._take(line, events)
            if rest:
                self._pieces.append(rest)
                self._held = len(rest)
                self._check()
        self._clean = not (self._pieces or self._open or self._after_cr)
        return events

    def close(self) -> list[ServerSentEvent]:
        """End the stream, and return the event that was still open, if there is one."""
        events: list[ServerSentEvent] = []
        if self._pieces:
            line = b"".join(self._pieces)
            self._pieces.clear()
            self._take(line, events)
        self._dispatch(events)
        return events

    def _start(self, chunk: bytes) -> bytes:
        """Drop a byte order mark, which may itself arrive in pieces."""
        head = b"".join(self._pieces) + chunk
        self._pieces.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            if head:
                self._pieces.append(head)
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _one_kind_of_line_end(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk[-1:] == b"\r"
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check(self) -> None:
        if self._size + self._held > self._max:
            raise InvalidReplyError(
                f"the provider sent an event of more than {self._max >> 20} MiB; it was not read further"
            )

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"error":
            self._error = value
        else:
            return
        self._open = True
        self._size += len(line)
        self._check()

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if not self._open:
            return
        data = b"\n".join(self._data)
        if data or self._error:
            events.append((self._name, data, self._error))
        self._open, self._name, self._data, self._error, self._size = False, b"", [], b"", 0
