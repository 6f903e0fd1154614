"""The agent loop: take queued messages, call the model, run the tools, and decide whether to continue.

The grammar of a run. It holds for every end of the run (answer, error, abort, cancellation, limit):

    agent_start
      ( turn_start
          ( message_start message_end )*                 prompts, steering, follow-ups
          message_start message_update* message_end      the assistant, exactly one per turn
          ( tool_execution_start tool_execution_update*
            tool_execution_end message_start message_end )*   one per tool call
        turn_end )+
    agent_end

Every `*_start` has its `*_end`, and `agent_end` is always the last event. Each level closes only what it has
opened itself.

The loop is a coroutine that passes events to an `emit` function, so that tools can report while they run.
`agent_loop` wraps it in a stream. Providers yield assistant message events, and listeners get agent events;
`_Reply._read_events` converts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from . import _json
from ._answer import sum_usage
from ._cancel import (
    Aborted,
    CallbackCancelledError,
    CancelScope,
    call_abandonable,
    invoke,
    leave_task,
    outcome,
    require_asyncio,
    run_to_completion,
    spawn,
)
from ._event_stream import Channel, EventStream
from ._prices import estimate_cost
from ._stream.builder import BuilderEvent, MessageBuilder, StreamEvent, finished_arguments, unique_id
from ._stream.finish_reasons import finish_error, finish_kind, has_content, shown_word
from ._stream.history import repair_history
from ._stream.message_checks import checked_message, checked_messages, is_assistant
from .agent_tool_execution import Emit, ToolBatch, checked_tools
from .agent_types import (
    STREAM_UPDATE_EVENTS,
    AgentContext,
    AgentEndEvent,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentStartEvent,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    GetMessages,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    RunLimit,
    SimpleStreamOptions,
    StopReason,
    StreamFn,
    StreamResponse,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
)
from .errors import (
    InvalidMessageError,
    InvalidReplyError,
    StreamInterruptedError,
    as_amount,
    error_fields,
    error_text,
)

__all__ = [
    "agent_loop",
    "agent_loop_continue",
    "create_agent_stream",
    "run_agent_loop",
    "stream_assistant_response",
    "stream_simple",
]

CLOSE_GRACE = 1.0
"""Seconds that a provider has to close a stream that is no longer read."""

REPLY_GRACE = 2.0
"""Seconds that a provider, callbacks and listeners have to react to their cancellation."""

OUTPUT_LIMIT = (
    "Not run: your reply hit the output limit before it was complete, so this call may be cut. "
    "Make the call again, with shorter arguments if it was long."
)


_log = logging.getLogger(__name__)


class _Limits(Protocol):
    """The limits in `AgentOptions` and `AgentLoopConfig`."""

    max_turns: int | None
    max_repeats: int | None
    max_cost: float | None


def check_limits(options: _Limits) -> None:
    """Check the values of `max_turns`, `max_repeats` and `max_cost`.

    Raises:
        ValueError: One of them is not a valid number. The message names it.
    """
    for name in ("max_turns", "max_repeats"):
        value = getattr(options, name)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number from 1, or None for no limit.")
    cost: object = options.max_cost
    if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | float) or not cost >= 0):
        raise ValueError(f"max_cost is {cost!r}; it must be an amount in US dollars, or None for no limit.")


# ---- the run --------------------------------------------------------------------------------------


async def run_agent_loop(
    prompts: Sequence[AgentMessage],
    context: AgentContext,
    config: AgentLoopConfig,
    emit: Emit,
    signal: asyncio.Event | None = None,
    stream_fn: StreamFn | None = None,
) -> list[AgentMessage]:
    """Run until the model is done, and return the new messages.

    Failures of the provider, of tools and of callbacks become events and messages. Only the cancellation of
    the calling task is raised, after the open events were closed.
    """
    require_asyncio()
    run = _Run(context, config, emit, signal, stream_fn or stream_simple)
    try:
        await _send(emit, AgentStartEvent())
        await run.turns(list(prompts))
    except GeneratorExit:  # The event loop was closed: nothing can be awaited any more.
        raise
    except BaseException:
        if not run.began or run.handed_over:
            await run_to_completion(_Turn(run).abandon())
        await run_to_completion(run.end())
        raise
    await run.end()
    return run.new


class _Run:
    """The state of one run: its messages and its limits."""

    def __init__(
        self,
        context: AgentContext,
        config: AgentLoopConfig,
        emit: Emit,
        signal: asyncio.Event | None,
        stream_fn: StreamFn,
    ) -> None:
        self.context = replace(context, messages=list(context.messages))
        self.config = config
        self.emit = emit
        self.signal = signal
        self.stream_fn = stream_fn
        self.new: list[AgentMessage] = []
        self.limit: RunLimit | None = None
        self.began = False
        self.handed_over: list[AgentMessage] = []
        """Messages from callbacks that are not in the history yet. They must not get lost, because the
        callback may have removed them from its queue."""
        self._turns = 0
        self._cost = 0.0
        self._is_unpriced = False
        """Whether it was reported that the cost of a reply is not known."""
        self._repeats: tuple[bytes, int] = (b"", 0)
        self._failing_turns = 0

    async def turns(self, prompts: list[AgentMessage]) -> None:
        failure: Exception | None = None
        try:
            await self._poll(self.config.get_steering_messages)
        except Exception as error:  # noqa: BLE001 - any error of a callback or provider becomes a message
            failure = error
        while True:
            self._turns += 1
            turn = _Turn(self)
            await turn.run([*prompts, *self.handed_over], failure)
            prompts = []
            if failure is not None or turn.failed:
                return
            try:
                if not await self._continues(turn):
                    return
            except Exception as error:  # noqa: BLE001 - any error of a callback or provider becomes a message
                # A callback failed. An extra turn reports this, without a call of the model.
                failure = error

    async def end(self) -> None:
        """Close the run."""
        usage = sum_usage(self.new)
        await _send(self.emit, AgentEndEvent(messages=list(self.new), limit=self.limit, usage=usage))

    async def _continues(self, turn: _Turn) -> bool:
        """Whether there is another turn. Its first messages are then in `handed_over`.

        The conditions that end the run are checked before the queues are read, and each queue is read at most
        once, because messages that a callback has returned need a turn.
        """
        config = self.config
        if turn.callback_error is not None:
            raise turn.callback_error
        if self._aborted:
            # The tools were interrupted. The next turn reports the abort, without a call of the model.
            return bool(turn.results)
        stop = turn.terminate
        if not stop and config.should_stop_after_turn is not None:
            snapshot = replace(self.context, messages=list(self.context.messages))
            stop = await call_abandonable(
                self.signal, config.should_stop_after_turn, turn.message, list(turn.results), snapshot
            )
        self._count_repeats(turn)
        if self.handed_over:  # Steering arrived between the tool calls. It starts the next turn.
            return True
        if stop:
            return False
        limit = self._limit_reached()
        if limit is not None:
            self.limit = limit if turn.results else None  # Without tool results, the model was done anyway.
            return False
        await self._poll(config.get_steering_messages)
        if not self.handed_over and not turn.results:
            await self._poll(config.get_follow_up_messages)
            return bool(self.handed_over)
        return True

    async def spend(self, message: AssistantMessage) -> None:
        """Add the cost of a reply: the provider's own figure or, if there is a budget, the list price."""
        usage = message.get("usage") or {}
        cost = as_amount(usage.get("cost"))
        if cost is None and self.config.max_cost is not None:
            # In a thread, since the first price loads the table.
            cost = await asyncio.to_thread(estimate_cost, self.config.model, usage) if usage else None
            failed = message["stop_reason"] in ("error", "aborted")
            if cost is None and not (failed or self._is_unpriced):
                self._is_unpriced = True
                what = "no price is known for" if usage else "no usage is reported by"
                self._note(f"max_cost: {what} {message.get('model', '')!r}, so its replies do not count.")
        self._cost += cost or 0.0

    def _note(self, text: str) -> None:
        """Pass a note for the user to `on_note` or, without it, to the log."""
        if self.config.on_note is None:
            _log.warning(text)
            return
        try:
            self.config.on_note(text)
        except Exception:  # noqa: BLE001 - the reply is there, and a note does not change it
            _log.exception("on_note raised; the run goes on.")

    @property
    def is_last_turn(self) -> bool:
        """Whether the current turn is the last one because of a limit."""
        config = self.config
        return (config.max_turns is not None and self._turns >= config.max_turns) or (
            config.max_cost is not None and self._cost >= config.max_cost
        )

    def _limit_reached(self) -> RunLimit | None:
        config = self.config
        if config.max_turns is not None and self._turns >= config.max_turns:
            return "max_turns"
        if (
            config.max_repeats is not None
            and max(self._repeats[1], self._failing_turns) >= config.max_repeats
        ):
            return "repeat"
        return "budget" if self.is_last_turn else None

    def _count_repeats(self, turn: _Turn) -> None:
        """Count how often the model has repeated itself without progress."""
        if self.handed_over:  # The user has intervened, so the count starts again.
            self._repeats, self._failing_turns = (b"", 0), 0
            return
        calls = {block["id"]: block for block in turn.message["content"] if block["type"] == "tool_call"}
        for result in turn.results:
            call = calls[result["tool_call_id"]]
            same = _json.encode([call["name"], call["arguments"], result["content"], result["is_error"]])
            last, times = self._repeats
            self._repeats = (same, times + 1 if same == last else 1)
            if self._is_too_often(self._repeats[1]):
                return  # A later call of the same turn must not reset the count.
        # Turns are counted, not calls: within one turn the model could not see the first failure.
        failing = turn.results and all(result["is_error"] for result in turn.results)
        self._failing_turns = self._failing_turns + 1 if failing else 0

    def _is_too_often(self, times: int) -> bool:
        return self.config.max_repeats is not None and times >= self.config.max_repeats

    async def _poll(self, get_messages: GetMessages | None) -> None:
        """Take the messages of a queue."""
        if get_messages is not None and not self._aborted:
            self.take(await call_abandonable(self.signal, get_messages) or ())

    @property
    def _aborted(self) -> bool:
        return self.signal is not None and self.signal.is_set()

    def take(self, messages: object) -> list[AgentMessage]:
        """Check the messages that a callback returned. They start the next turn.

        Raises:
            InvalidMessageError: A message is malformed. The other messages are still taken.
        """
        if not isinstance(messages, list | tuple):
            raise InvalidMessageError(
                f"A callback returned {type(messages).__name__}, not a list of messages."
            )
        taken: list[AgentMessage] = []
        failure: InvalidMessageError | None = None
        for message in messages:
            try:
                taken.append(checked_message(message, "A message from a callback"))
            except InvalidMessageError as error:
                failure = failure or error
        self.handed_over += taken
        if failure is not None:
            raise failure
        return taken

    def record(self, message: AgentMessage) -> None:
        """Add a finished message to the history and to the result of the run."""
        self.new.append(message)
        self.context.messages.append(message)
        self.handed_over = [other for other in self.handed_over if other is not message]


