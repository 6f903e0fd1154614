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
`agent_loop` wraps it in a stream. `_loop.run` has the loop itself, and `_loop.model_call` converts the events
of a provider to agent events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ._cancel import require_asyncio, run_to_completion
from ._event_stream import Channel, EventStream
from ._loop.limits import check_limits
from ._loop.model_call import ModelCall
from ._loop.run import Run
from ._stream.message_checks import checked_messages, is_assistant
from ._tool_checks import checked_tools
from .agent_tool_execution import Emit, send
from .agent_types import (
    AgentContext,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentStartEvent,
    AssistantMessage,
    Context,
    SimpleStreamOptions,
    StreamFn,
    StreamResponse,
)

__all__ = [
    "agent_loop",
    "agent_loop_continue",
    "create_agent_stream",
    "run_agent_loop",
    "stream_assistant_response",
    "stream_simple",
]


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
    run = Run(context, config, emit, signal, stream_fn or stream_simple)
    try:
        await send(emit, AgentStartEvent())
        await run.run_turns(list(prompts))
    except GeneratorExit:  # The event loop was closed: nothing can be awaited any more.
        raise
    except BaseException:
        if not run.turn_started or run.taken:
            await run_to_completion(run.emit_aborted_turn())
        await run_to_completion(run.end())
        raise
    await run.end()
    return run.new


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
    stream: EventStream[AgentEvent, list[AgentMessage]],
    stream_fn: StreamFn | None = None,
) -> AssistantMessage:
    """Call the model once, and push `message_start`, `message_update` and `message_end` to `stream`.

    The message is not added to the context. A failure becomes a message as well.
    """
    call = ModelCall(replace(context), config, stream.push, signal, stream_fn or stream_simple)
    return await call.run()


async def stream_simple(model: object, context: Context, options: SimpleStreamOptions) -> StreamResponse:
    """The default stream function, which only raises.

    Raises:
        NotImplementedError: Always. The message names stream functions to pass.
    """
    raise NotImplementedError(
        "There is no stream function. Pass one as `stream_fn`: stream_openrouter, "
        "stream_openai_completions, stream_proxy, or your own."
    )
