"""Convert the JSON Schemas of tools to a form that every provider accepts.

Tools have schemas of all drafts. If a provider does not accept one of them, it refuses the whole request.
Therefore each schema is converted to draft 2020-12 when its tool is registered; its meaning does not change
(`_schema_repair`). A schema that cannot be converted is refused, with an error that names the tool and the
place in the schema.

Providers require more than JSON Schema does:

- an object at the top, with `properties` (OpenAI: "object schema missing properties"),
- no `anyOf`, `oneOf`, `allOf`, `not`, `enum` or `$ref` at the top (Anthropic: "input_schema does not support
  oneOf, allOf, or anyOf at the top level"; OpenAI likewise),
- `items` for every array (OpenAI: "array schema missing items"),
- names of properties in a few letters (Anthropic: "Property keys should match pattern
  '^[a-zA-Z0-9_.-]{1,64}$'").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from . import _json
from ._schema_repair import Schema, SchemaRepair, fault, resolve
from .agent_types import JsonDict, Tool
from .errors import ToolSchemaError

if TYPE_CHECKING:
    from jsonschema_rs import Validator

__all__ = ["ToolSchema", "fit_schema", "tool_definitions", "tool_schema", "validator"]

MAX_ALTERNATIVES = 2_000
"""Most characters of JSON that a description gets in place of keywords that providers refuse at the top."""


class ToolSchema(msgspec.Struct, frozen=True):
    """A tool's schema after repair.

    Attributes:
        parameters: The schema for providers: an object schema with `properties` and without combinators at
            the top. Arguments that are valid under `rules` are valid under it.
        rules: The schema that arguments are validated against.
        encoded: `rules` as JSON; the key of the compiled validator in the cache.
        names: The tool's own names of the properties that are sent under another name.
    """

    parameters: Schema
    rules: Schema
    encoded: bytes
    names: Mapping[str, str] = {}

    def arguments(self, sent: JsonDict) -> JsonDict:
        """Return the arguments of a model's call under the tool's own names."""
        return {self.names.get(name, name): value for name, value in sent.items()} if self.names else sent


def tool_schema(tool: Tool) -> ToolSchema:
    """Return the repaired schema of a tool.

    The result is cached until another object is assigned to `tool.parameters`. A change of that object in
    place has no effect.

    Raises:
        ToolSchemaError: The schema cannot be used. The message names the tool and the fault.
    """
    cached: tuple[object, ToolSchema] | None = vars(tool).get(_CACHED)
    if cached is not None and cached[0] is tool.parameters:
        return cached[1]
    try:
        fitted = fit_schema(tool.parameters)
    except ToolSchemaError as error:
        raise ToolSchemaError(f"The schema of {tool.name!r} cannot be used: {error}") from None
    # Not a dataclass field: comparisons must ignore it, and `replace` must not copy it.
    vars(tool)[_CACHED] = (tool.parameters, fitted)
    return fitted


_CACHED = "_tool_schema"


def tool_definitions(tools: Iterable[Tool] | None) -> list[Schema]:
    """Return name, description and parameters of each tool as plain data."""
    return [
        {"name": tool.name, "description": tool.description, "parameters": tool_schema(tool).parameters}
        for tool in tools or ()
    ]


def fit_schema(schema: object) -> ToolSchema:
    """Convert a tool's schema to draft 2020-12 and to a form that providers accept.

    Raises:
        ToolSchemaError: The schema is not for an object, or a part of it cannot be understood.
    """
    repair = SchemaRepair()
    if schema is False:
        fault((), "no arguments are allowed at all (the schema is `false`)")
    root = repair.schema(schema, ())
    base = root.pop("$id", "")
    kind = root.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        fault((), f"the arguments of a tool must be an object, not {kind!r}")
    rules = {**root, "type": "object"}
    rules.setdefault("properties", {})
    repair.check_references(rules, base)
    parameters = rules if _TOP.isdisjoint(rules) else _without_combinators(rules)
    try:
        encoded = _json.encode(rules)
    except (TypeError, ValueError, RecursionError) as error:
        fault((), f"it is not JSON: {error}")
    if repair.must_compile:
        try:
            validator(encoded)
        except Exception as error:  # noqa: BLE001 - the classes of jsonschema_rs share no base but Exception
            fault((), str(error).partition("\n")[0])
    parameters, names = _with_plain_names(parameters)
    return ToolSchema(parameters, rules, encoded, names)


@functools.lru_cache(maxsize=512)
def validator(encoded: bytes) -> Validator:
    """Compile the validator of a schema in JSON.

    Raises:
        ValueError: The schema is invalid.
        jsonschema_rs.ReferencingError: A reference in it leads nowhere.
    """
    import jsonschema_rs

    # Offline: a schema from outside must not make us fetch URLs.
    return jsonschema_rs.validator_for(_json.as_dict(_json.decode(encoded)), offline=True)


# ---- the top --------------------------------------------------------------------------------------

_NAME = r"[A-Za-z0-9_.-]{1,64}"
"""Names of properties that every provider accepts."""

_TOP = frozenset(("$ref", "allOf", "anyOf", "oneOf", "not", "enum", "const", "if", "then", "else"))
"""Keywords that providers do not accept at the top."""

_ALTERNATIVES = _TOP - {"$ref", "allOf"}
"""Those of them that are removed and described in words. The other two are merged into the top."""


def _without_combinators(rules: Schema) -> Schema:
    """Return an object schema without combinators, with the properties of all alternatives.

    It accepts at least what `rules` accept. Its description has the keywords that are left out. Arguments
    are still validated against `rules`.
    """
    flat = _flatten(rules, rules, {})
    left_out = {key: rules[key] for key in rules if key in _ALTERNATIVES}
    text = _json.encode(left_out).decode() if left_out else ""
    if text and len(text) <= MAX_ALTERNATIVES:
        notes = [rules.get("description") or flat.get("description"), f"The arguments must also fit: {text}"]
        flat["description"] = "\n".join(filter(None, notes))
    flat["type"] = "object"
    flat.setdefault("properties", {})
    return flat


def _with_plain_names(parameters: Schema) -> tuple[Schema, dict[str, str]]:
    """Rename the properties whose names some providers refuse.

    Returns:
        The schema, and the tool's own name of each property by its new name.
    """
    properties: Schema = parameters["properties"]
    names: dict[str, str] = {}
    for name in properties:
        if not re.fullmatch(_NAME, name):
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")[:56] or "argument"
            number = 1
            while (unique := plain if number == 1 else f"{plain}_{number}") in properties or unique in names:
                number += 1
            names[unique] = name
    if not names:
        return parameters, names
    plain_names = {own: plain for plain, own in names.items()}
    renamed: Schema = {}
    for name, schema in properties.items():
        if name in plain_names:
            schema = {
                **schema,
                "description": " ".join(filter(None, [f"({name})", schema.get("description")])),
            }
        renamed[plain_names.get(name, name)] = schema
    parameters = {**parameters, "properties": renamed}
    if "required" in parameters:
        parameters["required"] = [plain_names.get(name, name) for name in parameters["required"]]
    return parameters, names


def _flatten(schema: Schema, root: Schema, done: dict[int, Schema]) -> Schema:
    """Merge the alternatives of a schema into one object schema.

    `done` maps the identity of each schema that was merged before to its result; references may be circular.
    """
    if id(schema) in done:
        return done[id(schema)]
    flat = done[id(schema)] = {key: value for key, value in schema.items() if key not in _TOP}
    own = set(flat.get("properties", {}))
    always = [part for part in (_target(schema, root), *schema.get("allOf", ())) if part is not None]
    for part in always:
        _merge(flat, _flatten(part, root, done), required=True)
    for key in ("anyOf", "oneOf"):
        choices = [_flatten(part, root, done) for part in schema.get(key, ())]
        for choice in choices:
            _merge(flat, choice, required=False)
        if choices:
            common = set.intersection(*(set(choice.get("required", ())) for choice in choices))
            _require(flat, [name for name in choices[0].get("required", ()) if name in common])
    for key in ("if", "then", "else"):
        if key in schema:
            _merge(flat, _flatten(schema[key], root, done), required=False)
    if set(flat.get("properties", {})) != own:
        # These apply only to the properties beside them, and the merge has added others.
        flat.pop("additionalProperties", None)
        flat.pop("unevaluatedProperties", None)
    return flat


def _target(schema: Schema, root: Schema) -> Schema | None:
    reference = str(schema.get("$ref", ""))
    target = resolve(root, reference) if reference[:2] in ("#", "#/") else None
    return target if isinstance(target, dict) else None


def _merge(flat: Schema, part: Schema, *, required: bool) -> None:
    """Add the properties of `part`. If it is `required`, add its required names and description too."""
    flat["properties"] = properties = dict(flat.get("properties", {}))
    for name, schema in part.get("properties", {}).items():
        known = properties.get(name)
        if known is None or known == schema or known == {}:
            properties[name] = schema
        elif schema != {}:
            key = "allOf" if required else "anyOf"
            properties[name] = {key: [*(known[key] if set(known) == {key} else [known]), schema]}
    if required:
        _require(flat, part.get("required", []))
        if "description" in part:
            flat.setdefault("description", part["description"])
    if "$defs" in part:
        flat["$defs"] = {**part["$defs"], **flat.get("$defs", {})}


def _require(flat: Schema, names: Iterable[str]) -> None:
    if merged := list(dict.fromkeys([*flat.get("required", []), *names])):
        flat["required"] = merged
