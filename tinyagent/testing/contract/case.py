"""The common part of the tests of `ProviderContract`: settings, calls of the provider, runs of the loop."""

from __future__ import annotations

import asyncio
import traceback
import unittest
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import getattr_static
from typing import ClassVar, TypeVar, Unpack

from tinyagent.agent_loop import agent_loop
from tinyagent.agent_types import (
    AgentContext,
    AgentEndEvent,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentTool,
    AgentToolResult,
    AgentToolUpdateCallback,
    AssistantMessage,
    Context,
    ImageContent,
    JsonDict,
    ModelIdentity,
    SimpleStreamOptions,
    StreamFn,
    StreamResponse,
    TextContent,
    ThinkingContent,
    ToolCallContent,
    ToolResultMessage,
)
from tinyagent.errors import TinyAgentError
from tinyagent.testing.grammar import check_grammar, check_reply
from tinyagent.testing.messages import is_assistant, is_tool_result, user
from tinyagent.testing.scripted import collect
from tinyagent.testing.server import FakeReply, FakeServer, RecordedRequest
from tinyagent.testing.wires import Block, Script, Wire

from .checks import expect, expect_equal, within

__all__ = [
    "FEATURES",
    "IMAGE",
    "PNG",
    "SIGNATURE",
    "CallOutcome",
    "ContractCase",
    "LookTool",
    "ProviderUnderTest",
    "check_closed",
    "text_block",
    "thinking_block",
    "tool_call_block",
]

T = TypeVar("T")

KEY = "sk-test-CANARY-0123456789abcdef"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)  # fmt: skip
IMAGE: ImageContent = {"type": "image", "url": f"data:image/png;base64,{PNG}", "mime_type": "image/png"}
SIGNATURE = "c2lnbmF0dXJlLW9uZQ=="

FEATURES = {
    "content": "the test sets the content of the reply",
    "http": "the provider sends requests to a server",
    "request": "the request contains what the call was given",
    "thinking": "the provider streams reasoning",
    "tools": "the model calls tools",
    "images": "the provider sends images",
    "usage": "the provider counts tokens",
    "errors": "a reply can fail after it has started",
    "retries": "the provider sends a request again after a temporary failure",
    "timeout": "the provider observes options['timeout']",
    "waiting": "a call that waits for its server can be left, also by options['signal']",
}
"""The features that `ProviderContract.exempt` may name."""


# ---- blocks -----------------------------------------------------------------------------------------


def text_block(text: str) -> TextContent:
    """Return a text block."""
    return {"type": "text", "text": text}


def thinking_block(text: str) -> ThinkingContent:
    """Return a thinking block."""
    return {"type": "thinking", "thinking": text, "thinking_signature": SIGNATURE}


def tool_call_block(call_id: str, /, **arguments: object) -> ToolCallContent:
    """Return a call of the tool `look`."""
    return {"type": "tool_call", "id": call_id, "name": "look", "arguments": arguments}


# ---- the provider and its outcome ---------------------------------------------------------------------


@dataclass
class CallOutcome:
    """The outcome of one call.

    Attributes:
        events: The events of the reply.
        message: Its message; None if the call raised an error.
        error: The error that the call raised before the reply started.
    """

    events: list[Mapping[str, object]] = field(default_factory=list)
    message: AssistantMessage | None = None
    error: TinyAgentError | None = None

    @property
    def reply(self) -> AssistantMessage:
        """The message.

        Raises:
            AssertionError: The call raised an error.
        """
        if self.message is None:
            raise AssertionError(f"the call raised {self.error!r}")
        return self.message

    @property
    def error_kind(self) -> str | None:
        """The kind of the error; None after success."""
        return self.error.kind if self.error is not None else self.reply.get("error_kind")

    @property
    def error_text(self) -> str:
        """The text of the error; empty after success."""
        return str(self.error) if self.error is not None else self.reply.get("error_message", "")

    @property
    def stop_reason(self) -> str:
        """The stop reason of the message; `error` if the call raised."""
        return "error" if self.error is not None else self.reply["stop_reason"]

    @property
    def text(self) -> str:
        """The text of all text blocks of the message."""
        content = () if self.message is None else self.message["content"]
        return "".join(block["text"] for block in content if block["type"] == "text")


