"""Detect the encoding of a file, binary files and images; decode and encode text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

__all__ = ["SAMPLE", "Encoding", "detect", "image_type"]

SAMPLE = 64 * 1024
"""Bytes from the beginning of a file that are used to detect its encoding."""

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32 LE with BOM"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32 BE with BOM"),
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with BOM"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16 LE with BOM"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16 BE with BOM"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1b"))


@dataclass(frozen=True)
class Encoding:
    """The encoding of a file: the codec, the byte order mark, and a name for messages."""

    codec: str = "utf-8"
    mark: bytes = b""
    label: str = "UTF-8"

    def decode(self, data: bytes) -> str:
        """Decode a complete file. Raises `UnicodeDecodeError` if it has another encoding."""
        return data[len(self.mark) :].decode(self.codec)

    def encode(self, text: str) -> bytes:
        """Encode a complete file. Raises `UnicodeEncodeError` if the encoding lacks a character."""
        return self.mark + text.encode(self.codec)


def detect(head: bytes, *, whole: bool) -> Encoding | None:
    """Return the encoding of a file by its first bytes; None if it is binary.

    Args:
        head: The first bytes.
        whole: Whether `head` is the complete file; otherwise the last character may be incomplete.
    """
    for mark, codec, label in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, mark, label) if _decodes(head[len(mark) :], codec, whole) else None
    if b"\0" in head:
        return _utf16_without_mark(head, whole)
    if _decodes(head, "utf-8", whole):
        return None if _looks_binary(head) else Encoding()
    return None if _looks_binary(head) else Encoding("latin-1", b"", "Latin-1 (a guess: it is not UTF-8)")


def _decodes(data: bytes, codec: str, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(data, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def _utf16_without_mark(head: bytes, whole: bool) -> Encoding | None:
    """Detect UTF-16: in Western text, most bytes at even or most at odd offsets are NUL, but not both."""
    if len(head) < 4 or (whole and len(head) % 2):
        return None
    half = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for codec, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if not few and many >= 0.6 * half and _decodes(head, codec, whole):
            return Encoding(codec, b"", f"{codec[:-3].upper()} {codec[-2:].upper()}")
    return None


def _looks_binary(head: bytes) -> bool:
    return len(head) - len(head.translate(None, _CONTROLS)) > len(head) * 0.05


def image_type(head: bytes) -> str | None:
    """Return the media type of a supported image by its first bytes; None for other files."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None
