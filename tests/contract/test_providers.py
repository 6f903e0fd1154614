"""All providers pass the contract: those of the library and those of plugins."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tinyagent import jsonl
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import Model
from tinyagent.anthropic_provider import AnthropicModel, stream_anthropic
from tinyagent.demo_provider import DemoModel, demo_provider
from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions
from tinyagent.openrouter_provider import OpenRouterModel, stream_openrouter
from tinyagent.proxy import stream_proxy
from tinyagent.replay_provider import replay_provider
from tinyagent.responses_provider import OpenAIResponsesModel, stream_openai_responses
from tinyagent.testing import (
    AnthropicWire,
    ChatWire,
    ProviderContract,
    ProxyWire,
    Reply,
    ResponsesWire,
    Script,
    ScriptedProvider,
    call,
    collect,
    text,
    thinking,
)
from tinyagent.testing.contract import ProviderUnderTest

from .acme_provider import AcmeModel, AcmeWire, stream_acme

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail only if it hangs, not if the machine is busy."""
    monkeypatch.setattr(ProviderContract, "patience", 60.0)


# ---- over HTTP ------------------------------------------------------------------------------------------


class TestOpenAICompletions(ProviderContract):
    """Any chat/completions endpoint, in pure Python."""

    wire, stream_fn = ChatWire(), stream_openai_completions

    def make_model(self, base_url: str) -> Any:
        return OpenAICompatModel(provider="acme", id="m", base_url=base_url)


class TestOpenRouter(ProviderContract):
    """OpenRouter, with signed reasoning."""

    wire, stream_fn = ChatWire(details=True), stream_openrouter

    def make_model(self, base_url: str) -> Any:
        return OpenRouterModel(base_url=base_url)


class TestAnthropic(ProviderContract):
    """Anthropic's Messages API."""

    wire, stream_fn = AnthropicWire(), stream_anthropic

    def make_model(self, base_url: str) -> Any:
        return AnthropicModel(id="claude-sonnet-4-5", base_url=base_url)


class TestResponses(ProviderContract):
    """OpenAI's Responses API."""

    wire, stream_fn = ResponsesWire(), stream_openai_responses

    def make_model(self, base_url: str) -> Any:
        return OpenAIResponsesModel(id="m", base_url=base_url)


@dataclass
class ProxiedModel(Model):
    """A model with the URL of its proxy."""

    proxy_url: str = ""


class TestProxy(ProviderContract):
    """The client of tinyagent's own proxy protocol."""

    wire, stream_fn = ProxyWire(), stream_proxy

    def make_model(self, base_url: str) -> Any:
        return ProxiedModel("anthropic", "claude", "anthropic-messages", proxy_url=base_url)


# ---- without a server -------------------------------------------------------------------------------------


def _reply(script: Script) -> Reply:
    """Convert a script to a reply of the scripted provider."""
    parts = []
    for block in script.content:
        if block["type"] == "text":
            parts.append(text(*block["text"].splitlines(keepends=True)))
        elif block["type"] == "thinking":
            parts.append(thinking(block["thinking"], signature=block.get("thinking_signature")))
        elif "partial_json" in block:
            parts.append(call(block["name"], block["partial_json"], call_id=block["id"]))
        else:
            parts.append(call(block["name"], call_id=block["id"], **block["arguments"]))
    return Reply(
        *parts,
        stop_reason="error" if script.ending == "error" else script.stop_reason,
        error=script.error or None,
        hang=script.ending == "stall",
        **({} if script.usage is None else {"usage": dict(script.usage)}),
    )


class TestScripted(ProviderContract):
    """The scripted provider keeps the contract that it is used to test."""

    @asynccontextmanager
    async def serve(self, *replies: Any) -> AsyncIterator[Any]:
        provider = ScriptedProvider(*map(_reply, replies))
        yield ProviderUnderTest(provider, provider.model)


class TestReplay(ProviderContract):
    """A replay of a recorded run."""

    exempt = {"waiting": "a replay does not wait"}  # noqa: RUF012

    @asynccontextmanager
    async def serve(self, *replies: Any) -> AsyncIterator[Any]:
        with TemporaryDirectory() as directory:
            path = Path(directory) / "run.jsonl"
            path.write_bytes(await _recorded(replies))
            replay = replay_provider(path)
            yield ProviderUnderTest(replay.stream_fn, replay.make_model("", {}))


async def _recorded(scripts: tuple[Script, ...]) -> bytes:
    """Return a recording of these replies, with one run for each."""
    lines: list[bytes] = []
    for script in scripts:
        ending = "whole" if script.ending == "stall" else script.ending
        provider = ScriptedProvider(_reply(replace(script, ending=ending)))
        state = {"model": provider.model}
        agent = Agent(AgentOptions(initial_state=state, stream_fn=provider, max_turns=1))
        lines += jsonl.write(await collect(agent.stream("Hi")))
    return b"".join(lines)


class TestDemo(ProviderContract):
    """The demo, whose content cannot be scripted."""

    stream_fn = demo_provider().stream_fn

    def make_model(self, base_url: str) -> Any:
        return DemoModel(delay=0.001)


# ---- plugins ---------------------------------------------------------------------------------------------


class TestExample(ProviderContract):
    """examples/custom_provider.py: a reply of deltas, in a class of its own."""

    @classmethod
    def setup_class(cls) -> None:
        cls.stream_fn = runpy.run_path(str(EXAMPLES / "custom_provider.py"))["stream_echo"]

    def make_model(self, base_url: str) -> Any:
        return Model(provider="echo", id="echo-1", api="echo")


class TestDice(ProviderContract):
    """examples/tinyagent-dice: the provider of a complete plugin."""

    @asynccontextmanager
    async def serve(self, *replies: Any) -> AsyncIterator[Any]:
        provider = _dice()
        yield ProviderUnderTest(provider.stream_fn, provider.make_model("2d6", {"seed": 7}))

    exempt = {"content": "its content is random"}  # noqa: RUF012


def _dice() -> Any:
    source = EXAMPLES / "tinyagent-dice" / "src"
    sys.path.insert(0, str(source))
    try:
        return importlib.import_module("tinyagent_dice").dice_provider
    finally:
        sys.path.remove(str(source))


class TestAcme(ProviderContract):
    """A provider of another author with its own protocol and few features."""

    wire, stream_fn, retries = AcmeWire(), stream_acme, 0
    exempt = {  # noqa: RUF012
        "thinking": "Acme has no reasoning",
        "tools": "Acme has no tools",
        "images": "Acme has no images",
        "usage": "Acme reports no usage",
        "retries": "it does not retry",
        "timeout": "it uses the time-outs of httpx",
    }

    def make_model(self, base_url: str) -> Any:
        return AcmeModel(id="m", base_url=base_url)