class _Turn:
    """One model call, with the messages before it and the tool calls after it."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._reply: _Reply | None = None
        self._open: AgentMessage | None = None
        self._batch: ToolBatch | None = None
        self.results: list[ToolResultMessage] = []
        self.terminate = False
        self.callback_error: Exception | None = None

    @property
    def message(self) -> AssistantMessage:
        assert self._reply is not None
        assert self._reply.message is not None
        return self._reply.message

    @property
    def failed(self) -> bool:
        return self.message["stop_reason"] in ("error", "aborted")

    async def run(self, pending: Sequence[AgentMessage], failure: Exception | None) -> None:
        run = self._run
        run.began = True
        try:
            await _send(run.emit, TurnStartEvent())
            for message in pending:
                await self._inject(message)
            self._reply = _Reply(run.context, run.config, run.emit, run.signal, run.stream_fn)
            await self._reply.run(failure)
            run.record(self.message)
            await run.spend(self.message)
            if any(block["type"] == "tool_call" for block in self.message["content"]) and not self.failed:
                await self._run_tools()
        except GeneratorExit:  # The event loop was closed: nothing can be awaited any more.
            raise
        except BaseException:
            await run_to_completion(self._close())
            raise
        await _send(run.emit, TurnEndEvent(message=self.message, tool_results=self.results))

    async def abandon(self) -> None:
        """Run the last or only turn of a cancelled run, for messages without one. The model is not called."""
        self._run.began = True
        await _send(self._run.emit, TurnStartEvent())
        for message in list(self._run.handed_over):
            await self._inject(message)
        await self._close()

    async def _inject(self, message: AgentMessage) -> None:
        self._open = message
        await _send(self._run.emit, MessageStartEvent(message=message))
        await self._end_injected()

    async def _end_injected(self) -> None:
        message, self._open = self._open, None
        if message is not None:
            self._run.record(message)
            await _send(self._run.emit, MessageEndEvent(message=message))

    async def _run_tools(self) -> None:
        batch = self._batch = self._new_batch()
        try:
            await batch.run(OUTPUT_LIMIT if self.message["stop_reason"] == "length" else None)
        except Exception as error:  # noqa: BLE001 - any error of a callback becomes a message
            self.callback_error = error
        self._take_results(batch)

    def _new_batch(self) -> ToolBatch:
        run, config = self._run, self._run.config
        return ToolBatch(
            self.message,
            run.context.tools,
            run.emit,
            signal=run.signal,
            mode=config.tool_execution,
            before=config.before_tool_call,
            after=config.after_tool_call,
            # Messages that are taken in the last turn would have no turn after it.
            get_steering=None if run.is_last_turn else config.get_steering_messages,
            context=run.context,
            take=run.take,
        )

    def _take_results(self, batch: ToolBatch) -> None:
        self.results, self.terminate = batch.results, batch.terminate
        for result in self.results:
            self._run.record(result)

    async def _close(self) -> None:
        """Close the open events of a turn that is cancelled."""
        run = self._run
        await self._end_injected()
        if self._reply is None:
            self._reply = _Reply(run.context, run.config, run.emit, run.signal, run.stream_fn)
        if self._reply.message is None:
            await self._reply.close("aborted", Aborted("The run was cancelled."))
        if not any(message is self.message for message in run.new):
            run.record(self.message)
        if not self.failed and not self.results:
            batch = self._batch or self._new_batch()
            await batch.close()
            self._take_results(batch)
        await _send(run.emit, TurnEndEvent(message=self.message, tool_results=self.results))


# ---- one reply --------------------------------------------------------------------------------------


class _CloseHangsError(Exception):
    """Closing the provider's stream takes longer than the grace period."""


