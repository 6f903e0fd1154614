"""The JSON Schema of the lines.

Lines can be validated by it, and types can be generated from it. Code generators know only simple keywords:
each choice has a `discriminator` (of OpenAPI), each type a `const`, and each kind of block a name. A rule
that generators would turn into further types is written as `if` and `then`, which they ignore.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TypedDict, get_args, get_type_hints

import msgspec

from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    ImageContent,
    JsonDict,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    ToolResultMessage,
    Usage,
    UserMessage,
)

from .records import EVENT_LINES, LINES, VERSION, ErrorRecord, MessageUpdateLine

__all__ = ["choice", "reference", "schema", "simplify"]

_DICT_LIST = list[JsonDict]


def schema(*, custom_roles: bool = False) -> JsonDict:
    """Return the JSON Schema of a line. `$defs` has one component for each type.

    Args:
        custom_roles: Also allow messages of other roles, which an agent of your own may add
            (`CustomAgentMessage`). Types that are generated from this schema cannot be narrowed by `role`.
    """
    lines = list(LINES.values())
    parts = [ErrorRecord, Usage, TextContent, ImageContent, ThinkingContent, ToolCallContent]
    roles = [UserMessage, AssistantMessage, ToolResultMessage]
    plain = [_with_plain_content(kind) for kind in roles]
    _, components = msgspec.json.schema_components([*lines, *parts, *plain], ref_template="#/$defs/{name}")
    for line in EVENT_LINES:
        name = _component_name(line)
        components[name] = {"title": name, "description": _EVENTS[name], **components.pop(line.__name__)}
        components[name]["title"] = name
    for kind in roles:
        block = "AssistantBlock" if kind is AssistantMessage else "TextOrImage"
        components[kind.__name__]["properties"]["content"]["items"] = reference(block)
    components.update(deepcopy(_STEPS | _OTHER_COMPONENTS))
    if custom_roles:
        components["CustomAgentMessage"] = deepcopy(_CUSTOM_MESSAGE)
        components["Message"] = {"anyOf": [components["Message"], reference("CustomAgentMessage")]}
    for (name, field), part in _REFERENCES.items():
        components[name]["properties"][field] = deepcopy(part)
    for line in EVENT_LINES:
        component = components[_component_name(line)]
        always = ["type", "seq"] if line is MessageUpdateLine else ["type", "seq", "time"]
        component["required"] = [*always, *(key for key in component["required"] if key not in always)]
    end = components["MessageEnd"]
    end["required"].append("role")
    end |= {"if": {"not": {"required": ["message"]}}, "then": {"required": ["tool_call_id"]}}
    for component in components.values():
        simplify(component)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Line",
        "description": f"A line of a tinyagent stream, version {VERSION}.",
        **choice("type", {tag: _component_name(line) for tag, line in LINES.items()}),
        "$defs": components,
    }


def _component_name(line: type[msgspec.Struct]) -> str:
    return line.__name__.removesuffix("Line")


def reference(name: str) -> JsonDict:
    """Return a reference to a component."""
    return {"$ref": f"#/$defs/{name}"}


def choice(tag: str, options: Mapping[str, str]) -> JsonDict:
    """Return a choice among components. `options` maps the values of the field `tag` to their names."""
    mapping = {value: f"#/$defs/{name}" for value, name in options.items()}
    return {
        "oneOf": [reference(name) for name in options.values()],
        "discriminator": {"propertyName": tag, "mapping": mapping},
    }


def _tagged(kinds: Iterable[object], tag: str = "type") -> JsonDict:
    """Return a choice among typed dictionaries."""
    return choice(tag, {get_args(get_type_hints(kind)[tag])[0]: _name(kind) for kind in kinds})


def _name(kind: object) -> str:
    return str(getattr(kind, "__name__", kind))


def simplify(component: JsonDict) -> None:
    """Write an enumeration of one value as a constant, describe fields, and mark objects of any content."""
    if "description" in component:  # a docstring, which Python 3.13 indents less
        component["description"] = inspect.cleandoc(component["description"])
    for name, field in component.get("properties", {}).items():
        if len(field.get("enum", ())) == 1:
            [value] = field.pop("enum")
            field |= {"type": "string", "const": value}
        if name in component.get("required", ()):
            field.pop("default", None)
        text = _FIELDS.get(name)
        if text is not None and "$ref" not in field:
            field.setdefault("description", text)
    _open(component)


def _open(part: object) -> None:
    """Mark each object without `properties` as one of any content."""
    if isinstance(part, list):
        for item in part:
            _open(item)
    elif isinstance(part, dict):
        if part.get("type") == "object" and "properties" not in part:
            part.setdefault("additionalProperties", True)
        for item in part.values():
            _open(item)


_EVENTS = {
    "AgentStart": "A run starts.",
    "TurnStart": "A turn starts: at most one model call, with its tool calls.",
    "MessageStart": "A message starts. Its body follows in `message_end`; a reply is still empty.",
    "MessageUpdate": "The reply of the model has grown. Only `message_end` has the whole message.",
    "MessageEnd": "A message is complete. The body of a tool result is in its `tool_execution_end`.",
    "ToolStart": "A tool call starts.",
    "ToolUpdate": "A running tool reports a partial result.",
    "ToolEnd": "A tool call has ended.",
    "TurnEnd": "A turn has ended. Without bodies, they are those of the lines before.",
    "AgentEnd": "A run has ended. `usage` is the sum over its replies and summaries.",
    "CompactionStart": "The model is asked for a summary of the older messages.",
    "CompactionEnd": "The conversation is now `summary` and the messages at the positions `kept`. Without a "
    "summary the compaction has failed, and changes nothing.",
}
"""The descriptions of the lines of events."""

_FIELDS = {
    "seq": "The number of the line in its run.",
    "time": "Unix milliseconds.",
    "timestamp": "Unix milliseconds.",
    "content_index": "The position of the block in the content of the message.",
    "delta": "The text by which the block has grown; of a tool call, JSON of its arguments.",
    "blocks": "Fields of blocks that the events do not contain, by their `content_index`.",
    "envelope": "Fields of the message other than its content, if they have changed.",
    "snapshot": "As `envelope`, for a message that a custom provider has sent itself; true without changes.",
    "limit": "The limit that ended the run: max_turns, budget, max_total_tokens or repeat.",
    "exit_code": "The exit code of `tinyagent run`.",
    "tokens": "The size of the conversation, as far as it is known.",
    "kept": "Positions from the end of the conversation: -1 is its last message.",
    "replaced": "The number of messages that the summary replaces.",
    "details": "What the tool reports to programs. `approval` is who approved the call.",
}
"""The descriptions of fields."""

_BLOCK: JsonDict = {"content_index": {"type": "integer", "minimum": 0}}
_DELTA: JsonDict = {**_BLOCK, "delta": {"type": "string"}}
_CALL: JsonDict = {**_BLOCK, "tool_call": reference("ToolCallContent")}
_REASON: JsonDict = {"reason": {"type": "string"}}

_STEPS: dict[str, JsonDict] = {
    name: {
        "title": name,
        "description": text,
        "type": "object",
        "properties": {"type": {"type": "string", "const": tag}, **fields},
        "required": ["type", *(field for field in fields if field in ("content_index", "delta"))],
    }
    for name, tag, text, fields in (
        ("ReplyStart", "start", "The reply starts.", {}),
        ("TextStart", "text_start", "A block of text starts.", _BLOCK),
        ("TextDelta", "text_delta", "A block of text has grown.", _DELTA),
        ("TextEnd", "text_end", "A block of text is complete.", _BLOCK),
        ("ThinkingStart", "thinking_start", "A block of reasoning starts.", _BLOCK),
        ("ThinkingDelta", "thinking_delta", "A block of reasoning has grown.", _DELTA),
        ("ThinkingEnd", "thinking_end", "A block of reasoning is complete.", _BLOCK),
        ("ToolCallStart", "tool_call_start", "A tool call starts, without its arguments.", _CALL),
        ("ToolCallDelta", "tool_call_delta", "The arguments of a tool call have grown.", _DELTA),
        ("ToolCallEnd", "tool_call_end", "A tool call is complete.", _CALL),
        ("ReplyDone", "done", "The reply has ended; `reason` is its stop reason.", _REASON),
        ("ReplyError", "error", "The reply has failed; `reason` is its stop reason.", _REASON),
    )
}
"""The steps of a reply, without `partial` and without the bodies that can be restored."""

_CUSTOM_MESSAGE: JsonDict = {
    "title": "CustomAgentMessage",
    "description": "Any other role: kept in the history, not sent to a model.",
    "type": "object",
    "properties": {
        "role": {"type": "string", "not": {"enum": ["user", "assistant", "tool_result"]}},
        "timestamp": {"type": "integer"},
    },
    "required": ["role"],
}

_OTHER_COMPONENTS: dict[str, JsonDict] = {
    "TextOrImage": {
        "title": "TextOrImage",
        "description": "A block of a message of the user or of a tool result.",
        **_tagged([TextContent, ImageContent]),
    },
    "AssistantBlock": {
        "title": "AssistantBlock",
        "description": "A block of a reply.",
        **_tagged(get_args(AssistantBlock)),
    },
    "Message": {
        "title": "Message",
        "description": "A message of the conversation.",
        **_tagged([UserMessage, AssistantMessage, ToolResultMessage], "role"),
    },
    "AgentToolResult": {
        "title": "AgentToolResult",
        "description": "What a tool gives back: `content` for the model, `details` for programs and people.",
        "type": "object",
        "properties": {
            "content": {"type": "array", "items": reference("TextOrImage")},
            "details": {"type": "object"},
            "terminate": {"type": "boolean"},
        },
        "required": ["content", "details", "terminate"],
    },
    "AssistantMessageEvent": {
        "title": "AssistantMessageEvent",
        "description": "One step of a reply.",
        **choice("type", {step["properties"]["type"]["const"]: name for name, step in _STEPS.items()}),
    },
}
"""The components that no type of the library describes."""

_REFERENCES: dict[tuple[str, str], JsonDict] = {
    # Other values are accepted when reading, and are written again in `history` lines.
    ("AssistantMessage", "stop_reason"): {
        "type": "string",
        "description": "stop, length, tool_use, error or aborted",
    },
    ("HistoryRecord", "message"): reference("Message"),
    ("MessageStart", "message"): reference("Message"),
    ("MessageEnd", "message"): reference("Message"),
    ("MessageUpdate", "assistant_message_event"): reference("AssistantMessageEvent"),
    ("MessageUpdate", "message"): {"anyOf": [reference("AssistantMessage"), {"type": "null"}]},
    ("ToolUpdate", "partial_result"): reference("AgentToolResult"),
    ("ToolEnd", "result"): reference("AgentToolResult"),
    ("TurnEnd", "message"): reference("AssistantMessage"),
    ("TurnEnd", "tool_results"): {"type": "array", "items": reference("ToolResultMessage")},
    ("AgentEnd", "messages"): {"type": "array", "items": reference("Message")},
    ("AgentEnd", "usage"): reference("Usage"),
    ("CompactionStart", "reason"): {"type": "string", "description": "limit, overflow or request"},
    ("CompactionEnd", "summary"): {"anyOf": [reference("UserMessage"), {"type": "null"}]},
    ("CompactionEnd", "usage"): {"anyOf": [reference("Usage"), {"type": "null"}]},
    ("ResultRecord", "usage"): {"anyOf": [reference("Usage"), {"type": "null"}]},
}


def _with_plain_content(kind: type[object]) -> object:
    """Return a typed dictionary whose `content` is plain objects: msgspec refuses a union of dictionaries."""
    hints = {**get_type_hints(kind, include_extras=True), "content": _DICT_LIST}
    flat = TypedDict(kind.__name__, hints)  # type: ignore[misc]
    flat.__doc__ = kind.__doc__
    return flat
