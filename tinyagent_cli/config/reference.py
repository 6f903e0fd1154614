"""All settings: their keys, types, defaults and descriptions, from the types in `files`.

`config show`, `config set`, error messages and docs/configuration.md use it, so they cannot disagree with
what the files accept.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as types

from tinyagent._docstrings import read_docstring

from .files import ProjectFile, UserFile
from .key_types import without_null
from .settings import DEFAULT_MAX_REPEATS, DEFAULT_MAX_TURNS

__all__ = ["NAME", "Setting", "all_settings"]

NAME = "NAME"
"""Stands for a name that the user chooses, in keys such as `providers.NAME.base_url`."""

_DEFAULTS: dict[str, object] = {
    "run.thinking": "off",
    "run.max_turns": DEFAULT_MAX_TURNS,
    "run.max_repeats": DEFAULT_MAX_REPEATS,
    "run.transport": "auto",
    "run.context": False,
}
"""The defaults of keys that the types leave unset, so that it is known which file sets a key."""


class Setting(NamedTuple):
    """A setting.

    Attributes:
        key: The dotted key, with `NAME` for a name that the user chooses.
        type: The type of the value, in words.
        default: The default as JSON; empty without a default.
        description: What it is for.
        project: Whether a project file can set it, too.
        values: All values of a setting with few.
    """

    key: str
    type: str
    default: str
    description: str
    project: bool
    values: Sequence[str] = ()


def all_settings(kind: type[msgspec.Struct] = UserFile) -> list[Setting]:
    """Return all settings of a file, in the order of its tables."""
    project = set() if kind is ProjectFile else {setting.key for setting in all_settings(ProjectFile)}
    return list(_settings(types.type_info(kind), (), project))


def _settings(table: types.Type, keys: tuple[str, ...], project: set[str]) -> Iterator[Setting]:
    if not isinstance(table, types.StructType):
        return
    descriptions, hints = _descriptions(table.cls), get_type_hints(table.cls)
    for field in table.fields:
        path, kind = (*keys, field.encode_name), without_null(field.type)
        if isinstance(kind, types.StructType):
            yield from _settings(kind, path, project)
        elif isinstance(kind, types.DictType) and isinstance(kind.value_type, types.StructType):
            yield from _settings(kind.value_type, (*path, NAME), project)
        else:
            key, literals = ".".join(path), _literals(hints[field.name])
            yield Setting(
                key,
                _in_words(kind, literals),
                _default(_DEFAULTS.get(key, field.default)),
                descriptions.get(field.name, ""),
                key in project,
                ("true", "false") if isinstance(kind, types.BoolType) else literals,
            )


def _default(value: object) -> str:
    return "" if value in (None, msgspec.NODEFAULT) else msgspec.json.encode(value).decode()


def _descriptions(cls: type) -> dict[str, str]:
    """Return the descriptions of the fields from the docstrings of a class and its base classes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__doc__:
            found |= read_docstring(inspect.cleandoc(base.__doc__).replace("Attributes:", "Args:"))[1]
    return found


def _literals(hint: object) -> list[str]:
    """Return the values of a `Literal`, in the order of the source."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    return [value for part in get_args(hint) for value in _literals(part)]


def _in_words(kind: types.Type, literals: Sequence[str] = ()) -> str:
    match kind:
        case types.LiteralType():
            return ", ".join(f"`{value}`" for value in literals)
        case types.BoolType():
            return "`true` or `false`"
        case types.IntType():
            return "integer" + _bounds(kind)
        case types.FloatType():
            return "number" + _bounds(kind)
        case types.StrType():
            return "text"
        case types.ListType(item_type=item):
            return f"list of {_in_words(item, literals)}"
        case types.DictType(value_type=value):
            if isinstance(value, types.DictType):
                return "table of tables"
            return "table" if isinstance(value, types.AnyType) else f"table of {_in_words(value, literals)}"
        case types.UnionType():
            return " or ".join(_in_words(each, literals) for each in kind.types)
        case _:
            return "any value"


def _bounds(kind: types.IntType | types.FloatType) -> str:
    if kind.gt is not None:
        return f" > {kind.gt:g}"
    return "" if kind.ge is None else f" ≥ {kind.ge:g}"
