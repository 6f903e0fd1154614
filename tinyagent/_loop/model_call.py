"""One call of the model: its events and its message, also if it fails or is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple, cast

from tinyagent._cancel import (
    Aborted,
    CallbackCancelledError,
    CancelScope,
    invoke,
    leave_task,
    outcome,
    run_to_completion,
    spawn,
)
from tinyagent._stream.builder import BuilderEvent, MessageBuilder, StreamEvent, finished_arguments, unique_id
from tinyagent._stream.finish_reasons import finish_error, finish_kind, has_content, shown_word
from tinyagent._stream.repair_cache import repair_again
from tinyagent._tool_checks import checked_tools
from tinyagent.agent_tool_execution import Emit
from tinyagent.agent_types import (
    STREAM_UPDATE_EVENTS,
    AgentContext,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    SimpleStreamOptions,
    StopReason,
    StreamFn,
    StreamResponse,
)
from tinyagent.errors import (
    ErrorFields,
    InvalidReplyError,
    StreamInterruptedError,
    error_fields,
    error_text,
)

__all__ = ["Failure", "ModelCall", "send"]

CLOSE_GRACE_S = 1.0
"""Seconds that a provider has to close a stream that is no longer read."""

REPLY_GRACE_S = 2.0
"""Seconds that a provider, callbacks and listeners have to react to their cancellation."""

MIN_KEY_LENGTH = 6
"""Shorter API keys are not removed from error texts, because they could be parts of words."""


class Failure(NamedTuple):
    """Why a message ends as failed."""

    reason: StopReason
    fields: ErrorFields

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe an exception."""
        if isinstance(error, Aborted):
            return cls("aborted", {"error_message": str(error)})
        return cls("error", error_fields(error))


class _CloseHangsError(Exception):
    """Closing the provider's stream takes longer than the grace period."""


