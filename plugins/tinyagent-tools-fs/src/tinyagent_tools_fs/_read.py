"""`read`: lines of a text file, or an image."""

from __future__ import annotations

import base64
import io
import os

from tinyagent import AgentToolResult, ToolError
from tinyagent.agent_types import JsonObject

from ._root import Root, read_up_to
from ._text import SAMPLE, Encoding, detect, image_type

__all__ = ["MAX_FILE_BYTES", "MAX_IMAGE", "MAX_LINE", "MAX_SCAN", "MAX_TEXT", "read_file"]

MAX_TEXT = 50_000
"""Characters that one call shows."""

MAX_LINE = 2_000
"""Characters of one line that are shown."""

MAX_IMAGE = 5 * 1024 * 1024
"""Bytes of an image that is shown."""

MAX_FILE_BYTES = 10 * 1024 * 1024
"""Bytes up to which the lines of a file are counted, and the file can be edited."""

MAX_SCAN = 256 * 1024 * 1024
"""Characters that one call may skip to reach its offset."""


def read_file(root: Root, path: str, first: int, limit: int, numbers: bool) -> AgentToolResult:
    """Show lines from `first` on: at most `limit` lines and `MAX_TEXT` characters."""
    parts = root.locate(path)
    with root.file(parts) as descriptor:
        status = os.fstat(descriptor)
        size = status.st_size
        head = read_up_to(descriptor, SAMPLE)
        shown = root.show(parts)
        media_type = image_type(head)
        if media_type is not None:
            return _image(descriptor, head, shown, media_type, size)
        encoding = detect(head, whole=len(head) < SAMPLE)
        if encoding is None:
            raise ToolError(
                f"{root.name(parts)} is a binary file of {size:,} bytes, so it is not shown. "
                "If its content matters, use a program for its format."
            )
        root.seen.add(parts, status)
        if not head:
            return AgentToolResult(
                [{"type": "text", "text": f"[{shown} is empty]"}], _details(shown, encoding, 0)
            )
        if size <= MAX_FILE_BYTES:
            # A byte after the sample may not be UTF-8.
            encoding = detect(head + read_up_to(descriptor, MAX_FILE_BYTES), whole=True) or encoding
        return _text(descriptor, shown, encoding, size, first, limit, numbers)


def _image(descriptor: int, head: bytes, shown: str, media_type: str, size: int) -> AgentToolResult:
    if size > MAX_IMAGE:
        raise ToolError(
            f"{shown} is an image of {size:,} bytes; at most {MAX_IMAGE:,} can be shown. "
            "Reduce its size first."
        )
    data = head + read_up_to(descriptor, MAX_IMAGE - len(head))
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    return AgentToolResult(
        [
            {"type": "text", "text": f"[{shown}: {media_type}, {len(data):,} bytes]"},
            {"type": "image", "url": url, "mime_type": media_type},
        ],
        {"path": shown, "mime_type": media_type, "bytes": len(data)},
    )


class _Lines:
    """The lines of a file, each truncated to `MAX_LINE` characters."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self._left = MAX_SCAN
        self.crlf = False

    def next(self) -> tuple[str, int] | None:
        """Return the next line without its end, and its full length; None at the end of the file."""
        line = piece = self._stream.readline(MAX_LINE)
        if not piece:
            return None
        length = len(piece)
        while not piece.endswith("\n"):
            piece = self._stream.readline(1 << 20)
            if not piece:
                break
            length += len(piece)
            if length > self._left:
                break
        self._left -= length
        if self._left < 0:
            raise ToolError(
                f"The offset is beyond {MAX_SCAN:,} characters. Use a program such as sed or tail."
            )
        self.crlf = self.crlf or line.endswith("\r\n")
        return line.removesuffix("\n").removesuffix("\r"), length - piece.endswith("\n")


def _text(
    descriptor: int, shown: str, encoding: Encoding, size: int, first: int, limit: int, numbers: bool
) -> AgentToolResult:
    os.lseek(descriptor, len(encoding.mark), os.SEEK_SET)
    raw = io.FileIO(descriptor, closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedReader(raw, 1 << 16), encoding=encoding.codec, errors="replace", newline="\n"
    )
    source = _Lines(stream)
    lines: list[str] = []
    room, number, cut = MAX_TEXT, 0, 0
    following = source.next()
    while following is not None and number + 1 < first:
        number, following = number + 1, source.next()
    while following is not None and len(lines) < limit:
        line, length = following
        if length > MAX_LINE:
            cut += 1
            line += f" [… {length:,} characters in this line]"
        line = f"{number + 1:>6}\t{line}" if numbers else line
        room -= len(line) + 1
        if room < 0 and lines:
            break
        lines.append(line)
        number, following = number + 1, source.next()
    last, more = number, following is not None
    total: int | None = last
    if more and size <= MAX_FILE_BYTES:
        total = last + 1
        while source.next() is not None:
            total += 1
    elif more:
        total = None
    if not lines:
        raise ToolError(f"{shown} has {last:,} line(s), so there is no line {first:,}.")
    notes = []
    if more:
        of = f"of {total:,}" if total is not None else f"of more ({size:,} bytes)"
        notes.append(f"lines {first:,}-{last:,} {of}; continue with offset={last + 1}")
    if cut:
        notes.append(f"{cut} long line(s) truncated")
    if encoding.label != "UTF-8":
        notes.append(f"encoding: {encoding.label}")
    if source.crlf:
        notes.append("line ends: CRLF, preserved by edit and write")
    text = "\n".join(lines)
    if notes:
        text += f"\n[{'; '.join(notes)}]"
    details = _details(shown, encoding, size)
    details |= {"first_line": first, "last_line": last, "total_lines": total, "truncated": more}
    return AgentToolResult([{"type": "text", "text": text}], details)


def _details(shown: str, encoding: Encoding, size: int) -> JsonObject:
    return {"path": shown, "bytes": size, "encoding": encoding.label}
