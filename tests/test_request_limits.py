"""Limits that several agents share. The clock is stepped, except in the tests with a server."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tinyagent import Agent, AgentOptions, Context, OpenAICompatModel, stream_openai_completions
from tinyagent._limits.backoff import Backoff
from tinyagent.agent_types import SimpleStreamOptions, StreamResponse
from tinyagent.errors import AgentStateError, ProviderError, RateLimitError
from tinyagent.request_limits import ProviderLimits, RequestLimits, Timer
from tinyagent.testing import FakeReply, FakeServer, Reply, ScriptedProvider, user


class StepTimer:
    """A timer of a `StepClock`."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class StepClock:
    """A clock that moves only in `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, StepTimer]] = []
        self.counter = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        timer = StepTimer(callback)
        heapq.heappush(self.timers, (when, next(self.counter), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move the time, and run what is due at its own time."""
        end = self.now + seconds
        await settle()
        while self.timers and self.timers[0][0] <= end:
            when, _, timer = heapq.heappop(self.timers)
            if timer.callback is not None:
                self.now = max(self.now, when)
                timer.callback()
                await settle()
        self.now = end


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(30):
        await asyncio.sleep(0)


class Provider:
    """A stream function whose requests the test ends: `end()` for the oldest, or with an error."""

    def __init__(self) -> None:
        self.open: list[tuple[str, asyncio.Future[Exception | None]]] = []
        self.sent: list[str] = []
        self.sent_at: list[float] = []
        self.options: list[SimpleStreamOptions] = []
        self.clock = StepClock()
        self.usage: dict[str, int] = {}

    async def __call__(self, model: object, context: Context, options: SimpleStreamOptions) -> StreamResponse:
        future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        name = str(context.messages[0]["content"][0].get("text"))
        self.open.append((name, future))
        self.sent.append(name)
        self.sent_at.append(self.clock.now)
        self.options.append(options)
        try:
            failure = await future
        finally:
            self.open = [entry for entry in self.open if entry[1] is not future]
        if failure is not None:
            raise failure
        scripted = ScriptedProvider(Reply("fine", usage=self.usage))
        return await scripted(scripted.model, context, {})

    async def end(self, count: int = 1, error: Exception | None = None) -> None:
        for _, future in self.open[:count]:
            future.set_result(error)
        await settle()


def limited(limits: RequestLimits, provider: Provider, *names: str) -> list[asyncio.Task[str]]:
    """Start a run for each name. They share the limits."""
    model = ScriptedProvider().model

    async def run(name: str) -> str:
        agent = Agent(AgentOptions(stream_fn=limits.wrap(provider)))
        agent.set_model(model)
        return await agent.prompt_text(name)

    return [asyncio.create_task(run(name)) for name in names]


def with_clock(
    concurrency: int = 4, rpm: float | None = None, tpm: float | None = None
) -> tuple[RequestLimits, Provider]:
    provider = Provider()
    limits = RequestLimits(
        ProviderLimits(concurrency, rpm, tpm), clock=provider.clock, random=lambda: 0.0, refusals=3, retries=2
    )
    return limits, provider


def too_many(retry_after: float | None = None) -> RateLimitError:
    return RateLimitError("too many", status=429, retryable=True, retry_after=retry_after)


async def test_requests_wait_in_order() -> None:
    """At most `max_concurrency` requests are in flight, and the others follow in the order of their calls."""
    limits, provider = with_clock(2)
    runs = limited(limits, provider, *"abcde")
    await settle()
    assert ["a", "b"] == provider.sent
    assert (2, 2, 3, 0.0) == limits.state("scripted")
    await provider.end()
    assert ["a", "b", "c"] == provider.sent
    for _ in range(4):
        await provider.end()
    assert ["fine"] * 5 == await asyncio.gather(*runs)
    assert list("abcde") == provider.sent
    assert [0] * 5 == [options["max_retries"] for options in provider.options]


async def test_a_slow_item_delays_no_other() -> None:
    """Every other item ends while one request is open."""
    limits, provider = with_clock(2)
    runs = limited(limits, provider, *"abcdef")
    await settle()
    for _ in range(5):
        provider.open[1][1].set_result(None)
        await settle()
    assert [False, True, True, True, True, True] == [run.done() for run in runs]
    await provider.end()
    await asyncio.gather(*runs)


