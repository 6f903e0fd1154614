"""The agent: a conversation, its queues, and one run at a time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from ._answer import answer_error, extract_text, last_reply, partial_text
from ._event_stream import Channel, EventStream, Iteration
from ._interrupt import (
    Aborted,
    AbortSignal,
    Interrupt,
    at_most,
    finish,
    invoke,
    is_inside,
    require_asyncio,
)
from ._message_builder import copy_message, now_ms
from ._message_checks import checked_message, checked_messages, is_assistant
from .agent_loop import check_limits, run_agent_loop
from .agent_tool_execution import RUNNING_TOOLS, checked_tools
from .agent_types import (
    AfterToolCall,
    AgentContext,
    AgentEndEvent,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentStartEvent,
    AgentState,
    AgentTool,
    AssistantMessage,
    BeforeToolCall,
    ConvertToLlm,
    GetApiKey,
    GetTools,
    ImageContent,
    Message,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    RunLimit,
    ShouldStop,
    StreamFn,
    TextContent,
    ThinkingBudgets,
    ThinkingLevel,
    ToolExecutionEndEvent,
    ToolExecutionMode,
    ToolExecutionStartEvent,
    TransformContext,
    UserMessage,
)
from .errors import AgentStateError, InvalidMessageError

__all__ = ["Agent", "AgentOptions", "default_convert_to_llm", "extract_text"]

logger = logging.getLogger("tinyagent")

LISTENER_GRACE = 1.0
"""Seconds that an async listener may still take for an event when its run is aborted or cancelled."""

CLOSED_LOOP_INTERVAL = 0.2
"""Seconds between looks at whether the event loop of a run was closed, for those who wait elsewhere."""

QueueMode = Literal["one-at-a-time", "all"]
Listener = Callable[[AgentEvent], Awaitable[None] | None]
Input = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


def default_convert_to_llm(messages: Sequence[AgentMessage]) -> list[Message]:
    """The messages that a model can be sent: user, assistant and tool result; other roles are left out."""
    return [
        cast(Message, message)
        for message in cast("Sequence[Any]", messages)
        if isinstance(message, Mapping) and message.get("role") in ("user", "assistant", "tool_result")
    ]


def user_message(text: str, images: Sequence[str | ImageContent] = ()) -> UserMessage:
    """A user message of now, with images given as content or as URLs."""
    content: list[TextContent | ImageContent] = [{"type": "text", "text": text}] if text else []
    for image in images:
        content.append({"type": "image", "url": image} if isinstance(image, str) else image)
    return {"role": "user", "content": content, "timestamp": now_ms()}


@dataclass
class AgentOptions:
    """How an agent is made; see `AgentLoopConfig` for what the callbacks are given.

    Attributes:
        initial_state: Any keys of `AgentState` to begin with.
        stream_fn: The provider, such as `stream_openrouter`.
        steering_mode: How many queued messages are taken at a time, likewise `follow_up_mode`.
        session_id: Names the conversation to providers that cache by it.
        get_tools: Called before each request to the model; returns the tools from then on, or None if they
            have not changed.
        max_turns: Model calls in one run.
        max_cost: US dollars in one run: what the provider says it charges, else its list price. A model whose
            price is not known counts nothing, and a warning is logged.
        max_repeats: Repetitions of a tool call, or turns in which every tool call fails, in a row.
        timeout: Seconds without an event, or a mapping with `connect`, `first_event`, `idle`.
        on_retry: Hears why a request is sent again.
        on_note: Hears what of a request was left out because the model does not take it.
    """

    initial_state: Mapping[str, Any] | None = None
    convert_to_llm: ConvertToLlm | None = None
    transform_context: TransformContext | None = None
    steering_mode: QueueMode = "one-at-a-time"
    follow_up_mode: QueueMode = "one-at-a-time"
    stream_fn: StreamFn | None = None
    session_id: str | None = None
    get_api_key: GetApiKey | None = None
    get_tools: GetTools | None = None
    thinking_budgets: ThinkingBudgets | None = None
    tool_execution: ToolExecutionMode = "auto"
    before_tool_call: BeforeToolCall | None = None
    after_tool_call: AfterToolCall | None = None
    should_stop_after_turn: ShouldStop | None = None
    max_turns: int | None = None
    max_cost: float | None = None
    max_repeats: int | None = 10
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | Mapping[str, float] | None = None
    on_retry: Callable[[str], None] | None = None
    on_note: Callable[[str], None] | None = None


class _ActiveRun:
    """The run that is under way."""

    def __init__(self, channel: Channel[AgentEvent, Any] | None) -> None:
        self.signal = AbortSignal()
        self.channel = channel
        self.task = asyncio.current_task()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.stuck: set[object] = set()
        """Listeners that used up their grace period; the rest of the run does not wait for them."""
        self._over: Future[None] = Future()

    @property
    def is_cancelled(self) -> bool:
        return self.task is not None and self.task.cancelling() > 0

    @property
    def abandoned(self) -> bool:
        return self.channel is not None and self.channel.abandoned

    def end(self) -> None:
        """Wake everything that waits for the end."""
        if not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        """Wait for the end, in any event loop; also returns when the run's own loop is closed."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # The loop that waited was closed.
                loop.call_soon_threadsafe(ended.set)

        self._over.add_done_callback(wake)
        while not ended.is_set() and not self.loop.is_closed():
            # Closing a loop notifies nothing, so another loop has to look.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.loop is loop else CLOSED_LOOP_INTERVAL):
                    await ended.wait()


