"""The form of an answer: a type or a JSON Schema, the schema that providers get, and the check of a reply.

Providers require an object at the top. A schema for anything else is wrapped into an object with one
property, and the answer is unwrapped again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, overload, runtime_checkable

import msgspec

from . import _json
from ._answer import extract_text, last_reply
from ._json import as_dict, as_list
from ._schema_repair import SchemaRepair, resolve
from ._stream.builder import now_ms
from ._stream.response_schema import instructions
from ._tool_checks import as_json_numbers, schema_problems
from ._tool_schemas import validator
from .agent_types import AgentMessage, AssistantMessage, JsonDict, JsonValue, UserMessage
from .errors import ConfigurationError, InvalidAnswerError, ToolSchemaError, shorten

__all__ = ["AnswerForm", "answer_form", "json_form"]

T = TypeVar("T")

MAX_SHOWN = 1000
"""The most characters of a fault or of a reply in an error and in a message to the model."""


class _FaultError(Exception):
    """A value does not fit. The text names the place and the fault."""


@runtime_checkable
class _PydanticModel(Protocol):
    """A class of pydantic's models, which need not be installed."""

    def model_json_schema(self) -> Mapping[str, object]:
        """Return the JSON Schema."""
        ...

    def model_validate(self, obj: object) -> object:
        """Return the model of a value, or raise a ValueError."""
        ...


class AnswerForm(Generic[T]):
    """What an answer must be.

    Args:
        rules: The JSON Schema of the value.
        convert: Checks the value and converts it.

    Attributes:
        schema: The JSON Schema for providers; an object at the top.
    """

    def __init__(self, rules: JsonDict, convert: Callable[[JsonValue], T]) -> None:
        self.rules: JsonDict = rules
        self.convert: Callable[[JsonValue], T] = convert
        self.schema: JsonDict
        self.schema, self._wrapper = _as_object(rules)

    def read(self, reply: AssistantMessage) -> T:
        """Return the value of a complete reply.

        Raises:
            InvalidAnswerError: The reply is not JSON, or does not fit the schema.
        """
        text = extract_text(reply).strip()
        if reply.get("refusal"):
            raise InvalidAnswerError(f"The model refused to answer: {_shorten(text)}")
        fault: str | None = None
        for value in _values(reply):
            for candidate in self._unwrapped(value):
                try:
                    return self._checked(candidate)
                except _FaultError as error:
                    fault = fault or str(error)
        if fault is None:
            fault = f"the reply is not JSON: {_shorten(text)!r}" if text else "the reply has no text"
        raise InvalidAnswerError(
            f"The answer does not fit the schema: {_shorten(fault)}",
            hint="Ask again, simplify the schema, or choose another model.",
        )

    def _unwrapped(self, value: JsonValue) -> Iterator[JsonValue]:
        """Yield the value without its wrapper, which is missing if the server ignores the schema."""
        if self._wrapper is not None and isinstance(value, dict) and list(value) == [self._wrapper]:
            yield value[self._wrapper]
        yield value

    def _checked(self, value: JsonValue) -> T:
        try:
            value = as_json_numbers(value)
            try:
                return self.convert(value)
            except _FaultError:
                # Strict schemas make the model write null in the place of an optional property.
                pruned = _without_nulls(value, [self.rules], self.rules)
                if pruned == value:
                    raise
                return self.convert(pruned)
        except RecursionError:
            raise _FaultError("it is nested too deep") from None

    def repair(self, messages: Sequence[AgentMessage]) -> UserMessage | None:
        """Return the message that asks for the answer again; None if the last reply needs no repair.

        A truncated reply and a refusal are not repaired, because the next one is likely to be the same.
        """
        reply = last_reply(messages)
        if reply["stop_reason"] != "stop" or reply.get("refusal"):
            return None
        try:
            self.read(reply)
        except InvalidAnswerError as error:
            text = f"{error}\n\n{instructions(self.schema)}"
            return {"role": "user", "content": [{"type": "text", "text": text}], "timestamp": now_ms()}
        return None


