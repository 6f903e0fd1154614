"""The questions of tools and MCP servers to the user, in the editor."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from acp import start_tool_call, text_block, tool_content, update_tool_call
from acp.interfaces import Client
from acp.schema import (
    AcceptElicitationResponse,
    AllowedOutcome,
    ElicitationCapabilities,
    ElicitationFormSessionMode,
    ElicitationSchema,
    ElicitationUrlSessionMode,
    PermissionOption,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
)

from tinyagent.agent_types import JsonDict

from ._rpc import Line

__all__ = ["DECLINED", "Answer", "ask_user"]

_MAX_CHOICES = 12
"""A longer list does not fit into the question of an editor."""


class Answer(NamedTuple):
    """An answer of the user.

    Attributes:
        accept: Whether the user agrees.
        values: The values of a form.
        cancelled: Whether the editor has cancelled the prompt.
    """

    accept: bool
    values: JsonDict
    cancelled: bool = False


DECLINED = Answer(accept=False, values={})


async def ask_user(
    client: Client,
    session: str,
    line: Line,
    can: ElicitationCapabilities | None,
    id: str,
    update: Callable[[ToolCallStart | ToolCallProgress], Awaitable[None]],
) -> Answer:
    """Ask the user in the editor: by an elicitation if it can, else by a permission request.

    Args:
        client: The editor.
        session: The id of the session.
        line: The `input_request`.
        can: What the editor can elicit.
        id: The id of the tool call that a permission request is about.
        update: Sends an update of the session.

    Raises:
        RequestError: The editor refuses the request.
        ValueError: Its reply is wrong.
    """
    message = f"{line.source} asks: {line.message}"
    mode = _elicitation(session, line, can)
    if mode is not None:
        reply = await client.create_elicitation(message=message, mode=mode)
        if not isinstance(reply, AcceptElicitationResponse):
            return DECLINED
        return Answer(accept=True, values=reply.content or {} if line.kind == "form" else {})
    offered = _choices(line)
    if not offered:
        print(  # noqa: T201
            f"A form of {line.source} is declined, because this editor cannot show forms.", file=sys.stderr
        )
        return DECLINED
    return await _ask_permission(client, session, line, offered, id, update)


def _elicitation(
    session: str, line: Line, can: ElicitationCapabilities | None
) -> ElicitationFormSessionMode | ElicitationUrlSessionMode | None:
    """Return the elicitation of a form or a link; None if the editor or the protocol has none for it."""
    try:
        if line.kind == "form" and can is not None and can.form is not None:
            schema = ElicitationSchema.model_validate(line.schema)
            return ElicitationFormSessionMode(session_id=session, requested_schema=schema)
        if line.kind == "link" and can is not None and can.url is not None:
            return ElicitationUrlSessionMode.model_validate(
                {"sessionId": session, "elicitationId": f"{session}-{line.request}", "url": line.url}
            )
    except ValueError:  # the protocol has only simple fields
        pass
    return None


def _choices(line: Line) -> list[tuple[str, JsonDict]]:
    """Return the answers that accept a question, each with its name and values; none if it needs a text."""
    match line.kind:
        case "link":
            return [("I have opened the address", {})]
        case "completion":
            return [("Send it to the model", {})]
        case "reply":
            return [("Pass on the reply", {})]
    properties = line.schema.get("properties") or {}
    if not properties:
        return [("Accept", {})]
    if len(properties) > 1:
        return []
    [(name, field)] = properties.items()
    if field.get("type") == "boolean":
        return [("Yes", {name: True}), ("No", {name: False})]
    titled = [(entry["const"], entry.get("title")) for entry in field.get("oneOf", []) if "const" in entry]
    values = field.get("enum", [])
    named = titled or list(zip(values, field.get("enumNames") or values, strict=False))
    if not 0 < len(named) <= _MAX_CHOICES:
        return []
    return [(str(title or value), {name: value}) for value, title in named]


async def _ask_permission(
    client: Client,
    session: str,
    line: Line,
    offered: list[tuple[str, JsonDict]],
    id: str,
    update: Callable[[ToolCallStart | ToolCallProgress], Awaitable[None]],
) -> Answer:
    """Ask by a permission request about a call that shows the question, and end this call."""
    title = f"{line.source} asks"
    text = "\n".join(part for part in (str(line.message), line.url) if part)
    content = tool_content(text_block(text))
    await update(start_tool_call(id, title, kind="other", status="pending", content=[content]))
    accepted = False
    try:
        call = ToolCallUpdate(tool_call_id=id, title=title, kind="other", status="pending", content=[content])
        options = [
            PermissionOption(option_id=str(number), name=name, kind="allow_once")
            for number, (name, _) in enumerate(offered)
        ]
        options.append(PermissionOption(option_id="decline", name="Decline", kind="reject_once"))
        reply = await client.request_permission(session, call, options)
        if not isinstance(reply.outcome, AllowedOutcome):
            return Answer(accept=False, values={}, cancelled=True)
        chosen = reply.outcome.option_id
        values = [values for number, (_, values) in enumerate(offered) if str(number) == chosen]
        if not values:
            return DECLINED
        accepted = True
        return Answer(accept=True, values=values[0])
    finally:
        await update(update_tool_call(id, status="completed" if accepted else "failed"))