class Agent:
    """A conversation with a model that can use tools.

    Example:
        agent = Agent(AgentOptions(stream_fn=stream_openrouter))
        agent.set_model(OpenRouterModel(id="anthropic/claude-3.5-sonnet"))
        print(await agent.prompt_text("What is the capital of France?"))

    An agent does one run at a time. `steer` and `follow_up` talk to a run under way, `abort` ends it.
    """

    def __init__(self, options: AgentOptions | None = None) -> None:
        self.options = options or AgentOptions()
        for name, mode, known in (
            ("steering_mode", self.options.steering_mode, get_args(QueueMode)),
            ("follow_up_mode", self.options.follow_up_mode, get_args(QueueMode)),
            ("tool_execution", self.options.tool_execution, get_args(ToolExecutionMode)),
        ):
            if mode not in known:
                raise ValueError(f"{name} is {mode!r}; it is one of {', '.join(known)}")
        check_limits(self.options)
        self._session_id = self.options.session_id
        self._steering: list[AgentMessage] = []
        self._follow_ups: list[AgentMessage] = []
        self._listeners: dict[object, Listener] = {}
        self._reported: set[object] = set()
        self._active: _ActiveRun | None = None
        self._latest: MessageUpdateEvent | None = None
        self._state: AgentState = {
            "system_prompt": "",
            "model": None,
            "thinking_level": ThinkingLevel.OFF,
            "tools": [],
            "messages": [],
            "is_streaming": False,
            "stream_message": None,
            "pending_tool_calls": set(),
            "error": None,
            "limit": None,
        }
        initial: Any = dict(self.options.initial_state or {})
        unknown = set(initial) - set(self._state)
        if unknown:
            raise ValueError(f"initial_state has unknown keys: {', '.join(sorted(unknown))}")
        self._state.update(initial)
        self._state["messages"] = checked_messages(self._state["messages"], "initial_state: ")
        self._state["tools"] = checked_tools(self._state["tools"])
        self._state["thinking_level"] = ThinkingLevel(self._state["thinking_level"])
        self._level_is_set = "thinking_level" in initial

    # ---- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> AgentState:
        """What the agent is and does now. `stream_message` is the message so far."""
        self._running()  # A run whose event loop was closed is over.
        if self._latest is not None:
            self._state["stream_message"] = self._latest.message
        return self._state

    @property
    def session_id(self) -> str | None:
        """Names the conversation to providers that cache by it."""
        return self._session_id

    @session_id.setter
    def session_id(self, value: str | None) -> None:
        self._session_id = value

    def set_system_prompt(self, system_prompt: str) -> None:
        """Set the system prompt, from the next run on."""
        self._state["system_prompt"] = system_prompt

    def set_model(self, model: Any) -> None:
        """Set the model, from the next run on."""
        self._state["model"] = model

    def set_thinking_level(self, level: ThinkingLevel | str) -> None:
        """Set how much the model is to reason, from the next run on.

        Raises:
            ValueError: there is no such level.
        """
        self._state["thinking_level"] = ThinkingLevel(level)
        self._level_is_set = True

    def set_tools(self, tools: Sequence[AgentTool]) -> None:
        """Set the tools, from the next request to the model on, also in a run under way.

        Raises:
            TypeError: one of them is not an `AgentTool`.
            ValueError: two have the same name, or one has none.
            ToolSchemaError: the JSON Schema of one cannot be used; names the tool and the fault.
        """
        self._state["tools"] = checked_tools(tools)

    def replace_messages(self, messages: Sequence[AgentMessage]) -> None:
        """Put another history in the place of this one.

        Raises:
            AgentStateError: a run is under way.
            InvalidMessageError: a message has not the form that its role asks for; nothing is replaced.
        """
        self._check_idle("replace_messages")
        self._state["messages"] = checked_messages(messages)

    def append_message(self, message: AgentMessage) -> None:
        """Add a message to the history without asking the model.

        Raises:
            AgentStateError: a run is under way.
            InvalidMessageError: the message has not the form that its role asks for.
        """
        self._check_idle("append_message")
        self._state["messages"].append(checked_message(message, "The message"))

    def clear_messages(self) -> None:
        """Forget the history.

        Raises:
            AgentStateError: a run is under way.
        """
        self._check_idle("clear_messages")
        self._state["messages"] = []

    def reset(self) -> None:
        """Forget the history, the queues and the last error; settings and listeners stay.

        Raises:
            AgentStateError: a run is under way.
        """
        self._check_idle("reset")
        self._state["messages"] = []
        self.clear_steering_queue()
        self.clear_follow_up_queue()
        self._latest = None
        self._state["stream_message"] = None
        self._state["pending_tool_calls"] = set()
        self._state["error"] = self._state["limit"] = None

    def _check_idle(self, method: str) -> None:
        if self._running() is not None:
            raise AgentStateError(
                f"{method}() would tear the history of the run under way. End the run with abort() if need "
                "be, and await wait_for_idle() first."
            )

    # ---- listening ------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event; gives the function that ends this.

        The run waits for async listeners. One that raises is reported once, through `logging`, and
        goes on being called.
        """
        key = object()
        self._listeners = {**self._listeners, key: listener}

        def unsubscribe() -> None:
            self._listeners = {other: fn for other, fn in self._listeners.items() if other is not key}
            self._reported.discard(key)

        return unsubscribe

    def _emit(self, event: AgentEvent) -> Awaitable[None] | None:
        if type(event) is MessageUpdateEvent:
            self._latest = event
        else:
            self._fold(event)
        waiting: list[tuple[object, Awaitable[None]]] | None = None
        for key, listener in self._listeners.items():
            try:
                returned = listener(event)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a listener never breaks the run
                self._report(key, listener)
            else:
                if returned is not None and inspect.isawaitable(returned):
                    waiting = [*(waiting or ()), (key, returned)]
        active = self._active
        channel = active.channel if active is not None else None
        room = channel.push(event) if channel is not None else None
        return self._settle(waiting, room) if waiting is not None else room

    async def _settle(
        self, waiting: list[tuple[object, Awaitable[None]]], room: Awaitable[None] | None
    ) -> None:
        """Await what async listeners returned, in order; when the run is ending, for a limited time."""
        active = self._active
        stuck = active.stuck if active is not None else set()
        rest = deque(waiting)

        async def listen() -> None:
            while rest:
                key, returned = rest[0]
                if key in stuck:
                    _close_unawaited(returned)
                else:
                    try:
                        await invoke(lambda returned=returned: returned)
                    except Exception:  # noqa: BLE001 - a listener never breaks the run
                        self._report(key, self._listeners.get(key))
                rest.popleft()

        cancelled: asyncio.CancelledError | None = None
        while rest:
            try:
                if active is None or active.is_cancelled or active.signal.is_set():
                    # The run is closing its events, which nothing may cut short again.
                    await at_most(listen(), LISTENER_GRACE)
                else:
                    async with Interrupt(active.signal):
                        await finish(listen(), LISTENER_GRACE)
            except Aborted:
                pass  # The listener had its grace period. The run itself reacts to the abort.
            except asyncio.CancelledError as error:
                cancelled = error
            if rest:
                stuck.add(rest.popleft()[0])
        if cancelled is not None:
            raise cancelled
        if room is not None:
            await room

    def _report(self, key: object, listener: Listener | None) -> None:
        if key not in self._reported:
            self._reported.add(key)
            logger.exception(
                "The event listener %r raised; it is reported once and the run goes on.", listener
            )

    def _fold(self, event: AgentEvent) -> None:
        state = self._state
        match event:
            case MessageStartEvent(message=message):
                if is_assistant(message):
                    state["stream_message"] = message
            case MessageEndEvent(message=message):
                self._latest = state["stream_message"] = None
                state["messages"].append(message)
                _forget(self._steering, message)
                _forget(self._follow_ups, message)
                if is_assistant(message) and message.get("error_message"):
                    state["error"] = message["error_message"]
            case ToolExecutionStartEvent(tool_call_id=call_id):
                state["pending_tool_calls"] = state["pending_tool_calls"] | {call_id}
            case ToolExecutionEndEvent(tool_call_id=call_id):
                state["pending_tool_calls"] = state["pending_tool_calls"] - {call_id}
            case AgentStartEvent():
                state["error"] = state["limit"] = None
            case AgentEndEvent(limit=limit):
                state["limit"] = limit
            case _:
                pass

    # ---- running --------------------------------------------------------------------------------------

    async def prompt(
        self, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> AssistantMessage:
        """Ask the model, run the tools that it calls, and give its last message.

        A failure of the provider does not raise: the message has `stop_reason` `error` and says why in
        `error_message`.

        Args:
            input: The prompt, a message, or a list of them.
            images: Images (content or URLs) that go with it.

        Raises:
            RuntimeError: the agent is streaming, or has no model or no stream function.
        """
        return last_reply(await self._start(_messages(input, images)))

    async def prompt_text(self, input: Input, images: Sequence[str | ImageContent] | None = None) -> str:
        """As `prompt`, returning the text of the last message.

        Raises:
            RuntimeError: as `prompt`.
            TinyAgentError: the run did not end with a complete answer in text. That is the provider's error,
                `OutputTruncatedError`, `RunLimitError`, `RunAbortedError`, or `EmptyReplyError` for a reply
                without text, which names the content that came instead. Its `partial_text` has the text
                that had arrived.
        """
        messages = await self._start(_messages(input, images))
        _check_answer(messages, self._state["limit"])
        return extract_text(last_reply(messages))

    async def continue_(self) -> AssistantMessage:
        """Go on from the history as it stands, or with what is queued.

        Raises:
            RuntimeError: there is nothing to answer, or `prompt` would refuse too.
        """
        messages = self._state["messages"]
        prompts: list[AgentMessage] = []
        if not messages or messages[-1].get("role") == "assistant":
            if not self._steering:
                prompts = self._take_follow_ups()
            if not self._steering and not prompts:
                raise AgentStateError(
                    "There is nothing to continue: the history is empty."
                    if not messages
                    else "There is nothing to continue: the last message is the assistant's. Use prompt()."
                )
        return last_reply(await self._start(prompts))

    def stream(
        self, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> EventStream[AgentEvent, list[AgentMessage]]:
        """As `prompt`, giving the events: `async for event in agent.stream("Hi")`.

        Leaving early ends the run, closes its connection and leaves no task behind; with
        `async with agent.stream("Hi") as events` that has happened when the block is left.

        Raises:
            RuntimeError: as `prompt`.
        """
        prompts = _messages(input, images)
        self._check_ready()

        async def run(channel: Channel[AgentEvent, list[AgentMessage]]) -> list[AgentMessage]:
            return await self._start(prompts, channel)

        return EventStream(run)

    def stream_text(self, input: Input, images: Sequence[str | ImageContent] | None = None) -> TextStream:
        """As `stream`, yielding only the pieces of text.

        Reading raises what `prompt_text` raises, after the last piece.
        """
        return TextStream(self.stream(input, images))

    def _check_ready(self) -> None:
        active = self._running()
        if active is not None and not active.abandoned:
            raise AgentStateError(
                "The agent is streaming. Wait with wait_for_idle(), end the run with abort(), or queue the "
                "message with steer() or follow_up()."
            )
        if self._state["model"] is None:
            raise AgentStateError("The agent has no model. Call set_model() first.")
        if self.options.stream_fn is None:
            raise AgentStateError(
                "The agent has no stream function. Make it with AgentOptions(stream_fn=...), for example "
                "stream_openrouter."
            )

    async def _start(
        self, prompts: list[AgentMessage], channel: Channel[AgentEvent, Any] | None = None
    ) -> list[AgentMessage]:
        require_asyncio()
        self._check_ready()
        while (left := self._running()) is not None and left.abandoned:
            await left.wait()
        self._check_ready()
        active = self._active = _ActiveRun(channel)
        self._state["is_streaming"] = True
        try:
            return await run_agent_loop(
                prompts, self._context(), self._config(), self._emit, active.signal, self.options.stream_fn
            )
        finally:
            self._end_run(active)

    def _running(self) -> _ActiveRun | None:
        """The run under way. One whose event loop was closed cannot go on, and is over."""
        active = self._active
        if active is not None and active.loop.is_closed():
            self._end_run(active)
            return None
        return active

    def _end_run(self, active: _ActiveRun) -> None:
        if self._active is active:
            self._active = self._latest = None
            self._state["is_streaming"] = False
            self._state["stream_message"] = None
            self._state["pending_tool_calls"] = set()
        active.end()

    def _context(self) -> AgentContext:
        state = self._state
        return AgentContext(state["system_prompt"], list(state["messages"]), checked_tools(state["tools"]))

    def _config(self) -> AgentLoopConfig:
        state, options = self._state, self.options
        return AgentLoopConfig(
            model=state["model"],
            convert_to_llm=options.convert_to_llm or default_convert_to_llm,
            transform_context=options.transform_context,
            get_api_key=options.get_api_key,
            get_steering_messages=lambda: _head(self._steering, options.steering_mode),
            get_follow_up_messages=lambda: _head(self._follow_ups, options.follow_up_mode),
            get_tools=self._current_tools,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            session_id=self._session_id,
            # Off unless somebody says so here: then what the model was made with counts.
            thinking_level=state["thinking_level"] if self._level_is_set else None,
            thinking_budgets=options.thinking_budgets,
            tool_execution=options.tool_execution,
            before_tool_call=options.before_tool_call,
            after_tool_call=options.after_tool_call,
            should_stop_after_turn=options.should_stop_after_turn,
            max_turns=options.max_turns,
            max_cost=options.max_cost,
            max_repeats=options.max_repeats,
            timeout=options.timeout,
            on_retry=options.on_retry,
            on_note=options.on_note,
        )

    async def _current_tools(self) -> list[AgentTool]:
        """The tools for the next request: `set_tools` may have been called, or `get_tools` has others."""
        if self.options.get_tools is not None:
            tools = await invoke(self.options.get_tools)
            if tools is not None:
                self.set_tools(tools)
        return self._state["tools"]

    # ---- talking to a run -------------------------------------------------------------------------------

    def steer(self, message: str | AgentMessage) -> None:
        """Say something to the run: tool calls that have not begun are skipped, and it goes on with this.

        Without a run it waits for the next one. It stays queued until it is part of the conversation.
        """
        self._steering.append(_message(message))

    def follow_up(self, message: str | AgentMessage) -> None:
        """Queue a message for when the agent would otherwise stop."""
        self._follow_ups.append(_message(message))

    def clear_steering_queue(self) -> None:
        """Forget what `steer` queued."""
        self._steering.clear()

    def clear_follow_up_queue(self) -> None:
        """Forget what `follow_up` queued."""
        self._follow_ups.clear()

    def _take_follow_ups(self) -> list[AgentMessage]:
        return _head(self._follow_ups, self.options.follow_up_mode)

    def abort(self) -> None:
        """End the run: its request is closed at once, its tools soon after. May be called from any thread."""
        active = self._running()
        if active is None:
            return
        if threading.get_ident() == active.thread:
            active.signal.set()
        else:
            with contextlib.suppress(RuntimeError):  # The loop was closed this very moment.
                active.loop.call_soon_threadsafe(active.signal.set)

    async def wait_for_idle(self) -> None:
        """Wait until no run is under way; from any event loop and any thread.

        Raises:
            RuntimeError: called from inside the run (a listener, a callback, a tool, also in a thread or a
                task that a tool started), which would never end.
        """
        require_asyncio()
        while (active := self._running()) is not None:
            if is_inside(active.task) or active.signal in RUNNING_TOOLS.get():
                raise AgentStateError(
                    "wait_for_idle() was called from inside the run that it would wait for."
                )
            if active.channel is not None:
                # The task that waits here may be the one that should be reading.
                with contextlib.suppress(RuntimeError):  # The loop was closed this very moment.
                    active.loop.call_soon_threadsafe(active.channel.unbind)
            await active.wait()


class TextStream:
    """The text of a run, piece by piece; left like the event stream that it reads.

    After the last piece it raises the error of a run that has no complete answer, as `prompt_text` does.
    """

    def __init__(self, events: EventStream[AgentEvent, list[AgentMessage]]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[str]:
        return Iteration(self)

    async def __anext__(self) -> str:
        while True:
            event = await self._events.__anext__()
            if type(event) is MessageUpdateEvent:
                step = event.assistant_message_event
                if step["type"] == "text_delta":
                    return step["delta"]
            elif type(event) is AgentEndEvent:
                _check_answer(event.messages, event.limit)

    async def __aenter__(self) -> Self:
        await self._events.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run if it is still going, and wait until it is gone."""
        await self._events.aclose()

    def abandon(self) -> None:
        """End the run without waiting for its end."""
        self._events.abandon()


