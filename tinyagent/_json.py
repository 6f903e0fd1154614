"""JSON in and out, for everything that crosses the program's border.

msgspec does the work. It refuses unpaired surrogate halves on both sides, and models, file names and
tools do send them; such a text takes the slow way through the standard module, and each half
becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

__all__ = ["decode", "decode_object", "encode", "without_surrogates"]

MAX_DEPTH = 256
"""Levels of nesting in an object that a model sent."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def without_surrogates(value: Any) -> Any:
    """The same JSON value with surrogate pairs joined and each unpaired half replaced by U+FFFD."""
    if isinstance(value, str):
        if _SURROGATE.search(value) is None:
            return value
        joined = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _SURROGATE.sub("\ufffd", joined)
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    return value


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON; NaN and infinities become null.

    Raises:
        TypeError: if the value holds something that JSON cannot say.
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(without_surrogates(msgspec.to_builtins(value)))


def decode(data: bytes | str) -> Any:
    """The value of one JSON document; bytes that are not UTF-8 and lone surrogates become U+FFFD.

    Raises:
        ValueError: if the text is not JSON.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        return without_surrogates(json.loads(text, parse_constant=_refuse_constant))


def decode_object(text: str) -> dict[str, Any] | None:
    """The object that `text` is, decoded once more if it is a string that holds one; else None.

    Integers of any size and the order of keys survive. What is nested deeper than `MAX_DEPTH` is None as
    well: it could be read here and then break whoever has to copy or write the history that it is in.
    """
    for _ in range(2):
        try:
            value = decode(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(value, dict):
            return None if _is_too_deep(value, text) else value
        if not isinstance(value, str):
            return None
        text = value
    return None


def _is_too_deep(value: Any, text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
