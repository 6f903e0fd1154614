"""Stream a reply of a model of `llm`."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal, NamedTuple, TypeVar

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.agent_types import (
    AssistantBlock,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    JsonDict,
    SimpleStreamOptions,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    Usage,
)
from tinyagent.errors import (
    AuthenticationError,
    NotConfiguredError,
    ProviderError,
    RateLimitError,
    TinyAgentError,
)

from ._history import Turn, convert
from ._models import AnyModel, LlmModel, find_model

__all__ = ["stream_llm"]

T = TypeVar("T")

_REASONS = ("finish_reason", "stop_reason", "done_reason", "finishReason")
"""The keys under which plugins keep why a reply has ended."""


class _Piece(NamedTuple):
    """A part of a reply as it arrives: text or reasoning."""

    kind: Literal["text", "thinking"]
    text: str


class _Blocks:
    """The text and the reasoning of a reply as they grow.

    Args:
        content: Gets the blocks.
    """

    def __init__(self, content: list[AssistantBlock]) -> None:
        self._content = content
        self._open: TextContent | ThinkingContent | None = None

    def add(self, piece: _Piece) -> list[AssistantMessageEvent]:
        """Add a piece to the open block, or to a new one if it is of another kind. Return the events."""
        events: list[AssistantMessageEvent] = []
        if self._open is None or self._open["type"] != piece.kind:
            events += self.close()
            index = len(self._content)
            if piece.kind == "text":
                self._open = {"type": "text", "text": ""}
                events.append({"type": "text_start", "content_index": index})
            else:
                self._open = {"type": "thinking", "thinking": ""}
                events.append({"type": "thinking_start", "content_index": index})
            self._content.append(self._open)
        index = len(self._content) - 1
        if self._open["type"] == "text":
            self._open["text"] += piece.text
            events.append({"type": "text_delta", "content_index": index, "delta": piece.text})
        else:
            self._open["thinking"] += piece.text
            events.append({"type": "thinking_delta", "content_index": index, "delta": piece.text})
        return events

    def close(self) -> list[AssistantMessageEvent]:
        """Close the open block. Return its event, if there is one."""
        block, self._open = self._open, None
        index = len(self._content) - 1
        if block is None:
            return []
        if block["type"] == "text":
            return [{"type": "text_end", "content_index": index, "content": block["text"]}]
        return [{"type": "thinking_end", "content_index": index, "content": block["thinking"]}]


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
        self._found = found
        self._options = options
        self._response = _respond(model, found, convert(found, context), context, options)
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
                    raise _error_of(piece.error, self._model)
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
        _add_signatures(content, parts)
        signatures = {
            part.get("tool_call_id"): _signature(part) for part in parts if part["type"] == "tool_call"
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
        message["usage"] = _usage(usage)
        message["stop_reason"] = "tool_use" if calls else "stop"
        reason = _finish_reason(response.response_json)
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


def _respond(
    model: LlmModel, found: AnyModel, turn: Turn, context: Context, options: SimpleStreamOptions
) -> llm.Response | llm.AsyncResponse:
    """Prepare the response, which asks the model when it is read."""
    tools = [
        llm.Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters))
        for tool in context.tools or ()
    ]
    if tools and not found.supports_tools:
        _note(options, f"{found.model_id} takes no tools, so none are offered to it.")
        tools = []
    attachments = turn.attachments
    kept = [image for image in attachments if image.resolve_type() in found.attachment_types]
    if len(kept) < len(attachments):
        raise ProviderError(
            f"llm/{model.id} takes no images of this type.",
            provider="llm",
            retryable=False,
            hint="Its types: " + (", ".join(sorted(found.attachment_types)) or "none"),
        )
    own: JsonDict = dict(model.options)
    for name in ("temperature", "max_tokens"):
        value = options.get(name)
        if value is not None and name in found.Options.model_fields:
            own.setdefault(name, value)
        elif value is not None:
            _note(options, f"{found.model_id} has no option {name}, so it is not sent.")
    schema = options.get("response_schema")
    try:
        response: llm.Response | llm.AsyncResponse = turn.conversation.prompt(
            turn.prompt,
            attachments=attachments or None,
            system=turn.system,
            schema=schema if schema and found.supports_schema else None,
            tools=tools or None,
            tool_results=turn.tool_results or None,
            stream=found.can_stream,
            options=own,
        )
    except Exception as error:
        raise _error_of(error, model) from error
    return response


def _note(options: SimpleStreamOptions, text: str) -> None:
    on_note = options.get("on_note")
    if on_note is not None:
        on_note(text)


def _add_signatures(content: list[AssistantBlock], parts: list[JsonDict]) -> None:
    """Add what a provider requires back to the blocks that it belongs to."""
    texts = [block for block in content if block["type"] == "text"]
    for text, part in _pairs(texts, parts, "text"):
        if signature := _signature(part):
            text["text_signature"] = signature
    thoughts = [block for block in content if block["type"] == "thinking"]
    for thought, part in _pairs(thoughts, parts, "reasoning"):
        if signature := _signature(part):
            thought["thinking_signature"] = signature


def _pairs(blocks: list[T], parts: list[JsonDict], kind: str) -> list[tuple[T, JsonDict]]:
    """Return the part of each block; empty if they do not correspond."""
    of_kind = [part for part in parts if part["type"] == kind and part.get("text")]
    return list(zip(blocks, of_kind, strict=True)) if len(blocks) == len(of_kind) else []


def _signature(part: JsonDict) -> str | None:
    metadata = part.get("provider_metadata")
    return json.dumps(metadata) if metadata else None


def _usage(usage: llm.Usage) -> Usage | None:
    if usage.input is None and usage.output is None:
        return None
    given, returned = usage.input or 0, usage.output or 0
    found: Usage = {"input": given, "output": returned, "total": given + returned}
    details = usage.details or {}
    reasoning = (details.get("completion_tokens_details") or details).get("reasoning_tokens")
    cached = (details.get("prompt_tokens_details") or details).get("cached_tokens")
    if isinstance(reasoning, int):
        found["reasoning"] = reasoning
    if isinstance(cached, int):
        found["cache_read"] = cached
    return found


def _finish_reason(response_json: JsonDict | None) -> str | None:
    """Return why the reply has ended, if the plugin keeps it. `llm` has no field for it."""
    places: list[object] = [response_json]
    for key in ("choices", "candidates"):
        several = response_json.get(key) if isinstance(response_json, dict) else None
        if isinstance(several, list):
            places += several[:1]
    for place in places:
        if isinstance(place, dict):
            found = next((place[key] for key in _REASONS if isinstance(place.get(key), str)), None)
            if found is not None:
                return str(found)
    return None


def _error_of(error: BaseException, model: LlmModel) -> BaseException:
    """Return an error of `llm` or of one of its plugins as one of ours."""
    if isinstance(error, (TinyAgentError, asyncio.CancelledError)):
        return error
    if isinstance(error, llm.NeedsKeyException):
        return NotConfiguredError(
            f"llm/{model.id} needs a key: {error}", hint="Store it: llm keys set NAME, as for llm itself."
        )
    status = getattr(error, "status_code", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    text = f"llm/{model.id}: {error}" if str(error) else f"llm/{model.id} failed: {type(error).__name__}"
    if not isinstance(status, int):
        return ProviderError(text, provider="llm", retryable=False)
    if status in (401, 403):
        return AuthenticationError(text, status=status)
    if status == 429:
        return RateLimitError(text, status=status, provider="llm", retryable=True)
    return ProviderError(text, status=status, provider="llm", retryable=status >= 500)
