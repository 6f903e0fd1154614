"""Requests for an answer with a JSON Schema: what each provider's structured output accepts.

A provider enforces `options["response_schema"]` in the strongest way that the server accepts: by its
structured output, by a tool that the model must call (Anthropic), or by instructions in the system prompt. If
a server refuses the schema, the request is repeated in the next weaker way, and the process remembers this.
The caller validates the answer in any case.

Sources: platform.openai.com/docs/guides/structured-outputs,
platform.claude.com/docs/en/build-with-claude/structured-outputs, api-docs.deepseek.com/guides/json_mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from tinyagent import _json
from tinyagent._json import as_dict, as_list, as_str
from tinyagent.agent_types import Context, JsonDict, SimpleStreamOptions
from tinyagent.errors import ProviderError

from .model import HttpModel
from .model_families import note

__all__ = [
    "ANTHROPIC",
    "OPENAI",
    "SchemaRules",
    "instructed",
    "instructions",
    "is_refused",
    "json_schema_format",
    "refuses_schema",
    "strict_schema",
]


class SchemaRules(NamedTuple):
    """What a provider requires of a schema that it enforces.

    Attributes:
        all_required: Whether every property must be required. An optional one then also accepts null.
        limits: Whether limits of numbers, arrays and texts are accepted.
        recursive: Whether a schema may contain itself.
    """

    all_required: bool
    limits: bool
    recursive: bool


OPENAI = SchemaRules(all_required=True, limits=True, recursive=True)
ANTHROPIC = SchemaRules(all_required=False, limits=False, recursive=False)

_SAME = frozenset(("type", "description", "title", "enum", "const"))
_LIMITS = frozenset(
    (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems", "pattern"),
    )
)
_LEFT_OUT = frozenset(
    (
        *("default", "examples", "$comment", "$schema", "deprecated", "readOnly", "writeOnly"),
        *("discriminator", "minLength", "maxLength", "uniqueItems", "contentEncoding", "contentMediaType"),
        "required",
    )
)
"""Keywords that are not sent: notes, and limits that only the validation of the answer checks."""
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))


class _UnfitError(Exception):
    """The schema has no strict form."""


def strict_schema(schema: JsonDict, rules: SchemaRules) -> JsonDict | None:
    """Return the schema in the form that a provider enforces; None if it has none.

    Every answer that fits the result also fits `schema`, except for limits that are left out, and for nulls
    in the place of optional properties.
    """
    try:
        if schema.get("type") != "object" or (not rules.recursive and _is_recursive(schema)):
            return None
        return _strict(schema, rules)
    except (_UnfitError, TypeError, RecursionError):  # a proxy gets schemas that are not checked
        return None


def _strict(schema: object, rules: SchemaRules) -> JsonDict:
    if not isinstance(schema, dict):
        raise _UnfitError
    if "$ref" in schema:  # OpenAI refuses other keywords beside it
        return {"$ref": schema["$ref"]}
    out: JsonDict = {}
    for key, item in schema.items():
        if key in _SAME or (key in _LIMITS and rules.limits):
            out[key] = item
        elif key in ("anyOf", "oneOf") and "anyOf" not in out:
            out["anyOf"] = [_strict(part, rules) for part in as_list(item)]
        elif key == "items":
            out[key] = _strict(item, rules)
        elif key in ("properties", "$defs"):
            out[key] = {name: _strict(part, rules) for name, part in as_dict(item).items()}
        elif key == "format":
            if item in _FORMATS:
                out[key] = item
        elif not (
            key in _LEFT_OUT or key in _LIMITS or (key == "additionalProperties" and item in (True, False))
        ):
            raise _UnfitError
    kinds = out.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "array" in kinds and "items" not in out:
        raise _UnfitError
    if "object" in kinds:
        if "properties" not in out:
            raise _UnfitError  # a dictionary with any keys
        _close(out, as_list(schema.get("required")), rules)
    elif kinds == [None] and not ("enum" in out or "const" in out or "anyOf" in out):
        raise _UnfitError  # any value
    return out


def _close(out: JsonDict, required: list[object], rules: SchemaRules) -> None:
    """Allow only the known properties of an object."""
    out["additionalProperties"] = False
    out["required"] = required
    if rules.all_required:
        properties = as_dict(out["properties"])
        out["required"] = list(properties)
        out["properties"] = {
            name: part if name in required else _or_null(as_dict(part)) for name, part in properties.items()
        }


def _or_null(schema: JsonDict) -> JsonDict:
    kind = schema.get("type")
    if "anyOf" in schema and kind is None:
        parts = as_list(schema["anyOf"])
        return schema if {"type": "null"} in parts else {**schema, "anyOf": [*parts, {"type": "null"}]}
    if kind is None or "const" in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    kinds = kind if isinstance(kind, list) else [kind]
    return {**schema, "type": list(dict.fromkeys([*kinds, "null"]))}


def _is_recursive(schema: JsonDict) -> bool:
    definitions = as_dict(schema.get("$defs"))
    uses = {f"#/$defs/{name}": _references(part) for name, part in definitions.items()}
    uses["#"] = _references({key: part for key, part in schema.items() if key != "$defs"})
    above: set[str] = set()
    done: set[str] = set()

    def meets_itself(reference: str) -> bool:
        if reference in above or reference not in uses:
            return True  # a reference to another place may be inside of what it refers to
        if reference in done:
            return False
        above.add(reference)
        found = any(map(meets_itself, uses[reference]))
        above.discard(reference)
        done.add(reference)
        return found

    return meets_itself("#")


def _references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set[str]().union(*map(_references, value)) if isinstance(value, list) else set()


# ---- requests -----------------------------------------------------------------------------------------


def json_schema_format(schema: JsonDict) -> JsonDict:
    """Return name, schema and strictness, as chat/completions and the Responses API expect them."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", as_str(schema.get("title"))).strip("_")[:64] or "answer"
    strict = strict_schema(schema, OPENAI)
    return {"name": name, "schema": schema if strict is None else strict, "strict": strict is not None}


