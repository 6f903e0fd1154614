"""Get whole lines from bytes, text, files and other sources."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import IO, Protocol, TypeAlias, runtime_checkable

from tinyagent.text_files import detect_encoding

__all__ = ["Lines", "cut_last_line", "is_torn", "split_lines", "whole_lines"]

Lines: TypeAlias = bytes | str | Iterable[bytes] | Iterable[str] | IO[bytes]
"""The source of a stream: all of its text, a binary file, or its lines."""

CHUNK_BYTES = 64 * 1024
"""Lines are decoded in chunks of about this size. A larger chunk is not faster, and needs more memory."""


@runtime_checkable
class _BufferedFile(Protocol):
    """A binary file that can return the bytes which are there without waiting for more."""

    def readline(self) -> bytes: ...

    def read1(self, size: int, /) -> bytes: ...


def whole_lines(lines: Lines) -> Iterator[bytes | str]:
    """Yield chunks of whole lines. Only the last line of a chunk may have no LF."""
    if isinstance(lines, bytes | str):
        return _chunks_of(_decoded((lines,)))
    if isinstance(lines, _BufferedFile):
        return _joined(_decoded(_parts_of(lines)))
    # Lines of a list are there already. The lines of other iterables may arrive one by one.
    return _batched(_decoded(lines)) if isinstance(lines, list) else _decoded(lines)


def _parts_of(file: _BufferedFile) -> Iterator[bytes]:
    """Yield the content of a file as it arrives: its first line, then parts of any size."""
    yield file.readline()
    while part := file.read1(CHUNK_BYTES):
        yield part


def _joined(parts: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Join the parts of a file to whole lines."""
    rest: list[bytes | str] = []
    for part in parts:
        complete, last = cut_last_line(part)
        if complete:
            yield _concatenated([*rest, complete])
            rest = []
        if last is not None:
            rest.append(last)
    if rest:
        yield _concatenated(rest)


def _batched(lines: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Join short lines that end with LF to chunks."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if isinstance(line, bytes) and line.endswith(b"\n"):
            batch.append(line)
            size += len(line)
            if size < CHUNK_BYTES:
                continue
            line = b""
        if batch:
            yield b"".join(batch)
            batch, size = [], 0
        if line:
            yield line
    if batch:
        yield b"".join(batch)


def _concatenated(parts: list[bytes | str]) -> bytes | str:
    """Join parts, which are all bytes or all text."""
    if len(parts) == 1:
        return parts[0]
    encoded = [part for part in parts if isinstance(part, bytes)]
    return b"".join(encoded) if encoded else "".join(part for part in parts if isinstance(part, str))


def _chunks_of(texts: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Split long texts into chunks of whole lines."""
    for text in texts:
        start = 0
        while len(text) - start > CHUNK_BYTES:
            end = _find_line_end(text, start + CHUNK_BYTES)
            if end == 0:
                break
            yield text[start:end]
            start = end
        if start < len(text):
            yield text[start:] if start else text


def _find_line_end(text: bytes | str, start: int) -> int:
    """Return the position after the first LF from `start` on; 0 if there is no LF."""
    return (text.find(b"\n", start) if isinstance(text, bytes) else text.find("\n", start)) + 1


def cut_last_line(text: bytes | str) -> tuple[bytes | str, bytes | str | None]:
    """Return the lines with LF, and the text after the last LF, or None."""
    end = (text.rfind(b"\n") if isinstance(text, bytes) else text.rfind("\n")) + 1
    return (text, None) if end == len(text) else (text[:end], text[end:])


def split_lines(text: bytes | str) -> list[bytes] | list[str]:
    """Split text into its lines, with LF. Line separators other than LF do not end a line."""
    if isinstance(text, bytes):
        return [line + b"\n" for line in text.removesuffix(b"\n").split(b"\n")]
    return [line + "\n" for line in text.removesuffix("\n").split("\n")]


def _decoded(chunks: Iterable[bytes | str]) -> Iterator[bytes | str]:
    """Remove a byte order mark. Decode UTF-16 and UTF-32 to text, in whole lines."""
    rest = iter(chunks)
    first = next(rest, None)
    if first is None:
        return
    codec, mark = detect_encoding(first) if isinstance(first, bytes) else ("utf-8", 0)
    if codec == "utf-8" or isinstance(first, str):
        yield first[mark:] if mark else first
        yield from rest
        return
    # Chunks may end inside a UTF-16 or UTF-32 character.
    decoder = codecs.getincrementaldecoder(codec)("replace")
    line = decoder.decode(first[mark:])
    for chunk in rest:
        text = decoder.decode(chunk) if isinstance(chunk, bytes) else chunk
        complete, end, line = (line + text).rpartition("\n")
        yield complete + end
    yield line + decoder.decode(b"", final=True)


def is_torn(line: bytes | str) -> bool:
    """Whether the last line is incomplete because the writer was interrupted."""
    head = line if isinstance(line, bytes) else line.encode("utf-8", "replace")
    begins = head.startswith(b'{"type":"'[: len(head)])
    return not head.endswith(b"\n") and (begins or not head.strip(b"\0"))
