"""Convert the JSON Schemas of tools to a form that every provider accepts.

Tools have schemas of all drafts. If a provider does not accept one of them, it refuses the whole request.
Therefore each schema is converted to draft 2020-12 when its tool is registered; its meaning does not change.
A schema that cannot be converted is refused, with an error that names the tool and the place in the schema.

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
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import msgspec

from . import _json
from .agent_types import Tool
from .errors import ToolSchemaError

if TYPE_CHECKING:
    from jsonschema_rs import Validator

__all__ = ["ToolSchema", "fit_schema", "tool_definitions", "tool_schema", "validator"]

Schema: TypeAlias = dict[str, Any]
"""A JSON Schema. The repair has checked the types of the keywords that it reads."""
_Source: TypeAlias = Mapping[str, object]
"""A schema before its repair."""

MAX_DEPTH = 64
"""Levels of nested schemas. A deeper schema is refused."""

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

    def arguments(self, sent: dict[str, Any]) -> dict[str, Any]:
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
    """Return name, description and parameters of each tool as plain data, for a proxy or the Rust module."""
    return [
        {"name": tool.name, "description": tool.description, "parameters": tool_schema(tool).parameters}
        for tool in tools or ()
    ]


def fit_schema(schema: object) -> ToolSchema:
    """Convert a tool's schema to draft 2020-12 and to a form that providers accept.

    Raises:
        ToolSchemaError: The schema is not for an object, or a part of it cannot be understood.
    """
    repair = _Repair()
    if schema is False:
        _fault((), "no arguments are allowed at all (the schema is `false`)")
    root = repair.schema(schema, ())
    base = root.pop("$id", "")
    kind = root.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        _fault((), f"the arguments of a tool must be an object, not {kind!r}")
    rules = {**root, "type": "object"}
    rules.setdefault("properties", {})
    repair.check_references(rules, base)
    parameters = rules if _TOP.isdisjoint(rules) else _without_combinators(rules)
    try:
        encoded = _json.encode(rules)
    except (TypeError, ValueError, RecursionError) as error:
        _fault((), f"it is not JSON: {error}")
    if repair.must_compile:
        try:
            validator(encoded)
        except Exception as error:  # noqa: BLE001 - the classes of jsonschema_rs share no base but Exception
            _fault((), str(error).partition("\n")[0])
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
    return jsonschema_rs.validator_for(_json.decode(encoded), offline=True)


# ---- reading one schema, and those inside ---------------------------------------------------------

_Path = tuple[str, ...]

_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_TYPE_NAMES = {
    **{name: name for name in _TYPES},
    **dict.fromkeys(("str", "text", "date", "datetime", "date-time", "time", "uuid", "uri", "url"), "string"),
    **dict.fromkeys(("int", "int32", "int64", "long"), "integer"),
    **dict.fromkeys(("float", "double", "decimal"), "number"),
    "bool": "boolean",
    **dict.fromkeys(("dict", "map"), "object"),
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    **dict.fromkeys(("none", "nil"), "null"),
}
"""The JSON Schema type for each type name that servers use, in lower case. Gemini uses capitals."""

_NAME = r"[A-Za-z0-9_.-]{1,64}"
"""Names of properties that every provider accepts."""

_ANY = frozenset(("any", "*", "mixed", "unknown", ""))

_MAPS = frozenset(("properties", "patternProperties", "$defs", "dependentSchemas"))
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_SINGLE = frozenset(("items", "contains", "not", "if", "then", "else", "propertyNames", "contentSchema"))
_OPEN = frozenset(("additionalProperties", "unevaluatedProperties", "unevaluatedItems"))
"""Keywords for which providers accept `true` and `false` as schemas."""

_NUMBERS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_COUNTS = frozenset(
    (
        *("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"),
        *("minProperties", "maxProperties"),
    )
)
_NOTES = frozenset(("title", "description", "$comment", "format", "contentEncoding", "contentMediaType"))
_FLAGS = frozenset(("deprecated", "readOnly", "writeOnly"))
_VALUES = frozenset(("const", "default"))
_COMPILED = frozenset(("$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary"))
"""Keywords that only the validator itself can check."""

_MOVED = {"definitions": "$defs", "extends": "allOf", "dependencies": "dependentSchemas", "disallow": "not"}
"""Keywords of old drafts and their replacements. A `$ref` may point into them."""

_TOP = frozenset(("$ref", "allOf", "anyOf", "oneOf", "not", "enum", "const", "if", "then", "else"))
"""Keywords that providers do not accept at the top."""

_ALTERNATIVES = _TOP - {"$ref", "allOf"}
"""Those of them that are removed and described in words. The other two are merged into the top."""


def _fault(path: _Path, text: str) -> NoReturn:
    where = ".".join(path)
    raise ToolSchemaError(f"at {where}: {text}" if where else text)


class _Repair:
    """Converts a schema and the schemas nested in it.

    Attributes:
        must_compile: Whether the schema has keywords that only the validator itself can check.
    """

    def __init__(self) -> None:
        self.must_compile = False
        self._references: list[tuple[_Path, Schema]] = []

    def schema(self, value: object, path: _Path) -> Schema:
        if value is None or value is True or value == []:  # PHP writes an empty object as []
            return {}
        if value is False:
            return {"not": {}}
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            _fault(path, f"a schema must be an object, not {_shown(value)}")
        if len(path) > 2 * MAX_DEPTH:
            _fault(path[:4], "the schema is nested too deep")
        out: Schema = {}
        for key, item in value.items():
            if not isinstance(key, str):
                _fault(path, f"the key {key!r} is not a string")
            if item is not None or key in _VALUES:
                self._keyword(out, key, item, value, path)
        self._finish(out, value, path)
        return out

    def _keyword(self, out: Schema, key: str, item: object, old: _Source, path: _Path) -> None:
        at = (*path, key)
        special = _SPECIAL.get(key)
        if special is not None:
            special(self, out, item, old, path)
        elif key in _MAPS:
            out[key] = {**out.get(key, {}), **self._map(item, at)}
        elif key in _LISTS:
            if schemas := [self.schema(one, (*at, str(n))) for n, one in enumerate(_as_list(item, at))]:
                out[key] = [*out.get(key, []), *schemas]
        elif key in _SINGLE:
            out[key] = self.schema(item, at)
        elif key in _OPEN:
            out[key] = item if isinstance(item, bool) else self.schema(item, at)
        elif key in _NUMBERS:
            out[key] = _number(item, at)
        elif key in _COUNTS:
            count = _number(item, at)
            if count < 0 or count != int(count):
                _fault(at, f"must be a whole number that is not negative, not {_shown(item)}")
            out[key] = int(count)
        elif key in _NOTES or key == "pattern":
            if isinstance(item, str):
                out[key] = item
            elif key == "pattern":
                _fault(at, f"must be a string, not {_shown(item)}")
            self.must_compile |= key == "pattern"
        elif key in _FLAGS:
            if isinstance(item, bool):
                out[key] = item
        else:
            out[key] = item
            self.must_compile |= key in _COMPILED

    def _map(self, item: object, path: _Path) -> dict[str, Schema]:
        if not isinstance(item, Mapping):
            if item == []:
                return {}
            _fault(path, f"must be an object, not {_shown(item)}")
        self.must_compile |= path[-1] == "patternProperties" and bool(item)
        return {str(name): self.schema(one, (*path, str(name))) for name, one in item.items()}

    # ---- keywords that changed between drafts, or that servers often write differently ----------------

    def _type(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "type")
        names: list[str] = []
        schemas: list[Schema] = []  # draft 3 has schemas among the names
        for one in item if isinstance(item, list | tuple) else [item]:
            if isinstance(one, Mapping):
                schemas.append(self.schema(one, at))
                continue
            if not isinstance(one, str):
                _fault(at, f"a type must be a string, not {_shown(one)}")
            if one.lower() in _ANY:
                return
            name = _TYPE_NAMES.get(one.lower())
            if name is None:
                _fault(at, f"there is no type {one!r}; the types are {', '.join(sorted(_TYPES))}")
            if name not in names:
                names.append(name)
        if schemas:
            choices = [*({"type": name} for name in names), *schemas]
            out["allOf"] = [*out.get("allOf", []), {"anyOf": choices}]
        elif names:
            out["type"] = names[0] if len(names) == 1 else names

    def _properties(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        out["properties"] = self._map(item, (*path, "properties"))
        required = [
            str(name)
            for name, one in (item.items() if isinstance(item, Mapping) else ())
            if isinstance(one, Mapping) and _flag(one.get("required")) is True  # draft 3
        ]
        if required:
            out["required"] = list(dict.fromkeys([*out.get("required", []), *required]))

    def _required(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        if _flag(item) is not None:
            return  # draft 3: a flag that `_properties` reads for the parent
        names = _names(item, (*path, "required"))
        out["required"] = list(dict.fromkeys([*out.get("required", []), *names]))

    def _limit(self, out: Schema, item: object, old: _Source, path: _Path, key: str) -> None:
        """Read an exclusive limit. In draft 4 it is a flag beside `minimum` or `maximum`."""
        plain = key.replace("exclusiveM", "m")
        if not isinstance(item, bool):
            out[key] = _number(item, (*path, key))
        elif item and old.get(plain) is not None:
            out[key] = _number(old[plain], (*path, plain))

    def _items(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "items")
        if not isinstance(item, list | tuple) or not item:
            out["items"] = self.schema(item, at)
            return
        out["prefixItems"] = [self.schema(one, (*at, str(n))) for n, one in enumerate(item)]
        rest = old.get("additionalItems")
        if rest is False:
            length = len(item)
            longest = old.get("maxItems")
            out["maxItems"] = min(length, longest) if isinstance(longest, int) else length
        out["items"] = {} if isinstance(rest, bool) else self.schema(rest, (*path, "additionalItems"))

    def _dependencies(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "dependencies")
        if not isinstance(item, Mapping):
            _fault(at, f"must be an object, not {_shown(item)}")
        for name, one in item.items():
            if isinstance(one, str | list | tuple):
                out.setdefault("dependentRequired", {})[str(name)] = _names(one, (*at, str(name)))
            else:
                out.setdefault("dependentSchemas", {})[str(name)] = self.schema(one, (*at, str(name)))

    def _dependent(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "dependentRequired")
        if not isinstance(item, Mapping):
            _fault(at, f"must be an object, not {_shown(item)}")
        dependent = {str(name): _names(one, (*at, str(name))) for name, one in item.items()}
        out["dependentRequired"] = {**out.get("dependentRequired", {}), **dependent}

    def _definitions(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        out["$defs"] = {**out.get("$defs", {}), **self._map(item, (*path, "definitions"))}

    def _extends(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "extends")
        bases = item if isinstance(item, list | tuple) else [item]
        out["allOf"] = [*(self.schema(one, at) for one in bases), *out.get("allOf", [])]

    def _disallow(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        out["allOf"] = [*out.get("allOf", []), {"not": self.schema({"type": item}, (*path, "disallow"))}]

    def _divisible(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        out["multipleOf"] = _number(item, (*path, "divisibleBy"))

    def _enum(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        values = list(item) if isinstance(item, list | tuple) else [item]
        if values:  # an empty enum would refuse every call
            out["enum"] = values

    def _examples(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        if isinstance(item, list | tuple):
            out["examples"] = list(item)

    def _unique(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        out["uniqueItems"] = flag = _flag(item)
        if flag is None:
            _fault((*path, "uniqueItems"), f"must be true or false, not {_shown(item)}")

    def _reference(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        if not isinstance(item, str):
            _fault((*path, "$ref"), f"must be a string, not {_shown(item)}")
        out["$ref"] = item
        self._references.append((path, out))

    def _left_out(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        """Leave out a keyword that has no meaning in draft 2020-12, or that is read with another keyword."""

    def _identifier(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        if not path and isinstance(item, str):
            out["$id"] = item  # for references to the schema by its own name; `fit_schema` removes it

    # ---- rules for several keywords -------------------------------------------------------------------

    def _finish(self, out: Schema, old: _Source, path: _Path) -> None:
        for end in ("Minimum", "Maximum"):
            if old.get(f"exclusive{end}") is True:
                out.pop(end.lower(), None)
        if out.get("multipleOf", 1) <= 0:
            _fault((*path, "multipleOf"), "must be a number above 0")
        if old.get("nullable") is True:  # OpenAPI 3.0
            self._allow_null(out)
        kind = out.get("type")
        if "items" not in out and ("prefixItems" in out or kind == "array" or _is_among("array", kind)):
            out["items"] = {}

    def _allow_null(self, out: Schema) -> None:
        kind = out.get("type")
        if isinstance(kind, str | list):
            names = [kind] if isinstance(kind, str) else kind
            out["type"] = names if "null" in names else [*names, "null"]
            if isinstance(out.get("enum"), list) and None not in out["enum"]:
                out["enum"] = [*out["enum"], None]
        elif "anyOf" in out:
            out["anyOf"] = [*out["anyOf"], {"type": "null"}]
        elif "$ref" in out:
            reference = {"$ref": out.pop("$ref")}
            self._references = [(at, reference if one is out else one) for at, one in self._references]
            out["anyOf"] = [reference, {"type": "null"}]

    # ---- references -----------------------------------------------------------------------------------

    def check_references(self, root: Schema, base: str) -> None:
        """Update references to converted keywords. Refuse references that lead out of the schema."""
        for path, schema in self._references:
            at = (*path, "$ref")
            reference: str = schema["$ref"]
            if base and reference.startswith(base.rstrip("#")):
                reference = reference[len(base.rstrip("#")) :] or "#"
            if not reference.startswith("#"):
                _fault(at, f"{reference!r} is outside the schema")
            if reference[1:] and not reference.startswith("#/"):
                self.must_compile = True  # an anchor
                continue
            schema["$ref"] = reference = _moved(reference)
            if _resolve(root, reference) is None:
                _fault(at, f"{reference!r} points to nothing")


_Special = Callable[[_Repair, Schema, object, _Source, _Path], None]
_SPECIAL: dict[str, _Special] = {
    "type": _Repair._type,
    "properties": _Repair._properties,
    "required": _Repair._required,
    "exclusiveMinimum": functools.partial(_Repair._limit, key="exclusiveMinimum"),
    "exclusiveMaximum": functools.partial(_Repair._limit, key="exclusiveMaximum"),
    "items": _Repair._items,
    "dependencies": _Repair._dependencies,
    "dependentRequired": _Repair._dependent,
    "definitions": _Repair._definitions,
    "extends": _Repair._extends,
    "disallow": _Repair._disallow,
    "divisibleBy": _Repair._divisible,
    "enum": _Repair._enum,
    "examples": _Repair._examples,
    "uniqueItems": _Repair._unique,
    "$ref": _Repair._reference,
    "id": _Repair._identifier,
    "$id": _Repair._identifier,
    **dict.fromkeys(("$schema", "nullable", "additionalItems"), _Repair._left_out),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _flag(value: object) -> bool | None:
    """Return a boolean, also from its text; None for any other value."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _is_among(name: str, types: object) -> bool:
    return isinstance(types, list) and name in types


