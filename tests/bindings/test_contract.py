"""Everything that is held against the other providers, through the Rust one.

Cases and recordings are those of tests/contract, with the stream function exchanged.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinyagent.agent_types import Context
from tinyagent.alchemy_provider import OpenAICompatModel, stream_alchemy_openai_completions
from tinyagent.testing import ChatWire, ProviderContract, Wire
from tinyagent.testing.server import DONE, FakeReply, FakeServer, chat_chunk, split_bytes, sse

CONTRACT = Path(__file__).parent.parent / "contract"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"alchemy_{name}", CONTRACT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.stream_openai_completions = stream_alchemy_openai_completions  # type: ignore[attr-defined]
    return module


cases, recordings = _load("test_wire_cases"), _load("test_recordings")
CHAT, MESSAGES = recordings.CHAT, recordings.MESSAGES


class TestAlchemy(ProviderContract):
    """The provider contract."""

    wire: Wire = ChatWire()
    stream_fn = staticmethod(stream_alchemy_openai_completions)
    patience = 60.0

    def make_model(self, server_url: str) -> Any:
        return OpenAICompatModel(provider="acme", id="m", base_url=server_url, reasoning=True)


@pytest.mark.parametrize("case", cases.CASES, ids=[case["id"] for case in cases.CASES])
async def test_case(case: dict[str, Any], waits: list[float]) -> None:
    """Each written case has the outcome of the catalogue."""
    await cases.test_case(case, "auto", waits)


@pytest.mark.parametrize("name", CHAT.expected)
async def test_recorded_chat(name: str) -> None:
    """Recorded chat/completions replies, cut at random, give the recorded messages."""
    stream, source = CHAT.data(name), random.Random(f"alchemy {name}")
    pieces = [[stream]]
    for count in (len(stream) // 400, len(stream) // 20):
        pieces.append(split_bytes(stream, [source.randrange(len(stream)) for _ in range(count)]))
    async with FakeServer(*map(FakeReply, pieces)) as server:
        model = OpenAICompatModel(provider="p", id="m", base_url=server.url)
        for _ in pieces:
            reply = await stream_alchemy_openai_completions(model, Context(), {"api_key": "k"})
            CHAT.check([event async for event in reply], CHAT.expected[name])


@pytest.mark.parametrize("name", MESSAGES.expected)
async def test_recorded_messages(name: str) -> None:
    """Recorded replies of the Messages API give their messages, and every block can be sent back."""
    stream, source = MESSAGES.data(name), random.Random(f"alchemy {name}")
    cuts = [source.randrange(len(stream)) for _ in range(len(stream) // 400)]
    async with FakeServer(FakeReply(split_bytes(stream, cuts))) as server:
        model = OpenAICompatModel("anthropic", "m", "anthropic-messages", base_url=server.url)
        reply = await stream_alchemy_openai_completions(model, Context(), {"api_key": "k"})
        MESSAGES.check([event async for event in reply], MESSAGES.expected[name])


# ---- limits of the crate, as listed in the README --------------------------------------------------------


async def _ask(api: str, reply: FakeReply, *history: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the request as the server received it, and the message."""
    async with FakeServer(reply) as server:
        model = OpenAICompatModel("acme", "m", api, base_url=server.url)
        response = await stream_alchemy_openai_completions(
            model, Context(messages=list(history)), {"api_key": "k"}
        )
        message = await response.result()
        return server.requests[-1].json, dict(message)


def _assistant(*content: Any, api: str = "zai-completions", reason: str = "stop") -> dict[str, Any]:
    return {
        "role": "assistant", "content": list(content), "stop_reason": reason,
        "api": api, "provider": "acme", "model": "m",
    }  # fmt: skip


@pytest.mark.xfail(strict=True, reason="alchemy-llm takes <think> tags of MiniMax for reasoning")
async def test_minimax_leaves_tags_in_the_text() -> None:
    """A literal `<think>` tag in the text stays in the text."""
    _, message = await _ask("minimax-completions", FakeReply.text("Write <think>x</think> to think."))
    assert "Write <think>x</think> to think." == "".join(
        block.get("text", "") for block in message["content"]
    )


async def test_other_apis_stream() -> None:
    """MiniMax and Z.ai stream text and a call."""
    function = {"name": "look", "arguments": "{}"}
    chunk = chat_chunk({"tool_calls": [{"index": 0, "id": "c", "function": function}]})
    for api in ("minimax-completions", "zai-completions"):
        body = [sse(chat_chunk("Hi")), sse(chunk), sse(chat_chunk({}, "tool_calls")), DONE]
        sent, message = await _ask(
            api, FakeReply(body), {"role": "user", "content": [{"type": "text", "text": "?"}]}
        )
        assert ["text", "tool_call"] == [block["type"] for block in message["content"]]
        assert ("m", True) == (sent["model"], sent["stream"])


async def test_minimax_sends_images_by_address() -> None:
    """Images by URL are sent, as in chat/completions."""
    picture = {"type": "image", "url": "https://example.com/x.png"}
    sent, _ = await _ask("minimax-completions", FakeReply.text("Hi"), {"role": "user", "content": [picture]})
    assert "https://example.com/x.png" in json.dumps(sent)


async def test_zai_sends_images_of_tools() -> None:
    """Images of tool results are sent, as in chat/completions."""
    call = {"type": "tool_call", "id": "c", "name": "t", "arguments": {}}
    picture = {"type": "image", "url": "data:image/png;base64,QUJD"}
    result = {
        "role": "tool_result",
        "tool_call_id": "c",
        "tool_name": "t",
        "content": [picture],
        "is_error": False,
    }
    sent, _ = await _ask("zai-completions", FakeReply.text("Hi"), _assistant(call, reason="tool_use"), result)
    assert "QUJD" in json.dumps(sent)


async def test_zai_keeps_large_integers_of_earlier_calls() -> None:
    """Large integers are preserved, as in chat/completions."""
    call = {"type": "tool_call", "id": "c", "name": "t", "arguments": {"n": 12345678901234567890123}}
    result = {"role": "tool_result", "tool_call_id": "c", "tool_name": "t", "content": [], "is_error": False}
    sent, _ = await _ask("zai-completions", FakeReply.text("Hi"), _assistant(call, reason="tool_use"), result)
    assert "12345678901234567890123" in json.dumps(sent)
