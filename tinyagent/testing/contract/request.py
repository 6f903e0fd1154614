"""What a request contains."""

from __future__ import annotations

from tinyagent.agent_types import AgentToolResult, AssistantMessage, Context
from tinyagent.testing.messages import assistant, user
from tinyagent.testing.server import RecordedRequest
from tinyagent.testing.wires import Block, Script

from .case import (
    IMAGE,
    PNG,
    SIGNATURE,
    ContractCase,
    LookTool,
    ProviderUnderTest,
    text_block,
    thinking_block,
    tool_call_block,
)
from .checks import expect, expect_equal, leaves_of

__all__ = ["RequestTests"]


class RequestTests(ContractCase):
    """The content of the requests."""

    def test_the_request(self) -> None:
        """System prompt, history, tools, limits and key are sent; the key only in a header."""
        self._require("request", "http")

        async def test() -> None:
            async with self.serve(Script([text_block("Hi.")])) as provider:
                context = Context("be-brief", [user("hello-there")], [LookTool().tool()])
                await self._call(provider, context, max_tokens=77, temperature=0.25)
                request = provider.requests()[0]
                sent = list(leaves_of(request.json))
                texts = ["be-brief", "hello-there", "look", "Look at something.", "what-to-look-at"]
                missing = [item for item in (*texts, 77, 0.25) if item not in sent]
                expect_equal([], missing, "missing in the request")
                if self.key:
                    headers = " ".join(request.headers.values())
                    expect(self.key in headers, "the key is in no header")
                    expect(self.key.encode() not in request.body, "the key is in the body")
                    expect(self.key not in request.path, "the key is in the URL")

        self._run(test())

    def test_images(self) -> None:
        """Images of the user and of tool results are sent."""
        self._require("request", "images", "http")

        async def test() -> None:
            question = user("what-is-it")
            question["content"].append(IMAGE)
            async with self.serve(Script([text_block("A dot.")])) as provider:
                await self._call(provider, Context("", [question]))
                expect(PNG in _text_of(provider.requests()[0]), "the user's image is not in the request")
            if not self._has("tools"):
                return
            look = LookTool(AgentToolResult([text_block("a-picture"), IMAGE]))
            first = Script([tool_call_block("call_1", at="sky")], stop_reason="tool_use")
            async with self.serve(first, Script([text_block("Seen.")])) as provider:
                await self._run_loop(provider, look)
                expect(PNG in _text_of(provider.requests()[1]), "the tool's image is not in the request")

        self._run(test())

    def test_second_turn(self) -> None:
        """The second request has all texts, thoughts, calls and results in order, with their signatures."""
        self._require("content", "request", "tools", "http")
        thinks = self._has("thinking")
        signs = thinks and self.wire is not None and self.wire.signs
        content: list[Block] = [
            text_block("i-look-now"),
            tool_call_block("call_one", at="sky"),
            tool_call_block("call_two", at="sea"),
        ]
        if thinks:
            content.insert(0, thinking_block("a-deep-thought"))
        look = LookTool(
            AgentToolResult([text_block("result-one")]), AgentToolResult([text_block("result-two")])
        )

        async def test() -> None:
            first = Script(content, stop_reason="tool_use")
            async with self.serve(first, Script([text_block("Seen.")])) as provider:
                answer = _own_reply("earlier-answer", provider)
                await self._run_loop(provider, look, user("earlier-question"), answer)
                expect_equal(2, len(provider.requests()), "requests")
                body = _text_of(provider.requests()[1])
                order = ["earlier-question", "earlier-answer", "hello-there"]
                order += ["call_one", "call_two", "result-one", "result-two"]
                wanted = [*order, "i-look-now"]
                wanted += ["a-deep-thought"] if thinks else []
                wanted += [SIGNATURE] if signs else []
                expect_equal([], [item for item in wanted if item not in body], "the second request lacks")
                places = [body.index(item) for item in order]
                expect_equal(sorted(places), places, "the order of the history")
                for call_id in ("call_one", "call_two"):
                    expect(body.count(call_id) >= 2, f"{call_id} is in its call and in its result")

        self._run(test())


def _own_reply(text: str, provider: ProviderUnderTest) -> AssistantMessage:
    """Return an earlier reply of the same model."""
    model = provider.model
    return assistant(text, api=model.api, provider=model.provider, model=model.id)


def _text_of(request: RecordedRequest) -> str:
    """Return all text of a request, in order."""
    try:
        return "\n".join(str(leaf) for leaf in leaves_of(request.json))
    except ValueError:
        return request.body.decode("utf-8", "replace")
