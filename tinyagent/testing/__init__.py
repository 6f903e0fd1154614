"""Tools for the tests of agents, providers, tools and plugins.

    async with ScriptedProvider(Reply(call("calc", expression="6*7")), "It is 42.") as provider:
        agent = Agent(AgentOptions(initial_state={...}, stream_fn=provider))
        events = await collect(agent.stream("What is 6 * 7?"))
    check_grammar(events)

`ScriptedProvider` replies with a script; a call without a step fails, and so does a step that was not used.
`check_grammar` checks the events of a run, and `check_reply` the events of one reply. `FakeServer` is a
loopback server that sends any bytes.

A provider's author inherits the tests that every provider must pass:

    class TestAcme(ProviderContract):
        wire, stream_fn = ChatWire(), stream_acme

        def make_model(self, base_url):
            return AcmeModel(id="m", base_url=base_url)

The author of an executor for `tinyagent batch` inherits from `ExecutorContract` in the same way.

`pytest_plugin` has fixtures, which pytest finds by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import ProviderContract
    from .executors import ExecutorContract
    from .grammar import check_grammar, check_reply
    from .messages import assistant, tool_result, user
    from .scripted import ProviderCall, Reply, ScriptedProvider, call, collect, text, thinking
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
    "ExecutorContract",
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

# Loaded when they are used, because pytest imports this package to find the fixtures, also for projects
# that do not use them.
_MODULES = {
    "ProviderContract": "contract",
    "ExecutorContract": "executors",
    "check_grammar": "grammar",
    "check_reply": "grammar",
    "assistant": "messages",
    "tool_result": "messages",
    "user": "messages",
    "ProviderCall": "scripted",
    "Reply": "scripted",
    "ScriptedProvider": "scripted",
    "call": "scripted",
    "collect": "scripted",
    "text": "scripted",
    "thinking": "scripted",
    "FakeReply": "server",
    "FakeServer": "server",
    "Hangup": "server",
    "Hold": "server",
    "RecordedRequest": "server",
    "Reset": "server",
    "Sleep": "server",
    "Wait": "server",
    "chat_chunk": "server",
    "sse": "server",
    "AnthropicWire": "wires",
    "ChatWire": "wires",
    "ProxyWire": "wires",
    "ResponsesWire": "wires",
    "Script": "wires",
    "Wire": "wires",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