@overload
def answer_form(form: AnswerForm[T]) -> AnswerForm[T]: ...
@overload
def answer_form(form: type[T]) -> AnswerForm[T]: ...
@overload
def answer_form(form: object) -> AnswerForm[object]: ...
def answer_form(form: object) -> AnswerForm[object] | AnswerForm[T]:
    """Return the form of an answer.

    Args:
        form: A type that msgspec supports, a pydantic model, or a JSON Schema of any draft.

    Raises:
        ConfigurationError: The JSON Schema cannot be used.
        TypeError: JSON cannot express the type.
    """
    if isinstance(form, AnswerForm):
        return form
    if isinstance(form, Mapping):
        return _form_of_schema(form)
    if isinstance(form, type) and isinstance(form, _PydanticModel):
        return _form_of_pydantic(form)
    return _form_of_type(form)


def json_form(form: object, *, many: bool = False) -> AnswerForm[JsonValue]:
    """Return the form of an answer that is checked in the same way, and stays JSON.

    Args:
        form: As for `answer_form`.
        many: Whether the answer is a list of such values.
    """
    one = answer_form(form)

    def check(value: JsonValue) -> JsonValue:
        one.convert(value)
        return value

    def check_all(value: JsonValue) -> JsonValue:
        if not isinstance(value, list):
            raise _FaultError(f"expected an array, got {_shorten(_json.encode(value).decode())}")
        for number, item in enumerate(value):
            try:
                one.convert(item)
            except _FaultError as error:
                raise _FaultError(f"item {number}: {error}") from None
        return value

    if not many:
        return AnswerForm(one.rules, check)
    return AnswerForm(_nested(one.rules, "#/items", lambda item: {"type": "array", "items": item}), check_all)


# ---- the kinds of forms -------------------------------------------------------------------------------


def _form_of_schema(form: Mapping[str, object]) -> AnswerForm[object]:
    rules = _repaired(form)
    encoded = _json.encode(rules)

    def check(value: JsonValue) -> JsonValue:
        problems = schema_problems(encoded, value)
        if problems:
            raise _FaultError("; ".join(problems))
        return value

    return AnswerForm(rules, check)


def _repaired(form: Mapping[str, object]) -> JsonDict:
    """Return a JSON Schema of any draft in draft 2020-12."""
    repair = SchemaRepair()
    try:
        rules = repair.schema(copy.deepcopy(form), ())
        base = rules.pop("$id", "")
        if "properties" in rules:
            rules.setdefault("type", "object")
        repair.check_references(rules, base)
        validator(_json.encode(rules))
    except ToolSchemaError as error:
        raise ConfigurationError(f"The schema of the answer cannot be used: {error}") from None
    except Exception as error:  # the classes of jsonschema_rs share no base but Exception
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"The schema of the answer cannot be used: {reason}") from error
    return rules


