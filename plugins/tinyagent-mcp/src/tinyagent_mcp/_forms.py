"""Check the form of an elicitation, and the values for it.

The protocol permits only a flat object whose values are texts, numbers, booleans and choices. Everything else
is refused, and every text has a limit, because the user has to read the form.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinyagent import AgentTool
from tinyagent.agent_tool_execution import validate_tool_arguments
from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.errors import ToolArgumentsError

from ._repair import shortened

__all__ = ["UnsupportedFormError", "checked_form", "checked_values"]

MAX_FIELDS = 30
MAX_CHOICES = 100

_RULES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "string": {"minLength": int, "maxLength": int, "format": str, "default": str},
    "integer": {"minimum": (int, float), "maximum": (int, float), "default": int},
    "number": {"minimum": (int, float), "maximum": (int, float), "default": (int, float)},
    "boolean": {"default": bool},
}
"""The rules of each type, with the types of their values. Other keys are left out."""

_FORMATS = ("email", "uri", "date", "date-time")


class UnsupportedFormError(Exception):
    """The form has something that the protocol does not permit."""


def checked_form(schema: Mapping[str, object]) -> JsonDict:
    """Return the schema of a form with what is permitted.

    A choice is `enum` with the labels in `enumNames`, in whatever way the server has written it.

    Raises:
        UnsupportedFormError: It is not permitted.
    """
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict):
        raise UnsupportedFormError("it is not an object with properties")
    if len(properties) > MAX_FIELDS:
        raise UnsupportedFormError(f"it has more than {MAX_FIELDS} fields")
    fields: JsonDict = {}
    for name, field in properties.items():
        if not isinstance(field, dict) or not name or len(str(name)) > 100:
            raise UnsupportedFormError("a field is malformed")
        fields[str(name)] = _field(field)
    required = schema.get("required")
    names: list[JsonValue] = [
        name for name in (required if isinstance(required, list) else []) if name in fields
    ]
    return {"type": "object", "properties": fields, "required": names, "additionalProperties": False}


def checked_values(schema: JsonDict, values: JsonDict) -> str | None:
    """Return which rule of the form the values violate; None if they fit it."""
    tool = AgentTool("form", parameters=schema)
    try:
        validate_tool_arguments(
            tool, {"type": "tool_call", "id": "form", "name": "form", "arguments": values}
        )
    except ToolArgumentsError as error:
        return str(error)
    return None


def _field(field: Mapping[str, object]) -> JsonDict:
    about: JsonDict = {}
    for key, limit in (("title", 200), ("description", 1_000)):
        text = field.get(key)
        if isinstance(text, str) and text:
            about[key] = shortened(text, limit)
    kind = field.get("type")
    if kind == "array":
        items = field.get("items")
        choice = _choice(items, "anyOf") if isinstance(items, dict) else None
        if choice is None:
            raise UnsupportedFormError("a list has no choices")
        limits: JsonDict = {
            key: value
            for key in ("minItems", "maxItems")
            if isinstance(value := field.get(key), int) and not isinstance(value, bool)
        }
        return {"type": "array", "items": choice, "uniqueItems": True, **limits, **about}
    if not isinstance(kind, str) or kind not in _RULES:
        raise UnsupportedFormError("a field is not a text, a number, a boolean or a choice")
    choice = _choice(field, "oneOf") if kind == "string" else None
    if choice is not None:
        default = field.get("default")
        chosen: JsonDict = {"default": default} if default in _as_list(choice["enum"]) else {}
        return {**choice, **chosen, **about}
    rules: JsonDict = {}
    for key, types in _RULES[kind].items():
        value = field.get(key)
        if isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool)):
            rules[key] = value
    if rules.get("format") not in _FORMATS:
        rules.pop("format", None)
    if isinstance(rules.get("default"), str):
        rules["default"] = shortened(str(rules["default"]), 1_000)
    return {"type": kind, **rules, **about}


def _choice(field: Mapping[str, object], alternatives: str) -> JsonDict | None:
    """Return a choice of texts; None for another kind of field."""
    values, labels = field.get("enum"), field.get("enumNames")
    entries = field.get(alternatives)
    if isinstance(entries, list):
        values = [entry.get("const") for entry in entries if isinstance(entry, dict)]
        labels = [entry.get("title") for entry in entries if isinstance(entry, dict)]
    if values is None:
        return None
    texts = [value for value in (values if isinstance(values, list) else []) if isinstance(value, str)]
    if not texts or not isinstance(values, list) or len(texts) < len(values):
        raise UnsupportedFormError("a choice is not one of texts")
    if len(texts) > MAX_CHOICES or any(len(text) > 200 for text in texts):
        raise UnsupportedFormError(f"a choice has more than {MAX_CHOICES} values, or a very long one")
    choice: JsonDict = {"type": "string", "enum": [*texts]}
    names = [label for label in (labels if isinstance(labels, list) else []) if isinstance(label, str)]
    if len(names) == len(texts) and all(names):
        choice["enumNames"] = [shortened(label, 200) for label in names]
    return choice


def _as_list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
