"""Explain why a configuration file does not have the expected type: the key, the problem and a suggestion."""

from __future__ import annotations

import re
import tomllib

import msgspec

from tinyagent_cli.terminal.hints import nearest

from .key_types import children, dotted, values_of

__all__ = ["explain"]


_WORDS = {
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""The types of msgspec, as the user of a TOML file knows them."""


def explain(message: str, text: str, kind: type[object]) -> tuple[str, str | None]:
    """Return a message that begins with the key, and a hint.

    Args:
        message: The message of msgspec, such as "Expected `int`, got `str` - at `$.run.max_turns`".
        text: The text of the file.
        kind: The type that it should have.
    """
    problem, _, place = message.partition(" - at `$")
    keys = _keys(place.removesuffix("`").removeprefix("."), text, kind)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", problem)
    if unknown is None:
        values = values_of(keys, kind)
        if values:
            problem = problem.replace("Invalid enum value", "unknown value", 1)
            return f"{dotted(keys)}: {problem}", f"One of: {', '.join(values)}."
        problem = problem[:1].lower() + re.sub(r"`(\w+)( \| null)?`", _in_words, problem[1:])
        return (f"{dotted(keys)}: {problem}" if keys else problem), None
    name = dotted([*keys, unknown[1]])
    known = children(keys, kind)
    near = nearest(unknown[1], known)
    if keys[:1] == ["providers"] and unknown[1] in ("api_key", "key"):
        return f"unknown key {name!r}", f"Keys are stored by: tinyagent keys set {dotted(keys[1:2])}"
    if near:
        return f"unknown key {name!r}", f"Did you mean {dotted([*keys, near])!r}?"
    return f"unknown key {name!r}", f"Known keys: {', '.join(known)}." if known else None


def _in_words(found: re.Match[str]) -> str:
    return _WORDS.get(found[1], found[0])


def _keys(place: str, text: str, kind: type[object]) -> list[str]:
    """Return the parts of the key at a place. msgspec writes `[...]` for a name that the user has chosen."""
    keys: list[str] = []
    value: object = tomllib.loads(text)
    whole = value
    for part in re.findall(r"[^.\[\]]+|\[\.\.\.\]|\[\d+\]", place):
        if part == "[...]" and isinstance(value, dict):
            part = next((name for name in value if not _is_valid(whole, keys, name, kind)), "…")
        elif part.startswith("["):
            break  # an element of a list: the key of the list is enough
        keys.append(part)
        value = value.get(part) if isinstance(value, dict) else None
    return keys


def _is_valid(whole: object, keys: list[str], name: str, kind: type[object]) -> bool:
    """Return whether the file would be valid if the table `keys` had only this name."""
    value = whole
    for key in keys:
        value = value[key] if isinstance(value, dict) else {}
    only: object = {name: value[name]} if isinstance(value, dict) else {}
    for key in reversed(keys):
        only = {key: only}
    try:
        msgspec.convert(only, kind)
    except msgspec.ValidationError:
        return False
    return True