def _as_list(item: object, path: _Path) -> list[object]:
    if isinstance(item, list | tuple):
        return list(item)
    _fault(path, f"must be a list of schemas, not {_shown(item)}")


def _names(item: object, path: _Path) -> list[str]:
    names = [item] if isinstance(item, str) else item
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        _fault(path, f"must be a list of names, not {_shown(item)}")
    return list(dict.fromkeys(names))


def _number(item: object, path: _Path) -> int | float:
    if isinstance(item, str):
        for read in (int, float):
            try:
                item = read(item)
                break
            except ValueError:
                continue
    if isinstance(item, bool) or not isinstance(item, int | float) or item - item != 0:
        _fault(path, f"must be a number, not {_shown(item)}")
    return item


# ---- pointers -------------------------------------------------------------------------------------


def _moved(reference: str) -> str:
    """Convert a JSON pointer into the original schema to one into the converted schema."""
    parts = reference.split("/")
    out, rest = parts[:1], parts[1:]
    while rest:
        keyword = rest.pop(0)
        if keyword == "items" and rest and rest[0].isdigit():
            out += ["prefixItems", rest.pop(0)]
        elif keyword == "additionalItems":
            out.append("items")
        elif keyword == "extends" and not (rest and rest[0].isdigit()):
            out += ["allOf", "0"]
        else:
            now = _MOVED.get(keyword, keyword)
            out.append(now)
            if rest and (now in _MAPS or now in _LISTS):
                out.append(rest.pop(0))
    return "/".join(out)


def _resolve(root: object, reference: str) -> object:
    """Return the value that a JSON pointer in a fragment points to; None if there is no such value."""
    from urllib.parse import unquote

    value = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            if isinstance(value, list):
                value = value[int(name)]
            elif isinstance(value, dict):
                value = value[name]
            else:
                return None
        except (KeyError, IndexError, ValueError):
            return None
    return value


# ---- the top --------------------------------------------------------------------------------------


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
    target = _resolve(root, reference) if reference[:2] in ("#", "#/") else None
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
