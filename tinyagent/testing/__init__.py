"""For tests of agents, providers and tools, of plugin authors too.

    async with ScriptedProvider(Reply(call("calc", expression="6*7")), "It is 42.") as provider:
        agent = Agent(AgentOptions(initial_state={...}, stream_fn=provider))
        events = await collect(agent.stream("What is 6 * 7?"))
    check_grammar(events)

`ScriptedProvider` is strict: a call that the script does not have fails, and so does a step that was not
used. `check_grammar` holds a run against the grammar of `tinyagent.agent_loop`, `check_reply` one reply of a
provider against that of its events. `FakeServer` is a loopback server that says any bytes.

The author of a provider inherits the tests that every provider has to pass:

    class TestAcme(ProviderContract):
        wire, stream_fn = ChatWire(), stream_acme

        def make_model(self, base_url):
            return AcmeModel(id="m", base_url=base_url)
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

from tinyagent import _json
from tinyagent._cancel import Aborted, CancelScope, resolve
from tinyagent._stream.builder import MessageBuilder, ModelIdentity, StreamEvent, copy_message
from tinyagent._stream.response import Response
from tinyagent.agent_types import (
    AgentEvent,
    AgentToolResult,
    Context,
    MessageUpdateEvent,
    Model,
    StopReason,
    StreamResponse,
)

if TYPE_CHECKING:
    from .contract import ProviderContract, check_reply
    from .server import (
        FakeReply,
        FakeServer,
        Hangup,
        Hold,
        RecordedRequest,
        Reset,
        Sleep,
        Wait,
        chat_chunk,
        sse,
    )
    from .wires import AnthropicWire, ChatWire, ProxyWire, ResponsesWire, Script, Wire

__all__ = [
    "AnthropicWire",
    "ChatWire",
    "FakeReply",
    "FakeServer",
    "Hangup",
    "Hold",
    "ProviderCall",
    "ProviderContract",
    "ProxyWire",
    "RecordedRequest",
    "Reply",
    "Reset",
    "ResponsesWire",
    "Script",
    "ScriptedProvider",
    "Sleep",
    "Wait",
    "Wire",
    "assistant",
    "call",
    "chat_chunk",
    "check_grammar",
    "check_reply",
    "collect",
    "sse",
    "text",
    "thinking",
    "tool_result",
    "user",
]

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    if name in __all__:  # These need modules that most tests do not.
        from . import contract as _provider_contract
        from . import server as _fake_server
        from . import wires as _server_wires

        for module in (_fake_server, _server_wires, _provider_contract):
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def collect(stream: AsyncIterable[T]) -> list[T]:
    """Everything that a stream gives."""
    return [item async for item in stream]


# ---- messages -------------------------------------------------------------------------------------


def user(content: str, *, timestamp: int = 1) -> dict[str, Any]:
    """A user message of one text."""
    return {"role": "user", "content": [{"type": "text", "text": content}], "timestamp": timestamp}


def assistant(*content: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An assistant message; a string is a text block, `fields` are set on the message."""
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    calls = any(block["type"] == "tool_call" for block in blocks)
    return {
        "role": "assistant",
        "content": blocks,
        "stop_reason": "tool_use" if calls else "stop",
        "timestamp": 1,
        "api": "scripted",
        "provider": "scripted",
        "model": "scripted",
        "usage": None,
        **fields,
    }


def tool_result(call_id: str, name: str, content: str, **fields: Any) -> dict[str, Any]:
    """A tool result message of one text; `fields` are set on the message."""
    return {
        "role": "tool_result",
        "tool_call_id": call_id,
        "tool_name": name,
        "content": [{"type": "text", "text": content}],
        "details": {},
        "is_error": False,
        "timestamp": 1,
        **fields,
    }


# ---- the scripted provider --------------------------------------------------------------------------

Piece: TypeAlias = str | asyncio.Event | BaseException
"""One delta; an event that is waited for before the next; or what is raised in the middle."""