async def test_a_cancelled_run_gives_its_place_back() -> None:
    """A run that waits, one that was just admitted, and one that is in flight can be cancelled."""
    limits, provider = with_clock(1)
    runs = limited(limits, provider, *"abcd")
    await settle()
    runs[1].cancel()
    await settle()
    assert limits.state("scripted").waiting == 2
    provider.open[0][1].set_result(None)
    await asyncio.sleep(0)
    runs[2].cancel()
    await settle()
    runs[3].cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    assert (1, 0, 0, 0.0) == limits.state("scripted")
    last = limited(limits, provider, "e")
    await settle()
    await provider.end()
    assert ["fine"] == await asyncio.gather(*last)


async def test_an_aborted_run_gives_its_place_back() -> None:
    """The abort signal ends the wait of a stream function that no agent calls."""
    limits, provider = with_clock(1)
    stream = limits.wrap(provider)
    (first,) = limited(limits, provider, "a")
    await settle()
    signal = asyncio.Event()
    reply = await stream(ScriptedProvider().model, Context(messages=[user("b")]), {"signal": signal})
    waiting = asyncio.create_task(anext(reply.__aiter__()))
    await settle()
    signal.set()
    await asyncio.wait([waiting])
    assert "abort" in str(waiting.exception())
    await provider.end()
    assert await first == "fine"
    assert (1, 0, 0, 0.0) == limits.state("scripted")


async def test_a_burst_of_refusals_is_one_decrease() -> None:
    """50 refusals of requests that were sent together decrease the concurrency once."""
    limits, provider = with_clock(50)
    runs = limited(limits, provider, *map(str, range(50)))
    await settle()
    assert 50 == len(provider.open)
    await provider.end(50, too_many())
    assert 35 == limits.state("scripted").concurrency
    await provider.clock.advance(1)
    assert 35 == limits.state("scripted").in_flight
    await provider.end(35)
    await provider.end(15)
    assert ["fine"] * 50 == await asyncio.gather(*runs)
    assert 100 == len(provider.sent)
    assert 35 == limits.state("scripted").concurrency


async def test_answers_increase_the_concurrency() -> None:
    """After a decrease, the answers of newer requests increase it, up to its maximum."""
    limits, provider = with_clock(4)
    runs = limited(limits, provider, *map(str, range(40)))
    await settle()
    await provider.end(1, too_many())
    assert 2 == limits.state("scripted").concurrency
    await provider.end(3)  # These were sent before the decrease.
    assert 2 == limits.state("scripted").concurrency
    await provider.end()
    assert 3 == limits.state("scripted").concurrency
    for _ in range(40):
        await provider.end()
        await provider.clock.advance(1)
    assert ["fine"] * 40 == await asyncio.gather(*runs)
    assert 4 == limits.state("scripted").concurrency


async def test_retry_after_pauses_all_requests() -> None:
    """Requests that wait are not sent before its end. Then the refused one is the first."""
    limits, provider = with_clock(2)
    runs = limited(limits, provider, *"abcd")
    await settle()
    await provider.end(1, too_many(30))
    await provider.end(1)
    assert ["a", "b"] == provider.sent
    assert 30 == limits.state("scripted").paused_s
    await provider.clock.advance(29.9)
    assert ["a", "b"] == provider.sent
    await provider.clock.advance(0.2)
    assert ["a", "b", "a"] == provider.sent
    for _ in range(3):
        await provider.end()
    assert ["fine"] * 4 == await asyncio.gather(*runs)


async def test_a_pause_that_is_too_long() -> None:
    """The request fails at once, and the others do not wait for hours."""
    limits, provider = with_clock(2)
    runs = limited(limits, provider, *"abc")
    await settle()
    await provider.end(1, too_many(3600))
    with pytest.raises(RateLimitError):
        await runs[0]
    assert 0 == limits.state("scripted").paused_s
    await provider.end()
    await provider.end()
    assert ["fine"] * 2 == await asyncio.gather(*runs[1:])


async def test_retry_after_is_for_one_provider() -> None:
    """The requests to another provider continue."""
    limits, provider = with_clock(2)
    (paused,) = limited(limits, provider, "a")
    await settle()
    await provider.end(1, too_many(30))
    scripted = ScriptedProvider("hello")
    agent = Agent(AgentOptions(stream_fn=limits.wrap(scripted)))
    agent.set_model(OpenAICompatModel(id="m", provider="other"))
    assert "hello" == await agent.prompt_text("b")
    await provider.clock.advance(31)
    await provider.end()
    assert "fine" == await paused


