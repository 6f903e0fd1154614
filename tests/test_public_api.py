"""The names of `import tinyagent`, and the absence of side effects of the import."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import tinyagent
from tinyagent import errors

CONTRACT = [
    "Agent",
    "AgentOptions",
    "extract_text",
    "default_convert_to_llm",
    "agent_loop",
    "agent_loop_continue",
    "stream_assistant_response",
    "create_agent_stream",
    "stream_simple",
    "Tool",
    "AgentTool",
    "AgentToolResult",
    "AgentToolUpdateCallback",
    "execute_tool_calls",
    "skip_tool_call",
    "validate_tool_arguments",
    "tool",
    "ToolCallInfo",
    "ToolCallDecision",
    "hookimpl",
    "Provider",
    "TextContent",
    "ImageContent",
    "ThinkingContent",
    "ToolCallContent",
    "ToolCall",
    "UserMessage",
    "AssistantMessage",
    "ToolResultMessage",
    "Message",
    "CustomAgentMessage",
    "AgentMessage",
    "AssistantMessageEvent",
    "Context",
    "AgentContext",
    "AgentLoopConfig",
    "AgentState",
    "Model",
    "ThinkingLevel",
    "SimpleStreamOptions",
    "StreamFn",
    "StreamResponse",
    "EventStream",
    "AgentStartEvent",
    "AgentEndEvent",
    "TurnStartEvent",
    "TurnEndEvent",
    "MessageStartEvent",
    "MessageUpdateEvent",
    "MessageEndEvent",
    "ToolExecutionStartEvent",
    "ToolExecutionUpdateEvent",
    "ToolExecutionEndEvent",
    "AgentEvent",
    "OpenRouterModel",
    "stream_openrouter",
    "stream_openai_completions",
    "OpenAICompatModel",
    "ProxyStreamOptions",
    "ProxyStreamResponse",
    "stream_proxy",
    "create_proxy_stream",
    "parse_streaming_json",
]

MORE = ["Citation", "ModelInfo", "Usage", "extract_citations"]
MORE += ["Compaction", "CompactionEndEvent", "CompactionStartEvent"]
MORE += ["PromptTemplate", "PromptVariable"]
MORE += ["AnthropicModel", "OpenAIResponsesModel", "stream_anthropic", "stream_openai_responses"]
"""What is exported beyond the contract: types of public signatures, compaction and two more providers."""

MODULES = [
    "agent",
    "agent_loop",
    "agent_tool_execution",
    "agent_types",
    "openrouter_provider",
    "alchemy_provider",
    "proxy",
    "proxy_event_handlers",
]


@pytest.mark.parametrize("name", [*CONTRACT, *MORE])
def test_a_name_of_the_contract_can_be_imported(name: str) -> None:
    """`from tinyagent import …` works as in the contract."""
    namespace: dict[str, object] = {}
    exec(f"from tinyagent import {name}", namespace)
    assert name in namespace


def test_the_exports_are_pinned() -> None:
    """`__all__` has the contract, the errors and few other names; adding one is a decision."""
    assert sorted({*CONTRACT, *MORE, *errors.__all__}) == sorted(tinyagent.__all__)
    assert len(tinyagent.__all__) == len(set(tinyagent.__all__))
    assert set(tinyagent.__all__) <= set(dir(tinyagent))


def test_every_error_is_exported() -> None:
    """`tinyagent` exports all classes of `tinyagent.errors`."""
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined <= set(errors.__all__)
    for name in errors.__all__:
        assert getattr(errors, name) is getattr(tinyagent, name)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_the_contract_can_be_imported(name: str) -> None:
    """The modules have the names of the contract."""
    assert importlib.import_module(f"tinyagent.{name}").__name__ == f"tinyagent.{name}"


def test_a_function_takes_precedence_over_its_module() -> None:
    """`agent_loop` is a function, also after an import of the module."""
    code = "import tinyagent.agent_loop; from tinyagent import agent_loop; assert callable(agent_loop)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_types_module_has_all_types() -> None:
    """`agent_types` also has the JSON and streaming types."""
    for name in ("JsonValue", "JsonObject", "StopReason", "STREAM_UPDATE_EVENTS", "ThinkingBudgets"):
        assert hasattr(importlib.import_module("tinyagent.agent_types"), name)


def test_the_alchemy_module() -> None:
    """`tinyagent.alchemy_provider` has its three names without the Rust wheel."""
    module = importlib.import_module("tinyagent.alchemy_provider")
    for name in ("OpenAICompatModel", "stream_alchemy_openai_completions", "AlchemyStreamResponse"):
        assert hasattr(module, name)


def test_a_wrong_name_is_an_attribute_error() -> None:
    """Lazy loading does not change the error of a missing name."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tinyagent.nothing
    with pytest.raises(ImportError):
        exec("from tinyagent import nothing")


def test_the_signatures_of_the_contract() -> None:
    """Arguments have the names, order and defaults of section 9 of the contract."""
    expected = {
        "execute_tool_calls": "tools assistant_message signal stream get_steering_messages=None",
        "skip_tool_call": "tool_call stream",
        "validate_tool_arguments": "tool tool_call",
        "create_agent_stream": "",
        "stream_simple": "model context options",
        "stream_assistant_response": "context config signal stream stream_fn=None",
        "agent_loop": "prompts context config signal=None stream_fn=None",
        "agent_loop_continue": "context config signal=None stream_fn=None",
    }
    for name, arguments in expected.items():
        parameters = inspect.signature(getattr(tinyagent, name)).parameters.values()
        described = [
            parameter.name
            if parameter.default is parameter.empty
            else f"{parameter.name}={parameter.default}"
            for parameter in parameters
        ]
        assert arguments == " ".join(described)


IMPORT = """
import os, sys, threading

class Environment(dict):
    read = []
    def __getitem__(self, key):
        self.read.append(key)
        return super().__getitem__(key)
    def get(self, key, default=None):
        self.read.append(key)
        return super().get(key, default)

import asyncio, dataclasses, enum, json, logging, typing, importlib.metadata, inspect, copy, contextvars
import jiter, msgspec, pluggy, time, warnings
environment = os.environ = Environment(os.environ)
os.getenv = environment.get
opened = []
sys.addaudithook(lambda event, args: opened.append((event, args)) if watching else None)
threads = threading.active_count()
watching = True
import tinyagent
watching = False
loaded = set(sys.modules)
assert not {"click", "httpx", "rich", "jsonschema_rs", "platformdirs", "tinyagent_cli"} & loaded, loaded
assert threads == threading.active_count()
assert [] == environment.read, environment.read
code = (".py", ".pyc", ".so", ".pyd")
files = [args[0] for event, args in opened if event == "open" and not str(args[0]).endswith(code)]
files = [name for name in files if ".pyc." not in str(name)]
assert [] == files, files
wild = [event for event, _ in opened if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.system"))]
assert [] == wild, wild
"""


def test_importing_does_nothing() -> None:
    """The import starts no thread, opens only modules, and loads neither click nor httpx."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_a_star_import_does_not_load_click() -> None:
    """Lazy names do not need the command line."""
    code = "import sys; from tinyagent import *; assert 'click' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