# ---- helpers ------------------------------------------------------------------------------------------


def _message(given: str | Mapping[str, Any], place: str = "The message") -> AgentMessage:
    if isinstance(given, str):
        return user_message(given)
    # The caller may change the dict later, and events never change: the message is a copy.
    return copy_message(checked_message(given, place))


def _messages(given: Input, images: Sequence[str | ImageContent] | None) -> list[AgentMessage]:
    if isinstance(given, str | Mapping):
        given = [given]
    elif not isinstance(given, Iterable):
        raise InvalidMessageError(
            f"A prompt is text, a message or a list of them, not {type(given).__name__}."
        )
    messages = [_message(one, f"Message {n} of the prompt") for n, one in enumerate(given, 1)]
    if not messages:
        raise ValueError("There is no message in the prompt.")
    if images:
        last = cast(UserMessage, messages[-1])
        content = last.get("content")
        added = user_message("", images)["content"]
        messages[-1] = _message({**last, "content": [*(content or ()), *added]})
    return messages


def _close_unawaited(returned: Awaitable[None]) -> None:
    if inspect.iscoroutine(returned):
        returned.close()


def _head(queue: list[AgentMessage], mode: QueueMode) -> list[AgentMessage]:
    """What is to be taken next. It leaves the queue when it is in the history, so nothing gets lost."""
    return list(queue) if mode == "all" else queue[:1]


def _forget(queue: list[AgentMessage], message: AgentMessage) -> None:
    for position, queued in enumerate(queue):
        if queued is message:
            del queue[position]
            return


def _check_answer(messages: Sequence[AgentMessage], limit: RunLimit | None) -> None:
    """Raise why a run has no complete answer in text."""
    error = answer_error(messages, limit)
    if error is not None:
        error.partial_text = partial_text(messages)
        raise error
