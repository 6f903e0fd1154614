"""Keys of TOML files and their types: split and write a dotted key, find its type, and read its value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

import msgspec
from msgspec import inspect as types

from tinyagent._json import decode
from tinyagent.agent_types import JsonValue

__all__ = ["children", "dotted", "parse_value", "split_key", "type_at", "values_of", "without_null"]


def without_null(kind: types.Type) -> types.Type:
    """Return a type without `None` as an alternative."""
    if not isinstance(kind, types.UnionType):
        return kind
    others = [each for each in kind.types if not isinstance(each, types.NoneType)]
    return others[0] if len(others) == 1 else kind


def split_key(key: str) -> list[str] | None:
    """Split a dotted key as TOML does, with quotes for names that need them; None if it is not a key."""
    if not key.strip() or set(key) & set("\n\r=#"):
        return None
    try:
        value: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return None
    parts = []
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
        parts.append(name)
    return parts


def dotted(keys: Sequence[str]) -> str:
    """Return the parts of a key as TOML writes them."""
    return ".".join(
        name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else msgspec.json.encode(name).decode() for name in keys
    )


def type_at(keys: Sequence[str], kind: type[object]) -> types.Type | None:
    """Return the type of the value with this key; None if there is no such setting."""
    found: types.Type | None = types.type_info(kind)
    for name in keys:
        match found:
            case types.StructType(fields=fields):
                named = [field.type for field in fields if field.encode_name == name]
                found = without_null(named[0]) if named else None
            case types.DictType(value_type=value):
                found = without_null(value)
            case types.AnyType():
                pass
            case _:
                return None
    return found


def children(keys: Sequence[str], kind: type[object]) -> list[str]:
    """Return the names of the keys in a table; empty if the user chooses them, or if it is a value."""
    found = type_at(keys, kind)
    return [field.encode_name for field in found.fields] if isinstance(found, types.StructType) else []


def values_of(keys: Sequence[str], kind: type[object]) -> list[str]:
    """Return all values of a setting with few; empty for other settings."""
    found = type_at(keys, kind)
    return [str(value) for value in found.values] if isinstance(found, types.LiteralType) else []


def parse_value(text: str, kind: types.Type) -> JsonValue:
    """Return the value that a user means by a text: for a list, `a,b` is enough; text needs no quotes."""
    if isinstance(kind, types.StrType | types.LiteralType):
        return text
    if isinstance(kind, types.ListType) and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        value: JsonValue = tomllib.loads(f"x = {text}")["x"] if "\n" not in text else text
        return value
    except tomllib.TOMLDecodeError:
        pass
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return text
