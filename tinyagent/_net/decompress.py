"""Decompress the body of a reply from a server that ignores `Accept-Encoding: identity`."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

__all__ = ["Decompressor", "decompressor_for"]

MAX_PIECE = 1 << 20
"""The most bytes that one `read` returns, so that a small body cannot fill the memory."""


class Decompressor:
    """Decompress gzip or deflate.

    Args:
        is_deflate: Whether the data may be raw deflate, without a header. Some servers call this `deflate`,
            too.
    """

    def __init__(self, *, is_deflate: bool) -> None:
        # 32 + 15 bits: zlib recognises the header of gzip and of zlib.
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._may_be_raw = is_deflate

    async def read(self, read_body: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the next piece; `b""` at the end of the body.

        Raises:
            zlib.error: The data is malformed.
        """
        while True:
            data = self._inflate.unconsumed_tail or await read_body()
            if not data:
                return b""
            try:
                piece = self._inflate.decompress(data, MAX_PIECE)
            except zlib.error:
                if not self._may_be_raw:
                    raise
                self._inflate, self._may_be_raw = zlib.decompressobj(-zlib.MAX_WBITS), False
                piece = self._inflate.decompress(data, MAX_PIECE)
            if piece:
                self._may_be_raw = False
                return piece


def decompressor_for(encoding: str) -> Decompressor | None:
    """Return the decompressor for a `Content-Encoding`; None if the body is not compressed.

    Raises:
        ValueError: The encoding is not supported.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Decompressor(is_deflate=encoding == "deflate")
    known = repr(encoding) if encoding in ("br", "zstd", "compress") else "something unknown"
    raise ValueError(f"the reply is compressed with {known}, which was not asked for")
