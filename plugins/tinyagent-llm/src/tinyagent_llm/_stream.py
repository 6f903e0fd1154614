"""Stream a reply of a model of `llm`."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal, NamedTuple

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    SimpleStreamOptions,
    ToolCallContent,
)

from ._history import convert
from ._models import AnyModel, LlmModel, find_model
from ._response import (
    add_signatures,
    error_of,
    finish_reason,
    prepare_response,
    signature_of,
    usage_of,
)

__all__ = ["stream_llm"]


class _Piece(NamedTuple):
    """A part of a reply as it arrives: text or reasoning."""

    kind: Literal["text", "thinking"]
    text: str


class _Blocks:
    """The text and the reasoning of a reply as they grow.

    Args:
        content: Gets the blocks when they are complete.
    """

    def __init__(self, content: list[AssistantBlock]) -> None:
        self._content = content
        self._kind: Literal["text", "thinking"] | None = None
        self._texts: list[str] = []

    def add(self, piece: _Piece) -> list[AssistantMessageEvent]:
        """Add a piece to the open block, or to a new one if it is of another kind. Return the events."""
        events: list[AssistantMessageEvent] = []
        is_new = self._kind != piece.kind
        if is_new:
            events += self.close()
            self._kind = piece.kind
        self._texts.append(piece.text)
        index = len(self._content)
        if piece.kind == "text":
            if is_new:
                events.append({"type": "text_start", "content_index": index})
            events.append({"type": "text_delta", "content_index": index, "delta": piece.text})
        else:
            if is_new:
                events.append({"type": "thinking_start", "content_index": index})
            events.append({"type": "thinking_delta", "content_index": index, "delta": piece.text})
        return events

    def close(self) -> list[AssistantMessageEvent]:
        """Close the open block. Return its event, if there is one."""
        kind, text, index = self._kind, "".join(self._texts), len(self._content)
        self._kind, self._texts = None, []
        if kind == "text":
            self._content.append({"type": "text", "text": text})
            return [{"type": "text_end", "content_index": index, "content": text}]
        if kind == "thinking":
            self._content.append({"type": "thinking", "thinking": text})
            return [{"type": "thinking_end", "content_index": index, "content": text}]
        return []


class _End(NamedTuple):
    """The end of the stream, with its error."""

    error: BaseException | None


async def stream_llm(model: LlmModel, context: Context, options: SimpleStreamOptions) -> LlmReply:
    """Ask a model of `llm`.

    Raises:
        TinyAgentError: There is no such model or no key, or it cannot be asked.
    """
    return LlmReply(model, find_model(model.id), context, options)


class LlmReply:
    """A reply: iterate it for its events, or await `result()` for the whole message."""

    def __init__(
        self, model: LlmModel, found: AnyModel, context: Context, options: SimpleStreamOptions
    ) -> None:
        self._model = model
        self._options = options
        self._response = prepare_response(model, found, convert(found, context), context, options)
        self._message: AssistantMessage = {
            "role": "assistant",
            "content": [],
            "stop_reason": "stop",
            "timestamp": time.time_ns() // 1_000_000,
            "api": model.api,
            "provider": model.provider,
            "model": model.id,
            "usage": None,
        }
        self._events = self._stream()

    def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        return self._events

    async def result(self) -> AssistantMessage:
        """Return the whole message, after reading the events that are left."""
        async for _ in self._events:
            pass
        return self._message

    async def aclose(self) -> None:
        """End the reply."""
        await self._events.aclose()

    async def _stream(self) -> AsyncGenerator[AssistantMessageEvent, None]:
        yield {"type": "start"}
        blocks = _Blocks(self._message["content"])
        async for piece in self._pieces():
            if isinstance(piece, _End):
                if piece.error is not None:
                    raise error_of(piece.error, self._model)
                break
            for event in blocks.add(piece):
                yield event
        for event in blocks.close():
            yield event
        async for event in self._end():
            yield event

    async def _end(self) -> AsyncGenerator[AssistantMessageEvent, None]:
        """Yield the tool calls, and the end with the data that only a complete response has."""
        response, message = self._response, self._message
        if isinstance(response, llm.AsyncResponse):
            parts = [part for each in await response.messages() for part in each.to_dict()["parts"]]
            calls, usage = await response.tool_calls(), await response.usage()
        else:
            parts = [part for each in response.messages() for part in each.to_dict()["parts"]]
            calls, usage = response.tool_calls(), response.usage()
        content = message["content"]
        add_signatures(content, parts)
        signatures = {
            part.get("tool_call_id"): signature_of(part) for part in parts if part["type"] == "tool_call"
        }
        known = {call.tool_call_id for call in calls}
        calls += [
            llm.ToolCall(part["name"], part["arguments"], part.get("tool_call_id"))
            for part in parts
            if part["type"] == "tool_call"
            and not part.get("server_executed")
            and part.get("tool_call_id") not in known
        ]
        for number, call in enumerate(calls, 1):
            block: ToolCallContent = {
                "type": "tool_call",
                "id": call.tool_call_id or f"call_{message['timestamp']}_{number}",
                "name": call.name,
                "arguments": dict(call.arguments or {}),
            }
            if signature := signatures.get(call.tool_call_id):
                block["tool_call_signature"] = signature
            index = len(content)
            content.append(block)
            opened: ToolCallContent = {**block, "arguments": {}}
            yield {"type": "tool_call_start", "content_index": index, "tool_call": opened}
            yield {"type": "tool_call_delta", "content_index": index, "delta": json.dumps(block["arguments"])}
            yield {"type": "tool_call_end", "content_index": index, "tool_call": block}
        message["usage"] = usage_of(usage)
        message["stop_reason"] = "tool_use" if calls else "stop"
        reason = finish_reason(response.response_json)
        if reason is not None:
            message["finish_reason"] = reason
        yield {"type": "done", "reason": message["stop_reason"], "message": message}

    async def _pieces(self) -> AsyncGenerator[_Piece | _End, None]:
        """Yield the pieces as they arrive, from a task or a thread, until the end or the abort."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[_Piece | _End] = asyncio.Queue()
        stopped = threading.Event()
        tasks = []
        if isinstance(self._response, llm.AsyncResponse):
            tasks.append(asyncio.create_task(_read_async(self._response, queue)))
        else:
            arguments = (self._response, loop, queue, stopped)
            threading.Thread(target=_read_sync, args=arguments, daemon=True, name="llm").start()
        signal = self._options.get("signal")
        if signal is not None:
            tasks.append(asyncio.create_task(_abort(signal, queue)))
        try:
            while True:
                piece = await queue.get()
                yield piece
                if isinstance(piece, _End):
                    return
        finally:
            stopped.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _abort(signal: asyncio.Event, queue: asyncio.Queue[_Piece | _End]) -> None:
    await signal.wait()
    queue.put_nowait(_End(asyncio.CancelledError()))


