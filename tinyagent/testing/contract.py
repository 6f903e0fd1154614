"""The behaviours that every provider owes, as tests that its author inherits.

    from tinyagent.testing import ChatWire, ProviderContract

    class TestAcme(ProviderContract):
        wire, stream_fn = ChatWire(), stream_acme

        def make_model(self, base_url):
            return AcmeModel(id="m", base_url=base_url)

pytest finds the tests in the class. A server on loopback, which `base_url` names, speaks the wire's protocol
and does what servers do on bad days. The tests are plain functions that run a loop of their own, so no
plugin of pytest is needed; each fails after `patience` seconds, and if it leaves a task behind.

`wire` is a `ChatWire`, `AnthropicWire`, `ResponsesWire` or `ProxyWire`, or a `Wire` of your own. A
provider without a server leaves it out: then what it says is not known, and only the order of its events is
held against it, unless it overrides `serve`. What a provider cannot do stands in `exempt`, with the reason.
"""

from __future__ import annotations

import asyncio
import traceback
import unittest
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import getattr_static
from typing import Any, ClassVar, Literal, TypeVar

from tinyagent.agent_loop import agent_loop
from tinyagent.agent_types import (
    AgentContext,
    AgentLoopConfig,
    AgentTool,
    AgentToolResult,
    AgentToolUpdateCallback,
    Context,
    StreamFn,
)
from tinyagent.errors import TinyAgentError
from tinyagent.testing import check_grammar, collect, user

from .server import FakeReply, FakeServer, Hold, RecordedRequest, Step
from .wires import Block, Script, Wire

__all__ = ["FEATURES", "Heard", "ProviderContract", "Served", "check_reply"]

T = TypeVar("T")

KEY = "sk-test-CANARY-0123456789abcdef"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)  # fmt: skip
IMAGE = {"type": "image", "url": f"data:image/png;base64,{PNG}", "mime_type": "image/png"}
SIGNATURE = "c2lnbmF0dXJlLW9uZQ=="

FEATURES = {
    "content": "what it says can be scripted",
    "http": "it asks a server",
    "request": "its request holds what it was given",
    "thinking": "it streams reasoning",
    "tools": "it calls tools",
    "images": "it sends images",
    "usage": "it counts tokens",
    "errors": "its replies can fail in their middle",
    "retries": "it asks again after a failure that may pass",
    "timeout": "it honours options['timeout']",
    "waiting": "its reply can be left, by options['signal'] too, while it waits for more",
}
"""What `ProviderContract.exempt` may name."""


def _text(said: str) -> Block:
    return {"type": "text", "text": said}


def _thinking(thought: str, signature: str | None = SIGNATURE) -> Block:
    signed = {} if signature is None else {"thinking_signature": signature}
    return {"type": "thinking", "thinking": thought, **signed}


def _call(call_id: str, /, **arguments: Any) -> Block:
    return {"type": "tool_call", "id": call_id, "name": "look", "arguments": arguments}


# ---- what was heard -----------------------------------------------------------------------------------


@dataclass
class Heard:
    """What came of one call: events and message, or the error that it raised before the reply began."""

    events: list[Any] = field(default_factory=list)
    message: Mapping[str, Any] = field(default_factory=dict)
    error: TinyAgentError | None = None

    @property
    def kind(self) -> str | None:
        """The kind of the failure; None for a success."""
        return self.error.kind if self.error is not None else self.message.get("error_kind")

    @property
    def words(self) -> str:
        """What the failure says."""
        return str(self.error) if self.error is not None else self.message.get("error_message") or ""

    @property
    def stop_reason(self) -> str:
        """How it ended, in the words of a message."""
        return "error" if self.error is not None else str(self.message["stop_reason"])

    def said(self, kind: str) -> str:
        """All of a kind (`text`, `thinking`) that the message holds."""
        content = self.message.get("content", ())
        return "".join(block[kind] for block in content if block["type"] == kind)