@dataclass(frozen=True)
class Part:
    """A block of a reply, delta by delta."""

    kind: str
    pieces: tuple[Piece, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


def text(*pieces: Piece, signature: str | None = None) -> Part:
    """A text block, one delta a piece."""
    return Part("text", pieces, {} if signature is None else {"text_signature": signature})


def thinking(*pieces: Piece, signature: str | None = None) -> Part:
    """A thinking block, one delta a piece."""
    return Part("thinking", pieces, {} if signature is None else {"thinking_signature": signature})


def call(name: str, /, *pieces: Piece, call_id: str = "", **arguments: Any) -> Part:
    """A tool call; its arguments as keywords, or as pieces of JSON text that may be wrong."""
    given = pieces or (_json.encode(arguments).decode(),)
    return Part("tool_call", given, {"id": call_id, "name": name})


@dataclass(frozen=True, init=False)
class Reply:
    """What one model call answers.

    Args:
        parts: Blocks; a plain string is a text block with one delta a word.
        stop_reason: `tool_use` if there is a call, else `stop`.
        error: End as an `error` message that says this, after the parts.
        hang: After the parts, say nothing more until the call is aborted or cancelled.
        ends: False leaves out the end: the stream just stops.
        fields: More of the final message: `usage`, `finish_reason`, `error_kind`, …
    """

    parts: tuple[Part, ...]
    stop_reason: StopReason
    error: str | None
    hang: bool
    ends: bool
    fields: Mapping[str, Any]

    def __init__(
        self,
        *parts: str | Part,
        stop_reason: StopReason | None = None,
        error: str | None = None,
        hang: bool = False,
        ends: bool = True,
        **fields: Any,
    ) -> None:
        blocks = tuple(text(*_words(part)) if isinstance(part, str) else part for part in parts)
        calls = any(part.kind == "tool_call" for part in blocks)
        values = {
            "parts": blocks,
            "stop_reason": stop_reason or ("error" if error is not None else "tool_use" if calls else "stop"),
            "error": error,
            "hang": hang,
            "ends": ends,
            "fields": fields,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


Step: TypeAlias = "str | Reply | BaseException | Callable[[Context, Mapping[str, Any]], Any]"
"""A text; a reply; an exception that the call raises; or a function (sync or async) that gives one."""


@dataclass(frozen=True)
class ProviderCall:
    """One call that a provider got, as it was at that moment."""

    model: Any
    context: Context
    options: Mapping[str, Any]


class ScriptedProvider:
    """A `StreamFn` that answers each model call with the next step of a script.

    Used as a context manager, sync or async, it fails at the end if a step was left or a call too many
    was made; `assert_finished` does the same.

    Attributes:
        calls: What was asked.
    """

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self.calls: list[ProviderCall] = []

    async def __call__(self, model: Any, context: Context, options: Mapping[str, Any]) -> StreamResponse:
        """Answer with the next step."""
        number = len(self.calls)
        seen = Context(context.system_prompt, copy.deepcopy(context.messages), copy.copy(context.tools))
        self.calls.append(ProviderCall(model, seen, dict(options)))
        step: Any = self._steps[number] if number < len(self._steps) else Reply(error=self._surplus())
        if callable(step) and not isinstance(step, Reply | BaseException):
            step = await resolve(step(context, options))
        if isinstance(step, BaseException):
            raise step
        reply = step if isinstance(step, Reply) else Reply(str(step))
        return Response(_play(reply, model, options.get("signal")))

    @property
    def model(self) -> Model:
        """A model to go with it."""
        return Model(provider="scripted", id="scripted", api="scripted")

    def _surplus(self) -> str:
        return f"ScriptedProvider: call {len(self.calls)}, but the script has {len(self._steps)} step(s)"

    def assert_finished(self) -> None:
        """Fail unless every step was used, and none was missing."""
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
        if error is None:  # The first failure is the one to see.
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
                index, event = builder.open_tool_call(part.fields["id"], part.fields["name"])
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
            signatures = {} if part.kind == "tool_call" else part.fields
            yield builder.close(index, **signatures)
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


def _words(content: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", content)


# ---- the grammar of a run -----------------------------------------------------------------------------

# state -> event -> next state. `user` is any message but an assistant's and a tool's result.
_GRAMMAR: dict[str, dict[str, str]] = {
    "before": {"agent_start": "run"},
    "run": {"turn_start": "turn"},
    "turn": {"message_start:user": "in user", "message_start:assistant": "in assistant"},
    "in user": {"message_end:user": "turn"},
    "in assistant": {"message_update": "in assistant", "message_end:assistant": "tools"},
    "tools": {
        "tool_execution_start": "tools",
        "tool_execution_update": "tools",
        "tool_execution_end": "tools",
        "message_start:tool_result": "in result",
        "turn_end": "after turn",
    },
    "in result": {
        "tool_execution_start": "in result",
        "tool_execution_update": "in result",
        "tool_execution_end": "in result",
        "message_end:tool_result": "tools",
    },
    "after turn": {"turn_start": "turn", "agent_end": "after"},
    "after": {},
}


def check_grammar(events: Iterable[AgentEvent]) -> None:
    """Assert that these are the events of one whole run, in an order that the grammar allows.

    Also that each execution has its call, its end and its result; that results come in the order
    of the calls; and that `turn_end` and `agent_end` hold the messages that ended before them.

    Raises:
        AssertionError: that names the event, its place, and what was expected there.
    """
    _Checker(list(events)).check()


class _Checker:
    def __init__(self, events: list[Any]) -> None:
        self._events = events
        self._index = 0
        self._state = "before"
        self._begun: Any = None
        self._calls: list[dict[str, Any]] = []
        self._executing: dict[str, Any] = {}
        self._executed: dict[str, Any] = {}
        self._message: Any = None
        self._results: list[Any] = []
        self._new: list[Any] = []

    def check(self) -> None:
        for index, event in enumerate(self._events):
            self._index = index
            name = self._name(event)
            following = _GRAMMAR[self._state].get(name)
            self._expect(following is not None, self._allowed())
            check = getattr(self, f"_{event.type}", None)
            if check is not None:
                check(event)
            self._state = cast(str, following)
        if self._state != "after":
            raise AssertionError(f"after the last event ({len(self._events)} in all): {self._allowed()}")

    def _name(self, event: Any) -> str:
        kind = getattr(event, "type", None)
        if kind not in ("message_start", "message_end"):
            return str(kind)
        role = event.message.get("role")
        return f"{kind}:{role if role in ('assistant', 'tool_result') else 'user'}"

    def _allowed(self) -> str:
        names = ", ".join(_GRAMMAR[self._state]) or "nothing more"
        return f"in the state {self._state!r} expected {names}"

    def _expect(self, holds: bool, expected: str) -> None:
        if not holds:
            event = self._events[self._index]
            raise AssertionError(f"event {self._index} ({self._name(event)}): {expected}; got {event!r}")

    # ---- what an event must agree with ------------------------------------------------------------

    def _turn_start(self, event: Any) -> None:
        self._calls, self._results, self._message = [], [], None
        self._executing, self._executed = {}, {}

    def _message_start(self, event: Any) -> None:
        self._begun = event.message
        if event.message.get("role") == "assistant":
            self._expect(event.message["content"] == [], "an assistant's message starts empty")
        elif event.message.get("role") == "tool_result":
            call_id = event.message["tool_call_id"]
            self._expect(call_id in self._executed, "a result comes after its tool_execution_end")
            due = self._calls[len(self._results)]["id"] if len(self._results) < len(self._calls) else None
            self._expect(call_id == due, f"results keep the order of the calls, so that of {due!r}")

    def _message_update(self, event: MessageUpdateEvent) -> None:
        kind = event.assistant_message_event.get("type")
        self._expect(kind not in ("start", "done", "error"), "an update is a step of a block")

    def _message_end(self, event: Any) -> None:
        message = event.message
        role = message.get("role")
        if role == "assistant":
            self._message = message
            self._calls = [block for block in message["content"] if block["type"] == "tool_call"]
        else:
            self._expect(message == self._begun, "a message ends as it began")
        if role == "tool_result":
            end = self._executed[message["tool_call_id"]]
            for key, value in (
                ("tool_name", end.tool_name),
                ("content", end.result.content),
                ("details", end.result.details),
                ("is_error", end.is_error),
            ):
                self._expect(message[key] == value, f"{key} is that of tool_execution_end, {value!r}")
            self._results.append(message)
        self._new.append(message)

    def _tool_execution_start(self, event: Any) -> None:
        call_id = event.tool_call_id
        named = [block["name"] for block in self._calls if block["id"] == call_id]
        self._expect(named == [event.tool_name], "a call of the turn's message, by id and name")
        fresh = call_id not in self._executing and call_id not in self._executed
        self._expect(fresh, "a call is executed once")
        reason = self._message.get("stop_reason")
        self._expect(reason not in ("error", "aborted"), f"no tool runs after stop_reason {reason!r}")
        self._executing[call_id] = event

    def _tool_execution_update(self, event: Any) -> None:
        self._expect(event.tool_call_id in self._executing, "an update of an execution that is under way")
        self._expect(isinstance(event.partial_result, AgentToolResult), "an AgentToolResult")

    def _tool_execution_end(self, event: Any) -> None:
        self._expect(event.tool_call_id in self._executing, "the end of an execution that is under way")
        self._expect(isinstance(event.result, AgentToolResult), "an AgentToolResult")
        start = self._executing.pop(event.tool_call_id)
        self._expect(event.tool_name == start.tool_name, f"the name {start.tool_name!r}, as at its start")
        self._executed[event.tool_call_id] = event

    def _turn_end(self, event: Any) -> None:
        self._expect(not self._executing, f"the ends of {sorted(self._executing)}")
        missing = sorted(set(self._executed) - {result["tool_call_id"] for result in self._results})
        self._expect(not missing, f"the results of {missing}")
        if self._message["stop_reason"] not in ("error", "aborted"):
            count = len(self._calls)
            self._expect(count == len(self._results), f"{count} result(s), one for each call")
        self._expect(event.message == self._message, "the turn's assistant message")
        self._expect(event.tool_results == self._results, "the turn's results, in order")

    def _agent_end(self, event: Any) -> None:
        expected = [copy_message(message) for message in self._new]
        self._expect(event.messages == expected, f"the {len(expected)} message(s) that ended, in order")
        self._expect(event.limit in (None, "max_turns", "budget", "repeat"), "a limit, or None")
