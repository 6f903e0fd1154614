"""The JSON Schema of the lines."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TypedDict, get_args, get_type_hints

import msgspec

from tinyagent.agent_types import (
    STREAM_UPDATE_EVENTS,
    AssistantMessage,
    ImageContent,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    ToolResultMessage,
    Usage,
    UserMessage,
)

from .records import EVENT_LINES, LINES, VERSION, ErrorRecord, JsonDict, MessageUpdateLine
from .state import DELTA_TYPES

__all__ = ["schema"]

_DICT_LIST = list[JsonDict]


def schema() -> JsonDict:
    """Return the JSON Schema of a line. `$defs` has one component for each type."""
    lines = list(LINES.values())
    parts = [ErrorRecord, Usage, TextContent, ImageContent, ThinkingContent, ToolCallContent]
    roles = [UserMessage, AssistantMessage, ToolResultMessage]
    plain = [_with_plain_content(kind) for kind in roles]
    _, components = msgspec.json.schema_components([*lines, *parts, *plain], ref_template="#/$defs/{name}")
    for component in components.values():
        if "description" in component:  # a docstring, which Python 3.13 indents less
            component["description"] = inspect.cleandoc(component["description"])
    for line in EVENT_LINES:
        components[_component_name(line)] = components.pop(line.__name__)
        components[_component_name(line)]["title"] = f"_{_component_name(line)}"  # published like this
    for kind in roles:
        hint = get_type_hints(kind)["content"]
        components[kind.__name__]["properties"]["content"]["items"] = _one_of(
            option.__name__ for option in get_args(get_args(hint)[0])
        )
    components.update(_OTHER_COMPONENTS)
    for (name, field), part in _REFERENCES.items():
        components[name]["properties"][field] = part
    for line in EVENT_LINES:
        component = components[_component_name(line)]
        always = ["type", "seq"] if line is MessageUpdateLine else ["type", "seq", "time"]
        component["required"] = [*always, *(key for key in component["required"] if key not in always)]
    components["MessageEnd"]["required"].append("role")
    components["MessageEnd"]["anyOf"] = [{"required": ["message"]}, {"required": ["tool_call_id"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of a tinyagent stream, version {VERSION}",
        **_one_of(_component_name(line) for line in lines),
        "$defs": components,
    }


def _component_name(line: type[msgspec.Struct]) -> str:
    return line.__name__.removesuffix("Line")


def _ref(name: str) -> JsonDict:
    return {"$ref": f"#/$defs/{name}"}


def _one_of(names: Iterable[str]) -> JsonDict:
    return {"oneOf": [_ref(name) for name in names]}


_OTHER_COMPONENTS: dict[str, JsonDict] = {
    "CustomAgentMessage": {
        "title": "CustomAgentMessage",
        "description": "Any other role: kept in the history, not sent to a model.",
        "type": "object",
        "properties": {
            "role": {"type": "string", "not": {"enum": ["user", "assistant", "tool_result"]}},
            "timestamp": {"type": "integer"},
        },
        "required": ["role"],
    },
    "Message": _one_of(["UserMessage", "AssistantMessage", "ToolResultMessage", "CustomAgentMessage"]),
    "AgentToolResult": {
        "title": "AgentToolResult",
        "description": "What a tool gives back: `content` for the model, `details` for programs and people.",
        "type": "object",
        "properties": {
            "content": {"type": "array", "items": _one_of(["TextContent", "ImageContent"])},
            "details": {"type": "object"},
            "terminate": {"type": "boolean"},
        },
        "required": ["content", "details", "terminate"],
    },
    "AssistantMessageEvent": {
        "title": "AssistantMessageEvent",
        "description": "One step of an assistant message, without `partial` and without bodies.",
        "type": "object",
        "properties": {
            "type": {"enum": [*sorted(STREAM_UPDATE_EVENTS), "done", "error", "start"]},
            "content_index": {"type": "integer", "minimum": 0},
            "delta": {"type": "string"},
        },
        "required": ["type"],
        "allOf": [
            {"if": {"properties": {"type": {"enum": sorted(names)}}}, "then": {"required": [required]}}
            for names, required in ((DELTA_TYPES, "delta"), (STREAM_UPDATE_EVENTS, "content_index"))
        ],
    },
}
"""The components that no type of the library describes."""

_REFERENCES: dict[tuple[str, str], JsonDict] = {
    # Other values are accepted when reading, and are written again in `history` lines.
    ("AssistantMessage", "stop_reason"): {
        "type": "string",
        "description": "stop, length, tool_use, error or aborted",
    },
    ("HistoryRecord", "message"): _ref("Message"),
    ("MessageStart", "message"): _ref("Message"),
    ("MessageEnd", "message"): _ref("Message"),
    ("MessageUpdate", "assistant_message_event"): _ref("AssistantMessageEvent"),
    ("MessageUpdate", "message"): {"anyOf": [_ref("AssistantMessage"), {"type": "null"}]},
    ("ToolUpdate", "partial_result"): _ref("AgentToolResult"),
    ("ToolEnd", "result"): _ref("AgentToolResult"),
    ("TurnEnd", "message"): _ref("AssistantMessage"),
    ("TurnEnd", "tool_results"): {"type": "array", "items": _ref("ToolResultMessage")},
    ("AgentEnd", "messages"): {"type": "array", "items": _ref("Message")},
    ("AgentEnd", "usage"): _ref("Usage"),
    ("ResultRecord", "usage"): {"anyOf": [_ref("Usage"), {"type": "null"}]},
}


def _with_plain_content(kind: type[object]) -> object:
    """The typed dictionary with its `content` as plain objects: msgspec refuses a union of dictionaries."""
    hints = {**get_type_hints(kind, include_extras=True), "content": _DICT_LIST}
    flat = TypedDict(kind.__name__, hints)  # type: ignore[misc]
    flat.__doc__ = kind.__doc__
    return flat