class ModelCall:
    """One call of the model. `message` is its message, once that is complete or has failed."""

    def __init__(
        self,
        context: AgentContext,
        config: AgentLoopConfig,
        emit: Emit,
        signal: asyncio.Event | None,
        stream_fn: StreamFn,
    ) -> None:
        self._context = context
        self._config = config
        self._emit = emit
        self._signal = signal
        self._stream_fn = stream_fn
        self._builder = MessageBuilder(config.model)
        self._last: BuilderEvent | None = None
        self._key: str | None = None
        self._started = False
        self._guard = CancelScope()
        self._outcome: AssistantMessage | Exception | None = None
        self.message: AssistantMessage | None = None

    async def run(self) -> AssistantMessage:
        """Call the model, and return its message. Every failure becomes a message."""
        try:
            final = await self._ask()
        except asyncio.CancelledError:
            await run_to_completion(self.close(Failure.of(Aborted("The run was cancelled."))))
            raise
        except Exception as error:  # noqa: BLE001 - any error of a callback or provider becomes a message
            return await self.close(Failure.of(Aborted() if isinstance(error, Aborted) else error))
        return await self._finish(final)

    async def _ask(self) -> AssistantMessage:
        """Call the model and return its final message.

        A separate task reads the reply. If a provider or callback suppresses its cancellation, or hangs while
        it is closed, its task is left running after a grace period.
        """
        task = spawn(self._read_outcome())
        try:
            async with CancelScope(self._signal) as self._guard:
                await asyncio.wait([task])
            if task.cancelled():
                raise CallbackCancelledError("The provider's call was cancelled from inside.")
            final, failure = task.result()
            if failure is not None:
                raise failure
            assert final is not None
            return final
        except _CloseHangsError:
            await leave_task(task, 0)
            if isinstance(self._outcome, Exception):
                raise self._outcome from None
            assert self._outcome is not None
            return self._outcome
        except (Aborted, asyncio.CancelledError):
            await leave_task(task, REPLY_GRACE_S)
            raise
        finally:
            self._outcome = failure = None
            del task  # It holds the exception, whose traceback holds this frame.

    async def _read_outcome(self) -> tuple[AssistantMessage | None, BaseException | None]:
        return await outcome(self._read())

    async def _read(self) -> AssistantMessage:
        response = await self._call()
        if not hasattr(response, "__aiter__"):
            raise InvalidReplyError(
                f"The stream function returned {type(response).__name__}, not an asynchronous iterator of "
                "assistant message events.",
                hint="See StreamFn: return an object with __aiter__, such as an asynchronous generator.",
            )
        stream: object = response
        events: AsyncIterator[StreamEvent] = response.__aiter__()
        try:
            final = self._outcome = await self._read_events(events)
            return final
        except Exception as error:
            self._outcome = error
            raise
        finally:
            # If a provider suppresses the time-out of `aclose`, `_ask` leaves its task running.
            hangs = asyncio.get_running_loop().call_later(
                2 * CLOSE_GRACE_S, self._guard.cancel, _CloseHangsError()
            )
            await _aclose(events)
            if stream is not events:
                await _aclose(stream)
            hangs.cancel()

    async def _read_events(self, events: AsyncIterator[StreamEvent]) -> AssistantMessage:
        """Emit every delta, and return the final message."""
        emit, builder = self._emit, self._builder
        async for received in events:
            if self.message is not None:
                raise Aborted  # `_ask` no longer waits for this task, and the message is closed.
            event = received if type(received) is BuilderEvent else builder.absorb(received)
            kind = event["type"]
            if kind in STREAM_UPDATE_EVENTS:
                if not self._started:
                    await self._start()
                self._last = event
                waiting = emit(MessageUpdateEvent(assistant_message_event=cast(AssistantMessageEvent, event)))
                if waiting is not None:
                    await waiting
            elif kind == "start":
                if not self._started:
                    await self._start(event["partial"])
            elif kind in ("done", "error"):
                final: AssistantMessage = event["message" if kind == "done" else "error"]
                return final
            if self._signal is not None and self._signal.is_set():
                raise Aborted
        raise StreamInterruptedError(
            "The provider's stream ended without `done` or `error`, so the reply may be incomplete.",
            retryable=True,
        )

    async def _call(self) -> StreamResponse:
        config, signal = self._config, self._signal
        if config.get_tools is not None:
            tools = await invoke(config.get_tools)
            if tools is not None:
                self._context.tools = checked_tools(tools)
        messages: list[AgentMessage] = list(self._context.messages)
        if config.transform_context is not None:
            messages = list(await invoke(config.transform_context, messages, signal))
        sent = repair_again(await invoke(config.convert_to_llm, messages))
        self._key = config.api_key
        if config.get_api_key is not None:
            provider = getattr(config.model, "provider", "") or ""
            self._key = await invoke(config.get_api_key, provider) or self._key
        context = Context(self._context.system_prompt, sent, self._context.tools)
        level = config.thinking_level or getattr(config.model, "thinking_level", None)
        options: SimpleStreamOptions = {
            "api_key": self._key,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "signal": signal,
            "session_id": config.session_id,
            "thinking_level": level,
            "thinking_budgets": config.thinking_budgets,
            "timeout": config.timeout,
            "on_retry": config.on_retry,
            "on_note": config.on_note,
            "http_client": config.http_client,
        }
        present = {key: value for key, value in options.items() if value is not None}
        return await invoke(self._stream_fn, config.model, context, cast(SimpleStreamOptions, present))

    # ---- ends -----------------------------------------------------------------------------------------

    async def _start(self, message: AssistantMessage | None = None) -> None:
        self._started = True
        empty: AssistantMessage = {
            **(message or self._builder.trace.message_at(0)),
            "role": "assistant",
            "content": [],
        }
        await send(self._emit, MessageStartEvent(message=empty))

    async def _finish(self, final: Mapping[str, object]) -> AssistantMessage:
        try:
            message = _normalise(final)
        except _MALFORMED as error:
            malformed = InvalidReplyError(f"The provider's message is malformed: {error_text(error)}")
            return await self.close(Failure.of(malformed))
        if message["stop_reason"] in ("error", "aborted"):
            text = message.get("error_message") or (
                "The provider reported an error without a reason."
                if message["stop_reason"] == "error"
                else str(Aborted())
            )
            message["error_message"] = self._without_key(str(text))
        if message.get("finish_reason"):
            message["finish_reason"] = self._without_key(str(message["finish_reason"]))
        return await self._end(message)

    async def close(self, failure: Failure) -> AssistantMessage:
        """End the message as failed, with the content so far."""
        partial = self._last["partial"] if self._last is not None else self._builder.start()["partial"]
        try:
            message = _normalise({**partial, "stop_reason": failure.reason})
        except _MALFORMED:
            message = _normalise({**self._builder.message(), "stop_reason": failure.reason})
        fields = failure.fields.copy()
        fields["error_message"] = self._without_key(fields["error_message"])
        if "error_hint" in fields:
            fields["error_hint"] = self._without_key(fields["error_hint"])
        return await self._end(cast(AssistantMessage, {**message, **fields}))

    async def _end(self, message: AssistantMessage) -> AssistantMessage:
        if not self._started:
            await self._start()
        self.message = message
        await send(self._emit, MessageEndEvent(message=message))
        return message

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= MIN_KEY_LENGTH else text


