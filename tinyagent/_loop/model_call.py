"""One call of the model: its events and its message, also if it fails or is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeGuard, get_args

from tinyagent._cancel import (
    Aborted,
    CallbackCancelledError,
    CancelScope,
    Failed,
    invoke,
    leave_task,
    outcome,
    result_of,
    run_to_completion,
    spawn,
)
from tinyagent._stream.builder import BuilderEvent, MessageBuilder, StreamEvent
from tinyagent._stream.final_message import MALFORMED, normalise_message
from tinyagent._stream.message_checks import has_failed
from tinyagent._stream.repair_cache import repair_again
from tinyagent._tool_checks import checked_tools
from tinyagent.agent_tool_execution import Emit, send
from tinyagent.agent_types import (
    STREAM_UPDATE_EVENTS,
    AgentContext,
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
    without_key,
)

__all__ = ["Failure", "ModelCall"]

CLOSE_GRACE_S = 1.0
"""Seconds that a provider has to close a stream that is no longer read."""

REPLY_GRACE_S = 2.0
"""Seconds that a provider, callbacks and listeners have to react to their cancellation."""

_Option: TypeAlias = Literal[
    "api_key",
    "temperature",
    "max_tokens",
    "signal",
    "session_id",
    "thinking_level",
    "thinking_budgets",
    "timeout",
    "on_retry",
    "on_note",
    "http_client",
    "response_schema",
]
_OPTIONS: tuple[_Option, ...] = get_args(_Option)


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
        self._guard = CancelScope(signal)
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
            async with self._guard:
                await asyncio.wait([task])
            if task.cancelled():
                raise CallbackCancelledError("The provider's call was cancelled from inside.")
            return result_of(task)
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
            self._outcome = None
            del task  # It holds the exception, whose traceback holds this frame.

    async def _read_outcome(self) -> AssistantMessage | Failed:
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
            step: StreamEvent = event
            if _is_update(step):
                if not self._started:
                    await self._start()
                self._last = event
                waiting = emit(MessageUpdateEvent(assistant_message_event=step))
                if waiting is not None:
                    await waiting
            elif event["type"] == "start":
                if not self._started:
                    await self._start(event["partial"])
            elif event["type"] == "done":
                return event["message"]
            elif event["type"] == "error":
                return event["error"]
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
            "response_schema": config.response_schema,
        }
        for name in _OPTIONS:
            if options[name] is None:
                del options[name]
        return await invoke(self._stream_fn, config.model, context, options)

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
            message = normalise_message(final)
        except MALFORMED as error:
            malformed = InvalidReplyError(f"The provider's message is malformed: {error_text(error)}")
            return await self.close(Failure.of(malformed))
        if has_failed(message):
            text = message.get("error_message") or (
                "The provider reported an error without a reason."
                if message["stop_reason"] == "error"
                else str(Aborted())
            )
            message["error_message"] = without_key(str(text), self._key)
        if message.get("finish_reason"):
            message["finish_reason"] = without_key(str(message["finish_reason"]), self._key)
        return await self._end(message)

    async def close(self, failure: Failure) -> AssistantMessage:
        """End the message as failed, with the content so far."""
        partial = self._last["partial"] if self._last is not None else self._builder.start()["partial"]
        try:
            message = normalise_message({**partial, "stop_reason": failure.reason})
        except MALFORMED:
            message = normalise_message({**self._builder.message(), "stop_reason": failure.reason})
        fields = failure.fields.copy()
        fields["error_message"] = without_key(fields["error_message"], self._key)
        if "error_hint" in fields:
            fields["error_hint"] = without_key(fields["error_hint"], self._key)
        return await self._end({**message, **fields})

    async def _end(self, message: AssistantMessage) -> AssistantMessage:
        if not self._started:
            await self._start()
        self.message = message
        await send(self._emit, MessageEndEvent(message=message))
        return message


def _is_update(event: StreamEvent) -> TypeGuard[AssistantMessageEvent]:
    """Whether an event reaches the listeners as `message_update`."""
    return event["type"] in STREAM_UPDATE_EVENTS


async def _aclose(stream: object) -> None:
    """Close a stream that is no longer read. If it hangs or raises, the run continues."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await invoke(close)