class _Reply:
    """One call of the model. `message` is set afterwards, also after a failure."""

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

    async def run(self, failure: Exception | None = None) -> None:
        try:
            if failure is not None:
                raise failure
            final = await self._ask()
        except Aborted:
            await self.close("aborted", Aborted())
        except asyncio.CancelledError:
            await run_to_completion(self.close("aborted", Aborted("The run was cancelled.")))
            raise
        except Exception as error:  # noqa: BLE001 - any error of a callback or provider becomes a message
            await self.close("error", error)
        else:
            await self._finish(final)

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
            await leave_task(task, REPLY_GRACE)
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
        events: Any = response.__aiter__()
        try:
            self._outcome = await self._read_events(events)
            return self._outcome
        except Exception as error:
            self._outcome = error
            raise
        finally:
            # If a provider suppresses the time-out of `aclose`, `_ask` leaves its task running.
            hangs = asyncio.get_running_loop().call_later(
                2 * CLOSE_GRACE, self._guard.cancel, _CloseHangsError()
            )
            await _aclose(events)
            if response is not events:
                await _aclose(response)
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
        sent = repair_history(await invoke(config.convert_to_llm, messages))
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
            **(message or self._builder.snapshot(0)),
            "role": "assistant",
            "content": [],
        }
        await _send(self._emit, MessageStartEvent(message=empty))

    async def _finish(self, final: AssistantMessage) -> None:
        try:
            message = _normalise(final)
        except _MALFORMED as error:
            malformed = InvalidReplyError(f"The provider's message is malformed: {error_text(error)}")
            return await self.close("error", malformed)
        if message["stop_reason"] in ("error", "aborted"):
            text = message.get("error_message") or (
                "The provider reported an error without a reason."
                if message["stop_reason"] == "error"
                else str(Aborted())
            )
            message["error_message"] = self._without_key(str(text))
        if message.get("finish_reason"):
            message["finish_reason"] = self._without_key(str(message["finish_reason"]))
        await self._end(message)

    async def close(self, reason: StopReason, error: Exception) -> None:
        """End the message as failed, with the content so far."""
        partial = self._last["partial"] if self._last is not None else self._builder.start()["partial"]
        try:
            message = _normalise({**partial, "stop_reason": reason})
        except _MALFORMED:
            message = _normalise({**self._builder.message(), "stop_reason": reason})
        if isinstance(error, Aborted):
            message["error_message"] = str(error)
        else:
            fields = error_fields(error)
            fields["error_message"] = self._without_key(fields["error_message"])
            if "error_hint" in fields:
                fields["error_hint"] = self._without_key(fields["error_hint"])
            message.update(cast(AssistantMessage, fields))
        await self._end(message)

    async def _end(self, message: AssistantMessage) -> None:
        if not self._started:
            await self._start()
        self.message = message
        await _send(self._emit, MessageEndEvent(message=message))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= 6 else text