def instructions(schema: JsonDict) -> str:
    """Return instructions for a model whose server does not enforce the schema."""
    return (
        "Give your final answer as JSON that fits this JSON Schema, without a Markdown fence and without any "
        f"other text:\n{_json.encode(schema).decode()}"
    )


def instructed(context: Context, schema: JsonDict) -> Context:
    """Return the context with the instructions at the end of its system prompt."""
    prompt = "\n\n".join(filter(None, [context.system_prompt, instructions(schema)]))
    return replace(context, system_prompt=prompt)


# ---- refusals of servers ------------------------------------------------------------------------------

_MAX_REFUSED = 1000
_refused: set[tuple[object, ...]] = set()
"""Schemas that a server has refused in this process, for a model, with or without tools."""

_NAMES_SCHEMA = (
    r"(?i)response[ _]?(?:format|mime|schema)|json[ _]?(?:schema|mode|object)|structured[ _]?output|grammar|"
    r"output[ _]?(?:config|format)|text\.format|invalid schema|schema is too complex|additionalProperties"
)


def is_refused(model: HttpModel, context: Context, schema: JsonDict) -> bool:
    """Whether the server has refused the schema before."""
    return _key(model, context, schema) in _refused


def refuses_schema(
    error: ProviderError,
    body: Mapping[str, object],
    model: HttpModel,
    context: Context,
    options: SimpleStreamOptions,
) -> bool:
    """Whether a request failed because the server does not accept the schema of the answer.

    If so, later requests of this process enforce it in a weaker way, and `on_note` is called.
    """
    schema = options.get("response_schema")
    if schema is None or error.status not in (400, 422) or not re.search(_NAMES_SCHEMA, str(error)):
        return False
    if not _is_enforced(body, model.extra_body):
        return False
    if len(_refused) >= _MAX_REFUSED:
        _refused.clear()
    _refused.add(_key(model, context, schema))
    note(options, f"{model.provider}: the server does not enforce the schema of the answer: {error}")
    return True


def _is_enforced(body: Mapping[str, object], by_user: Mapping[str, object]) -> bool:
    """Whether the server was asked to enforce a schema, and not only by the user's own `extra_body`."""
    if "response_format" in body and "response_format" not in by_user:
        return True
    return any(
        "format" in as_dict(body.get(name)) and "format" not in as_dict(by_user.get(name))
        for name in ("text", "output_config")
    )


def _key(model: HttpModel, context: Context, schema: JsonDict) -> tuple[object, ...]:
    return model.base_url, model.id, bool(context.tools), _json.encode(schema)
