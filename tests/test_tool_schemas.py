"""Schemas of tools: repairs, refusals, and agreement between providers and validation."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema_rs
import pytest

from tinyagent import Agent, AgentOptions, AgentTool, ToolSchemaError, validate_tool_arguments
from tinyagent._schema_repair import MAX_DEPTH
from tinyagent._tool_schemas import fit_schema
from tinyagent.tools import tool_schema

OBJECT = {"type": "object", "properties": {}}


def of(schema: Any) -> dict[str, Any]:
    """Return the schema that is sent for a tool whose only property `a` has this schema."""
    return fit_schema({"type": "object", "properties": {"a": schema}}).parameters["properties"]["a"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("schema", [None, True, {}, [], {"type": "object"}, {"properties": None}])
def test_a_tool_without_arguments_has_properties(schema: Any) -> None:
    """OpenAI refuses requests with an object schema without `properties`."""
    assert OBJECT == fit_schema(schema).parameters


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (
            {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
            {"type": "integer", "exclusiveMinimum": 3},
        ),
        ({"minimum": 3, "exclusiveMinimum": False}, {"minimum": 3}),
        ({"exclusiveMaximum": True, "maximum": 9}, {"exclusiveMaximum": 9}),
        ({"exclusiveMaximum": 9}, {"exclusiveMaximum": 9}),
        ({"type": "any"}, {}),
        ({"type": ["string", "any"]}, {}),
        ({"type": ["string", "string"]}, {"type": "string"}),
        ({"type": "INT"}, {"type": "integer"}),
        ({"type": "str"}, {"type": "string"}),
        ({"type": "dict"}, {"type": "object"}),
        ({"type": "list"}, {"type": "array", "items": {}}),
        ("boolean", {"type": "boolean"}),
        (None, {}),
        (True, {}),
        (False, {"not": {}}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        ({"items": [{"type": "int"}]}, {"prefixItems": [{"type": "integer"}], "items": {}}),
        (
            {"items": [{}, {}], "additionalItems": False},
            {"prefixItems": [{}, {}], "maxItems": 2, "items": {}},
        ),
        (
            {"items": [{}], "additionalItems": {"type": "str"}},
            {"prefixItems": [{}], "items": {"type": "string"}},
        ),
        ({"items": {}, "additionalItems": False}, {"items": {}}),
        ({"divisibleBy": 5}, {"multipleOf": 5}),
        ({"extends": {"type": "string"}}, {"allOf": [{"type": "string"}]}),
        ({"disallow": "string"}, {"allOf": [{"not": {"type": "string"}}]}),
        (
            {"type": ["string", {"enum": [1]}]},
            {"allOf": [{"anyOf": [{"type": "string"}, {"enum": [1]}]}]},
        ),
        (
            {"dependencies": {"x": ["y"], "z": "y", "w": {"required": ["x"]}}},
            {"dependentRequired": {"x": ["y"], "z": ["y"]}, "dependentSchemas": {"w": {"required": ["x"]}}},
        ),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        (
            {"type": "string", "enum": ["x"], "nullable": True},
            {"type": ["string", "null"], "enum": ["x", None]},
        ),
        ({"type": "string", "minLength": None, "enum": None, "title": 5}, {"type": "string"}),
        ({"minLength": "3", "maxLength": 5.0}, {"minLength": 3, "maxLength": 5}),
        ({"enum": []}, {}),
        ({"enum": ("x", "y")}, {"enum": ["x", "y"]}),
        ({"anyOf": []}, {}),
        ({"required": True, "type": "object", "properties": []}, {"type": "object", "properties": {}}),
        (
            {"type": "object", "properties": {"required": {}}},
            {"type": "object", "properties": {"required": {}}},
        ),
        ({"const": None, "default": None}, {"const": None, "default": None}),
    ],
)
def test_old_and_unusual_spellings_are_rewritten(old: Any, now: Any) -> None:
    """The result is equivalent in draft 2020-12. A second conversion changes nothing."""
    assert now == of(old)
    assert now == of(now)
    jsonschema_rs.meta.validate(now)


def test_required_as_a_flag_of_the_property_moves_to_the_object() -> None:
    """The form of draft 3 is converted at every depth."""
    inner = {"properties": {"x": {"required": True}, "y": {"required": "false"}}}
    schema = {"properties": {"a": {**inner, "required": "true"}, "b": {"required": False}}, "required": ["b"]}
    sent = fit_schema(schema).parameters
    assert ({"a", "b"}, ["x"]) == (set(sent["required"]), sent["properties"]["a"]["required"])


def test_references_are_updated() -> None:
    """`definitions` becomes `$defs`; references to `id` and recursion work."""
    schema = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "id": "http://example.org/tool.json#",
        "properties": {
            "tree": {"$ref": "http://example.org/tool.json#/definitions/node"},
            "first": {"$ref": "#/properties/pair/items/0"},
            "pair": {"items": [{"type": "int"}]},
            "none": {"$ref": "#/definitions/node", "nullable": True},
        },
        "definitions": {"node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/node"}}}},
    }
    sent = fit_schema(schema).parameters
    assert {"type", "properties", "$defs"} == sent.keys()
    assert {"$ref": "#/$defs/node"} == sent["properties"]["tree"]
    validator = jsonschema_rs.validator_for(sent)
    assert [True, False, False, True] == [
        validator.is_valid(one)
        for one in ({"tree": {"next": {"next": {}}}}, {"tree": {"next": 5}}, {"first": "x"}, {"none": None})
    ]


@pytest.mark.parametrize(
    ("schema", "properties", "required"),
    [
        ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {}}, "required": ["a"]}}}, {"a"}, ["a"]),
        (
            {"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}]},
            {"a", "b"},
            ["a"],
        ),
        (
            {
                "properties": {"k": {}},
                "oneOf": [
                    {"properties": {"a": {}}, "required": ["k", "a"]},
                    {"properties": {"b": {}}, "required": ["k"]},
                ],
            },
            {"k", "a", "b"},
            ["k"],
        ),
        (
            {"if": {"properties": {"a": {}}}, "then": {"properties": {"b": {}}, "required": ["b"]}},
            {"a", "b"},
            None,
        ),
        ({"properties": {"a": {}}, "not": {"required": ["a"]}}, {"a"}, None),
    ],
)
def test_no_combinator_is_sent_at_the_top(schema: Any, properties: set[str], required: Any) -> None:
    """Anthropic and OpenAI refuse it; the object has the properties of all alternatives."""
    sent = fit_schema(schema).parameters
    assert not sent.keys() & {"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "enum"}
    assert (properties, required) == (set(sent["properties"]), sent.get("required"))


def test_alternatives_at_the_top_are_validated() -> None:
    """They are in the description, and arguments are validated against them."""
    schema = {
        "properties": {"file": {"type": "string"}, "url": {"type": "string"}},
        "oneOf": [{"required": ["file"]}, {"required": ["url"]}],
        "description": "Load.",
    }
    tool = AgentTool("load", parameters=schema)
    assert tool_schema(tool).parameters["description"].startswith("Load.\nThe arguments must also fit: {")
    assert {"url": "u"} == _validated(tool, {"url": "u"})
    for wrong in ({}, {"file": "f", "url": "u"}):
        with pytest.raises(ValueError, match="oneOf"):
            _validated(tool, wrong)


def test_types_of_one_property_in_several_alternatives_are_joined() -> None:
    """The sent schema accepts everything that is valid."""
    schema = {"anyOf": [{"properties": {"a": {"type": t}}} for t in ("string", "integer", "null")]}
    sent = fit_schema(schema).parameters
    assert {"anyOf": [{"type": t} for t in ("string", "integer", "null")]} == sent["properties"]["a"]


def test_alternatives_that_share_definitions_stay_small() -> None:
    """Each definition is merged once, even with many references."""
    definitions: dict[str, Any] = {"d60": {"properties": {"x": {}}}}
    for n in range(60):
        definitions[f"d{n}"] = {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
    assert {"x"} == set(fit_schema({"$ref": "#/$defs/d0", "$defs": definitions}).parameters["properties"])


def test_names_that_anthropic_refuses_are_replaced() -> None:
    """The description has the tool's own name, and the tool gets it."""
    long = "x" * 70
    schema = {
        "properties": {
            "$top": {"type": "integer"},
            "top": {"description": "Not the other one."},
            "filter[id]": {"description": "An id."},
            "日本": {},
            long: {},
        },
        "required": ["top", "$top"],
    }
    tool = AgentTool("odata", parameters=schema)
    sent = tool_schema(tool).parameters
    assert ["top_2", "top", "filter_id", "argument", "x" * 56] == list(sent["properties"])
    assert ["top", "top_2"] == sent["required"]
    assert "(filter[id]) An id." == sent["properties"]["filter_id"]["description"]
    own = {"$top": 5, "top": 1, "filter[id]": "a", long: 2}
    assert own == _validated(tool, {"top_2": 5, "top": 1, "filter_id": "a", "x" * 56: 2})
    assert own == _validated(tool, own)
    with pytest.raises(ValueError, match=r"\$top"):
        _validated(tool, {"top_2": "five", "top": 1})


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (False, "no arguments are allowed"),
        ([1], "a schema must be an object"),
        ({"type": "string"}, "must be an object, not 'string'"),
        ({"type": "array", "items": {}}, "must be an object, not 'array'"),
        ({"properties": {"a": {"type": "blob"}}}, r"at properties\.a\.type: there is no type 'blob'"),
        ({"properties": {"a": {"type": 5}}}, "a type must be a string"),
        ({"properties": {"a": 5}}, r"at properties\.a: a schema must be an object"),
        ({"properties": "a"}, "at properties: must be an object"),
        ({"properties": {"a": {"required": 5}}}, "a list of names"),
        ({"required": {"a": True}}, "a list of names"),
        ({"properties": {"a": {"minLength": -1}}}, "not negative"),
        ({"properties": {"a": {"minimum": "low"}}}, r"properties\.a\.minimum: must be a number"),
        ({"properties": {"a": {"minimum": float("nan")}}}, "must be a number"),
        ({"properties": {"a": {"multipleOf": 0}}}, "above 0"),
        ({"properties": {"a": {"anyOf": {"type": "string"}}}}, "a list of schemas"),
        ({"properties": {"a": {"pattern": "["}}}, "regex"),
        ({"properties": {"a": {"patternProperties": {"(": {}}}}}, "regex"),
        ({"properties": {"a": {"$ref": "#/definitions/b"}}}, "points to nothing"),
        ({"properties": {"a": {"$ref": "https://example.org/s.json"}}}, "outside the schema"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "outside the schema"),
        ({"properties": {"a": {"default": object()}}}, "it is not JSON"),
        ({"properties": {"a": {"dependencies": ["x"]}}}, "must be an object"),
    ],
)
def test_unknown_schemas_are_refused_at_registration(schema: Any, fault: str) -> None:
    """The error shows the tool, the place and the reason."""
    with pytest.raises(ToolSchemaError, match=fault) as caught:
        Agent().set_tools([AgentTool("good"), AgentTool("bad", parameters=schema)])
    assert "'bad'" in str(caught.value)
    with pytest.raises(ToolSchemaError, match="'bad'"):
        Agent(AgentOptions(initial_state={"tools": [AgentTool("bad", parameters=schema)]}))


