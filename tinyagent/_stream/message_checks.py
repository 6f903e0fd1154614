"""Checks of messages.

`checked_message` checks each message that enters the library: in `prompt`, `steer`, `append_message`,
`initial_state` and the callbacks of the loop. `repair_history` repeats the check (`message_problem`) before
each request, because callbacks of the user can change messages in between. Its cost grows with the history,
so the usual forms of messages and blocks have short paths (`is_plain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeGuard, cast

from tinyagent import _json
from tinyagent.agent_types import (
    AgentMessage,
    AssistantMessage,
    Message,
    ToolCallContent,
    ToolResultMessage,
    UserMessage,
)
from tinyagent.errors import InvalidMessageError

__all__ = [
    "checked_message",
    "checked_messages",
    "has_failed",
    "is_assistant",
    "is_plain",
    "is_sent",
    "is_tool_result",
    "message_problem",
    "with_defaults",
]

_DICT = (dict, Mapping)
"""`dict` first: nearly every message is one, and the check for an abstract class takes five times as long."""

_BODIES = {"text": "text", "image": "url", "thinking": "thinking"}
"""The key of the text of a block, by the type of the block."""

_ROLES = ("user", "assistant", "tool_result")
_OPTIONAL_STRINGS = (
    *("text_signature", "thinking_signature", "tool_call_signature"),
    *("mime_type", "partial_json"),
)
_BLOCKS = {"user": ("text", "image"), "tool_result": ("text", "image"), "assistant": ("text", "thinking")}


def checked_message(message: object, place: str = "the message") -> AgentMessage:
    """Check a message and normalise it.

    Content that is a string becomes a text block; the result is then a new dict. Another mapping becomes a
    dict. Messages with a role other than `user`, `assistant` and `tool_result` are not checked further: only
    `convert_to_llm` can read them.

    Args:
        message: The value that the caller passed as a message.
        place: How the error message refers to it.

    Raises:
        InvalidMessageError: The value is not a message, or cannot be sent to a model.
    """
    if is_plain(message):
        return message
    message = with_defaults(message)
    problem = message_problem(message)
    if problem is None and isinstance(message, _DICT) and message["role"] in _BLOCKS:
        problem = _json_problem([block for block in message["content"] if not _is_plain_text(block)])
    if problem is not None:
        raise InvalidMessageError(
            f"{place} cannot be used: {problem}.",
            hint='A message is a dict such as {"role": "user", "content": [{"type": "text", "text": "Hi"}]}.',
        )
    if type(message) is not dict and isinstance(message, Mapping):
        message = dict(message)
    return cast(AgentMessage, message)


def with_defaults(message: object) -> object:
    """Return the message with its content as a list, and with the optional fields of a tool result."""
    if not isinstance(message, _DICT) or message.get("role") not in _ROLES:
        return message
    is_complete = message["role"] != "tool_result" or message.keys() >= _RESULT_DEFAULTS.keys()
    content = message.get("content")
    if is_complete and not isinstance(content, str):
        return message
    added: dict[str, object] = {}
    if isinstance(content, str):
        added["content"] = [{"type": "text", "text": content}]
    if not is_complete:
        added |= {key: value for key, value in _RESULT_DEFAULTS.items() if key not in message}
    return {**message, **added}


_RESULT_DEFAULTS: dict[str, object] = {"tool_name": "", "details": {}, "is_error": False, "timestamp": 0}


def checked_messages(messages: Iterable[object], where: str = "") -> list[AgentMessage]:
    """Check and normalise a list of messages; see `checked_message`.

    Args:
        messages: The messages.
        where: Precedes `message 3` in the error message.

    Raises:
        InvalidMessageError: A message cannot be used, or the value is not a list of messages.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise InvalidMessageError(
            f"Messages must be a list of dicts, not a value of type {type(messages).__name__}."
        )
    return [checked_message(message, f"{where}message {n}") for n, message in enumerate(messages, 1)]