_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""The exceptions of `_normalise` for a malformed message."""


def _normalise(message: Mapping[str, Any]) -> AssistantMessage:
    """Normalise a provider's final message. Its tool calls count even if the stop reason is `stop`."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks: list[dict[str, Any]] = [dict(block) for block in content or ()]
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


def _stop_reason(final: dict[str, Any], blocks: list[dict[str, Any]]) -> StopReason:
    """Return the stop reason of a provider's message. An unknown one is stored as `finish_reason`.

    If the message was withheld or broken, set the fields of its error in `final`.
    """
    reason = final.get("stop_reason")
    if reason in ("length", "error", "aborted"):
        return cast(StopReason, reason)
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
            async with asyncio.timeout(CLOSE_GRACE):
                await invoke(close)


async def _send(emit: Emit, event: AgentEvent) -> None:
    waiting = emit(event)
    if waiting is not None:
        await waiting


# ---- the public functions -----------------------------------------------------------------------------


def agent_loop(
    prompts: Sequence[AgentMessage],
    context: AgentContext,
    config: AgentLoopConfig,
    signal: asyncio.Event | None = None,
    stream_fn: StreamFn | None = None,
) -> EventStream[AgentEvent, list[AgentMessage]]:
    """Run the agent on `prompts`: iterate for the events, await `result()` for the new messages.

    The run starts when the stream is first read, and ends at the latest when the stream is closed. `context`
    is not changed.

    Raises:
        InvalidMessageError: A prompt is not a message.
        TypeError, ValueError: A tool or a limit cannot be used. The message names it.
    """
    check_limits(config)
    prompts = checked_messages(prompts, "prompts: ")
    context = replace(context, tools=None if context.tools is None else checked_tools(context.tools))

    async def run(channel: Channel[AgentEvent, list[AgentMessage]]) -> list[AgentMessage]:
        return await run_agent_loop(prompts, context, config, channel.push, signal, stream_fn)

    return EventStream(run)


