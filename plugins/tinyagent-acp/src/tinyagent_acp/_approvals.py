"""Ask the user in the editor whether a tool call may run."""

from __future__ import annotations

from collections.abc import Sequence

from acp import text_block, tool_content
from acp.interfaces import Client
from acp.schema import AllowedOutcome, PermissionOption, ToolCallUpdate

from ._rpc import Line
from ._tools import show_call

__all__ = ["CANCELLED", "ask_permission"]

CANCELLED = "cancelled"
"""The answer if the editor has cancelled the prompt."""


def _options(answers: Sequence[str], tool: str) -> list[PermissionOption]:
    """Return what the editor offers for a question of `tinyagent rpc`, the narrowest approval first.

    The ids are the answers that `tinyagent rpc` takes.
    """
    known = [
        PermissionOption(option_id="yes", kind="allow_once", name="Allow once"),
        PermissionOption(
            option_id="project", kind="allow_always", name="Always allow exactly this call in this project"
        ),
        PermissionOption(
            option_id="always", kind="allow_always", name=f"Allow every call of {tool} in this session"
        ),
        PermissionOption(option_id="outside", kind="allow_once", name="Allow once, outside the sandbox"),
        PermissionOption(option_id="no", kind="reject_once", name="Reject"),
    ]
    return [option for option in known if option.option_id in answers]


async def ask_permission(client: Client, session: str, line: Line, call: str, folder: str) -> str:
    """Return the answer of the user, as `tinyagent rpc` takes it, or CANCELLED.

    Args:
        client: The editor.
        session: The id of the session.
        line: The `approval_request`.
        call: The id of the tool call in the editor.
        folder: The folder of the session.

    Raises:
        RequestError: The editor refuses the request.
        ValueError: Its reply is wrong.
    """
    shown = show_call(line.tool_name, line.args, folder)
    confined = [tool_content(text_block(line.sandbox))] if line.sandbox else []
    options = _options(line.answers, line.tool_name)
    reply = await client.request_permission(
        session,
        ToolCallUpdate(
            tool_call_id=call,
            title=shown.title,
            kind=shown.kind,
            status="pending",
            content=shown.content or [*confined] or None,
            locations=shown.locations or None,
            raw_input=line.args,
        ),
        options,
    )
    if not isinstance(reply.outcome, AllowedOutcome):
        return CANCELLED
    chosen = reply.outcome.option_id
    return chosen if chosen in [option.option_id for option in options] else "no"
