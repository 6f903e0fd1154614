"""Convert a JSON Schema of any draft to draft 2020-12, without a change of its meaning.

Spellings that are not JSON Schema, but that servers use, are converted, too: the type names of Gemini, a
schema that is only the name of a type, numbers as strings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeAlias

from .agent_types import JsonDict
from .errors import ToolSchemaError

__all__ = ["Schema", "SchemaRepair", "fault", "resolve"]

Schema: TypeAlias = JsonDict
"""A JSON Schema. The repair has checked the types of the keywords that it reads."""
_Source: TypeAlias = Mapping[str, object]
"""A schema before its repair."""

MAX_DEPTH = 64
"""Levels of nested schemas. A deeper schema is refused."""

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


def fault(path: _Path, text: str) -> NoReturn:
    """Raise a `ToolSchemaError` for a place in a schema."""
    where = ".".join(path)
    raise ToolSchemaError(f"at {where}: {text}" if where else text)


class SchemaRepair:
    """Converts a schema and the schemas nested in it.

    Attributes:
        must_compile: Whether the schema has keywords that only the validator itself can check.
    """

    def __init__(self) -> None:
        self.must_compile = False
        self._references: list[tuple[_Path, Schema]] = []

    def schema(self, value: object, path: _Path) -> Schema:
        """Return the converted schema. `path` is its place, for errors."""
        if value is None or value is True or value == []:  # PHP writes an empty object as []
            return {}
        if value is False:
            return {"not": {}}
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            fault(path, f"a schema must be an object, not {_shown(value)}")
        if len(path) > 2 * MAX_DEPTH:
            fault(path[:4], "the schema is nested too deep")
        out: Schema = {}
        for key, item in value.items():
            if not isinstance(key, str):
                fault(path, f"the key {key!r} is not a string")
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
                fault(at, f"must be a whole number that is not negative, not {_shown(item)}")
            out[key] = int(count)
        elif key in _NOTES or key == "pattern":
            if isinstance(item, str):
                out[key] = item
            elif key == "pattern":
                fault(at, f"must be a string, not {_shown(item)}")
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
            fault(path, f"must be an object, not {_shown(item)}")
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
                fault(at, f"a type must be a string, not {_shown(one)}")
            if one.lower() in _ANY:
                return
            name = _TYPE_NAMES.get(one.lower())
            if name is None:
                fault(at, f"there is no type {one!r}; the types are {', '.join(sorted(_TYPES))}")
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
            fault(at, f"must be an object, not {_shown(item)}")
        for name, one in item.items():
            if isinstance(one, str | list | tuple):
                out.setdefault("dependentRequired", {})[str(name)] = _names(one, (*at, str(name)))
            else:
                out.setdefault("dependentSchemas", {})[str(name)] = self.schema(one, (*at, str(name)))

    def _dependent(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        at = (*path, "dependentRequired")
        if not isinstance(item, Mapping):
            fault(at, f"must be an object, not {_shown(item)}")
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
            fault((*path, "uniqueItems"), f"must be true or false, not {_shown(item)}")

    def _reference(self, out: Schema, item: object, old: _Source, path: _Path) -> None:
        if not isinstance(item, str):
            fault((*path, "$ref"), f"must be a string, not {_shown(item)}")
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
            fault((*path, "multipleOf"), "must be a number above 0")
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
                fault(at, f"{reference!r} is outside the schema")
            if reference[1:] and not reference.startswith("#/"):
                self.must_compile = True  # an anchor
                continue
            schema["$ref"] = reference = _moved(reference)
            if resolve(root, reference) is None:
                fault(at, f"{reference!r} points to nothing")


_Special = Callable[[SchemaRepair, Schema, object, _Source, _Path], None]
_SPECIAL: dict[str, _Special] = {
    "type": SchemaRepair._type,
    "properties": SchemaRepair._properties,
    "required": SchemaRepair._required,
    "exclusiveMinimum": functools.partial(SchemaRepair._limit, key="exclusiveMinimum"),
    "exclusiveMaximum": functools.partial(SchemaRepair._limit, key="exclusiveMaximum"),
    "items": SchemaRepair._items,
    "dependencies": SchemaRepair._dependencies,
    "dependentRequired": SchemaRepair._dependent,
    "definitions": SchemaRepair._definitions,
    "extends": SchemaRepair._extends,
    "disallow": SchemaRepair._disallow,
    "divisibleBy": SchemaRepair._divisible,
    "enum": SchemaRepair._enum,
    "examples": SchemaRepair._examples,
    "uniqueItems": SchemaRepair._unique,
    "$ref": SchemaRepair._reference,
    "id": SchemaRepair._identifier,
    "$id": SchemaRepair._identifier,
    **dict.fromkeys(("$schema", "nullable", "additionalItems"), SchemaRepair._left_out),
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
    fault(path, f"must be a list of schemas, not {_shown(item)}")


def _names(item: object, path: _Path) -> list[str]:
    names = [item] if isinstance(item, str) else item
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        fault(path, f"must be a list of names, not {_shown(item)}")
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
        fault(path, f"must be a number, not {_shown(item)}")
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


def resolve(root: object, reference: str) -> object:
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