def message_problem(message: object) -> str | None:
    """Return why a value cannot be sent as a message; None if it can.

    A message with a role of its own is never sent unchanged, so only its role is checked.
    """
    if not isinstance(message, _DICT):
        return f"it is of type {type(message).__name__}, not a dict"
    role = message.get("role")
    if not isinstance(role, str) or not role:
        return "it has no role" if role is None else f"its role is {_shown(role)}, not a name"
    if role not in _BLOCKS:
        return None
    if role == "tool_result":
        call_id, name = message.get("tool_call_id"), message.get("tool_name", "")
        if not isinstance(call_id, str) or not call_id:
            return f"its tool_call_id is {_shown(call_id)}, not the id of a tool call"
        if not isinstance(name, str):
            return f"its tool_name is {_shown(name)}, not a string"
    content = message.get("content")
    if not isinstance(content, list):
        return f"its content is {_shown(content)}, not a list of blocks"
    for index, block in enumerate(content):
        problem = _block_problem(role, block)
        if problem is not None:
            return f"content[{index}] {problem}"
    return None


def is_sent(message: object) -> TypeGuard[Message]:
    """Whether a message has a role that models accept."""
    return isinstance(message, _DICT) and message.get("role") in _ROLES


def is_assistant(message: object) -> TypeGuard[AssistantMessage]:
    """Whether a message is a reply of a model."""
    return isinstance(message, _DICT) and message.get("role") == "assistant"


def has_failed(message: Mapping[str, object]) -> bool:
    """Whether a reply has failed or was aborted. Its tool calls are not run, and it is not sent again."""
    return message.get("stop_reason") in ("error", "aborted")


def is_plain(message: object) -> TypeGuard[UserMessage | AssistantMessage]:
    """Whether a message consists of plain texts. Most do, and then no other check is necessary."""
    return (
        type(message) is dict
        and message.get("role") in ("user", "assistant")
        and type(content := message.get("content")) is list
        and all(map(_is_plain_text, content))
    )


def is_tool_result(message: object) -> TypeGuard[ToolResultMessage]:
    """Whether a message is the result of a tool call."""
    return isinstance(message, _DICT) and message.get("role") == "tool_result"


def _is_plain_text(block: object) -> bool:
    """Whether a block is a text without other fields. Most are, and then no other check is necessary."""
    return (
        type(block) is dict
        and len(block) == 2
        and block.get("type") == "text"
        and type(block.get("text")) is str
    )


def _is_plain_call(block: object) -> TypeGuard[ToolCallContent]:
    """Whether a block is a tool call without other fields, so that only its arguments need a check."""
    return (
        type(block) is dict
        and len(block) == 4
        and block.get("type") == "tool_call"
        and type(block.get("arguments")) is dict
        and type(block.get("id")) is str
        and type(block.get("name")) is str
    )


def _block_problem(role: str, block: object) -> str | None:
    if _is_plain_text(block):
        return None
    if _is_plain_call(block) and role == "assistant":
        return _json_problem(block["arguments"])
    if not isinstance(block, _DICT):
        return f"is {_shown(block)}, not a dict with a type"
    kind = block.get("type")
    if not isinstance(kind, str):
        return "has no type"
    for key in _OPTIONAL_STRINGS:
        if block.get(key) is not None and not isinstance(block[key], str):
            return f"is of type {kind!r}, and its {key} is not a string"
    if kind in _BLOCKS[role]:
        body = _BODIES[kind]
        return (
            None
            if isinstance(block.get(body), str)
            else f"is of type {kind!r}, and its {body} is not a string"
        )
    if role != "assistant":
        return f"is of type {kind!r}; a {role} message holds text and image"
    if kind == "tool_call":
        for key in ("id", "name"):
            if not isinstance(block.get(key), str):
                return f"is a tool_call, and its {key} is not a string"
        if not isinstance(block.get("arguments"), dict):
            return "is a tool_call, and its arguments are not a dict"
        return _json_problem(block["arguments"])
    return None  # Providers have further types of blocks, which are sent back unchanged.


def _json_problem(value: object) -> str | None:
    try:
        _json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        return f"holds a value that JSON cannot represent ({error})"
    return None


def _shown(value: object) -> str:
    """Describe a value for an error message: short values by their `repr`, others by their type."""
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 40):
        return repr(value)
    return f"of type {type(value).__name__}"
