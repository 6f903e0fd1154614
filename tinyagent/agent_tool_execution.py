"""Tool calls: find the tool, validate the arguments, call the hooks, run the tool, report the result.

Every call of a batch has the same steps, even if it is not run:

    tool_execution_start → prepare → execute → tool_execution_end → the result as a message

`prepare` handles the calls in order, so that a hook asks the user one question at a time. One coroutine emits
all events except updates. The tools run in tasks, so that an abort can end them. Result messages have the
order of the calls; each is emitted as soon as all earlier ones are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar

from . import _json
from ._cancel import (
    ABORTED,
    Aborted,
    CallbackCancelledError,
    CancelScope,
    best_effort,
    call_abandonable,
    invoke,
    run_to_completion,
    spawn,
)
from ._event_stream import EventStream
from ._stream.message_checks import checked_messages
from ._tool_call import CallState, checked_result, result_message, tool_error
from ._tool_checks import as_json_numbers, is_unchanged_json, validate_tool_arguments
from .agent_types import (
    AfterToolCall,
    AgentContext,
    AgentEvent,
    AgentMessage,
    AgentTool,
    AgentToolResult,
    AnyAgentMessage,
    AssistantMessage,
    BeforeToolCall,
    GetMessages,
    Interaction,
    MessageEndEvent,
    MessageStartEvent,
    ToolCallContent,
    ToolCallInfo,
    ToolExecutionEndEvent,
    ToolExecutionMode,
    ToolExecutionResult,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    ToolResultMessage,
)
from .errors import ToolArgumentsError, error_text
from .interaction import ToolInteraction

__all__ = ["ToolBatch", "execute_tool_calls", "skip_tool_call", "validate_tool_arguments"]

Emit = Callable[[AgentEvent], Awaitable[None] | None]
"""Receives an event. If it returns an awaitable, this is awaited before the next event."""


async def send(emit: Emit, event: AgentEvent) -> None:
    """Emit an event, and wait for slow listeners."""
    waiting = emit(event)
    if waiting is not None:
        await waiting


ABORT_GRACE_S = 1.0
"""Seconds that a running tool has to react to the signal, and again to its cancellation."""

MAX_CALLS = 128
"""Calls of one reply that are run. Further calls are refused with an error result."""

_PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt)
"""Exceptions that end a call. All others become its result."""

RUNNING_TOOLS: ContextVar[frozenset[asyncio.Event]] = ContextVar("RUNNING_TOOLS", default=frozenset())
"""The signals of the runs whose tools are running this code, also in tasks and threads of a tool."""

SKIPPED = "Skipped due to queued user message."


# ---- a batch --------------------------------------------------------------------------------------


class ToolBatch:
    """The tool calls of one assistant message.

    After `run`, `results` has a message for every call, in order. `steering` has the messages that arrived in
    the meantime. `terminate` is true if a result ends the run.
    """

    def __init__(
        self,
        message: AssistantMessage,
        tools: Sequence[AgentTool] | None,
        emit: Emit,
        *,
        signal: asyncio.Event | None = None,
        mode: ToolExecutionMode = "auto",
        before: BeforeToolCall | None = None,
        after: AfterToolCall | None = None,
        interaction: Interaction | None = None,
        get_steering: GetMessages | None = None,
        context: AgentContext | None = None,
        take: Callable[[Sequence[AnyAgentMessage]], list[AgentMessage]] = checked_messages,
    ) -> None:
        known = {tool.name: tool for tool in tools or ()}
        self._message = message
        self._names = sorted(known)
        self._emit = emit
        self._signal = signal
        self._before = before
        self._after = after
        self._interaction = interaction
        self._get_steering = get_steering
        self._context = context
        self._take = take
        self._calls = [
            CallState(call, known.get(call["name"]))
            for call in message["content"]
            if call["type"] == "tool_call"
        ]
        self._parallel = mode == "parallel" or (
            mode == "auto" and all(item.tool is None or item.tool.read_only for item in self._calls)
        )
        self._running: dict[asyncio.Task[None], CallState] = {}
        self._preparing: asyncio.Task[None] | None = None
        self._open: ToolResultMessage | None = None
        self.results: list[ToolResultMessage] = []
        self.steering: list[AgentMessage] = []
        self.terminate: bool = False

    async def run(self, refuse: str | None = None) -> None:
        """Run the calls. With `refuse`, run none of them; each gets this text as its error."""
        running = self._running
        try:
            for number, item in enumerate(self._calls):
                reason = refuse or self._reason_not_to_start(number)
                await self._start(item)
                if reason is not None:
                    item.fail(reason)
                elif running and self._before is not None:
                    # A hook may take long, for example to ask the user. Other calls that end are reported at
                    # once.
                    self._preparing = spawn(self._prepare(item))
                    await self._wait(running, self._preparing)
                else:
                    await self._prepare(item)
                if item.result is not None:
                    await self._end(item)
                    continue
                running[spawn(self._execute(item))] = item
                if not self._parallel:
                    await self._wait(running)
                    if number + 1 < len(self._calls):
                        await self.poll_steering()
            await self._wait(running)
        except GeneratorExit:  # The event loop was closed, so nothing can be awaited.
            raise
        except BaseException:
            await run_to_completion(self.close())
            raise

    def _reason_not_to_start(self, number: int) -> str | None:
        if self._aborted:
            return ABORTED
        if self.steering:
            return SKIPPED
        if number >= MAX_CALLS:
            return f"Not run: a reply may call at most {MAX_CALLS} tools. Call the rest in your next reply."
        return None

    @property
    def _aborted(self) -> bool:
        return self._signal is not None and self._signal.is_set()

    async def poll_steering(self) -> None:
        """Read the steering queue, unless a result ends the run: its messages would then get lost."""
        if self._get_steering is None or self.steering or self._aborted or self.terminate:
            return
        self.steering = self._take(await call_abandonable(self._signal, self._get_steering) or ())

    # ---- stages -----------------------------------------------------------------------------------

    async def _start(self, item: CallState) -> None:
        item.started = True
        call = item.call
        args: object = call.get("arguments")
        await send(
            self._emit,
            ToolExecutionStartEvent(
                tool_call_id=call["id"],
                tool_name=call["name"],
                args=args if isinstance(args, dict) else {},
            ),
        )

    async def _prepare(self, item: CallState) -> None:
        """Find the tool, validate, call the hook. Set a result if the call must not be run."""
        call, tool = item.call, item.tool
        if tool is None:
            names = ", ".join(self._names) or "none"
            return item.fail(f"There is no tool {call['name']!r}. Available tools: {names}.")
        if tool.execute is None:
            return item.fail(f"The tool {tool.name!r} has no execute function, so it cannot be run here.")
        try:
            arguments = validate_tool_arguments(tool, call)
            info = ToolCallInfo(tool, call["id"], arguments, self._message, self._context)
            if self._before is not None:
                before = _json.encode(arguments)
                decision = await call_abandonable(self._signal, self._before, info)
                changed = info.arguments
                if decision is not None:
                    item.terminate = decision.terminate
                    if decision.block is not None:
                        item.fail(decision.block or "This call was refused.")
                        item.is_error = decision.is_error is not False
                        return
                    if decision.arguments is not None:
                        changed = decision.arguments
                # The hook may have changed the arguments in place. The tool gets a copy, which is validated
                # again only if it differs.
                info.arguments = (
                    as_json_numbers(changed)
                    if is_unchanged_json(changed, before)
                    else validate_tool_arguments(
                        tool,
                        {"type": "tool_call", "id": call["id"], "name": call["name"], "arguments": changed},
                    )
                )
            item.info = info
        except ToolArgumentsError as error:
            item.fail(str(error))
        except Aborted:
            item.fail(ABORTED)
        except _PASSED_ON:
            raise
        except BaseException as error:  # noqa: BLE001 - a hook that fails has not approved the call
            item.fail(f"The call was refused: before_tool_call failed with {error_text(error)}.")

    async def _execute(self, item: CallState) -> None:
        info, update = item.info, self._updater(item)
        assert info is not None
        tool = info.tool
        assert tool.execute is not None
        if self._signal is not None:
            RUNNING_TOOLS.set(RUNNING_TOOLS.get() | {self._signal})
        limit = asyncio.timeout(tool.timeout)
        try:
            async with limit, contextlib.AsyncExitStack() as stack:
                if self._interaction is not None:
                    stack.enter_context(ToolInteraction(self._interaction, limit))
                returned: object = await invoke(
                    tool.execute, info.tool_call_id, info.arguments, self._signal, update
                )
                item.result = checked_result(tool.name, returned)
        except _PASSED_ON:
            raise
        except CallbackCancelledError:
            item.fail(f"The tool {tool.name!r} was cancelled from inside.")
        except BaseException as error:  # noqa: BLE001 - every exception of a tool, also SystemExit, is its result
            if isinstance(error, TimeoutError) and limit.expired():
                item.fail(f"The tool {tool.name!r} timed out after {tool.timeout:g} s.")
            else:
                item.fail(error_text(error))
        if self._after is not None:
            assert item.result is not None
            try:
                item.apply(await invoke(self._after, info, item.result, item.is_error))
            except BaseException as error:
                item.fail(f"The result was withheld: after_tool_call failed with {error_text(error)}.")
                if isinstance(error, _PASSED_ON):
                    raise

    def _updater(self, item: CallState) -> Callable[[AgentToolResult], None]:
        loop, thread = asyncio.get_running_loop(), threading.get_ident()

        def emit(partial: AgentToolResult) -> None:
            if item.result is not None or item.message is not None:
                return
            call = item.call
            waiting = self._emit(
                ToolExecutionUpdateEvent(
                    tool_call_id=call["id"],
                    tool_name=call["name"],
                    args=call["arguments"],
                    partial_result=partial,
                )
            )
            if waiting is not None:
                item.updates.append(waiting)
                if item.updates_task is None or item.updates_task.done():
                    item.updates_task = spawn(_await_updates(item))

        def update(partial: AgentToolResult) -> None:
            copied = checked_result(item.call["name"], partial)
            if threading.get_ident() == thread:
                emit(copied)
            elif not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime.
                    loop.call_soon_threadsafe(emit, copied)

        return update

    async def _end(self, item: CallState) -> None:
        """Emit the end of a call, and the result messages that can be emitted in order."""
        if item.updates_task is not None:
            await item.updates_task
        result, call = item.result, item.call
        if result is None:
            if self._aborted:
                item.fail(ABORTED)
            else:
                item.fail(f"The tool {call['name']!r} was cancelled.")
            result = item.result
        assert result is not None
        result.terminate = result.terminate or item.terminate
        item.message = result_message(call, result, item.is_error)
        self.terminate = self.terminate or result.terminate
        await send(
            self._emit,
            ToolExecutionEndEvent(
                tool_call_id=call["id"], tool_name=call["name"], result=result, is_error=item.is_error
            ),
        )
        await self._flush()

    async def _flush(self) -> None:
        """Emit the result messages that are due. It can be called again after a cancellation."""
        while True:
            if self._open is None:
                number = len(self.results)
                due = self._calls[number].message if number < len(self._calls) else None
                if due is None:
                    return
                self._open = due
                await send(self._emit, MessageStartEvent(message=due))
            message, self._open = self._open, None
            self.results.append(message)
            await send(self._emit, MessageEndEvent(message=message))

    # ---- waiting and ending -------------------------------------------------------------------------

    async def _wait(
        self, running: dict[asyncio.Task[None], CallState], other: asyncio.Task[None] | None = None
    ) -> None:
        """Wait for the running calls, and end each when it completes, or for `other`. An abort ends all."""
        others = set() if other is None else {other}
        while running and not (other is not None and other.done()):
            try:
                async with CancelScope(self._signal):
                    done, _ = await asyncio.wait({*running, *others}, return_when=asyncio.FIRST_COMPLETED)
            except Aborted:
                await asyncio.wait(running, timeout=ABORT_GRACE_S)
                await _cancel(running)
                done = set(running)  # A tool that still does not react is left running.
            for task in [task for task in running if task in done]:
                await self._end(running.pop(task))
        if other is not None:
            await other

    async def close(self) -> None:
        """End the open calls and refuse the others, because the run is cancelled."""
        await _cancel([*self._running, *([] if self._preparing is None else [self._preparing])])
        await _cancel([item.updates_task for item in self._calls if item.updates_task is not None])
        for item in self._calls:
            item.updates_task = None
            while item.updates:
                await best_effort(_await_updates(item), ABORT_GRACE_S)
            if not item.started:
                await self._start(item)
                item.fail(ABORTED)
            if item.message is None:
                await self._end(item)
        await self._flush()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=ABORT_GRACE_S)


async def _await_updates(item: CallState) -> None:
    while item.updates:
        await item.updates.popleft()


# ---- the public functions -------------------------------------------------------------------------


async def execute_tool_calls(
    tools: Sequence[AgentTool] | None,
    assistant_message: AssistantMessage,
    signal: asyncio.Event | None,
    stream: EventStream[AgentEvent, list[AgentMessage]],
    get_steering_messages: GetMessages | None = None,
) -> ToolExecutionResult:
    """Run the tool calls of a message, and push the events to `stream`.

    Steering messages that arrive in the meantime skip the calls that have not started.
    """
    batch = ToolBatch(
        assistant_message, tools, stream.push, signal=signal, get_steering=get_steering_messages
    )
    await batch.run()
    await batch.poll_steering()
    return {"tool_results": batch.results, "steering_messages": batch.steering or None}


def skip_tool_call(
    tool_call: ToolCallContent, stream: EventStream[AgentEvent, list[AgentMessage]]
) -> ToolResultMessage:
    """Return the error result of a call that is skipped because of a message from the user."""
    result = tool_error(SKIPPED)
    message = result_message(tool_call, result, is_error=True)
    call_id, name = tool_call["id"], tool_call["name"]
    stream.push(ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=tool_call["arguments"]))
    stream.push(ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, result=result, is_error=True))
    stream.push(MessageStartEvent(message=message))
    stream.push(MessageEndEvent(message=message))
    return message