def test_a_schema_without_end_is_refused() -> None:
    """Nesting has a limit, and a recursive Python object is refused."""
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 10):
        deep = {"properties": {"a": deep}}
    with pytest.raises(ToolSchemaError, match="nested too deep"):
        fit_schema(deep)
    deep["properties"]["a"] = deep
    with pytest.raises(ToolSchemaError, match="nested too deep"):
        fit_schema(deep)


def test_arguments_are_validated_by_the_repaired_schema() -> None:
    """A tool with an old schema can be called, and its rules apply."""
    tool = AgentTool(
        "old", parameters={"properties": {"n": {"type": "int", "minimum": 0, "exclusiveMinimum": True}}}
    )
    assert {"n": 1} == _validated(tool, {"n": 1})
    with pytest.raises(ValueError, match="exclusiveMinimum"):
        _validated(tool, {"n": 0})


def test_a_schema_is_read_once() -> None:
    """It is converted after an assignment, not for each request. The tool's own object is unchanged."""
    schema = {"properties": {"n": {"type": "int"}}}
    before = copy.deepcopy(schema)
    tool = AgentTool("once", parameters=schema)
    assert tool_schema(tool) is tool_schema(tool)
    assert (before, schema) == (schema, tool.parameters)
    tool.parameters = {"properties": {"m": {}}}
    assert {"m": {}} == tool_schema(tool).parameters["properties"]
    assert tool == copy.deepcopy(tool)


def test_a_current_schema_is_sent_unchanged() -> None:
    """A schema that needs no conversion is sent in the same order."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "x"},
            "b": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    fitted = fit_schema(schema)
    assert json.dumps(schema) == json.dumps(fitted.parameters)
    assert fitted.rules is fitted.parameters


def _validated(tool: AgentTool, arguments: dict[str, Any]) -> dict[str, Any]:
    return validate_tool_arguments(
        tool, {"type": "tool_call", "id": "c", "name": tool.name, "arguments": arguments}
    )
