"""The agent: a conversation, its queues, and one run at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, TypeVar, get_args, overload

from ._agent.active_run import ActiveRun
from ._agent.listeners import Listener, Listeners
from ._agent.prompts import Input, input_message, input_messages
from ._agent.queue import MessageQueue, QueueMode
from ._agent.state import apply_event, new_state
from ._agent.text_stream import TextStream
from ._answer import check_answer, extract_text, last_reply, partial_text
from ._cancel import invoke, is_awaited_by, require_asyncio
from ._event_stream import Channel, EventStream
from ._loop.limits import check_limits
from ._stream.message_checks import checked_message, checked_messages, is_assistant, is_sent
from ._tool_checks import checked_tools
from .agent_loop import run_agent_loop
from .agent_tool_execution import RUNNING_TOOLS
from .agent_types import (
    AgentContext,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentState,
    AgentTool,
    AnyAgentMessage,
    AssistantMessage,
    CompactionEndEvent,
    ConvertToLlm,
    ImageContent,
    InitialState,
    JsonValue,
    Message,
    MessageEndEvent,
    MessageUpdateEvent,
    ModelIdentity,
    RunSettings,
    StreamFn,
    ThinkingLevel,
    ToolExecutionMode,
)
from .errors import AgentStateError, InvalidAnswerError

if TYPE_CHECKING:
    from ._answer_form import AnswerForm

__all__ = ["Agent", "AgentOptions", "default_convert_to_llm", "extract_text"]

T = TypeVar("T")


def default_convert_to_llm(messages: Sequence[AnyAgentMessage]) -> list[Message]:
    """Return the user, assistant and tool result messages. Other roles are left out."""
    return [message for message in messages if is_sent(message)]


@dataclass
class AgentOptions(RunSettings):
    """The settings of an agent. Those that it shares with `AgentLoopConfig` are described at `RunSettings`.

    Attributes:
        initial_state: Initial values for any keys of `AgentState`. Those that describe a run under way, such
            as `is_streaming`, are ignored.
        convert_to_llm: Converts the messages of the history to those that the model gets;
            `default_convert_to_llm` if None.
        stream_fn: The provider, such as `stream_openrouter`.
        steering_mode: How many queued steering messages are taken at a time.
        follow_up_mode: How many queued follow-up messages are taken at a time.
    """

    initial_state: InitialState | AgentState | None = None
    convert_to_llm: ConvertToLlm | None = None
    _: KW_ONLY
    stream_fn: StreamFn | None = None
    steering_mode: QueueMode = "one-at-a-time"
    follow_up_mode: QueueMode = "one-at-a-time"


class Agent:
    """A conversation with a model that can use tools.

    Example:
        agent = Agent(AgentOptions(stream_fn=stream_openrouter))
        agent.set_model(OpenRouterModel(id="anthropic/claude-3.5-sonnet"))
        print(await agent.prompt_text("What is the capital of France?"))

    An agent has one run at a time. `steer` and `follow_up` send messages to the current run; `abort` ends it.
    """

    def __init__(self, options: AgentOptions | None = None) -> None:
        self.options: AgentOptions = options or AgentOptions()
        for name, mode, known in (
            ("steering_mode", self.options.steering_mode, get_args(QueueMode)),
            ("follow_up_mode", self.options.follow_up_mode, get_args(QueueMode)),
            ("tool_execution", self.options.tool_execution, get_args(ToolExecutionMode)),
        ):
            if mode not in known:
                raise ValueError(f"{name} is {mode!r}; it must be one of {', '.join(known)}.")
        check_limits(self.options)
        self.session_id: str | None = self.options.session_id
        """Identifies the conversation to providers that use it for caching."""
        self._steering = MessageQueue()
        self._follow_ups = MessageQueue()
        self._listeners = Listeners()
        self._active: ActiveRun | None = None
        self._latest: MessageUpdateEvent | None = None
        initial = self.options.initial_state or InitialState()
        self._state: AgentState = new_state(initial)
        self._level_is_set = "thinking_level" in initial

    # ---- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> AgentState:
        """The current state of the agent. `stream_message` is the message so far."""
        self._running()  # A run whose event loop was closed is over.
        if self._latest is not None:
            self._state["stream_message"] = self._latest.message
        return self._state

    def set_system_prompt(self, system_prompt: str) -> None:
        """Set the system prompt for the following runs."""
        self._state["system_prompt"] = system_prompt

    def set_model(self, model: ModelIdentity) -> None:
        """Set the model for the following runs."""
        self._state["model"] = model

    def set_thinking_level(self, level: ThinkingLevel | str) -> None:
        """Set the thinking level for the following runs.

        Raises:
            ValueError: The level does not exist.
        """
        self._state["thinking_level"] = ThinkingLevel(level)
        self._level_is_set = True

    def set_tools(self, tools: Sequence[AgentTool]) -> None:
        """Set the tools for the following requests to the model, also during a run.

        Raises:
            TypeError: One of them is not an `AgentTool`.
            ValueError: Two tools have the same name, or one has no name.
            ToolSchemaError: The JSON Schema of a tool cannot be used. The message names tool and fault.
        """
        self._state["tools"] = checked_tools(tools)

    def replace_messages(self, messages: Sequence[AnyAgentMessage]) -> None:
        """Replace the history.

        Raises:
            AgentStateError: A run is active.
            InvalidMessageError: A message is malformed for its role. The history is then unchanged.
        """
        self._check_idle("replace_messages")
        self._state["messages"] = checked_messages(messages)

    def append_message(self, message: AnyAgentMessage) -> None:
        """Add a message to the history without a call of the model.

        Raises:
            AgentStateError: A run is active.
            InvalidMessageError: The message is malformed for its role.
        """
        self._check_idle("append_message")
        self._state["messages"].append(checked_message(message, "The message"))

    def clear_messages(self) -> None:
        """Clear the history.

        Raises:
            AgentStateError: A run is active.
        """
        self._check_idle("clear_messages")
        self._state["messages"] = []

    def reset(self) -> None:
        """Clear the history, the queues and the last error. Settings and listeners remain.

        Raises:
            AgentStateError: A run is active.
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
                f"{method}() cannot change the history during a run. First wait with wait_for_idle(), or end "
                "the run with abort()."
            )

    # ---- listening ------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event.

        The run waits for async listeners. If a listener raises, this is logged once, and it is still called
        with later events.

        Returns:
            A function that removes the listener.
        """
        return self._listeners.add(listener)

    def _emit(self, event: AgentEvent) -> Awaitable[None] | None:
        if type(event) is MessageUpdateEvent:
            self._latest = event
        elif type(event) is MessageEndEvent:
            self._latest = None  # first, because another thread may read the state meanwhile
            apply_event(self._state, event)
            self._steering.discard(event.message)
            self._follow_ups.discard(event.message)
        else:
            apply_event(self._state, event)
        waiting = self._listeners.call(event) if self._listeners.functions else None
        active = self._active
        channel = active.channel if active is not None else None
        room = channel.push(event) if channel is not None else None
        return self._listeners.settle(waiting, active, room) if waiting is not None else room

    # ---- running --------------------------------------------------------------------------------------

    async def prompt(
        self, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> AssistantMessage:
        """Call the model, run the tools that it calls, and return its last message.

        A failure of the provider does not raise. The message then has `stop_reason` `error`, and
        `error_message` has the reason.

        Args:
            input: The prompt, a message, or a list of them.
            images: Images (content blocks or URLs) for the last message.

        Raises:
            RuntimeError: A run is active, or the agent has no model or no stream function.
        """
        return last_reply(await self._start(input_messages(input, images)))

    async def prompt_text(self, input: Input, images: Sequence[str | ImageContent] | None = None) -> str:
        """Do the same as `prompt`, and return the text of the last message.

        Raises:
            RuntimeError: See `prompt`.
            TinyAgentError: The run did not end with a complete text answer. It is the provider's error,
                `OutputTruncatedError`, `RunLimitError`, `RunAbortedError`, or, for a reply without text,
                `EmptyReplyError`, which names the other content. `partial_text` has the text so far.
        """
        messages = await self._start(input_messages(input, images))
        check_answer(messages, self._state["limit"])
        return extract_text(last_reply(messages))

    @overload
    async def prompt_as(
        self, form: type[T] | AnswerForm[T], input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> T: ...
    @overload
    async def prompt_as(
        self, form: Mapping[str, object], input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> JsonValue: ...
    @overload
    async def prompt_as(
        self, form: object, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> object: ...
    async def prompt_as(
        self, form: object, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> object:
        """Do the same as `prompt`, and return the answer as a validated value.

            person = await agent.prompt_as(Person, "Who wrote Faust?")

        The provider's structured output is used if there is one. If the answer does not fit, the run has one
        more turn that names the fault.

        Args:
            form: The type of the answer: a msgspec Struct, a dataclass, a TypedDict, a pydantic model, or a
                plain type such as `int` or `list[str]`. Or a JSON Schema; the answer is then JSON.
            input: The prompt, a message, or a list of them.
            images: Images (content blocks or URLs) for the last message.

        Raises:
            RuntimeError: See `prompt`.
            TypeError: JSON cannot express the type.
            ConfigurationError: The JSON Schema cannot be used.
            TinyAgentError: The run did not end with such an answer. It is an error of `prompt_text`, or
                `InvalidAnswerError`. `partial_text` has the text so far.
        """
        from ._answer_form import answer_form  # plain runs do not need it

        wanted = answer_form(form)
        messages = await self._start(input_messages(input, images), form=wanted)
        check_answer(messages, self._state["limit"])
        try:
            return wanted.read(last_reply(messages))
        except InvalidAnswerError as error:
            error.partial_text = partial_text(messages)
            raise

    async def continue_(self) -> AssistantMessage:
        """Continue from the history, or with the queued messages.

        Raises:
            RuntimeError: There is nothing to answer; see also `prompt`.
        """
        messages = self._state["messages"]
        prompts: list[AgentMessage] = []
        if not messages or is_assistant(messages[-1]):
            if not self._steering:
                prompts = self._take_follow_ups()
            if not self._steering and not prompts:
                raise AgentStateError(
                    "There is nothing to continue: the history is empty."
                    if not messages
                    else "There is nothing to continue: the last message is the assistant's. Use prompt()."
                )
        return last_reply(await self._start(prompts))

    async def compact(self, instructions: str = "") -> CompactionEndEvent:
        """Ask the model for a summary of the older messages, and put it in their place.

        The latest messages and the user's last prompt stay. `AgentOptions.compaction` does the same when it
        is necessary; its settings apply here, too. Listeners get `compaction_start` and `compaction_end`.

        Args:
            instructions: What the summary should pay attention to.

        Raises:
            RuntimeError: The conversation is too short to compact; see also `prompt`.
            TinyAgentError: The model has given no complete summary. The conversation is as it was.
        """
        require_asyncio()
        self._check_ready()
        from ._loop.compaction import compact_context

        stream_fn = self.options.stream_fn
        assert stream_fn is not None
        active = self._active = ActiveRun(None)
        self._state["is_streaming"] = True
        try:
            return await compact_context(
                self._context(), self._config(None), self._emit, active.signal, stream_fn, instructions
            )
        finally:
            self._end_run(active)

    def stream(
        self, input: Input, images: Sequence[str | ImageContent] | None = None
    ) -> EventStream[AgentEvent, list[AgentMessage]]:
        """Do the same as `prompt`, and yield the events: `async for event in agent.stream("Hi")`.

        Leaving the loop early ends the run and its tasks and closes the connection. With
        `async with agent.stream("Hi") as events`, this is complete when the block ends.

        Raises:
            RuntimeError: See `prompt`.
        """
        prompts = input_messages(input, images)
        self._check_ready()

        async def run(channel: Channel[AgentEvent, list[AgentMessage]]) -> list[AgentMessage]:
            return await self._start(prompts, channel)

        return EventStream(run)

    def stream_text(self, input: Input, images: Sequence[str | ImageContent] | None = None) -> TextStream:
        """Do the same as `stream`, and yield only the pieces of text.

        After the last piece, reading raises the same errors as `prompt_text`.
        """
        return TextStream(self.stream(input, images))

    def _check_ready(self) -> None:
        active = self._running()
        if active is not None and not active.abandoned:
            raise AgentStateError(
                "The agent is streaming. Wait with wait_for_idle(), end the run with abort(), or queue the "
                "message with steer() or follow_up()."
            )
        self._model()
        if self.options.stream_fn is None:
            raise AgentStateError(
                "The agent has no stream function. Create it with AgentOptions(stream_fn=...), for example "
                "stream_openrouter."
            )

    async def _start(
        self,
        prompts: list[AgentMessage],
        channel: Channel[AgentEvent, list[AgentMessage]] | None = None,
        form: AnswerForm[object] | None = None,
    ) -> list[AgentMessage]:
        require_asyncio()
        self._check_ready()
        while (left := self._running()) is not None and left.abandoned:
            await left.wait()
        self._check_ready()
        active = self._active = ActiveRun(channel)
        self._state["is_streaming"] = True
        try:
            return await run_agent_loop(
                prompts,
                self._context(),
                self._config(form),
                self._emit,
                active.signal,
                self.options.stream_fn,
            )
        finally:
            self._end_run(active)

    def _running(self) -> ActiveRun | None:
        """Return the active run. A run whose event loop was closed cannot continue, so it has ended."""
        active = self._active
        if active is not None and active.loop.is_closed():
            self._end_run(active)
            return None
        return active

    def _end_run(self, active: ActiveRun) -> None:
        if self._active is active:
            self._active = self._latest = None
            self._state["is_streaming"] = False
            self._state["stream_message"] = None
            self._state["pending_tool_calls"] = set()
        active.end()

    def _model(self) -> ModelIdentity:
        model = self._state["model"]
        if model is None:
            raise AgentStateError("The agent has no model. Call set_model() first.")
        return model

    def _context(self) -> AgentContext:
        state = self._state
        return AgentContext(state["system_prompt"], list(state["messages"]), checked_tools(state["tools"]))

    def _config(self, form: AnswerForm[object] | None) -> AgentLoopConfig:
        state, options = self._state, self.options
        config = AgentLoopConfig(
            model=self._model(),
            convert_to_llm=options.convert_to_llm or default_convert_to_llm,
            get_steering_messages=lambda: self._steering.next(options.steering_mode),
            get_follow_up_messages=lambda: self._follow_ups.next(options.follow_up_mode),
            # None unless the level was set on the agent; the level of the model then applies.
            thinking_level=state["thinking_level"] if self._level_is_set else None,
        )
        for shared in fields(RunSettings):
            setattr(config, shared.name, getattr(options, shared.name))
        config.get_tools, config.session_id = self._current_tools, self.session_id
        if form is not None:
            config.response_schema = form.schema
            config.get_follow_up_messages = self._repairing(form)
        return config

    def _repairing(self, form: AnswerForm[object]) -> Callable[[], list[AgentMessage]]:
        """Return the follow-up messages of a run with a form: once, the request to repair the answer."""
        repaired = False

        def get_messages() -> list[AgentMessage]:
            nonlocal repaired
            repair = None if repaired else form.repair(self._state["messages"])
            if repair is None:
                return self._take_follow_ups()
            repaired = True
            if self.options.on_note is not None:
                self.options.on_note(
                    "The answer does not fit the schema. The model is asked to repair it, once."
                )
            return [repair]

        return get_messages

    async def _current_tools(self) -> list[AgentTool]:
        """Return the tools for the next request, after a call of `get_tools`."""
        if self.options.get_tools is not None:
            tools = await invoke(self.options.get_tools)
            if tools is not None:
                self.set_tools(tools)
        return self._state["tools"]

    # ---- messages to a run ------------------------------------------------------------------------------

    def steer(self, message: str | AnyAgentMessage) -> None:
        """Send a message to the run. Tool calls that have not started are skipped; the model gets it next.

        Without an active run, the message waits for the next one. It is queued until it is in the history.
        """
        self._steering.append(input_message(message))

    def follow_up(self, message: str | AnyAgentMessage) -> None:
        """Queue a message for the point where the run would otherwise end."""
        self._follow_ups.append(input_message(message))

    def clear_steering_queue(self) -> None:
        """Discard the messages that `steer` has queued."""
        self._steering.clear()

    def clear_follow_up_queue(self) -> None:
        """Discard the messages that `follow_up` has queued."""
        self._follow_ups.clear()

    def _take_follow_ups(self) -> list[AgentMessage]:
        return self._follow_ups.next(self.options.follow_up_mode)

    def abort(self) -> None:
        """End the run: its request at once, its tools soon after. May be called from any thread."""
        active = self._running()
        if active is None:
            return
        if threading.get_ident() == active.thread:
            active.signal.set()
        else:
            with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime.
                active.loop.call_soon_threadsafe(active.signal.set)

    async def wait_for_idle(self) -> None:
        """Wait until no run is active. May be called from any event loop and any thread.

        Raises:
            RuntimeError: The call is from inside the run and would never return. That includes listeners,
                callbacks, tools, and threads and tasks that a tool has started.
        """
        require_asyncio()
        while (active := self._running()) is not None:
            if is_awaited_by(active.task) or active.signal in RUNNING_TOOLS.get():
                raise AgentStateError(
                    "wait_for_idle() was called from inside the run that it would wait for."
                )
            if active.channel is not None:
                # The waiting task may be the one that should read the events.
                with contextlib.suppress(RuntimeError):  # The loop was closed in the meantime.
                    active.loop.call_soon_threadsafe(active.channel.unbind)
            await active.wait()
