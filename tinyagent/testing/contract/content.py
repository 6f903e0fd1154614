"""Text, thinking, tool calls and usage."""

from __future__ import annotations

from typing import Literal

from tinyagent.agent_types import ThinkingLevel, ToolCallContent
from tinyagent.testing.wires import Block, Script

from .case import ContractCase, LookTool, text_block, thinking_block, tool_call_block
from .checks import expect, expect_equal

__all__ = ["ContentTests"]


class ContentTests(ContractCase):
    """The content of a reply."""

    def test_any_reply_is_a_reply(self) -> None:
        """The events are in order, deltas are in their block, and the message has their content."""

        async def test() -> None:
            async with self.serve(Script([text_block("Hello, world.")])) as provider:
                outcome = await self._call(provider)
                expect(outcome.stop_reason in ("stop", "tool_use", "length"), "it succeeds")

        self._run(test())

    def test_text(self) -> None:
        """Text arrives unchanged, with any characters."""
        self._require("content")
        text = "Hello wörld 漢字 😀 \u2028 \"quoted\"\n\n```py\n\tx = '\\n'\n``` end "

        async def test() -> None:
            async with self.serve(Script([text_block(text)])) as provider:
                outcome = await self._call(provider)
                expect_equal((text, "stop"), (outcome.text, outcome.stop_reason), "the text")
                expect_equal(None, outcome.error_kind, "a success has no error_kind")

        self._run(test())

    def test_text_byte_by_byte(self) -> None:
        """The message does not depend on the network chunks."""
        self._require("content", "http")
        content: list[Block] = [text_block("Grüße 😀.")]
        if self._has("thinking"):
            content.insert(0, thinking_block("höm"))
        if self._has("tools"):
            content.append(tool_call_block("call_1", at="ça"))

        async def test() -> None:
            reason: Literal["stop", "tool_use"] = "tool_use" if self._has("tools") else "stop"
            script = Script(content, stop_reason=reason, bytewise=True)
            async with self.serve(script) as provider:
                self._check_content(content, (await self._call(provider)).reply)

        self._run(test())

    def test_usage(self) -> None:
        """Usage is normalised: `input` includes cached tokens, and `total` is input + output."""
        self._require("content", "usage")

        async def test() -> None:
            usage = {"input": 11, "output": 7, "cache_read": 3, "total": 18}
            async with self.serve(Script([text_block("Hi.")], usage=usage)) as provider:
                found = (await self._call(provider)).reply["usage"] or {}
                expect_equal(usage, {key: found.get(key) for key in usage}, "the usage")

        self._run(test())

    def test_thinking(self) -> None:
        """Reasoning is a separate block before the text."""
        self._require("content", "thinking")
        content: list[Block] = [thinking_block("Let me see."), text_block("It is 42.")]

        async def test() -> None:
            async with self.serve(Script(content)) as provider:
                outcome = await self._call(provider, thinking_level=ThinkingLevel.HIGH)
                self._check_content(content, outcome.reply)

        self._run(test())

    def test_tools(self) -> None:
        """A call that arrives in fragments is run with its arguments, and its result is sent back."""
        self._require("content", "tools")
        arguments = {"at": 'the "sky" 😀', "n": 12345678901234567890123, "deep": {"list": [1, 2.5, None]}}
        look = LookTool()

        async def test() -> None:
            first = Script(
                [text_block("I look."), tool_call_block("call_1", **arguments)], stop_reason="tool_use"
            )
            async with self.serve(first, Script([text_block("Seen.")])) as provider:
                last = self._replies(await self._run_loop(provider, look))[-1]
                expect_equal([arguments], look.calls, "the arguments of the call")
                expect_equal("stop", last["stop_reason"], "the stop reason of the run")
                texts = [block["text"] for block in last["content"] if block["type"] == "text"]
                expect_equal("Seen.", texts[-1], "the last text")

        self._run(test())

    def test_parallel_tools(self) -> None:
        """Each of several calls in a reply is run once, and the results are in the order of the calls."""
        self._require("content", "tools")
        calls = [tool_call_block(f"call_{n}", at=place) for n, place in enumerate(("sky", "sea", "land"))]
        look = LookTool()

        async def test() -> None:
            first = Script(calls, stop_reason="tool_use")
            async with self.serve(first, Script([text_block("Seen.")])) as provider:
                messages = await self._run_loop(provider, look)
                expect_equal(["sky", "sea", "land"], [call["at"] for call in look.calls], "the calls")
                reply = self._replies(messages)[0]
                ids = [block["id"] for block in reply["content"] if block["type"] == "tool_call"]
                results = [result["tool_call_id"] for result in self._results(messages)]
                expect_equal(ids, results, "the results")
                expect_equal(3, len(set(ids)), "the number of different ids")

        self._run(test())

    def test_a_call_without_arguments(self) -> None:
        """A call without arguments is run with an empty object."""
        self._require("content", "tools", "http")
        look = LookTool()

        async def test() -> None:
            first = Script([_call_with_text("")], stop_reason="tool_use")
            async with self.serve(first, Script([text_block("Seen.")])) as provider:
                await self._run_loop(provider, look)
                expect_equal([{}], look.calls, "the arguments of the call")

        self._run(test())

    def test_arguments_that_are_no_object(self) -> None:
        """A call whose arguments are not a JSON object is not run, and the model gets an error result."""
        self._require("content", "tools")
        for text in ('{"at": "sk', '{"at": 1}{}', "[1]", "at=sky"):
            look = LookTool()

            async def test(text: str = text, look: LookTool = look) -> None:
                first = Script([text_block("Look:"), _call_with_text(text)], stop_reason="tool_use")
                async with self.serve(first, Script([text_block("Sorry.")])) as provider:
                    messages = await self._run_loop(provider, look)
                    expect_equal([], look.calls, f"no tool runs with {text!r}")
                    errors = [result["is_error"] for result in self._results(messages)]
                    expect_equal([True], errors, "the result is an error")

            self._run(test())

    def test_a_reply_that_hit_the_limit_runs_no_tool(self) -> None:
        """The calls of a reply that ends with `length` are not run."""
        self._require("content", "tools")
        look = LookTool()

        async def test() -> None:
            content: list[Block] = [text_block("I look."), tool_call_block("call_1", at="sky")]
            first = Script(content, stop_reason="length")
            async with self.serve(first, Script([text_block("Again.")])) as provider:
                reply = self._replies(await self._run_loop(provider, look))[0]
                expect_equal([], look.calls, "no tool runs")
                expect_equal("length", reply["stop_reason"], "the first stop_reason")

        self._run(test())


def _call_with_text(text: str) -> ToolCallContent:
    """Return a call with this text as its arguments."""
    call = tool_call_block("call_1")
    call["partial_json"] = text
    return call