_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""The exceptions of `_normalise` for a malformed message."""


def _copied_blocks(content: object) -> list[dict[str, object]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    content = content or ()
    if not isinstance(content, Iterable):
        raise TypeError(f"the content is of type {type(content).__name__}, not a list")
    blocks: list[dict[str, object]] = []
    for block in content:
        if not isinstance(block, Mapping):
            raise TypeError(f"a block of the content is of type {type(block).__name__}, not a dict")
        blocks.append(dict(block))
    return blocks


def _normalise(message: Mapping[str, object]) -> AssistantMessage:
    """Normalise a provider's final message. Its tool calls count even if the stop reason is `stop`."""
    blocks = _copied_blocks(message.get("content"))
    ids: dict[str, int] = {}
    for block in blocks:
        kind = block["type"]
        if kind == "tool_call":
            block["id"], block["name"] = (
                unique_id(str(block.get("id") or ""), ids),
                str(block.get("name") or ""),
            )
            text = block.pop("partial_json", None)
            block["arguments"], raw = finished_arguments(block.get("arguments", {}), text)
            if raw is not None:
                block["partial_json"] = raw
        elif kind in ("text", "thinking") and not isinstance(block[kind], str):
            raise TypeError(f"the {kind} of a block is {type(block[kind]).__name__}, not str")
    final = dict(message)
    if not isinstance(final.get("usage"), dict):
        final["usage"] = None
    reason = _stop_reason(final, blocks)
    if reason in ("stop", "tool_use"):
        reason = "tool_use" if ids else "stop"
    return cast(AssistantMessage, {**final, "role": "assistant", "content": blocks, "stop_reason": reason})


def _stop_reason(final: dict[str, object], blocks: list[dict[str, object]]) -> StopReason:
    """Return the stop reason of a provider's message. An unknown one is stored as `finish_reason`.

    If the message was withheld or broken, set the fields of its error in `final`.
    """
    reason = final.get("stop_reason")
    if reason in ("length", "error", "aborted"):
        return reason
    complete = reason in ("stop", "tool_use", None)
    if complete:
        # The finish reason of a recording or a custom provider may contradict its stop reason.
        reason = final.get("finish_reason")
    else:
        final.setdefault("finish_reason", shown_word(str(reason)))
    word = shown_word(str(reason)) if reason else None
    kind = finish_kind(word, has_content=complete or has_content(blocks))
    error = finish_error(word, kind, name=str(final.get("provider") or "the provider"))
    if error is None:
        return "length" if kind == "length" else "stop"
    final.setdefault("error_message", str(error))
    final.setdefault("error_kind", error.kind)
    if error.hint:
        final.setdefault("error_hint", error.hint)
    return "error"


async def _aclose(stream: object) -> None:
    """Close a stream that is no longer read. If it hangs or raises, the run continues."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await invoke(close)


async def send(emit: Emit, event: AgentEvent) -> None:
    """Emit an event, and wait for slow listeners."""
    waiting = emit(event)
    if waiting is not None:
        await waiting
