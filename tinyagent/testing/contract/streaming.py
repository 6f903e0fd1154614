"""The time at which events arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import overload

from tinyagent.testing.server import FakeReply, Step
from tinyagent.testing.wires import Block, Script

from .case import ContractCase, text_block, thinking_block, tool_call_block
from .checks import advance_clock, deltas_of, expect, expect_equal, within

__all__ = ["StreamingTests"]


class _CountedSteps(Sequence[Step]):
    """Steps of a reply, with the number of steps that were sent."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self.sent = 0

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        return self._steps[index]

    def __iter__(self) -> Iterator[Step]:
        for step in self._steps:
            self.sent += 1
            yield step


class StreamingTests(ContractCase):
    """Events arrive in time."""

    def test_deltas_come_as_they_are_sent(self) -> None:
        """Each delta is yielded before the server sends the next."""
        self._require("content", "http")
        blocks: list[tuple[Block, Sequence[str]]] = [(text_block("alpha beta gamma"), ("alpha", "beta"))]
        if self._has("thinking"):
            blocks.append((thinking_block("alpha beta gamma"), ("alpha", "beta")))
        if self._has("tools"):
            call = tool_call_block("call_1", t="aaaaaaabbbbbbbccccccc")
            blocks.append((call, ("aaaaaaa", "bbbbbbb")))
        for block, gates in blocks:
            self._run(self._check_deltas(block, gates))

    async def _check_deltas(self, block: Block, gates: Sequence[str]) -> None:
        kind = block["type"]
        script = Script([block], stop_reason="tool_use" if kind == "tool_call" else "stop", gates=gates)
        async with self.serve(script) as provider:
            async with within(self.patience / 3, f"the {kind} was held back by stream_fn itself"):
                response = await self._start(provider)
            deltas = deltas_of(response)
            for gate in gates:
                async with within(self.patience / 3, f"the {kind} {gate!r} was held back"):
                    while gate not in await anext(deltas):
                        pass
                assert provider.server is not None
                provider.server.release()
            async for _ in deltas:
                pass

    def test_a_slow_reader_loses_nothing(self) -> None:
        """While the events are not read the server must wait; then all arrive, and no time-out expires."""
        self._require("content", "http")
        words = [f"{n:03}" + "x" * (1 << 16) for n in range(160)]

        async def test() -> None:
            assert self.wire is not None
            whole = self.wire.reply(Script([text_block(" ".join(words))]))
            # Kernels buffer up to 32 MiB. The comments are longer, and are not a part of the reply.
            comment = b": " + b"x" * (1 << 18) + b"\n\n"
            steps = _CountedSteps(
                [
                    step + comment if isinstance(step, bytes) and step.endswith(b"\n\n") else step
                    for step in whole.steps
                ]
            )
            async with self.serve(FakeReply(steps)) as provider:
                idle = self.patience / 3
                response = await self._start(provider, timeout={"first_event": idle, "idle": idle})
                deltas = deltas_of(response)
                received = [await anext(deltas)]
                before, unchanged = -1, 0
                while unchanged < 20:
                    await asyncio.sleep(0.01)
                    unchanged = unchanged + 1 if steps.sent == before else 0
                    before = steps.sent
                expect(steps.sent < len(steps), "the provider read everything ahead: no back-pressure")
                advance_clock(1.2 * idle)  # past the idle time-out, but not past the limit of the test
                await asyncio.sleep(0.01)
                received += [delta async for delta in deltas]
                expect(" ".join(words) == "".join(received), "the text that was read is not the text sent")
                expect_equal("stop", (await response.result())["stop_reason"], "the stop reason")

        self._run(test())

    def test_calls_side_by_side(self) -> None:
        """Two replies at the same time do not mix."""

        async def test() -> None:
            scripts = [Script([text_block(f"begin {name * 20} end")], gates=("begin",)) for name in "ab"]
            async with self.serve(*scripts) as provider:
                calls = [asyncio.create_task(self._call(provider)) for _ in scripts]
                if provider.server is not None:
                    await provider.server.wait_requests(2)
                    provider.server.release(2)
                outcomes = await asyncio.gather(*calls)
                if self.wire is not None and self._has("content"):
                    wanted = {f"begin {name * 20} end" for name in "ab"}
                    expect_equal(wanted, {outcome.text for outcome in outcomes}, "the texts")

        self._run(test())

    def test_result_alone(self) -> None:
        """`result()` returns the message also if no event was read."""

        async def test() -> None:
            async with self.serve(Script([text_block("Hello, world.")])) as provider:
                message = await (await self._start(provider)).result()
                expect(message["content"] != [], "the message has content")

        self._run(test())