async def test_a_provider_that_refuses_everything() -> None:
    """At one request at a time, the waits double, and the request fails after some refusals."""
    limits, provider = with_clock(1)
    (run,) = limited(limits, provider, "a")
    for _ in range(4):
        await provider.clock.advance(10)
        await provider.end(1, too_many())
    with pytest.raises(RateLimitError):
        await run
    assert [0, 0.5, 1.0, 2.0] == pytest.approx(
        [0, *(at % 10 for at in provider.sent_at[1:])]
    )  # each refusal is at a multiple of 10 s


async def test_other_failures_are_repeated_without_a_decrease() -> None:
    """HTTP 500 is repeated with a wait of the request, HTTP 400 is not repeated."""
    limits, provider = with_clock(4)
    notes: list[str] = []
    agent = Agent(AgentOptions(stream_fn=limits.wrap(provider), on_retry=notes.append))
    agent.set_model(ScriptedProvider().model)
    run = asyncio.create_task(agent.prompt_text("a"))
    await settle()
    await provider.end(1, ProviderError("broken", status=500, retryable=True))
    assert ["Retrying in 0.5 s: scripted: HTTP 500"] == notes
    assert 0 == limits.state("scripted").in_flight
    await provider.clock.advance(0.5)
    await provider.end(1, ProviderError("wrong", status=400))
    with pytest.raises(ProviderError, match="wrong"):
        await run
    assert 4 == limits.state("scripted").concurrency


async def test_a_failure_in_the_reply_is_repeated_only_before_its_output() -> None:
    """An error event before any output is repeated. After output it ends the reply."""
    busy = {"error_kind": "provider", "error_status": 503, "error_retryable": True}
    scripted = ScriptedProvider(Reply(error="busy", **busy), Reply("half", error="busy", **busy))
    provider = Provider()
    limits = RequestLimits(clock=provider.clock)
    agent = Agent(AgentOptions(stream_fn=limits.wrap(scripted)))
    agent.set_model(scripted.model)
    run = asyncio.create_task(agent.prompt_text("a"))
    await provider.clock.advance(1)
    with pytest.raises(ProviderError, match="busy") as caught:
        await run
    assert "half" == caught.value.partial_text
    assert 2 == len(scripted.calls)
    assert (7, 0, 0, 0.0) == limits.state("scripted")  # 16 × 0.7 × 0.7


async def test_requests_per_minute() -> None:
    """Requests are spread evenly, from the first one on."""
    limits, provider = with_clock(100, rpm=60)
    runs = limited(limits, provider, *map(str, range(10)))
    await provider.clock.advance(8.5)
    assert list(range(9)) == pytest.approx(provider.sent_at)
    await provider.clock.advance(1)
    assert 10 == len(provider.sent)
    await provider.end(10)
    await asyncio.gather(*runs)


async def test_tokens_per_minute() -> None:
    """The estimate is taken before a request, and corrected by its usage."""
    limits, provider = with_clock(100, tpm=6000)  # 100 a second
    provider.usage = {"input": 900, "output": 100, "total": 1000}
    runs = limited(limits, provider, *"abc")
    await settle()
    assert ["a"] == provider.sent  # about 256 tokens are estimated
    await provider.end()
    await provider.clock.advance(9.9)
    assert ["a"] == provider.sent
    await provider.clock.advance(0.3)
    assert ["a", "b"] == provider.sent
    await provider.end()
    await provider.clock.advance(10.2)
    await provider.end()
    await asyncio.gather(*runs)
    assert 20 <= provider.sent_at[2] <= 20.3


def test_shares_and_wrong_values() -> None:
    """The shares of several processes sum to the limits. Wrong values are refused with their names."""
    shares = ProviderLimits(16, 100, 9000).divide(3)
    assert [6, 5, 5] == [share.max_concurrency for share in shares]
    assert 100 == pytest.approx(sum(share.requests_per_minute or 0 for share in shares))
    with pytest.raises(ValueError, match="cannot be divided by 17"):
        ProviderLimits(16).divide(17)
    with pytest.raises(ValueError, match="requests_per_minute is 0"):
        ProviderLimits(requests_per_minute=0)
    with pytest.raises(ValueError, match="max_concurrency is 0"):
        ProviderLimits(0)


