"""The arguments of a function as a type, with their descriptions, and as a JSON Schema for a model."""

from __future__ import annotations

import copy
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated

import msgspec

from . import _json
from .agent_types import JsonDict

__all__ = ["arguments_schema", "arguments_type"]

PASSED = ("tool_call_id", "signal", "on_update")
"""Parameters with these names get arguments of `AgentTool.execute`; the model does not see them."""


def arguments_type(
    function: Callable[..., object], described: dict[str, str]
) -> tuple[type[msgspec.Struct], list[str]]:
    """Return a Struct with a field for each argument, and the names of the parameters in `PASSED`.

    Args:
        function: The function.
        described: The descriptions of parameters from its docstring.

    Raises:
        TypeError: A parameter has no type hint, or cannot be passed by name.
    """
    where = f"the tool {function.__name__!r}"
    parameters = inspect.signature(function).parameters
    passed = [name for name in parameters if name in PASSED]
    hints = _hints(function, where, [name for name in parameters if name not in PASSED])
    fields: list[tuple[str, object] | tuple[str, object, object]] = []
    for name, parameter in parameters.items():
        if name in PASSED:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"The parameter {name!r} of {where} cannot be passed by name.")
        if name not in hints:
            raise TypeError(f"The parameter {name!r} of {where} needs a type hint.")
        hint = _with_descriptions(hints[name])
        if name in described and not _describes(hints[name]):
            hint = Annotated[hint, msgspec.Meta(description=described[name])]
        if parameter.default is parameter.empty:
            fields.append((name, hint))
        elif _can_change(parameter.default):  # each call gets its own copy
            default = functools.partial(copy.deepcopy, parameter.default)
            fields.append((name, hint, msgspec.field(default_factory=default)))
        else:
            fields.append((name, hint, parameter.default))
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True), passed


def _with_descriptions(hint: object) -> object:
    """Convert the descriptions in `Annotated[str, "a description"]` to msgspec's form, at any depth."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner = _with_descriptions(parts[0])
        known = [entry for entry in parts[1:] if isinstance(entry, msgspec.Meta)]
        texts = [text for text in map(_description, parts[1:]) if text is not None]
        added = [msgspec.Meta(description=texts[0])] if texts else []
        for entry in [*added, *known]:
            inner = Annotated[inner, entry]
        return inner
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_with_descriptions, parts))]  # noqa: UP007 - the members are known at run time only
    if origin in (list, set, frozenset, tuple, dict):
        return origin[tuple(_with_descriptions(part) for part in parts)]
    return hint


def _describes(hint: object) -> bool:
    """Return whether the annotation describes the parameter; it takes precedence over the docstring."""
    return typing.get_origin(hint) is Annotated and any(map(_description, typing.get_args(hint)[1:]))


def _description(entry: object) -> str | None:
    """Return the description in an entry of `Annotated`: a string, or that of a `Doc` or `Field` object."""
    if isinstance(entry, msgspec.Meta):
        return None
    texts = (entry, getattr(entry, "documentation", None), getattr(entry, "description", None))
    return next((text for text in texts if isinstance(text, str)), None)


def _can_change(default: object) -> bool:
    try:
        hash(default)
    except TypeError:
        return True
    return False


def _hints(function: Callable[..., object], where: str, names: list[str]) -> dict[str, object]:
    """Return the types of these parameters. Other hints may name types that exist only for type checkers."""
    original = inspect.unwrap(function)
    hinted = {name: hint for name, hint in original.__annotations__.items() if name in names}
    holder = types.SimpleNamespace(__annotations__=hinted)
    try:
        return typing.get_type_hints(holder, original.__globals__, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"A type hint of {where} cannot be resolved: {error}. Define the type at the top of the module."
        ) from error


def arguments_schema(arguments: type[msgspec.Struct], name: str) -> JsonDict:
    """Return the JSON Schema of a Struct for the tool `name`.

    Raises:
        TypeError: JSON cannot express the type or the default of a parameter. The message names it.
    """
    try:
        (top,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    except TypeError as error:
        raise TypeError(_parameter_fault(arguments, name) or f"{name!r} cannot be a tool: {error}") from error
    schema = components.pop(top["$ref"].rpartition("/")[2])
    schema.pop("title", None)
    return {**schema, "$defs": components} if components else schema


def _parameter_fault(arguments: type[msgspec.Struct], name: str) -> str | None:
    """Return the fault of the first parameter that JSON Schema cannot describe."""
    for field_info in msgspec.structs.fields(arguments):
        where = f"The parameter {field_info.name!r} of the tool {name!r}"
        shown = inspect.formatannotation(field_info.type)
        try:
            msgspec.json.schema(field_info.type)
        except TypeError:
            return (
                f"{where} has the type {shown}, which JSON cannot express. Use str, int, float, bool, list, "
                "dict, Any, Literal, an Enum, a dataclass, a TypedDict or a msgspec.Struct."
            )
        if field_info.default is not msgspec.NODEFAULT:
            try:
                _json.encode(field_info.default)
            except (TypeError, ValueError):
                return f"{where} has the default {field_info.default!r}, which JSON cannot express. Use None."
    return None
