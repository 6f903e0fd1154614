"""A provider that replies with a script."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias, TypeVar

from tinyagent import _json
from tinyagent._cancel import Aborted, CancelScope, resolve
from tinyagent._stream.builder import MessageBuilder, StreamEvent
from tinyagent._stream.generator_reply import GeneratorReply
from tinyagent.agent_types import (
    Context,
    Model,
    ModelIdentity,
    SimpleStreamOptions,
    StopReason,
    StreamResponse,
)

__all__ = [
    "Part",
    "Piece",
    "ProviderCall",
    "Reply",
    "ScriptedProvider",
    "Step",
    "call",
    "collect",
    "text",
    "thinking",
]

T = TypeVar("T")


async def collect(stream: AsyncIterable[T]) -> list[T]:
    """Return all items of a stream."""
    return [item async for item in stream]


# ---- the script -----------------------------------------------------------------------------------

Piece: TypeAlias = str | asyncio.Event | BaseException
"""A delta; an event to wait for before the next delta; or an exception to raise."""


@dataclass(frozen=True)
class Part:
    """A block of a reply, as deltas.

    Attributes:
        kind: The type of the block.
        pieces: The deltas of its text; of a tool call, of the JSON text of its arguments.
        signature: The signature of a text or thinking block.
        call_id: The id of a tool call; the builder creates one if it is empty.
        name: The tool of a tool call.
    """

    kind: Literal["text", "thinking", "tool_call"]
    pieces: tuple[Piece, ...]
    signature: str | None = None
    call_id: str = ""
    name: str = ""


def text(*pieces: Piece, signature: str | None = None) -> Part:
    """Return a text block, with one delta for each piece."""
    return Part("text", pieces, signature)


def thinking(*pieces: Piece, signature: str | None = None) -> Part:
    """Return a thinking block, with one delta for each piece."""
    return Part("thinking", pieces, signature)


def call(name: str, /, *pieces: Piece, call_id: str = "", **arguments: object) -> Part:
    """Return a tool call.

    Args:
        name: The name of the tool.
        pieces: The JSON text of the arguments as deltas. It may be invalid.
        call_id: The id; the builder creates one if it is empty.
        arguments: The arguments, if there are no `pieces`.
    """
    return Part("tool_call", pieces or (_json.encode(arguments).decode(),), call_id=call_id, name=name)


@dataclass(frozen=True, init=False)
class Reply:
    """The reply to one model call.

    Args:
        parts: The blocks. A string is a text block with one delta for each word.
        stop_reason: By default `tool_use` if there is a call, else `stop`.
        error: End as an `error` message with this text, after the parts.
        hang: After the parts, send nothing until the call is aborted or cancelled.
        ends: False omits the last event: the stream just ends.
        fields: Other fields of the final message: `usage`, `finish_reason`, `error_kind`, …
    """

    parts: tuple[Part, ...]
    stop_reason: StopReason
    error: str | None
    hang: bool
    ends: bool
    fields: Mapping[str, object]

    def __init__(
        self,
        *parts: str | Part,
        stop_reason: StopReason | None = None,
        error: str | None = None,
        hang: bool = False,
        ends: bool = True,
        **fields: object,
    ) -> None:
        blocks = tuple(text(*_split_words(part)) if isinstance(part, str) else part for part in parts)
        has_calls = any(part.kind == "tool_call" for part in blocks)
        default: StopReason = "error" if error is not None else "tool_use" if has_calls else "stop"
        values = {
            "parts": blocks,
            "stop_reason": stop_reason or default,
            "error": error,
            "hang": hang,
            "ends": ends,
            "fields": fields,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


StepValue: TypeAlias = str | Reply | BaseException
Step: TypeAlias = StepValue | Callable[[Context, SimpleStreamOptions], StepValue | Awaitable[StepValue]]
"""A text, a reply, an exception for the call to raise, or a function (sync or async) that returns one."""


# ---- the provider -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProviderCall:
    """One call of a provider. The context is a copy from the time of the call."""

    model: ModelIdentity
    context: Context
    options: Mapping[str, object]


class ScriptedProvider:
    """A `StreamFn` that answers each model call with the next step of a script.

    As a context manager, sync or async, it raises `AssertionError` at the end if a step is left, or if there
    were more calls than steps; so does `assert_finished`.

    Attributes:
        calls: The calls so far, in order.
    """

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self.calls: list[ProviderCall] = []

    async def __call__(
        self, model: ModelIdentity, context: Context, options: SimpleStreamOptions
    ) -> StreamResponse:
        """Answer with the next step."""
        number = len(self.calls)
        copied = Context(context.system_prompt, copy.deepcopy(context.messages), copy.copy(context.tools))
        self.calls.append(ProviderCall(model, copied, dict(options)))
        step = self._steps[number] if number < len(self._steps) else Reply(error=self._surplus())
        answer: StepValue
        if isinstance(step, str | Reply | BaseException):
            answer = step
        else:
            answer = await resolve(step(context, options))
        if isinstance(answer, BaseException):
            raise answer
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        return GeneratorReply(_play(reply, model, options.get("signal")))

    @property
    def model(self) -> Model:
        """A model for this provider."""
        return Model(provider="scripted", id="scripted", api="scripted")

    def _surplus(self) -> str:
        return f"ScriptedProvider: call {len(self.calls)}, but the script has {len(self._steps)} step(s)"

    def assert_finished(self) -> None:
        """Check that there were as many calls as steps.

        Raises:
            AssertionError: There were more or fewer.
        """
        if len(self.calls) > len(self._steps):
            raise AssertionError(self._surplus())
        if len(self.calls) < len(self._steps):
            left = len(self._steps) - len(self.calls)
            raise AssertionError(
                f"ScriptedProvider: {left} of {len(self._steps)} step(s) not used, "
                f"the first of them {self._steps[len(self.calls)]!r}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:  # An error of the block is shown instead.
            self.assert_finished()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


async def _play(
    reply: Reply, model: ModelIdentity, signal: asyncio.Event | None
) -> AsyncGenerator[StreamEvent, None]:
    builder = MessageBuilder(model)
    yield builder.start()
    try:
        for part in reply.parts:
            if part.kind == "tool_call":
                index, event = builder.open_tool_call(part.call_id, part.name)
            elif part.kind == "thinking":
                index, event = builder.open_thinking()
            else:
                index, event = builder.open_text()
            yield event
            for piece in part.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await _wait(piece, signal)
                else:
                    yield builder.delta(index, piece)
            signed = {} if part.signature is None else {f"{part.kind}_signature": part.signature}
            yield builder.close(index, **signed)
        if reply.hang:
            await _wait(asyncio.Event(), signal)
    except Aborted:
        yield builder.fail("aborted", "The call was aborted.")
        return
    if reply.error is not None:
        yield builder.fail(reply.stop_reason, reply.error, **reply.fields)
    elif reply.ends:
        yield builder.done(reply.stop_reason, **reply.fields)


async def _wait(gate: asyncio.Event, signal: asyncio.Event | None) -> None:
    async with CancelScope(signal):
        await gate.wait()


def _split_words(content: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", content)
