"""Prepares the history of a conversation for a request.

`repair_history` removes what no model accepts, for example failed replies and malformed messages.
`adapt_history` also removes what only another model can read: signatures, encrypted reasoning and ids. Every
provider calls it before it builds a request, so a conversation can change models at any point. Messages of
the requested model are not changed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TypeAlias

from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    Message,
    ModelIdentity,
    TextContent,
    Tool,
    ToolCallContent,
)

from .message_checks import has_failed, is_plain, is_sent, message_problem, with_defaults

__all__ = ["UsedIds", "adapt_history", "is_own", "is_sendable", "repair_history"]

logger = logging.getLogger("tinyagent")

NO_RESULT = "No result provided"
IMAGE_NOTE: TextContent = {"type": "text", "text": "(an image)"}
AUDIO_NOTE = "(audio without a transcript)"
LONGEST_COMMON = 40
"""Characters in the id of a tool call that every provider accepts."""
LONGEST_NAME = 64
"""Characters in the name of a tool that every provider accepts."""
_NAME = rf"[a-zA-Z_][a-zA-Z0-9_-]{{0,{LONGEST_NAME - 1}}}"
"""Gemini requires a letter or an underscore at the start."""
_NOT_IN_NAMES = r"[^a-zA-Z0-9_-]"
_BLOCKS = ("text", "thinking", "tool_call", "image")
"""Blocks of an assistant message that can be sent. Other blocks are left out."""

UsedIds: TypeAlias = dict[str, int]
"""Ids of tool calls that are already in a request; for each, how many calls wanted it."""


def is_own(message: AssistantMessage, model: ModelIdentity) -> bool:
    """Whether the message is from this model, over the same protocol."""
    return (message.get("api"), message.get("provider"), message.get("model")) == (
        model.api,
        model.provider,
        model.id,
    )


def adapt_history(
    messages: Sequence[Message],
    model: ModelIdentity,
    *,
    ids: str | None = None,
    tools: Iterable[Tool] | None = None,
    images: bool = False,
    used: UsedIds | None = None,
) -> list[Message]:
    """Adapt the history to `model`.

    Reasoning and signatures of other models are left out, and so is a message that is then empty. Tool calls
    and their results stay.

    Args:
        messages: The history; not changed.
        model: The requested model. Its `api`, `provider` and `id` identify its own messages.
        ids: The pattern of ids of tool calls that the provider accepts. Other ids, and ids of earlier calls,
            are replaced. The replacement of an id is always the same.
        tools: The offered tools. If a model has called a tool that is not among them, the name in the call
            and in its result is changed to one that every provider accepts.
        images: Whether the provider accepts images in assistant messages. If not, a note replaces each one.
        used: The ids of earlier calls, if `messages` continue a history. The ids of `messages` are added.
    """
    taken: list[Message] = []
    used = {} if used is None else used
    offered = {tool.name for tool in tools or ()}
    renamed: dict[str, list[str]] = {}
    for message in repair_history(messages):
        if message["role"] == "assistant" and _has_only_texts(message):
            renamed = {}
        elif message["role"] == "assistant":
            content = _readable_blocks(message, model, images)
            if not content:
                continue
            renamed = {}
            for n, block in enumerate(content):
                if block["type"] == "tool_call":
                    call_id = block["id"] if ids is None else _fit(block["id"], ids, used)
                    renamed.setdefault(block["id"], []).append(call_id)
                    content[n] = {**block, "id": call_id, "name": _fit_name(block["name"], offered)}
            message = {**message, "content": content}
        elif message["role"] == "tool_result":
            fitting = renamed.get(message["tool_call_id"])
            message = {
                **message,
                "tool_call_id": fitting.pop(0) if fitting else message["tool_call_id"],
                "tool_name": _fit_name(message["tool_name"], offered),
            }
        taken.append(message)
    return taken


def _readable_blocks(message: AssistantMessage, model: ModelIdentity, images: bool) -> list[AssistantBlock]:
    """Return the blocks of a reply that `model` can read; see `adapt_history`."""
    content: list[AssistantBlock] = [block for block in message["content"] if block["type"] in _BLOCKS]
    if not images:
        content = [IMAGE_NOTE if block["type"] == "image" else block for block in content]
    if not is_own(message, model):
        content = [_without_signature(block) for block in content if block["type"] != "thinking"]
        content = [block for block in content if block["type"] != "text" or block["text"].strip()]
    return content


def repair_history(messages: Sequence[Message], *, first: int = 1) -> list[Message]:
    """Return the part of a history that can be sent, so that a session never becomes unusable.

    Failed and aborted replies are left out, with the results of their calls. A call without a result gets
    one that states this. A malformed message, for example from a callback, is left out with a warning.

    Args:
        messages: The history; not changed.
        first: The number of the first message, for warnings.
    """
    sent: list[Message] = []
    waiting: list[tuple[str, str]] = []
    """Calls without a result yet: id and name. Weak models use the same id for two calls."""

    def close_open_calls() -> None:
        for call_id, name in waiting:
            sent.append(
                {
                    "role": "tool_result",
                    "tool_call_id": call_id,
                    "tool_name": name,
                    "content": [{"type": "text", "text": NO_RESULT}],
                    "details": {},
                    "is_error": True,
                    "timestamp": 0,
                }
            )
        waiting.clear()

    for message in _well_formed(messages, first):
        if message["role"] == "tool_result":
            call = next((call for call in waiting if call[0] == message["tool_call_id"]), None)
            if call is not None:
                waiting.remove(call)
                sent.append(message)
            continue
        close_open_calls()
        if message["role"] == "assistant":
            if has_failed(message):
                continue
            waiting += [
                (block["id"], block["name"]) for block in message["content"] if block["type"] == "tool_call"
            ]
        sent.append(message)
    close_open_calls()
    return sent


def _well_formed(messages: Sequence[Message], first: int) -> Iterator[Message]:
    for number, original in enumerate(messages, first):
        if is_plain(original):
            yield original
            continue
        message = with_defaults(original)
        problem = message_problem(message)
        if problem is None and is_sent(message):
            yield message
        else:
            problem = problem or f"no model takes the role {original['role']!r}; convert_to_llm can map it"
            logger.warning("Message %d is not sent to the model: %s.", number, problem)


def is_sendable(message: Message) -> bool:
    """Whether a message is well-formed and has a role that models accept."""
    if is_plain(message):
        return True
    return message_problem(with_defaults(message)) is None and is_sent(message)


def _has_only_texts(message: AssistantMessage) -> bool:
    """Whether every model can read a reply unchanged."""
    content = message["content"]
    return bool(content) and is_plain(message) and all(map(_visible_text, content))


def _visible_text(block: AssistantBlock) -> str:
    return block["text"].strip() if block["type"] == "text" else ""


def _without_signature(block: AssistantBlock) -> AssistantBlock:
    if block["type"] == "text":
        text: TextContent = {**block}
        text.pop("text_signature", None)
        return text
    if block["type"] == "tool_call":
        call: ToolCallContent = {**block}
        call.pop("tool_call_signature", None)
        return call
    return block


def _fit_name(name: str, offered: Set[str]) -> str:
    """Return the name of a tool in a form that every provider accepts."""
    if name in offered or re.fullmatch(_NAME, name):
        return name
    fitting = re.sub(_NOT_IN_NAMES, "_", name) or "unknown"
    return (fitting if re.match(_NAME, fitting) else f"_{fitting}")[:LONGEST_NAME]


def _fit(call_id: str, ids: str, used: UsedIds) -> str:
    """Return an id that the provider accepts and that no earlier call has."""
    wanted = call_id
    if not re.fullmatch(ids, call_id):
        import hashlib  # only for such ids

        wanted = f"call_{hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()[:16]}"
    fitting, n = wanted, used.get(wanted, 1)
    while fitting in used:
        n += 1
        fitting = f"{wanted[: LONGEST_COMMON - len(str(n)) - 1]}_{n}"
    used[wanted] = n
    used.setdefault(fitting, 1)
    return fitting
