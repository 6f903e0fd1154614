"""Compact the conversation of a run: ask the model for a summary, and put it in place of the older messages.

The request for the summary is no turn and has no message events; `compaction_start` and `compaction_end` are
around it on every exit. If it fails, the conversation stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from tinyagent._answer import answer_error, extract_text
from tinyagent._cancel import Aborted, call_abandonable, run_in_thread, run_to_completion
from tinyagent._stream.builder import now_ms
from tinyagent._stream.compaction import (
    ABORTED,
    CANCELLED,
    SYSTEM_PROMPT,
    Cut,
    compacted,
    context_tokens,
    find_cut,
    summary_message,
    summary_prompt,
)
from tinyagent._stream.history import repair_history
from tinyagent._stream.usage import add_usages
from tinyagent.agent_tool_execution import Emit, send
from tinyagent.agent_types import (
    AgentContext,
    AgentEvent,
    AgentLoopConfig,
    AssistantMessage,
    Compaction,
    CompactionEndEvent,
    CompactionReason,
    CompactionStartEvent,
    Message,
    StreamFn,
    Usage,
)
from tinyagent.errors import (
    AgentStateError,
    ContextOverflowError,
    InvalidReplyError,
    RunAbortedError,
    TinyAgentError,
    error_text,
)

from .limits import RunLimits
from .model_call import ModelCall

__all__ = ["Compactor", "Plan", "compact_context"]

MIN_SUMMARY_TOKENS = 4096
"""The summary may have this many tokens, although `max_tokens` allows replies fewer."""

MAX_INPUT = 0.6
"""The share of the context window that the older messages may have in the request for the summary."""

MIN_INPUT_TOKENS = 2000
"""Tokens that the older messages may have in this request in any case."""

MAX_ATTEMPTS = 3
"""How often the model is asked for a summary if the request for it is too long."""

SHRINK = 4
"""The factor by which each further request is shorter."""

CHARACTERS_PER_TOKEN = 4

MIN_SHARE = 0.1
"""The least share of the context window that is compacted. Else each turn would compact the one before it."""


class Plan(NamedTuple):
    """What a compaction will do: `cut`, of a conversation of `tokens` tokens."""

    cut: Cut
    tokens: int
    window: int | None


class Compactor:
    """Compacts the conversation of a run, or of an agent without a run.

    Attributes:
        usage: The tokens and the cost of all summaries; None if none was reported.
        gave_up: Whether a compaction before a request has failed. Then it is not tried again in the run.
    """

    def __init__(
        self,
        config: AgentLoopConfig,
        emit: Emit,
        signal: asyncio.Event | None,
        stream_fn: StreamFn,
        limits: RunLimits | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.gave_up: bool = False
        self._config = config
        self._settings = config.compaction or Compaction()
        self._emit = emit
        self._signal = signal
        self._stream_fn = stream_fn
        self._limits = limits
        self._asked: Usage | None = None
        """The usage of the requests for the last summary."""

    async def plan(self, context: AgentContext, *, near_limit: bool) -> Plan | None:
        """Return what a compaction would do now; None if it could replace nothing.

        Args:
            context: The conversation.
            near_limit: Whether a conversation below the limit of the settings is left as it is.
        """
        if not near_limit and find_cut(context.messages, 0) is None:
            return None
        # Each turn of a long conversation comes here, so the search for the cut is the last step.
        tokens = context_tokens(context.system_prompt, context.messages, context.tools)
        window = await self._window(tokens)
        if near_limit and (window is None or tokens <= self._limit(window)):
            return None
        keep = self._settings.keep * (tokens if window is None else min(tokens, window))
        cut = find_cut(context.messages, keep)
        if cut is None or (near_limit and cut.tokens < MIN_SHARE * (window or 0)):
            return None
        return Plan(cut, tokens, window)

    async def _window(self, tokens: int) -> int | None:
        window = self._settings.context_window
        if callable(window):
            window = await run_in_thread(
                partial(window, self._config.model, tokens), "tinyagent context window"
            )
        elif window is None:
            window = getattr(self._config.model, "context_window", None)
        return window if isinstance(window, int) and window > 0 else None

    def _limit(self, window: int) -> float:
        """Return the most tokens of a request: there must be room for the reply."""
        room = min(self._config.max_tokens or 0, window // 2)
        return min(window * self._settings.limit, window - room)

    async def run(
        self, context: AgentContext, plan: Plan, reason: CompactionReason, instructions: str = ""
    ) -> TinyAgentError | None:
        """Compact the conversation of `context`. Return why it is not compacted, or None.

        Raises:
            Aborted: The signal was set.
        """
        start = CompactionStartEvent(reason=reason, tokens=plan.tokens, context_window=plan.window)
        await send(self._emit, start)
        self._asked = None
        try:
            end = await self._summarise(context, plan, instructions)
        except GeneratorExit:  # The event loop was closed, so nothing can be awaited.
            raise
        except BaseException as error:
            text = error_text(error) if isinstance(error, Exception) else CANCELLED
            if isinstance(error, Aborted):
                text = ABORTED
            failed = CompactionEndEvent(tokens=plan.tokens, usage=self._asked, error_message=text)
            await run_to_completion(send(self._emit, failed))
            if isinstance(error, Aborted) or not isinstance(error, Exception):
                raise
            self.gave_up = True
            return error if isinstance(error, TinyAgentError) else InvalidReplyError(error_text(error))
        context.messages[:] = compacted(context.messages, end)
        await send(self._emit, end)
        return None

    async def _summarise(self, context: AgentContext, plan: Plan, instructions: str) -> CompactionEndEvent:
        """Return the compaction with the model's summary.

        Raises:
            Aborted: The signal was set.
            Exception: The request or a callback has failed, or the summary is empty or not complete.
        """
        sent = repair_history(await self._converted(context, plan))
        asked = "\n".join(filter(None, (self._settings.instructions, instructions)))
        text = await self._ask_until_short(sent, asked, plan)
        summary = summary_message(text, now_ms())
        kept = plan.cut.kept
        made = CompactionEndEvent(summary=summary, kept=kept)
        tokens = context_tokens(context.system_prompt, compacted(context.messages, made), context.tools)
        return CompactionEndEvent(
            summary=summary,
            kept=kept,
            replaced=len(plan.cut.older),
            tokens=tokens,
            usage=self._asked,
        )

    async def _ask_until_short(self, sent: list[Message], asked: str, plan: Plan) -> str:
        """Return the summary. A request that is too long is sent again with shorter texts.

        Raises:
            Aborted: The signal was set.
            Exception: The request has failed, or the summary is empty or not complete.
        """
        # After an overflow without a known window, the conversation itself is the measure.
        room = max(MAX_INPUT * min(plan.tokens, plan.window or plan.tokens), MIN_INPUT_TOKENS)
        for _ in range(MAX_ATTEMPTS):
            prompt = summary_prompt(sent, asked, room)
            reply = await self._ask(prompt)
            error = answer_error([reply], None)
            if not isinstance(error, ContextOverflowError):
                break
            room = min(room, len(prompt) / CHARACTERS_PER_TOKEN) / SHRINK
        if reply["stop_reason"] == "aborted":
            raise Aborted
        if error is not None:
            raise error
        text = extract_text(reply)
        if reply.get("refusal") or not text.strip():
            raise InvalidReplyError("The model gave no summary of the conversation.")
        return text

    async def _converted(self, context: AgentContext, plan: Plan) -> list[Message]:
        """Return the older messages as the model would get them."""
        config, older = self._config, list(plan.cut.older)
        if config.transform_context is not None:  # it may remove what must not leave this machine
            older = list(await call_abandonable(self._signal, config.transform_context, older, self._signal))
        converted: list[Message] = await call_abandonable(self._signal, config.convert_to_llm, older)
        return converted

    async def _ask(self, prompt: str) -> AssistantMessage:
        """Return the model's reply to a request without tools."""
        config = self._config
        most = None if config.max_tokens is None else max(config.max_tokens, MIN_SUMMARY_TOKENS)
        request = replace(
            config,
            convert_to_llm=lambda messages: messages,
            transform_context=None,
            get_tools=None,
            session_id=None,
            response_schema=None,
            max_tokens=most,
        )
        context = AgentContext(
            SYSTEM_PROMPT, [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        )
        call = ModelCall(context, request, lambda event: None, self._signal, self._stream_fn)
        reply = await call.run()
        usage = reply.get("usage")
        self._asked = add_usages([self._asked, usage])
        self.usage = add_usages([self.usage, usage])
        if self._limits is not None:
            await self._limits.count_usage(reply)
        return reply


async def compact_context(
    context: AgentContext,
    config: AgentLoopConfig,
    emit: Emit,
    signal: asyncio.Event | None,
    stream_fn: StreamFn,
    instructions: str,
) -> CompactionEndEvent:
    """Compact a conversation without a run. The result and the errors are those of `Agent.compact`."""
    ended: list[CompactionEndEvent] = []

    def watched(event: AgentEvent) -> Awaitable[None] | None:
        if isinstance(event, CompactionEndEvent):
            ended.append(event)
        return emit(event)

    compactor = Compactor(config, watched, signal, stream_fn)
    plan = await compactor.plan(context, near_limit=False)
    if plan is None:
        raise AgentStateError(
            "The conversation is too short to compact: its latest messages and the last prompt always stay."
        )
    try:
        error = await compactor.run(context, plan, "request", instructions)
    except Aborted:
        raise RunAbortedError("The compaction was aborted. The conversation is as it was.") from None
    if error is not None:
        raise error
    return ended[-1]
