"""The events of a run as updates of a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias

from acp import (
    image_block,
    start_tool_call,
    text_block,
    update_agent_message_text,
    update_agent_thought_text,
    update_tool_call,
    update_user_message,
)
from acp.schema import (
    AgentMessageChunk,
    AgentThoughtChunk,
    AvailableCommandsUpdate,
    ConfigOptionUpdate,
    CurrentModeUpdate,
    ImageContentBlock,
    SessionInfoUpdate,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallStatus,
    UsageUpdate,
    UserMessageChunk,
)

from tinyagent.agent_types import JsonDict

from ._rpc import Block, Line, Message
from ._tools import show_call, show_result

__all__ = ["CallIds", "RunUpdates", "Send", "Update", "history_updates"]

Update: TypeAlias = (
    UserMessageChunk
    | AgentMessageChunk
    | AgentThoughtChunk
    | ToolCallStart
    | ToolCallProgress
    | AvailableCommandsUpdate
    | CurrentModeUpdate
    | ConfigOptionUpdate
    | SessionInfoUpdate
    | UsageUpdate
)
Send: TypeAlias = Callable[[Update], Awaitable[None]]


class CallIds:
    """Gives each tool call an id that is unique in its session: those of models may repeat."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def new(self, id: str) -> str:
        """Return an id for a new call."""
        unique, number = id, 1
        while unique in self._used:
            number += 1
            unique = f"{id}-{number}"
        self._used.add(unique)
        return unique


class RunUpdates:
    """Sends the updates of one run. Each tool call that was announced is also ended.

    Args:
        send: Sends an update.
        folder: The folder of the session.
        ids: The ids of the session.
    """

    def __init__(self, send: Send, folder: str, ids: CallIds) -> None:
        self._send = send
        self._folder = folder
        self._ids = ids
        self._open: dict[str, str] = {}
        self._complete: set[str] = set()

    def id_of(self, call: str) -> str:
        """Return the id of an announced call."""
        return self._open.get(call, call)

    async def take(self, line: Line) -> None:
        """Send the updates of an event."""
        match line.type:
            case "message_update":
                await self._reply(line)
            case "message_end" if isinstance(line.message, Message) and line.message.role == "assistant":
                for block in line.message.blocks:
                    if block.type == "tool_call":
                        await self._announce(block.id, block.name, block.arguments)
            case "tool_execution_start":
                await self._announce(line.tool_call_id, line.tool_name, line.args)
                id = self.id_of(line.tool_call_id)
                await self._send(update_tool_call(id, status="in_progress"))
            case "tool_execution_update" if line.partial_result is not None:
                content = show_result(line.tool_name, line.partial_result.content)
                await self._send(update_tool_call(self.id_of(line.tool_call_id), content=content))
            case "tool_execution_end":
                await self._end(line)

    async def close(self) -> None:
        """End the calls that the run has not ended."""
        for id in self._open.values():
            await self._send(update_tool_call(id, status="failed"))
        self._open.clear()

    async def _reply(self, line: Line) -> None:
        event = line.assistant_message_event
        if event is None:
            return
        match event.type:
            case "text_delta" if event.delta:
                await self._send(update_agent_message_text(event.delta))
            case "thinking_delta" if event.delta:
                await self._send(update_agent_thought_text(event.delta))
            case "tool_call_start" if event.tool_call is not None and event.tool_call.id:
                await self._announce(event.tool_call.id, event.tool_call.name, {})

    async def _announce(self, call: str, name: str, args: JsonDict) -> None:
        """Show a call as pending: first with its name, then, when they are complete, with its arguments."""
        if call in self._complete or (call in self._open and not args):
            return
        if args:
            self._complete.add(call)
        shown = show_call(name, args, self._folder)
        is_new = call not in self._open
        if is_new:
            self._open[call] = self._ids.new(call)
        show = start_tool_call if is_new else update_tool_call
        update = show(
            self._open[call],
            title=shown.title,
            kind=shown.kind,
            status="pending",
            content=shown.content or None,
            locations=shown.locations or None,
            raw_input=args or None,
        )
        await self._send(update)

    async def _end(self, line: Line) -> None:
        id = self._open.pop(line.tool_call_id, line.tool_call_id)
        self._complete.discard(line.tool_call_id)
        content = show_result(line.tool_name, line.result.content if line.result is not None else [])
        if not line.is_error and line.tool_name in ("write", "edit"):
            content = []  # the diff stays
        await self._send(update_tool_call(id, status=_status(line.is_error), content=content or None))


def history_updates(messages: Sequence[Message], folder: str, ids: CallIds) -> Iterator[Update]:
    """Return the updates that show a conversation again. What its calls changed is not known any more."""
    open_calls: dict[str, tuple[str, str]] = {}
    for message in messages:
        if message.role == "tool_result":
            id, name = open_calls.pop(message.tool_call_id, ("", ""))
            if id:
                content = show_result(name, message.blocks)
                yield update_tool_call(id, status=_status(message.is_error), content=content or None)
            continue
        for block in message.blocks:
            if message.role == "user":
                yield from map(update_user_message, _user_blocks(block))
            elif message.role == "assistant":
                if block.type == "text" and block.text:
                    yield update_agent_message_text(block.text)
                elif block.type == "thinking" and block.thinking:
                    yield update_agent_thought_text(block.thinking)
                elif block.type == "tool_call":
                    id = ids.new(block.id)
                    open_calls[block.id] = (id, block.name)
                    shown = show_call(block.name, block.arguments, folder)
                    yield start_tool_call(
                        id, shown.title, kind=shown.kind, status="pending",
                        locations=shown.locations or None, raw_input=block.arguments,
                    )  # fmt: skip
    for id, _ in open_calls.values():
        yield update_tool_call(id, status="failed")


def _status(is_error: bool) -> ToolCallStatus:
    return "failed" if is_error else "completed"


def _user_blocks(block: Block) -> Iterator[TextContentBlock | ImageContentBlock]:
    if block.type == "text" and block.text:
        yield text_block(block.text)
    elif block.type == "image" and block.url.startswith("data:"):
        head, _, data = block.url.partition(",")
        yield image_block(data, block.mime_type or head.removeprefix("data:").partition(";")[0])
    elif block.type == "image":
        yield text_block(block.url)