@dataclass
class ProviderUnderTest:
    """A provider that is ready for calls.

    Attributes:
        stream_fn: The provider.
        model: The model for its calls.
        server: Its server; None if it has no server.
    """

    stream_fn: StreamFn
    model: ModelIdentity
    server: FakeServer | None = None

    def requests(self) -> list[RecordedRequest]:
        """Return the requests that the server has received."""
        assert self.server is not None
        return self.server.requests


class LookTool:
    """The tool `look`, which records its calls.

    Args:
        results: The results of the first calls; further calls return the text `seen`.

    Attributes:
        calls: The arguments of each call.
    """

    def __init__(self, *results: AgentToolResult) -> None:
        self.calls: list[JsonDict] = []
        self._results = list(results)

    async def execute(
        self,
        call_id: str,
        arguments: JsonDict,
        signal: asyncio.Event | None,
        report: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        """Record the call and return the next result."""
        self.calls.append(arguments)
        return self._results.pop(0) if self._results else AgentToolResult([text_block("seen")])

    def tool(self) -> AgentTool:
        """Return the tool for an `AgentContext`."""
        parameters = {
            "type": "object",
            "properties": {"at": {"type": "string", "description": "what-to-look-at"}},
        }
        return AgentTool("look", "Look at something.", parameters, execute=self.execute)


async def check_closed(provider: ProviderUnderTest) -> None:
    """Check that the provider closes its connection."""
    if provider.server is not None:
        async with within(2, "its connection is still open"):
            await provider.server.wait_closed()


# ---- the settings of the contract -----------------------------------------------------------------------


class ContractCase:
    """The settings of a `ProviderContract`, which describes them, and what its tests call."""

    # Not `StreamFn`: type checkers take a function in the body of a class for a method.
    stream_fn: Callable[..., Awaitable[StreamResponse]] | None = None
    wire: ClassVar[Wire | None] = None
    exempt: ClassVar[Mapping[str, str]] = {}
    retries: ClassVar[int] = 2
    patience: ClassVar[float] = 15.0
    key: ClassVar[str] = KEY

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        unknown = set(cls.exempt) - set(FEATURES)
        if unknown:
            known = ", ".join(FEATURES)
            raise TypeError(f"{cls.__name__}.exempt: {unknown.pop()!r} is not a feature; features: {known}")

    def make_model(self, base_url: str) -> ModelIdentity:
        """Return a model at this URL, which is empty for a provider without a server."""
        raise NotImplementedError(f"{type(self).__name__} has no make_model")

    def options(self) -> SimpleStreamOptions:
        """Return the options of every call."""
        return {"api_key": self.key}

    @asynccontextmanager
    async def serve(self, *replies: Script | FakeReply) -> AsyncIterator[ProviderUnderTest]:
        """Provide the provider with a server that sends these replies.

        A provider without a server that can follow a script overrides it.
        """
        found = getattr_static(type(self), "stream_fn")
        stream_fn = found.__func__ if isinstance(found, staticmethod) else found
        wire = self.wire
        if wire is None:
            yield ProviderUnderTest(stream_fn, self.make_model(""))
            return
        scripted = [wire.reply(reply) if isinstance(reply, Script) else reply for reply in replies]
        async with FakeServer(*scripted) as server:
            yield ProviderUnderTest(stream_fn, self.make_model(server.url), server)

    # ---- for the tests ----------------------------------------------------------------------------------

    def _run(self, test: Coroutine[object, object, T]) -> T:
        """Run a test in its own event loop, and check that it leaves no task."""

        async def limited() -> T:
            async with within(self.patience, f"it hangs: not complete after {self.patience:g} s"):
                result = await test
            for _ in range(50):  # ended tasks need some steps, and so do the nested generators of httpx
                left = asyncio.all_tasks() - {asyncio.current_task()}
                if not left:
                    break
                await asyncio.sleep(0)
            expect(not left, f"it leaves tasks behind: {left}")
            return result

        return asyncio.run(limited())

    def _require(self, *features: str) -> None:
        """Skip the test if the provider does not have these features."""
        for feature in features:
            reason = self.exempt.get(feature)
            if reason is None and self.wire is None:
                if feature in ("http", "request", "retries", "timeout", "images"):
                    reason = "it has no server"
                elif type(self).serve is ContractCase.serve:
                    reason = "its replies cannot be scripted"
            if reason is not None:
                raise unittest.SkipTest(f"{FEATURES[feature]}: {reason}")

    def _has(self, feature: str) -> bool:
        return feature not in self.exempt

    async def _start(
        self,
        provider: ProviderUnderTest,
        context: Context | None = None,
        **options: Unpack[SimpleStreamOptions],
    ) -> StreamResponse:
        """Start a call."""
        given: SimpleStreamOptions = {**self.options(), **options}
        default = Context("be-brief", [user("hello-there")])
        return await provider.stream_fn(provider.model, default if context is None else context, given)

    async def _call(
        self,
        provider: ProviderUnderTest,
        context: Context | None = None,
        **options: Unpack[SimpleStreamOptions],
    ) -> CallOutcome:
        """Make one call, and check the promises that hold for every call."""
        outcome = CallOutcome()
        try:
            response = await self._start(provider, context, **options)
        except TinyAgentError as error:
            outcome.error = error
        else:
            try:
                outcome.events += [event async for event in response]
                outcome.message = await response.result()
            except Exception as error:
                raise AssertionError(
                    f"after the start of the reply an error is an event, not an exception: {error!r}"
                ) from error
            check_reply(outcome.events)
            last = outcome.events[-1]
            message = last.get("message") or last.get("error")
            expect_equal(message, outcome.message, "result() is the last message")
        self._check_secrets(outcome)
        return outcome

    def _check_secrets(self, outcome: CallOutcome) -> None:
        shown = repr([outcome.events, outcome.message])
        if outcome.error is not None:
            shown += "".join(traceback.format_exception(outcome.error))
            shown += repr([outcome.error, vars(outcome.error)])
        expect(self.key not in shown, "the key is in an event, a message or an error")

    async def _run_loop(
        self, provider: ProviderUnderTest, tool: LookTool, *history: AgentMessage
    ) -> list[AgentMessage]:
        """Run the agent loop with this tool, and return the new messages."""
        context = AgentContext("be-brief", list(history), [tool.tool()])
        config = AgentLoopConfig(provider.model, convert_to_llm=lambda messages: messages)
        for name, value in self.options().items():
            setattr(config, name, value)
        stream = agent_loop([user("hello-there")], context, config, None, provider.stream_fn)
        events: list[AgentEvent] = await collect(stream)
        check_grammar(events)
        expect(self.key not in repr(events), "the key is in an event")
        last = events[-1]
        return last.messages if isinstance(last, AgentEndEvent) else []

    def _fail(
        self, script: Script | FakeReply, **options: Unpack[SimpleStreamOptions]
    ) -> tuple[CallOutcome, int]:
        """Make a call that must fail, and return its outcome and the number of requests."""

        async def test() -> tuple[CallOutcome, int]:
            async with self.serve(*[script] * (1 + self.retries)) as provider:
                outcome = await self._call(provider, **options)
                return outcome, len(provider.requests()) if provider.server is not None else 1

        outcome, requests = self._run(test())
        expect_equal("error", outcome.stop_reason, "it fails")
        expect(bool(outcome.error_text), "it has an error text")
        return outcome, requests

    @staticmethod
    def _replies(messages: list[AgentMessage]) -> list[AssistantMessage]:
        return [message for message in messages if is_assistant(message)]

    @staticmethod
    def _results(messages: list[AgentMessage]) -> list[ToolResultMessage]:
        return [message for message in messages if is_tool_result(message)]

    def _check_content(self, content: Sequence[Block], message: AssistantMessage) -> None:
        fields = ("type", "text", "thinking", "id", "name", "arguments")
        wanted, found = (
            [{key: value for key, value in block.items() if key in fields} for block in blocks]
            for blocks in (content, message["content"])
        )
        expect_equal(wanted, found, "the content")