@dataclass
class Served:
    """A provider with somebody to ask: the server, if it has one."""

    stream_fn: StreamFn
    model: Any
    server: FakeServer | None = None

    def requests(self) -> list[RecordedRequest]:
        """What the server was asked."""
        assert self.server is not None
        return self.server.requests


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _equal(expected: object, actual: object, what: str) -> None:
    if expected != actual:
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    """What is done here takes no longer, or that is what is wrong."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise AssertionError(what) from None
        raise


async def _closed(served: Served) -> None:
    """The provider has closed its connection."""
    if served.server is not None:
        async with _within(2, "its connection is still open"):
            await served.server.wait_closed()


def check_reply(events: Iterable[Any]) -> None:
    """Assert that these are the events of one whole reply, as a `StreamFn` owes them.

    `start` first; blocks opened in the order of their index, their deltas inside them, each closed once
    in a reply that succeeds; at the end one `done` or `error`, whose message holds what the deltas said, no
    more and no less. Where an event has a `partial`, that is the message of its own moment.

    Raises:
        AssertionError: that names the event and its place.
    """
    _ReplyChecker(list(events)).check()


class _ReplyChecker:
    PARTIALS = 64
    """So many deltas are asked for their `partial`: each costs the length of the message."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events
        self._kinds: list[str] = []
        self._said: list[list[str]] = []
        self._closed: dict[int, Mapping[str, Any]] = {}
        self._partials = 0
        self._at = 0

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(f"event {self._at} ({self._events[self._at]['type']}): {what}")

    def check(self) -> None:
        events = self._events
        _expect(bool(events), "the reply has no events")
        self._expect(events[0]["type"] == "start", "a reply begins with `start`")
        for self._at, event in enumerate(events[1:-1], 1):
            kind, _, step = str(event["type"]).rpartition("_")
            known = kind in ("text", "thinking", "tool_call") and step in ("start", "delta", "end")
            self._expect(known, "between `start` and the end there are steps of blocks only")
            self._step(kind, step, event)
            if self._partials < self.PARTIALS and "partial" in event:
                self._check_partial(event["partial"], event["content_index"])
        self._at = len(events) - 1
        last = events[-1]
        self._expect(last["type"] in ("done", "error"), "a reply ends with `done` or `error`")
        message = last["message" if last["type"] == "done" else "error"]
        self._expect(last["reason"] == message["stop_reason"], "its reason is the message's stop_reason")
        failed = message["stop_reason"] in ("error", "aborted")
        self._expect(failed == (last["type"] == "error"), "`error` is for what failed or was aborted")
        self._expect(not failed or bool(message.get("error_message")), "a failed message says why")
        self._expect(failed or len(self._closed) == len(self._kinds), "every block is closed")
        self._check_message(message)

    def _step(self, kind: str, step: str, event: Any) -> None:
        index = event["content_index"]
        if step == "start":
            self._expect(index == len(self._kinds), f"the next block has the index {len(self._kinds)}")
            self._kinds.append(kind)
            self._said.append([])
            return
        open_now = 0 <= index < len(self._kinds) and self._kinds[index] == kind and index not in self._closed
        self._expect(open_now, f"block {index} is no open {kind}")
        if step == "delta":
            self._expect(isinstance(event["delta"], str), "a delta is text")
            self._said[index].append(event["delta"])
        elif kind == "tool_call":
            self._closed[index] = event["tool_call"]
        else:
            whole = "".join(self._said[index])
            self._expect(event["content"] == whole, f"its content is what was streamed, {whole[:200]!r}")
            self._closed[index] = event

    def _check_partial(self, partial: Any, index: int) -> None:
        self._partials += 1
        kind = self._kinds[index]
        self._expect(len(partial["content"]) == len(self._kinds), "`partial` has the blocks so far")
        if kind != "tool_call":
            whole = "".join(self._said[index])
            self._expect(partial["content"][index][kind] == whole, "`partial` has the text so far")

    def _check_message(self, message: Mapping[str, Any]) -> None:
        for key in ("api", "provider", "model"):
            self._expect(isinstance(message.get(key), str), f"the message has its {key}")
        content = message["content"]
        self._expect([block["type"] for block in content] == self._kinds, "the message has these blocks")
        for index, block in enumerate(content):
            kind = self._kinds[index]
            if kind != "tool_call":
                whole = "".join(self._said[index])
                self._expect(block[kind] == whole, f"block {index} is what was streamed, {whole[:200]!r}")
            elif index in self._closed:
                ended = self._closed[index]
                for key in ("id", "name", "arguments"):
                    self._expect(block[key] == ended[key], f"{key} of call {index} is that of its end")


# ---- small tools ----------------------------------------------------------------------------------------


class _MovableClock:
    """The clock of an event loop, which can be moved forward."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.offset = 0.0
        self._time = loop.time

    def __call__(self) -> float:
        return self._time() + self.offset


def advance_clock(seconds: float) -> None:
    """Move the running loop's clock forward, so that timers run out without waiting for them.

    Code that has kept `loop.time` from before the first call does not notice; a first call with 0 helps.
    """
    loop = asyncio.get_running_loop()
    clock = loop.time
    if not isinstance(clock, _MovableClock):
        clock = _MovableClock(loop)
        loop.time = clock  # type: ignore[method-assign]
    clock.offset += seconds


class _Watched(Sequence[Step]):
    """Steps of a reply that know how many of them were sent."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.sent = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, at: Any) -> Any:
        return self._steps[at]

    def __iter__(self) -> Iterator[Step]:
        for step in self._steps:
            self.sent += 1
            yield step


