"""The JSON Schema of the lines of `tinyagent rpc`, in both directions.

It has the components of `tinyagent.jsonl.schema()`, whose lines have the `id` of the prompt here. See there
for what code generators need.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from tinyagent import jsonl
from tinyagent._jsonl.schema import choice, reference, simplify
from tinyagent.agent_types import JsonDict

from .protocol import (
    Answer,
    ApprovalRequest,
    Command,
    CompactData,
    InputKind,
    InputRequest,
    ModelData,
    Response,
    StateData,
    ToolsData,
)

__all__ = ["schema"]

_ID: JsonDict = {
    "anyOf": [{"type": "string"}, {"type": "integer"}],
    "description": "The `id` of the prompt of the run.",
}


def schema() -> JsonDict:
    """Return the JSON Schema of a line: a `Command` of the client, or an `Output` of `tinyagent rpc`."""
    kinds: list[type[msgspec.Struct]] = list(get_args(Command))
    outputs: list[type[msgspec.Struct]] = [Response, ApprovalRequest, InputRequest]
    data = [StateData, ModelData, ToolsData, CompactData]
    _, ours = msgspec.json.schema_components([*kinds, *outputs, *data], ref_template="#/$defs/{name}")
    commands: dict[str, str] = {}
    for kind in kinds:
        commands[_tag(kind)] = name = "".join(map(str.capitalize, _tag(kind).split("_"))) + "Command"
        ours[name] = {**ours.pop(kind.__name__), "title": name}
    ours["Answer"] = {"title": "Answer", "type": "string", "enum": list(get_args(Answer))}
    ours["ApproveCommand"]["properties"]["answer"] = reference("Answer")
    ours["ApprovalRequest"]["properties"]["answers"]["items"] = reference("Answer")
    ours["InputKind"] = {"title": "InputKind", "type": "string", "enum": list(get_args(InputKind))}
    ours["InputRequest"]["properties"]["kind"] = reference("InputKind")
    ours["CompactData"]["properties"]["usage"] = {"anyOf": [reference("Usage"), {"type": "null"}]}
    for component in ours.values():
        simplify(component)
    events = jsonl.schema()
    components: JsonDict = events["$defs"]
    mapping: dict[str, str] = {
        tag: path.rpartition("/")[2] for tag, path in events["discriminator"]["mapping"].items()
    }
    del components[mapping.pop("history")]
    for tag, name in mapping.items():
        if tag != "session":  # has an id of its own
            components[name]["properties"]["id"] = _ID
    components |= ours
    components["MessagesData"] = {
        "title": "MessagesData",
        "description": "The `data` of `messages`.",
        "type": "object",
        "properties": {"messages": {"type": "array", "items": reference("Message")}},
        "required": ["messages"],
    }
    rules: JsonDict = {}
    for command in ("state", "messages", "set_model", "set_tools", "compact"):
        name = f"{command.removeprefix('set_').capitalize()}Data"
        has_data = {"command": {"const": command}, "success": {"const": True}}
        rules = {
            "if": {"properties": has_data},
            "then": {"properties": {"data": reference(name)}, "required": ["data"]},
            **({"else": rules} if rules else {}),
        }
    components["Response"] |= rules
    components["Output"] = {
        "title": "Output",
        "description": "A line of `tinyagent rpc`.",
        **choice("type", mapping | {_tag(kind): kind.__name__ for kind in outputs}),
    }
    components["Command"] = {
        "title": "Command",
        "description": "A line of the client.",
        **choice("type", commands),
    }
    return {
        "$schema": events["$schema"],
        "title": "Line",
        "description": "A line of `tinyagent rpc` or of its client.",
        "oneOf": [reference("Command"), reference("Output")],
        "$defs": components,
    }


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)
