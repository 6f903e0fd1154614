"""Checks of tools and of the arguments of tool calls."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import overload

from . import _json
from ._tool_schemas import tool_schema, validator
from .agent_types import AgentTool, JsonDict, JsonValue, ToolCallContent
from .errors import ToolArgumentsError, ToolSchemaError, shorten

__all__ = [
    "as_json_numbers",
    "checked_tools",
    "is_unchanged_json",
    "schema_problems",
    "validate_tool_arguments",
]

MAX_SHOWN = 500
"""The most characters of a text that an error shows."""


def checked_tools(tools: Iterable[object]) -> list[AgentTool]:
    """Check the tools, and return them as a new list.

    Raises:
        TypeError: One of them is not an `AgentTool`, or `tools` is not a list.
        ValueError: Two tools have the same name, or one has no name or an unusable timeout.
        ToolSchemaError: The JSON Schema of a tool cannot be used.
    """
    known: dict[str, AgentTool] = {}
    if not isinstance(tools, Iterable):
        raise TypeError(f"Tools are a list of AgentTool objects, not of type {type(tools).__name__}.")
    for tool in tools:
        if not isinstance(tool, AgentTool):
            raise TypeError(f"{tool!r} is not a tool. Use @tool or AgentTool(name=…, execute=…).")
        name: object = tool.name
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"A tool has no name: {tool!r}.")
        if tool.timeout is not None and not _is_duration(tool.timeout):
            raise ValueError(
                f"The timeout of the tool {tool.name!r} is {tool.timeout!r}; it is a number of seconds "
                "above 0, or None for no limit."
            )
        if tool.name in known:
            raise ValueError(f"Two tools have the name {tool.name!r}; a model could not tell them apart.")
        tool_schema(tool)
        known[tool.name] = tool
    return list(known.values())


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


# ---- arguments ------------------------------------------------------------------------------------


def validate_tool_arguments(tool: AgentTool, tool_call: ToolCallContent) -> JsonDict:
    """Validate the arguments of a call against the tool's schema, and return a copy of them.

    JSON does not distinguish `5.0` from `5`, and some models send the former. It becomes an `int` in the
    copy.

    Raises:
        ToolArgumentsError: They are not a JSON object, or violate a rule. The message names path and rule.
    """
    arguments: object = tool_call.get("arguments")
    raw = tool_call.get("partial_json")
    if raw and raw.strip() and _json.decode_object(raw) is None:
        raise ToolArgumentsError(
            f"The arguments of {tool.name!r} are not a JSON object: {_shorten(raw)}. "
            "Call it again with a JSON object."
        )
    if not isinstance(arguments, dict):
        raise ToolArgumentsError(
            f"The arguments of {tool.name!r} are not a JSON object but {type(arguments).__name__}. "
            "Call it again with a JSON object."
        )
    try:
        schema = tool_schema(tool)
        arguments = schema.arguments(as_json_numbers(arguments))
        problems = schema_problems(schema.encoded, arguments)
    except RecursionError:
        raise ToolArgumentsError(
            f"The arguments of {tool.name!r} are nested too deep. Call it again with flatter ones."
        ) from None
    except ToolSchemaError as error:
        raise ToolArgumentsError(f"The call was not run. {_shorten(str(error))}") from error
    except Exception as error:
        raise ToolArgumentsError(
            f"The schema of {tool.name!r} cannot be used, so the call was not run: {_shorten(str(error))}"
        ) from error
    if problems:
        raise ToolArgumentsError(
            f"The arguments of {tool.name!r} do not fit its schema: {'; '.join(problems)}. "
            "Correct them and call it again."
        )
    return arguments


def schema_problems(encoded: bytes, value: object) -> list[str]:
    """Return the place and the rule of the first violations of a schema, at most five.

    Args:
        encoded: The schema, repaired, as JSON.
        value: The value to validate.

    Raises:
        RecursionError: The value is nested too deep.
    """
    return [
        f"at {_path(error.instance_path)}: {_shorten(error.message)} "
        f"(rule: {'/'.join(map(str, error.schema_path))})"
        for error, _ in zip(validator(encoded).iter_errors(value), range(5), strict=False)
    ]


@overload
def as_json_numbers(value: JsonDict) -> JsonDict: ...
@overload
def as_json_numbers(value: JsonValue) -> JsonValue: ...
@overload
def as_json_numbers(value: object) -> object: ...
def as_json_numbers(value: object) -> object:
    """Copy a JSON value, with floats without a fraction as int.

    Raises:
        RecursionError: The value is nested too deep.
    """
    if isinstance(value, dict):
        return {key: as_json_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else copy.deepcopy(value)


def is_unchanged_json(value: object, encoded: bytes) -> bool:
    """Whether a value has not changed since it was encoded."""
    try:
        return _json.encode(value) == encoded
    except (TypeError, ValueError, RecursionError):
        return False


def _path(parts: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _shorten(text: str) -> str:
    return shorten(text, MAX_SHOWN)