class _Looking:
    """A tool that notes its calls and gives what it was made with."""

    def __init__(self, *results: AgentToolResult) -> None:
        self.calls: list[dict[str, Any]] = []
        self._results = list(results)

    async def execute(
        self,
        call_id: str,
        arguments: dict[str, Any],
        signal: asyncio.Event | None,
        report: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        self.calls.append(arguments)
        return self._results.pop(0) if self._results else AgentToolResult([{"type": "text", "text": "seen"}])

    def tool(self) -> AgentTool:
        parameters = {
            "type": "object",
            "properties": {"at": {"type": "string", "description": "what-to-look-at"}},
        }
        return AgentTool("look", "Look at something.", parameters, execute=self.execute)


def _leaves(value: Any) -> Iterator[Any]:
    """Every string and number in a JSON value, in order."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


async def _deltas(response: Any) -> AsyncIterator[str]:
    async for event in response:
        if "delta" in event:
            yield event["delta"]


# ---- the contract -----------------------------------------------------------------------------------------


class ProviderContract:
    """Inherit from it in a test module; see the module's documentation.

    Attributes:
        stream_fn: The provider.
        wire: How its server speaks; None: it has none.
        exempt: What does not apply (`FEATURES`), and why.
        retries: How often it asks again.
        patience: Seconds that a test may take.
        key: What it is given as `options["api_key"]`, and must give to its server only.
    """

    stream_fn: Any = None
    wire: ClassVar[Wire | None] = None
    exempt: ClassVar[Mapping[str, str]] = {}
    retries: ClassVar[int] = 2
    patience: ClassVar[float] = 15.0
    key: ClassVar[str] = KEY

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        unknown = set(cls.exempt) - set(FEATURES)
        if unknown:
            known = ", ".join(FEATURES)
            raise TypeError(f"{cls.__name__}.exempt: nothing is called {unknown.pop()!r}; there are {known}")

    def make_model(self, base_url: str) -> Any:
        """A model behind this URL; it is empty for a provider without a server."""
        raise NotImplementedError(f"{type(self).__name__} has no make_model")

    def options(self) -> dict[str, Any]:
        """What every call is given."""
        return {"api_key": self.key}

    @asynccontextmanager
    async def serve(self, *replies: Script | FakeReply) -> AsyncIterator[Served]:
        """The provider with a server that answers so; to be overridden by one that takes its scripts else."""
        found = getattr_static(type(self), "stream_fn")
        stream_fn = found.__func__ if isinstance(found, staticmethod) else found
        wire = self.wire
        if wire is None:
            yield Served(stream_fn, self.make_model(""))
            return
        scripted = [wire.reply(reply) if isinstance(reply, Script) else reply for reply in replies]
        async with FakeServer(*scripted) as server:
            yield Served(stream_fn, self.make_model(server.url), server)

    # ---- for the tests ----------------------------------------------------------------------------------

    def _run(self, test: Coroutine[Any, Any, T]) -> T:
        async def in_time() -> T:
            async with _within(self.patience, f"it hangs: not over after {self.patience:g} s"):
                result = await test
            for _ in range(5):  # tasks that are over in all but name get their last steps
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            _expect(not left, f"it leaves tasks behind: {left}")
            return result

        return asyncio.run(in_time())

    def _needs(self, *features: str) -> None:
        for feature in features:
            reason = self.exempt.get(feature)
            if reason is None and self.wire is None:
                override = type(self).serve is not ProviderContract.serve
                if feature in ("http", "request", "retries", "timeout", "images"):
                    reason = "it has no server"
                elif not override:
                    reason = "what it says cannot be scripted"
            if reason is not None:
                raise unittest.SkipTest(f"{FEATURES[feature]}: {reason}")

    async def _ask(self, served: Served, context: Context | None = None, **options: Any) -> Heard:
        """One call, held against what holds for every one."""
        heard = Heard()
        asked = context if context is not None else Context("be-brief", [_user("hello-there")])
        given = {**self.options(), **options}
        try:
            response = await served.stream_fn(served.model, asked, given)  # type: ignore[arg-type]
        except TinyAgentError as error:
            heard.error = error
        else:
            try:
                async for event in response:
                    heard.events.append(event)
                heard.message = await response.result()
            except Exception as error:
                raise AssertionError(
                    f"after the reply began an error is an event, not an exception: {error!r}"
                ) from error
            check_reply(heard.events)
            last = heard.events[-1]
            _equal(last.get("message") or last.get("error"), heard.message, "result() is the last message")
        self._check_secrets(heard)
        return heard

    def _check_secrets(self, heard: Heard) -> None:
        shown = repr([heard.events, heard.message])
        if heard.error is not None:
            shown += "".join(traceback.format_exception(heard.error))
            shown += repr([heard.error, vars(heard.error)])
        _expect(self.key not in shown, "the key is in an event, a message or an error")

    async def _loop(self, served: Served, tool: _Looking, *before: Any, **config: Any) -> list[Any]:
        """A run of the loop with this tool; its events."""
        context = AgentContext("be-brief", list(before), [tool.tool()])
        settings = AgentLoopConfig(
            served.model, convert_to_llm=lambda messages: messages, **{**self.options(), **config}
        )
        stream = agent_loop([_user("hello-there")], context, settings, None, served.stream_fn)
        events = await collect(stream)
        check_grammar(events)
        _expect(self.key not in repr(events), "the key is in an event")
        return events

    def _fails(self, script: Script | FakeReply, **options: Any) -> tuple[Heard, int]:
        """A call that must fail; what was heard, and how many requests there were."""

        async def test() -> tuple[Heard, int]:
            async with self.serve(*[script] * (1 + self.retries)) as served:
                heard = await self._ask(served, **options)
                return heard, len(served.requests()) if served.server is not None else 1

        heard, requests = self._run(test())
        _equal("error", heard.stop_reason, "it fails")
        _expect(bool(heard.words), "it says why")
        return heard, requests

    # ---- text, thinking, tools --------------------------------------------------------------------------

    def test_any_reply_is_a_reply(self) -> None:
        """Events come in their order, each delta inside its block, and the message is what they said."""

        async def test() -> None:
            async with self.serve(Script([_text("Hello, world.")])) as served:
                heard = await self._ask(served)
                _expect(heard.stop_reason in ("stop", "tool_use", "length"), "it succeeds")

        self._run(test())

    def test_text(self) -> None:
        """Text comes as it was said, whatever its characters."""
        self._needs("content")
        said = "Hello wörld 漢字 😀 \u2028 \"quoted\"\n\n```py\n\tx = '\\n'\n``` end "

        async def test() -> None:
            async with self.serve(Script([_text(said)])) as served:
                heard = await self._ask(served)
                _equal((said, "stop"), (heard.said("text"), heard.stop_reason), "the text")
                _equal(None, heard.kind, "a success has no error_kind")

        self._run(test())

    def test_text_byte_by_byte(self) -> None:
        """However the network cuts a reply, the message is the same."""
        self._needs("content", "http")
        content = [_text("Grüße 😀.")]
        if "thinking" not in self.exempt:
            content.insert(0, _thinking("höm"))
        if "tools" not in self.exempt:
            content.append(_call("call_1", at="ça"))

        async def test() -> None:
            reason: Literal["stop", "tool_use"] = "stop" if "tools" in self.exempt else "tool_use"
            script = Script(content, stop_reason=reason, bytewise=True)
            async with self.serve(script) as served:
                self._check_content(content, (await self._ask(served)).message)

        self._run(test())

    def test_usage(self) -> None:
        """Tokens are counted in our words: `input` with what was cached, `total` of both."""
        self._needs("content", "usage")

        async def test() -> None:
            usage = {"input": 11, "output": 7, "cache_read": 3, "total": 18}
            async with self.serve(Script([_text("Hi.")], usage=usage)) as served:
                found = (await self._ask(served)).message["usage"] or {}
                _equal(usage, {key: found.get(key) for key in usage}, "the usage")

        self._run(test())

    def test_thinking(self) -> None:
        """Reasoning is a block of its own, before the text."""
        self._needs("content", "thinking")
        content = [_thinking("Let me see."), _text("It is 42.")]

        async def test() -> None:
            async with self.serve(Script(content)) as served:
                heard = await self._ask(served, thinking_level="high")
                self._check_content(content, heard.message)

        self._run(test())

    def test_tools(self) -> None:
        """A call in fragments is run with its arguments, and its result goes back."""
        self._needs("content", "tools")
        arguments = {"at": 'the "sky" 😀', "n": 12345678901234567890123, "deep": {"list": [1, 2.5, None]}}
        look = _Looking()

        async def test() -> None:
            first = Script([_text("I look."), _call("call_1", **arguments)], stop_reason="tool_use")
            async with self.serve(first, Script([_text("Seen.")])) as served:
                events = await self._loop(served, look)
                _equal([arguments], look.calls, "what the tool was called with")
                _equal("stop", events[-1].messages[-1]["stop_reason"], "how the run ended")
                _equal("Seen.", events[-1].messages[-1]["content"][-1]["text"], "the last text")

        self._run(test())

    def test_parallel_tools(self) -> None:
        """Several calls in one reply are each run, once, and their order is kept."""
        self._needs("content", "tools")
        calls = [_call(f"call_{n}", at=place) for n, place in enumerate(("sky", "sea", "land"))]
        look = _Looking()

        async def test() -> None:
            first = Script(calls, stop_reason="tool_use")
            async with self.serve(first, Script([_text("Seen.")])) as served:
                events = await self._loop(served, look)
                _equal(["sky", "sea", "land"], [call["at"] for call in look.calls], "the calls")
                results = [message for message in events[-1].messages if message["role"] == "tool_result"]
                said = [block["id"] for block in events[-1].messages[1]["content"]]
                _equal(said, [message["tool_call_id"] for message in results], "the results")
                _equal(3, len(set(said)), "ids that are not the same")

        self._run(test())

    def test_a_call_without_arguments(self) -> None:
        """No arguments are no arguments, not an error."""
        self._needs("content", "tools", "http")
        look = _Looking()

        async def test() -> None:
            empty = {**_call("call_1"), "partial_json": ""}
            first = Script([empty], stop_reason="tool_use")
            async with self.serve(first, Script([_text("Seen.")])) as served:
                await self._loop(served, look)
                _equal([{}], look.calls, "what the tool was called with")

        self._run(test())

    def test_arguments_that_are_no_object(self) -> None:
        """A call whose arguments cannot be read is not run; the model is told."""
        self._needs("content", "tools")
        for text in ('{"at": "sk', '{"at": 1}{}', "[1]", "at=sky"):
            look = _Looking()

            async def test(text: str = text, look: _Looking = look) -> None:
                broken = {**_call("call_1"), "partial_json": text}
                first = Script([_text("Look:"), broken], stop_reason="tool_use")
                async with self.serve(first, Script([_text("Sorry.")])) as served:
                    events = await self._loop(served, look)
                    _equal([], look.calls, f"no tool runs with {text!r}")
                    results = [item for item in events[-1].messages if item["role"] == "tool_result"]
                    _equal([True], [item["is_error"] for item in results], "the result is an error")

            self._run(test())

    def test_a_reply_that_hit_the_limit_runs_no_tool(self) -> None:
        """`length` is said, and the calls of such a reply are not run."""
        self._needs("content", "tools")
        look = _Looking()

        async def test() -> None:
            first = Script([_text("I look."), _call("call_1", at="sky")], stop_reason="length")
            async with self.serve(first, Script([_text("Again.")])) as served:
                events = await self._loop(served, look)
                _equal([], look.calls, "no tool runs")
                _equal("length", events[-1].messages[1]["stop_reason"], "the first stop_reason")

        self._run(test())

    def _check_content(self, content: Sequence[Block], message: Mapping[str, Any]) -> None:
        found = [
            {
                key: block[key]
                for key in ("type", "text", "thinking", "id", "name", "arguments")
                if key in block
            }
            for block in message["content"]
        ]
        wanted = [
            {key: value for key, value in block.items() if key != "thinking_signature"} for block in content
        ]
        _equal(wanted, found, "the content")

    # ---- streaming --------------------------------------------------------------------------------------

    def test_deltas_come_as_they_are_sent(self) -> None:
        """Each delta is given out before the server sends the next."""
        self._needs("content", "http")
        blocks = {"text": _text("alpha beta gamma")}
        if "thinking" not in self.exempt:
            blocks["thinking"] = _thinking("alpha beta gamma")
        if "tools" not in self.exempt:
            blocks["tool_call"] = _call("call_1", t="aaaaaaabbbbbbbccccccc")
        for kind, block in blocks.items():
            gates = ("aaaaaaa", "bbbbbbb") if kind == "tool_call" else ("alpha", "beta")

            async def test(block: Block = block, gates: Sequence[str] = gates, kind: str = kind) -> None:
                script = Script(
                    [block], stop_reason="tool_use" if kind == "tool_call" else "stop", gates=gates
                )
                async with self.serve(script) as served:
                    context = Context("", [_user("hello-there")])
                    async with _within(self.patience / 3, f"the {kind} was held back by stream_fn itself"):
                        response = await served.stream_fn(served.model, context, self.options())  # type: ignore[arg-type]
                    deltas = _deltas(response)
                    for gate in gates:
                        async with _within(self.patience / 3, f"the {kind} {gate!r} was held back"):
                            while gate not in await anext(deltas):
                                pass
                        assert served.server is not None
                        served.server.release()
                    async for _ in deltas:
                        pass

            self._run(test())

    def test_a_slow_reader_loses_nothing(self) -> None:
        """Nobody reads, so the server has to wait; later all of it is there, and no time-out fired."""
        self._needs("content", "http")
        words = [f"{n:03}" + "x" * (1 << 16) for n in range(160)]

        async def test() -> None:
            assert self.wire is not None
            whole = self.wire.reply(Script([_text(" ".join(words))]))
            # Comments fill more than the 32 MiB that a kernel may buffer, and are no part of the reply.
            comment = b": " + b"x" * (1 << 18) + b"\n\n"
            steps = _Watched(
                [
                    step + comment if isinstance(step, bytes) and step.endswith(b"\n\n") else step
                    for step in whole.steps
                ]
            )
            async with self.serve(FakeReply(steps)) as served:
                idle = self.patience / 3
                options = {**self.options(), "timeout": {"first_event": idle, "idle": idle}}
                context = Context("", [_user("hello-there")])
                response = await served.stream_fn(served.model, context, options)  # type: ignore[arg-type]
                deltas = _deltas(response)
                said = [await anext(deltas)]
                before, still = -1, 0
                while still < 20:
                    await asyncio.sleep(0.01)
                    still = still + 1 if steps.sent == before else 0
                    before = steps.sent
                _expect(steps.sent < len(steps), "all was taken in while nobody read: no back-pressure")
                advance_clock(1.2 * idle)  # past the idle time-out, before the test's own
                await asyncio.sleep(0.01)
                said += [delta async for delta in deltas]
                _expect(" ".join(words) == "".join(said), "what was said is not what was read")
                message = await response.result()
                _equal("stop", message["stop_reason"], "how it ended")

        self._run(test())

    def test_calls_side_by_side(self) -> None:
        """Two replies at the same time do not mix."""

        async def test() -> None:
            scripts = [Script([_text(f"begin {name * 20} end")], gates=("begin",)) for name in "ab"]
            async with self.serve(*scripts) as served:
                asking = [asyncio.create_task(self._ask(served)) for _ in scripts]
                if served.server is not None:
                    await served.server.wait_requests(2)
                    served.server.release(2)
                heard = await asyncio.gather(*asking)
                if self.wire is not None and "content" not in self.exempt:
                    wanted = {f"begin {name * 20} end" for name in "ab"}
                    _equal(wanted, {each.said("text") for each in heard}, "the texts")

        self._run(test())

    def test_result_alone(self) -> None:
        """`result()` gives the message to somebody who read no event."""

        async def test() -> None:
            async with self.serve(Script([_text("Hello, world.")])) as served:
                context = Context("", [_user("hello-there")])
                response = await served.stream_fn(served.model, context, self.options())  # type: ignore[arg-type]
                message = await response.result()
                _expect(message["content"] != [], "the message has content")

        self._run(test())

    # ---- the request ------------------------------------------------------------------------------------

    def test_the_request(self) -> None:
        """System prompt, history, tools, limits and key are sent; the key in a header."""
        self._needs("request", "http")

        async def test() -> None:
            async with self.serve(Script([_text("Hi.")])) as served:
                context = Context("be-brief", [_user("hello-there")], [_Looking().tool()])
                await self._ask(served, context, max_tokens=77, temperature=0.25)
                request = served.requests()[0]
                sent = list(_leaves(request.json))
                wanted = [
                    "be-brief",
                    "hello-there",
                    "look",
                    "Look at something.",
                    "what-to-look-at",
                    77,
                    0.25,
                ]
                _equal([], [item for item in wanted if item not in sent], "what the request lacks")
                if self.key:
                    headers = " ".join(request.headers.values())
                    _expect(self.key in headers, "the key is in no header")
                    _expect(self.key.encode() not in request.body, "the key is in the body")
                    _expect(self.key not in request.path, "the key is in the URL")

        self._run(test())

    def test_images(self) -> None:
        """Images are sent, the user's and those that a tool gave."""
        self._needs("request", "images", "http")

        async def test() -> None:
            shown = {"role": "user", "content": [_text("what-is-it"), IMAGE], "timestamp": 1}
            async with self.serve(Script([_text("A dot.")])) as served:
                await self._ask(served, Context("", [shown]))  # type: ignore[list-item]
                _expect(PNG in _joined(served.requests()[0]), "the user's image is not in the request")
            if "tools" in self.exempt:
                return
            look = _Looking(AgentToolResult([_text("a-picture"), IMAGE]))  # type: ignore[list-item]
            first = Script([_call("call_1", at="sky")], stop_reason="tool_use")
            async with self.serve(first, Script([_text("Seen.")])) as served:
                await self._loop(served, look)
                _expect(PNG in _joined(served.requests()[1]), "the tool's image is not in the request")

        self._run(test())

    def test_second_turn(self) -> None:
        """What was said, thought, called and answered goes back, signatures with it, in its order."""
        self._needs("content", "request", "tools", "http")
        thinks = "thinking" not in self.exempt
        signed = thinks and self.wire is not None and self.wire.signs
        content = [_text("i-look-now"), _call("call_one", at="sky"), _call("call_two", at="sea")]
        if thinks:
            content.insert(0, _thinking("a-deep-thought"))
        look = _Looking(
            AgentToolResult([{"type": "text", "text": "result-one"}]),
            AgentToolResult([{"type": "text", "text": "result-two"}]),
        )

        async def test() -> None:
            first = Script(content, stop_reason="tool_use")
            async with self.serve(first, Script([_text("Seen.")])) as served:
                await self._loop(
                    served, look, _user("earlier-question"), _assistant("earlier-answer", served)
                )
                _equal(2, len(served.requests()), "requests")
                request = served.requests()[1]
                body = _joined(request)
                order = ["earlier-question", "earlier-answer", "hello-there"]
                order += ["call_one", "call_two", "result-one", "result-two"]
                missing = [item for item in [*order, "i-look-now"] if item not in body]
                if thinks:
                    wanted = ["a-deep-thought", *([SIGNATURE] if signed else [])]
                    missing += [item for item in wanted if item not in body]
                _equal([], missing, "what the second request lacks")
                places = [body.index(item) for item in order]
                _equal(sorted(places), places, "the order of the history")
                for call_id in ("call_one", "call_two"):
                    _expect(body.count(call_id) >= 2, f"{call_id} names a call and its result")

        self._run(test())

    # ---- failures: HTTP -----------------------------------------------------------------------------------

    def _refused(self, status: int, **headers: str) -> tuple[Heard, int]:
        self._needs("http")
        assert self.wire is not None
        notes: list[str] = []
        words = f"the-words-of-the-server; your key {self.key} (Bearer {self.key})"
        reply = self.wire.refuse(status, words, **headers)
        heard, requests = self._fails(reply, on_retry=notes.append)
        _expect("the-words-of-the-server" in heard.words, "it says what the server said")
        _expect(self.key not in repr(notes), "the key is in a note about a retry")
        return heard, requests

    def test_http_400(self) -> None:
        """A request that is refused is not sent again."""
        heard, requests = self._refused(400)
        _equal(("provider", 1), (heard.kind, requests), "kind and requests")

    def test_http_401(self) -> None:
        """A refused key is an authentication error, and is not shown, though the server repeats it."""
        heard, requests = self._refused(401)
        _equal(("authentication", 1), (heard.kind, requests), "kind and requests")

    def test_http_429(self) -> None:
        """Too many requests: asked again, and then a rate limit."""
        heard, requests = self._refused(429, retry_after="0")
        wanted = 1 if "retries" in self.exempt else 1 + self.retries
        _equal(("rate_limit", wanted), (heard.kind, requests), "kind and requests")

    def test_http_429_for_an_hour(self) -> None:
        """A server that asks for an hour is not waited for."""
        heard, requests = self._refused(429, retry_after="3600")
        _equal(("rate_limit", 1), (heard.kind, requests), "kind and requests")

    def test_http_500(self) -> None:
        """A server's error: asked again, and then said."""
        heard, requests = self._refused(500, retry_after="0")
        wanted = 1 if "retries" in self.exempt else 1 + self.retries
        _equal(("provider", wanted), (heard.kind, requests), "kind and requests")

    def test_a_retry_that_helps(self) -> None:
        """After a failure that passed the reply is as if nothing had been."""
        self._needs("http", "retries", "content")

        async def test() -> None:
            assert self.wire is not None
            refusals = [self.wire.refuse(status, "busy", retry_after="0") for status in (429, 503)]
            async with self.serve(*refusals[: self.retries], Script([_text("Hello.")])) as served:
                heard = await self._ask(served)
                _equal(("Hello.", "stop"), (heard.said("text"), heard.stop_reason), "the reply")
                _equal(1, len({request.body for request in served.requests()}), "different requests")

        self._run(test())

    def test_redirects_take_no_key_away(self) -> None:
        """A redirect to another server is an error, and that server is never asked."""
        self._needs("http")

        async def test() -> None:
            async with FakeServer(repeat=False) as other:
                away = FakeReply(status=307, headers={"location": f"{other.origin}/stolen"}, framing="length")
                async with self.serve(away) as served:
                    heard = await self._ask(served)
                    _equal("error", heard.stop_reason, "how it ends")
                _equal([], other.requests, "what the other server was asked")

        self._run(test())

    def test_a_page_is_no_reply(self) -> None:
        """Status 200 with a page, with a JSON error or with nothing is a failure, not an empty reply."""
        self._needs("http")
        page = FakeReply([b"<html><title>Sign in</title></html>"], headers={"content-type": "text/html"})
        nothing = FakeReply([], framing="length")
        quota = FakeReply.json({"error": {"message": "quota exceeded"}})
        for reply in (page, nothing, quota):
            self._fails(reply)

    # ---- failures: the stream -----------------------------------------------------------------------------

    def test_cut_streams(self) -> None:
        """A reply without its end is a failure that keeps what was said, however the connection ended."""
        self._needs("content", "http")
        endings: tuple[Literal["cut", "hangup", "reset"], ...] = ("cut", "hangup", "reset")
        for ending in endings:
            script = Script([_text("Half a rep")], ending=ending)
            heard, requests = self._fails(script)
            _equal("stream_interrupted", heard.kind, f"the kind of {ending}")
            if ending != "reset" or heard.message:  # a reset may overtake what was sent
                _expect("Half a rep".startswith(heard.said("text")), "the text is what was sent")
            if ending == "cut":
                _equal(("Half a rep", 1), (heard.said("text"), requests), "text and requests")

    def test_tools_of_a_cut_reply_do_not_run(self) -> None:
        """A call may be whole and the reply not: more was to come, so nothing is run."""
        self._needs("content", "tools", "http")
        endings: tuple[Literal["cut", "hangup", "error"], ...] = ("cut", "hangup", "error")
        for ending in endings:
            look = _Looking()

            async def test(ending: Literal["cut", "hangup", "error"] = ending, look: _Looking = look) -> None:
                script = Script(
                    [_text("I look."), _call("call_1", at="sky")],
                    stop_reason="tool_use",
                    ending=ending,
                    error="server-on-fire",
                )
                async with self.serve(script) as served:
                    events = await self._loop(served, look)
                    _equal([], look.calls, "no tool runs")
                    last = events[-1].messages[-1]
                    _equal("error", last["stop_reason"], "how it ends")
                    _equal("I look.", last["content"][0]["text"], "the text that was there")

            self._run(test())

    def test_an_error_in_the_stream(self) -> None:
        """An error after some text: the text stays, the provider's words are said, without a key."""
        self._needs("content", "errors")
        words = f"server-on-fire, key {self.key}" if self.wire is not None else "server-on-fire"
        heard, requests = self._fails(Script([_text("Half a rep")], ending="error", error=words))
        _equal(("Half a rep", 1), (heard.said("text"), requests), "text and requests")
        _expect("server-on-fire" in heard.words, "it says what the provider said")

    def test_an_error_before_anything(self) -> None:
        """An error instead of a reply is said."""
        self._needs("content", "errors")
        heard, _ = self._fails(Script([], ending="error", error="invalid-model"))
        _expect("invalid-model" in heard.words, "it says what the provider said")

    def test_stalls(self) -> None:
        """Silence ends with the time-out, before the first event and after; what was said stays."""
        self._needs("timeout", "http")
        silent = FakeReply(head=b"", steps=[Hold()])
        for reply, said in ((silent, ""), (Script([_text("Half")], ending="stall"), "Half")):
            if said:
                self._needs("content")
            heard, requests = self._fails(reply, timeout={"first_event": 0.3, "idle": 0.2})
            _equal(("timeout", said, 1), (heard.kind, heard.said("text"), requests), "kind, text, requests")

    # ---- leaving ---------------------------------------------------------------------------------

    def test_aborts(self) -> None:
        """The signal ends a call at once, wherever it is, and its connection; what was said stays."""
        self._needs("waiting", "content")
        silent: list[Script | FakeReply] = [Script([_text("Half")], ending="stall")]
        if self.wire is not None:
            silent.append(FakeReply(head=b"", steps=[Hold()]))
        for reply in silent:
            said = "Half" if isinstance(reply, Script) else ""

            async def test(reply: Script | FakeReply = reply, said: str = said) -> None:
                async with self.serve(reply) as served:
                    signal, seen = asyncio.Event(), asyncio.Event()
                    asking = asyncio.create_task(self._watched_call(served, seen, signal=signal))
                    await self._reached(served, seen, asking, said)
                    signal.set()
                    async with _within(2, "the signal is not heard"):
                        heard = await asking
                    _equal(("aborted", said), (heard.stop_reason, heard.said("text")), "how it ended")
                    await _closed(served)

            self._run(test())

    def test_cancellation(self) -> None:
        """A task that is cancelled while it reads ends at once, with its connection."""
        self._needs("waiting", "content")
        silent: list[Script | FakeReply] = [Script([_text("Half")], ending="stall")]
        if self.wire is not None:
            silent.append(FakeReply(head=b"", steps=[Hold()]))
        for reply in silent:
            said = "Half" if isinstance(reply, Script) else ""

            async def test(reply: Script | FakeReply = reply, said: str = said) -> None:
                async with self.serve(reply) as served:
                    seen = asyncio.Event()
                    asking = asyncio.create_task(self._watched_call(served, seen))
                    await self._reached(served, seen, asking, said)
                    asking.cancel()
                    async with _within(2, "cancellation does not end it"):
                        await asyncio.wait([asking])
                    _expect(asking.cancelled(), "cancellation is passed on")
                    await _closed(served)

            self._run(test())

    def test_leaving_early(self) -> None:
        """A reply that is closed after its first words holds nothing open."""

        async def test() -> None:
            async with self.serve(Script([_text("Half")], ending="stall")) as served:
                context = Context("", [_user("hello-there")])
                response: Any = await served.stream_fn(served.model, context, self.options())  # type: ignore[arg-type]
                close: Callable[[], Awaitable[None]] | None = getattr(response, "aclose", None)
                events = aiter(response)
                await anext(events)
                close = close or getattr(events, "aclose", None)
                if close is None:
                    raise unittest.SkipTest("its replies have no aclose()")
                await close()
                await _closed(served)

        self._run(test())

    async def _watched_call(self, served: Served, seen: asyncio.Event, **options: Any) -> Heard:
        """As `_ask`; says when the first delta is there."""

        async def stream_fn(model: Any, context: Context, given: Any) -> Any:
            return _Telling(await served.stream_fn(model, context, given), seen)

        return await self._ask(Served(stream_fn, served.model, served.server), **options)

    async def _reached(
        self, served: Served, seen: asyncio.Event, asking: asyncio.Task[Heard], said: str
    ) -> None:
        """Wait until the call is where it stays."""
        if said:
            waiting = asyncio.create_task(seen.wait())
            await asyncio.wait([waiting, asking], return_when="FIRST_COMPLETED")
            waiting.cancel()
            if asking.done():
                asking.result()
            _expect(seen.is_set(), "the reply was over before its first delta was seen")
        elif served.server is not None:
            await served.server.wait_requests(1)


class _Telling:
    """A reply that tells of its first delta."""

    def __init__(self, response: Any, seen: asyncio.Event) -> None:
        self._response = response
        self._seen = seen
        self.result = response.result

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for event in self._response:
            if "delta" in event:
                self._seen.set()
            yield event


def _user(said: str) -> Any:
    return user(said)


def _assistant(said: str, served: Served) -> Any:
    model = served.model
    return {
        "role": "assistant",
        "content": [_text(said)],
        "stop_reason": "stop",
        "timestamp": 1,
        "api": model.api,
        "provider": model.provider,
        "model": model.id,
        "usage": None,
    }


def _joined(request: RecordedRequest) -> str:
    """All text of a request, in order."""
    try:
        return "\n".join(str(leaf) for leaf in _leaves(request.json))
    except ValueError:
        return request.body.decode("utf-8", "replace")