async def _read_async(response: llm.AsyncResponse, queue: asyncio.Queue[_Piece | _End]) -> None:
    try:
        async for event in response.astream_events():
            for piece in _pieces_of(event.type, event.chunk):
                queue.put_nowait(piece)
    except Exception as error:  # noqa: BLE001 - it is raised by the reader of the queue
        queue.put_nowait(_End(error))
    else:
        queue.put_nowait(_End(None))


def _read_sync(
    response: llm.Response,
    loop: asyncio.AbstractEventLoop,
    queue: asyncio.Queue[_Piece | _End],
    stopped: threading.Event,
) -> None:
    """Read a response that blocks. After the abort, it ends at its next event."""

    def put(piece: _Piece | _End) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, piece)
        except RuntimeError:
            stopped.set()  # the event loop is closed

    events = response.stream_events()
    try:
        for event in events:
            for piece in _pieces_of(event.type, event.chunk):
                put(piece)
            if stopped.is_set():
                events.close()
                return
    except Exception as error:  # noqa: BLE001 - it is raised by the reader of the queue
        put(_End(error))
    else:
        put(_End(None))


def _pieces_of(kind: str, text: str) -> list[_Piece]:
    """Return the text of an event. Tool calls are read when they are complete."""
    match kind:
        case "text" if text:
            return [_Piece("text", text)]
        case "reasoning" if text:
            return [_Piece("thinking", text)]
    return []
