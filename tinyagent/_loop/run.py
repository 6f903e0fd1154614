"""One run of the agent: its turns, its messages, and the decision whether there is another turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from tinyagent._cancel import Aborted, call_abandonable, run_to_completion
from tinyagent._stream.message_checks import checked_message, has_failed, is_assistant
from tinyagent._stream.usage import add_usages
from tinyagent.agent_tool_execution import Emit, ToolBatch, send
from tinyagent.agent_types import (
    AgentContext,
    AgentEndEvent,
    AgentLoopConfig,
    AgentMessage,
    AssistantMessage,
    GetMessages,
    MessageEndEvent,
    MessageStartEvent,
    RunLimit,
    StreamFn,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
)
from tinyagent.errors import ContextOverflowError, InvalidMessageError, error_fields, error_from_message

from .limits import RunLimits
from .model_call import Failure, ModelCall

if TYPE_CHECKING:
    from .compaction import Compactor, Plan

__all__ = ["Run"]

OUTPUT_LIMIT = (
    "Not run: your reply hit the output limit before it was complete, so this call may be cut. "
    "Make the call again, with shorter arguments if it was long."
)


class _NextTurn(NamedTuple):
    """The start of a turn: its first messages, or the failure of a callback that it reports.

    If it repeats a request that was too long, `overflow` is that error and `plan` the compaction before it.
    """

    messages: list[AgentMessage]
    failure: Failure | None = None
    overflow: ContextOverflowError | None = None
    plan: Plan | None = None


class _ToolOutcome(NamedTuple):
    """The results of the tool calls of a turn.

    `terminate` is true if a result ends the run. `failure` is that of a callback between the calls.
    """

    results: list[ToolResultMessage]
    terminate: bool = False
    failure: Failure | None = None


class Run:
    """The state of one run."""

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
        """The new messages, in order."""
        self.limits = RunLimits(config)
        self.turn_started = False
        self.taken: list[AgentMessage] = []
        """Messages from callbacks that are not in the history yet. They must not get lost, because the
        callback may have removed them from its queue."""
        self._limit: RunLimit | None = None
        self._compactor: Compactor | None = None
        self._repeated = False
        """Whether the last turn has repeated a request that was too long."""

    async def run_turns(self, prompts: list[AgentMessage]) -> None:
        """Run turns until the model is done, a limit is reached, or the run fails."""
        start: _NextTurn | None = await self._first_messages(prompts)
        while start is not None:
            async with _Turn(self) as turn:
                await turn.add_messages(start.messages)
                failure = start.failure or await self._compact(start)
                message = await turn.call_model(failure)
                tools = await turn.run_tools(message)
            self._repeated = start.overflow is not None
            start = await self._next_messages(message, tools)

    async def emit_aborted_turn(self) -> None:
        """Emit a turn without a call of the model, for a cancelled run whose messages need a turn."""
        await _Turn(self).emit_aborted(list(self.taken))

    async def end(self) -> None:
        """Close the run."""
        usages = [message.get("usage") for message in self.new if is_assistant(message)]
        if self._compactor is not None:
            usages.append(self._compactor.usage)
        usage = add_usages(usages)
        await send(self.emit, AgentEndEvent(messages=list(self.new), limit=self._limit, usage=usage))

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
        self.taken += taken
        if failure is not None:
            raise failure
        return taken

    def record(self, message: AgentMessage) -> None:
        """Add a finished message to the history and to the result of the run."""
        self.new.append(message)
        self.context.messages.append(message)
        if self.taken:
            self.taken = [other for other in self.taken if other is not message]

    # ---- between the turns ------------------------------------------------------------------------------

    async def _first_messages(self, prompts: list[AgentMessage]) -> _NextTurn:
        failure: Failure | None = None
        try:
            await self._poll(self.config.get_steering_messages)
        except Exception as error:  # noqa: BLE001 - any error of a callback becomes a message
            failure = Failure.of(error)
        return _NextTurn([*prompts, *self.taken], failure)

    async def _next_messages(self, message: AssistantMessage, tools: _ToolOutcome) -> _NextTurn | None:
        """Return the start of the next turn, or None if the run ends.

        If a callback fails, an extra turn reports this, without a call of the model.
        """
        if has_failed(message):
            return await self._repetition(message)
        failure = tools.failure
        if failure is None:
            try:
                if not await self._continues(message, tools):
                    return None
            except Exception as error:  # noqa: BLE001 - any error of a callback becomes a message
                failure = Failure.of(error)
        return _NextTurn(list(self.taken), failure)

    # ---- compaction -------------------------------------------------------------------------------------

    async def _compact(self, start: _NextTurn) -> Failure | None:
        """Compact the conversation if that is necessary. Return a failure instead of a request."""
        if self._is_aborted or (start.overflow is None and not self._may_compact()):
            return None
        compactor, plan = self._get_compactor(), start.plan
        try:
            if plan is None:
                plan = None if compactor.gave_up else await compactor.plan(self.context, near_limit=True)
            if plan is None:
                return None
            reason = await compactor.run(
                self.context, plan, "limit" if start.overflow is None else "overflow"
            )
        except Aborted:
            return None  # the call of the model reports it
        except Exception as error:  # noqa: BLE001 - a function of the user for the context window has failed
            return Failure.of(error)
        if reason is None or start.overflow is None:
            return None
        too_long = error_fields(start.overflow)
        why = "a summary, too, would be too long" if isinstance(reason, ContextOverflowError) else reason
        too_long["error_message"] += f" The conversation could not be compacted: {why}"
        return Failure("error", too_long)

    async def _repetition(self, message: AssistantMessage) -> _NextTurn | None:
        """Return a turn that compacts the conversation and repeats the request, if that was too long."""
        if self.config.compaction is None or self._repeated or self._is_aborted or message["content"]:
            return None
        error = error_from_message(message)
        if not isinstance(error, ContextOverflowError):
            return None
        try:
            plan = await self._get_compactor().plan(self.context, near_limit=False)
        except Exception:  # noqa: BLE001 - the run ends with the error of the request
            return None
        if plan is None:
            return None
        self.limits.repeat_turn()
        return _NextTurn([], None, error, plan)

    def _may_compact(self) -> bool:
        """Whether there is anything to compact. A conversation without a reply needs no further check."""
        return self.config.compaction is not None and any(map(is_assistant, self.context.messages))

    def _get_compactor(self) -> Compactor:
        if self._compactor is None:
            from .compaction import Compactor  # a run with one turn does not need it

            self._compactor = Compactor(self.config, self.emit, self.signal, self.stream_fn, self.limits)
        return self._compactor

    async def _continues(self, message: AssistantMessage, tools: _ToolOutcome) -> bool:
        """Return whether there is another turn. Its first messages are then in `taken`.

        The conditions that end the run are checked before the queues are read, and each queue is read at most
        once, because messages that a callback has returned need a turn.
        """
        config, results = self.config, tools.results
        if self._is_aborted:
            # The tools were interrupted. The next turn reports the abort, without a call of the model.
            return bool(results)
        stop = tools.terminate
        if not stop and config.should_stop_after_turn is not None:
            snapshot = replace(self.context, messages=list(self.context.messages))
            stop = await call_abandonable(
                self.signal, config.should_stop_after_turn, message, list(results), snapshot
            )
        if self.taken:  # Steering arrived between the tool calls. It starts the next turn.
            self.limits.reset_repeats()
            return True
        self.limits.count_repeats(message, results)
        if stop:
            return False
        limit = self.limits.reached()
        if limit is not None:
            self._limit = limit if results else None  # Without tool results, the model was done anyway.
            return False
        await self._poll(config.get_steering_messages)
        if not self.taken and not results:
            await self._poll(config.get_follow_up_messages)
            return bool(self.taken)
        return True

    async def _poll(self, get_messages: GetMessages | None) -> None:
        """Take the messages of a queue."""
        if get_messages is not None and not self._is_aborted:
            self.take(await call_abandonable(self.signal, get_messages) or ())

    @property
    def _is_aborted(self) -> bool:
        return self.signal is not None and self.signal.is_set()


class _Turn:
    """One model call, with the messages before it and the tool calls after it.

    As a context manager, it ends the turn, and closes the open events if the turn is cancelled.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._model_call: ModelCall | None = None
        self._open: AgentMessage | None = None
        self._batch: ToolBatch | None = None
        self._message: AssistantMessage | None = None
        self._results: list[ToolResultMessage] = []

    async def __aenter__(self) -> Self:
        self._run.turn_started = True
        self._run.limits.count_turn()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            assert self._message is not None
            await self._emit_end(self._message)
        elif not isinstance(error, GeneratorExit):  # The event loop was closed, so nothing can be awaited.
            await run_to_completion(self._close())

    async def add_messages(self, messages: Sequence[AgentMessage]) -> None:
        """Start the turn, and add its first messages to the history."""
        await send(self._run.emit, TurnStartEvent())
        for message in messages:
            self._open = message
            await send(self._run.emit, MessageStartEvent(message=message))
            await self._end_added()

    async def call_model(self, failure: Failure | None) -> AssistantMessage:
        """Call the model, and return its message. With `failure`, emit a message that reports it instead."""
        call = self._model_call = self._new_call()
        message = self._message = await (call.run() if failure is None else call.close(failure))
        self._run.record(message)
        await self._run.limits.count_usage(message)
        return message

    async def run_tools(self, message: AssistantMessage) -> _ToolOutcome:
        """Run the tool calls of the message."""
        if not _calls_tools(message):
            return _ToolOutcome([])
        batch = self._batch = self._new_batch(message)
        failure: Failure | None = None
        try:
            await batch.run(OUTPUT_LIMIT if message["stop_reason"] == "length" else None)
        except Exception as error:  # noqa: BLE001 - any error of a callback becomes a message
            failure = Failure.of(error)
        self._record_results(batch)
        return _ToolOutcome(self._results, batch.terminate, failure)

    async def emit_aborted(self, messages: Sequence[AgentMessage]) -> None:
        """Emit the whole turn without a call of the model."""
        self._run.turn_started = True
        await self.add_messages(messages)
        await self._close()

    async def _end_added(self) -> None:
        message, self._open = self._open, None
        if message is not None:
            self._run.record(message)
            await send(self._run.emit, MessageEndEvent(message=message))

    async def _emit_end(self, message: AssistantMessage) -> None:
        await send(self._run.emit, TurnEndEvent(message=message, tool_results=self._results))

    def _new_call(self) -> ModelCall:
        run = self._run
        return ModelCall(run.context, run.config, run.emit, run.signal, run.stream_fn)

    def _new_batch(self, message: AssistantMessage) -> ToolBatch:
        run, config = self._run, self._run.config
        return ToolBatch(
            message,
            run.context.tools,
            run.emit,
            signal=run.signal,
            mode=config.tool_execution,
            before=config.before_tool_call,
            after=config.after_tool_call,
            interaction=config.interaction,
            # Messages that are taken in the last turn would have no turn after it.
            get_steering=None if run.limits.is_last_turn else config.get_steering_messages,
            context=run.context,
            take=run.take,
        )

    def _record_results(self, batch: ToolBatch) -> None:
        self._results = batch.results
        for result in self._results:
            self._run.record(result)

    async def _close(self) -> None:
        """Close the open events of a turn that is cancelled."""
        run = self._run
        await self._end_added()
        call = self._model_call or self._new_call()
        message = call.message or await call.close(Failure.of(Aborted("The run was cancelled.")))
        if not any(recorded is message for recorded in run.new):
            run.record(message)
        if not has_failed(message) and not self._results:
            batch = self._batch or self._new_batch(message)
            await batch.close()
            self._record_results(batch)
        await self._emit_end(message)


def _calls_tools(message: AssistantMessage) -> bool:
    return not has_failed(message) and any(block["type"] == "tool_call" for block in message["content"])
