"""JSON encoding and decoding, by msgspec, and readers for decoded values of unknown type.

msgspec refuses unpaired surrogates, but models, file names and tools contain them. Such texts are decoded by
the standard module, which is slower, and each unpaired surrogate becomes U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, overload

import msgspec

if TYPE_CHECKING:
    from .agent_types import JsonValue

__all__ = [
    "as_dict",
    "as_int",
    "as_list",
    "as_str",
    "count",
    "decode",
    "decode_lenient",
    "decode_object",
    "dollars",
    "encode",
    "encode_lossy",
    "without_surrogates",
]

MAX_DEPTH = 256
"""The most levels of nesting in an object from a model."""

_SURROGATE = "[\ud800-\udfff]"
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[JsonValue] = msgspec.json.Decoder()


@overload
def without_surrogates(value: str) -> str: ...


@overload
def without_surrogates(value: JsonValue) -> JsonValue: ...


@overload
def without_surrogates(value: object) -> object: ...


def without_surrogates(value: object) -> object:
    """Return a JSON value with surrogate pairs joined, and U+FFFD for each unpaired half."""
    if isinstance(value, str):
        if re.search(_SURROGATE, value) is None:
            return value
        joined = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return re.sub(_SURROGATE, "\ufffd", joined)
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    return value


def encode(value: object) -> bytes:
    """Encode a value as compact UTF-8 JSON. NaN and infinities become null.

    Raises:
        TypeError: The value contains something that JSON cannot represent.
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(without_surrogates(msgspec.to_builtins(value, enc_hook=_decode_raw)))


def encode_lossy(value: object) -> bytes:
    """Encode a value like `encode`. What JSON cannot represent is written as a string."""
    try:
        return encode(value)
    except TypeError:
        return encode(_json_safe(msgspec.to_builtins(value, enc_hook=str, str_keys=False)))


def _json_safe(value: object) -> object:
    """Return a value whose keys are strings, and whose sequences are lists."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_safe(item) for item in value]
    return value


def _decode_raw(value: object) -> object:
    """Decode a part of a value that was encoded earlier."""
    if isinstance(value, msgspec.Raw):
        return _decoder.decode(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def decode(data: bytes | str) -> JsonValue:
    """Decode a JSON document. Invalid UTF-8 and unpaired surrogates become U+FFFD.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
        return without_surrogates(value)


def decode_object(text: str) -> dict[str, object] | None:
    """Decode a JSON object, also one inside a JSON string; return None for anything else.

    Integers of any size and the order of keys are preserved. An object with more than `MAX_DEPTH` levels is
    refused (None), because the history that contains it could not be copied or written.
    """
    for _ in range(2):
        try:
            value = decode(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(value, dict):
            found = as_dict(value)
            return None if _is_too_deep(found, text) else found
        if not isinstance(value, str):
            return None
        text = value
    return None


def _is_too_deep(value: dict[str, object], text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    level: list[dict[str, object] | list[object]] = [value]
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


# ---- values of unknown type ---------------------------------------------------------------------------


def as_dict(value: object) -> dict[str, object]:
    """Return a JSON object unchanged, and an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """Return a JSON array unchanged, and an empty one for any other value."""
    return value if isinstance(value, list) else []


def as_str(value: object) -> str:
    """Return a string unchanged, and an empty one for any other value."""
    return value if isinstance(value, str) else ""


def dollars(value: object) -> float | None:
    """Return a provider's cost in US dollars; None if it is not a finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        price = float(value)
    except OverflowError:
        return None
    return price if 0 <= price < math.inf else None


def as_int(value: object) -> int | None:
    """Return the integer of a number or a decimal string; None for any other value."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def count(value: object) -> int:
    """Return a provider's number of tokens; 0 if it is missing, negative or not a number."""
    return max(as_int(value) or 0, 0)


def decode_lenient(data: bytes | str) -> object:
    """Decode JSON; return the text itself if it is not JSON."""
    try:
        return decode(data)
    except (ValueError, RecursionError):
        return (data if isinstance(data, str) else data.decode("utf-8", "replace")).strip()