def agent_loop_continue(
    context: AgentContext,
    config: AgentLoopConfig,
    signal: asyncio.Event | None = None,
    stream_fn: StreamFn | None = None,
) -> EventStream[AgentEvent, list[AgentMessage]]:
    """Continue from the context without a new message.

    Raises:
        ValueError: The context has no messages, or the last one is the assistant's.
    """
    if not context.messages:
        raise ValueError("Cannot continue: the context has no messages. Use agent_loop with a prompt.")
    if is_assistant(context.messages[-1]):
        raise ValueError(
            "Cannot continue: the last message is the assistant's. Use agent_loop with a prompt."
        )
    return agent_loop([], context, config, signal, stream_fn)


def create_agent_stream() -> EventStream[AgentEvent, list[AgentMessage]]:
    """Return an empty stream, to be filled by `push(event)` and `end(result)`."""
    return EventStream()


async def stream_assistant_response(
    context: AgentContext,
    config: AgentLoopConfig,
    signal: asyncio.Event | None,
    stream: EventStream[AgentEvent, Any],
    stream_fn: StreamFn | None = None,
) -> AssistantMessage:
    """Call the model once, and push `message_start`, `message_update` and `message_end` to `stream`.

    The message is not added to the context. A failure becomes a message as well.
    """
    reply = _Reply(replace(context), config, stream.push, signal, stream_fn or stream_simple)
    await reply.run()
    assert reply.message is not None
    return reply.message


async def stream_simple(model: Any, context: Context, options: SimpleStreamOptions) -> StreamResponse:
    """The default stream function, which only raises.

    Raises:
        NotImplementedError: Always. The message names stream functions to pass.
    """
    raise NotImplementedError(
        "There is no stream function. Pass one as `stream_fn`: stream_openrouter, "
        "stream_openai_completions, stream_proxy, or your own."
    )