def _form_of_pydantic(form: _PydanticModel) -> AnswerForm[object]:
    def convert(value: JsonValue) -> object:
        try:
            return form.model_validate(value)
        except ValueError as error:
            lines = [line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
            raise _FaultError("; ".join(lines)) from None

    try:
        schema = form.model_json_schema()
    except Exception as error:  # pydantic has several, of different bases
        raise TypeError(f"{form!r} cannot be the type of an answer: {error}") from error
    return AnswerForm(_repaired(schema), convert)


def _form_of_type(form: object) -> AnswerForm[object]:
    if isinstance(form, str):
        raise TypeError(
            f"An answer has a type or a JSON Schema, not {form!r}. The prompt is the second argument."
        )
    try:
        (top,), components = msgspec.json.schema_components([form], ref_template="#/$defs/{name}")
    except (TypeError, NameError) as error:
        *_, reason = str(error).splitlines() or [""]
        raise TypeError(
            f"{form!r} cannot be the type of an answer: {reason}. Use str, int, float, bool, list, dict, "
            "Literal, an Enum, a dataclass, a TypedDict, a msgspec.Struct, a pydantic model or a JSON Schema."
        ) from error
    rules: JsonDict = {**top, "$defs": components} if components else top

    def convert(value: JsonValue) -> object:
        try:
            return msgspec.convert(value, form, str_keys=True)
        except msgspec.ValidationError as error:
            raise _FaultError(str(error)) from None

    return AnswerForm(rules, convert)


# ---- schemas ------------------------------------------------------------------------------------------

_ITSELF = "the_whole_answer"
"""The definition that stands for the schema itself."""
_COMBINATORS = frozenset(("allOf", "anyOf", "oneOf", "not", "enum", "const", "if", "$ref"))


def _as_object(rules: JsonDict) -> tuple[JsonDict, str | None]:
    """Return the schema with an object at the top, and the property that has the value, if it is wrapped."""
    top = rules
    reference = rules.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target = resolve(rules, reference)
        if isinstance(target, dict):
            top = {**target, **{key: part for key, part in rules.items() if key != "$ref"}}
    if top.get("type") == "object" and _COMBINATORS.isdisjoint(top):
        return _without_root_references(top), None
    name = "items" if top.get("type") == "array" else "value"

    def wrap(value: JsonDict) -> JsonDict:
        required = {"required": [name], "additionalProperties": False}
        return {"type": "object", "properties": {name: value}, **required}

    return _nested(rules, f"#/properties/{name}", wrap), name


def _without_root_references(top: JsonDict) -> JsonDict:
    """Return the schema with a definition of itself for its references to `#`, which llama.cpp refuses."""
    moved = as_dict(_moved(top, f"#/$defs/{_ITSELF}"))
    if moved == top:
        return top
    definitions = as_dict(moved.pop("$defs", {}))
    return {**moved, "$defs": {**definitions, _ITSELF: moved}}


def _nested(rules: JsonDict, place: str, nest: Callable[[JsonDict], JsonDict]) -> JsonDict:
    """Return a schema that contains another one at a place. The definitions stay at the top."""
    moved = as_dict(_moved(rules, place))
    definitions = moved.pop("$defs", None)
    return {**nest(moved), "$defs": definitions} if definitions else nest(moved)


def _moved(value: object, place: str) -> object:
    """Return a part of a schema with its references into the schema, except those to definitions, moved."""
    if isinstance(value, list):
        return [_moved(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, place) for key, item in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        stays = reference.startswith("#/$defs/")
        moved["$ref"] = reference if stays else place + reference[1:]
    return moved


def _without_nulls(value: JsonValue, schemas: Sequence[object], root: JsonDict) -> JsonValue:
    """Return the value without the nulls of optional properties that do not accept null."""
    known = _alternatives(schemas, root)
    if isinstance(value, list):
        items = [schema["items"] for schema in known if "items" in schema]
        return [_without_nulls(item, items, root) for item in value]
    if not isinstance(value, dict):
        return value
    pruned: dict[str, JsonValue] = {}
    for name, part in value.items():
        found = [
            as_dict(schema["properties"])[name]
            for schema in known
            if name in as_dict(schema.get("properties"))
        ]
        required = any(name in as_list(schema.get("required")) for schema in known)
        if part is not None or required or not found or _accepts_null(found, root):
            pruned[name] = _without_nulls(part, found, root)
    return pruned


def _accepts_null(schemas: Sequence[object], root: JsonDict) -> bool:
    return any(
        "null" in (schema["type"] if isinstance(schema["type"], list) else [schema["type"]])
        for schema in _alternatives(schemas, root)
        if "type" in schema
    )


def _alternatives(schemas: Sequence[object], root: JsonDict) -> list[JsonDict]:
    """Return the schemas, those that they refer to, and their alternatives."""
    found: list[JsonDict] = []
    waiting = list(schemas)
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict) or any(schema is other for other in found):
            continue
        found.append(schema)
        waiting += [part for key in ("anyOf", "oneOf", "allOf") for part in as_list(schema.get(key))]
        if isinstance(schema.get("$ref"), str):
            waiting.append(resolve(root, schema["$ref"]))
    return found


# ---- replies ------------------------------------------------------------------------------------------


def _values(reply: AssistantMessage) -> Iterator[JsonValue]:
    """Yield the JSON values that may be the answer, the most likely one first.

    These are the text, its last block, its code in Markdown fences, and the part in the outermost brackets.
    """
    blocks = [block["text"] for block in reply["content"] if block["type"] == "text"]
    text = "".join(blocks)
    fenced = [part.partition("\n")[2] for part in text.split("```")[1::2]]
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    between = [text[min(starts) : max(text.rfind("}"), text.rfind("]")) + 1]] if starts else []
    for candidate in dict.fromkeys(
        part.strip() for part in [text, *blocks[-1:], *reversed(fenced), *between]
    ):
        try:
            yield _json.decode(candidate)
        except (ValueError, RecursionError):
            continue


def _shorten(text: str) -> str:
    return shorten(text, MAX_SHOWN)