def test_another_event_loop() -> None:
    """The limits may be used in one event loop after another, but not in two at the same time."""
    limits = RequestLimits()

    async def ask() -> str:
        scripted = ScriptedProvider("hello")
        agent = Agent(AgentOptions(stream_fn=limits.wrap(scripted)))
        agent.set_model(scripted.model)
        return await agent.prompt_text("a")

    assert ["hello", "hello"] == [asyncio.run(ask()) for _ in range(2)]
    loop = asyncio.new_event_loop()
    try:
        assert "hello" == loop.run_until_complete(ask())
        with pytest.raises(AgentStateError, match="another event loop"):
            asyncio.run(ask())
    finally:
        loop.close()


# ---- a real server ------------------------------------------------------------------------------------

BODY = b"".join(step for step in FakeReply.text("fine").steps if isinstance(step, bytes))


class BusyServer:
    """A server that answers 429 if more than `most` requests are open. A request takes some milliseconds."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = self.refused = 0
        self.answers: Counter[str] = Counter()
        self.connections: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        for connection in self.connections:
            connection.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self.connections.add(connection)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.handle(reader, writer)
        writer.close()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            body = json.loads(await reader.readexactly(int(lines[b"content-length"])))
            self.open += 1
            if self.open > self.most:
                self.refused += 1
                status, reply = b"429 Too Many Requests", b'{"error": {"message": "busy"}}'
            else:
                await asyncio.sleep(0.005)
                self.answers[body["messages"][-1]["content"]] += 1
                status, reply = b"200 OK", BODY
            self.open -= 1
            kind = b"text/event-stream" if status[:3] == b"200" else b"application/json"
            writer.write(
                b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
                % (status, kind, len(reply), reply)
            )


async def test_the_concurrency_settles_near_the_limit_of_a_server() -> None:
    """A server refuses more than 8 requests at a time. All of 400 are answered once, about 8 at a time."""
    busy = BusyServer(8)

    async with await asyncio.start_server(busy.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        model = OpenAICompatModel(id="m", provider="busy", base_url=f"http://127.0.0.1:{port}/v1")
        limits = RequestLimits(ProviderLimits(64), first_wait=0.01)
        stream = limits.wrap(stream_openai_completions)

        async def ask(number: int) -> str:
            agent = Agent(AgentOptions(stream_fn=stream))
            agent.set_model(model)
            return await agent.prompt_text(f"item {number}")

        answers = await asyncio.gather(*(ask(number) for number in range(400)))
        busy.close()
    assert ["fine"] * 400 == answers
    assert {f"item {number}": 1 for number in range(400)} == busy.answers
    assert 56 <= busy.refused < 400
    assert 6 <= limits.state("busy").concurrency <= 10


async def test_retry_after_of_a_server() -> None:
    """A real response with `retry-after-ms` pauses the other request. The provider itself repeats nothing."""
    refusal = FakeReply.error(429, "slow down", retry_after_ms="40")
    async with FakeServer(refusal, FakeReply.text("one"), FakeReply.text("two")) as server:
        model = OpenAICompatModel(id="m", provider="fake", base_url=server.url)
        notes: list[str] = []
        limits = RequestLimits(ProviderLimits(1), random=lambda: 0.0)

        async def ask(text: str) -> str:
            agent = Agent(
                AgentOptions(stream_fn=limits.wrap(stream_openai_completions), on_retry=notes.append)
            )
            agent.set_model(model)
            return await agent.prompt_text(text)

        assert ["one", "two"] == await asyncio.gather(ask("first"), ask("second"))
        asked = [request.json["messages"][-1]["content"] for request in server.requests]
    assert ["first", "first", "second"] == asked
    assert [True] == [note.endswith("s: fake: HTTP 429") for note in notes]


def test_repeated_requests_wait_for_different_times() -> None:
    """The wait doubles up to its limit, and a random part of it, up to a half, is left out."""
    for chance, expected in {
        0.0: [1, 2, 4, 5, 5],
        0.5: [0.75, 1.5, 3, 3.75, 3.75],
        1.0: [0.5, 1, 2, 2.5, 2.5],
    }.items():
        backoff = Backoff(first=1.0, longest=5.0, random=partial(float, chance))
        assert expected == [backoff.wait(earlier) for earlier in range(5)]
    assert 5.0 == Backoff(first=1.0, longest=5.0, random=lambda: 0.0).wait(10_000)
