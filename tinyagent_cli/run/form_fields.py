"""Ask for the values of a form on the terminal, one by one.

The schema comes from elsewhere, so its texts are made safe. Each value is checked before the next question.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent_cli.terminal.sanitise import visible_line

from .terminal_questions import read_answer

__all__ = ["ask_value", "described", "form_fields", "problem_of"]


def form_fields(schema: Mapping[str, JsonValue]) -> dict[str, JsonDict]:
    """Return the schemas of the values, by their names."""
    found = schema.get("properties")
    return {
        name: field
        for name, field in (found.items() if isinstance(found, dict) else ())
        if isinstance(field, dict)
    }


def problem_of(schema: JsonDict, values: JsonDict) -> str | None:
    """Return which rule of a form the values violate; None if they fit it."""
    from tinyagent._tool_checks import schema_problems
    from tinyagent._tool_schemas import tool_schema
    from tinyagent.agent_types import Tool

    problems = schema_problems(tool_schema(Tool("form", parameters=schema)).encoded, values)
    return problems[0] if problems else None


def _choices(field: JsonDict) -> list[tuple[str, str]]:
    """Return the values and the labels of a choice; empty for other fields."""
    items = field.get("items")
    source = items if field.get("type") == "array" and isinstance(items, dict) else field
    values, labels = source.get("enum"), source.get("enumNames")
    if not isinstance(values, list):
        return []
    names = labels if isinstance(labels, list) and len(labels) == len(values) else values
    return [(str(value), str(label)) for value, label in zip(values, names, strict=True)]


def _kind(field: JsonDict) -> str:
    choices = [f"{number} {visible_line(label)}" for number, (_, label) in enumerate(_choices(field), 1)]
    if choices:
        many = "some of: " if field.get("type") == "array" else "one of: "
        return many + ", ".join(choices)
    words = {"integer": "a whole number", "number": "a number", "boolean": "yes or no"}
    text = f"a text, {visible_line(str(field['format']))}" if "format" in field else "a text"
    return words.get(str(field.get("type")), text)


def described(name: str, field: JsonDict, *, optional: bool) -> str:
    """Return a line about a value."""
    label = visible_line(str(field.get("title") or name))
    about = visible_line(str(field.get("description") or ""))
    end = " (optional)" if optional else ""
    return f"  {label}{f' - {about}' if about else ''}: {_kind(field)}{end}"


async def ask_value(fd: int, name: str, field: JsonDict, values: JsonDict, *, optional: bool) -> bool:
    """Ask for a value until it is valid, and add it to `values`. Return False if the user declines."""
    label = visible_line(str(field.get("title") or name))
    default = field.get("default")
    hint = ""
    if default is not None:
        hint = f" [{visible_line(_as_text(default))}]"
    elif optional:
        hint = " [none]"
    choices = f" ({_kind(field)})" if _choices(field) else ""
    while True:
        line = await read_answer(fd, f"{label}{choices}{hint}: ")
        if line is None:
            return False
        if not line.strip():
            if default is not None:
                values[name] = default
                return True
            if optional:
                return True
            if field.get("type", "string") != "string" or _choices(field) or field.get("minLength"):
                problem: str | None = "A value is needed. Ctrl-D declines"
            else:
                problem = None
                values[name] = ""
        else:
            try:
                values[name] = _parsed(field, line.strip())
                problem = _problem(name, field, values[name])
            except ValueError as error:
                problem = str(error)
        if problem is None:
            return True
        values.pop(name, None)
        label = f"{problem}.\n{visible_line(str(field.get('title') or name))}"


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parsed(field: JsonDict, text: str) -> JsonValue:
    """Return the value that a user has typed.

    Raises:
        ValueError: It is not of the type of the field.
    """
    choices = _choices(field)
    if choices:
        if field.get("type") != "array":
            return _chosen(choices, text)
        return [_chosen(choices, part.strip()) for part in text.split(",") if part.strip()]
    match field.get("type"):
        case "boolean":
            answers = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
            if text.lower() not in answers:
                raise ValueError("Type yes or no")
            return answers[text.lower()]
        case "integer":
            return int(text) if text.lstrip("+-").isdecimal() else _not_a_number("a whole number")
        case "number":
            try:
                number = float(text)
            except ValueError:
                return _not_a_number("a number")
            return number if math.isfinite(number) else _not_a_number("a number")
    return text


def _not_a_number(what: str) -> int:
    raise ValueError(f"Type {what}")


def _chosen(choices: list[tuple[str, str]], text: str) -> str:
    if text.isdecimal() and 1 <= int(text) <= len(choices):
        return choices[int(text) - 1][0]
    for value, label in choices:
        if text in (value, label):
            return value
    raise ValueError("Type the number of a choice")


def _problem(name: str, field: JsonDict, value: JsonValue) -> str | None:
    """Return the rule of the field that a value violates."""
    rules = {key: rule for key, rule in field.items() if key not in ("title", "description", "default")}
    problem = problem_of({"type": "object", "properties": {name: rules}}, {name: value})
    return None if problem is None else visible_line(problem.partition(": ")[2].rpartition(" (rule: ")[0])
