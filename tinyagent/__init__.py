"""tinyagent: a small agent library, with streaming, tools, events and steering.

    import asyncio
    from tinyagent import Agent, AgentOptions, OpenRouterModel, stream_openrouter

    agent = Agent(AgentOptions(stream_fn=stream_openrouter))
    agent.set_model(OpenRouterModel(id="anthropic/claude-3.5-sonnet"))
    print(asyncio.run(agent.prompt_text("What is the capital of France?")))

Importing this starts nothing and reads nothing. What needs an HTTP client is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from .agent import Agent, AgentOptions, default_convert_to_llm, extract_text

# `agent_loop` is a module as well: importing it here, early, lets the function win.
from .agent_loop import (
    agent_loop,
    agent_loop_continue,
    create_agent_stream,
    stream_assistant_response,
    stream_simple,
)
from .agent_tool_execution import execute_tool_calls, skip_tool_call, validate_tool_arguments
from .agent_types import (
    AgentContext,
    AgentEndEvent,
    AgentEvent,
    AgentLoopConfig,
    AgentMessage,
    AgentStartEvent,
    AgentState,
    AgentTool,
    AgentToolResult,
    AgentToolUpdateCallback,
    AssistantMessage,
    AssistantMessageEvent,
    Citation,
    Compaction,
    CompactionEndEvent,
    CompactionStartEvent,
    Context,
    CustomAgentMessage,
    ImageContent,
    Message,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    Model,
    ModelInfo,
    PromptTemplate,
    PromptVariable,
    Provider,
    SimpleStreamOptions,
    StreamFn,
    StreamResponse,
    TextContent,
    ThinkingContent,
    ThinkingLevel,
    Tool,
    ToolCall,
    ToolCallContent,
    ToolCallDecision,
    ToolCallInfo,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
    Usage,
    UserMessage,
)
from .errors import *  # noqa: F403 - the module's own __all__ says which names these are
from .hookspecs import hookimpl
from .tools import tool

if TYPE_CHECKING:
    from ._event_stream import EventStream
    from ._stream.citations import extract_citations
    from ._version import __version__ as __version__
    from .anthropic_provider import AnthropicModel, stream_anthropic
    from .openai_wire import OpenAICompatModel, stream_openai_completions
    from .openrouter_provider import OpenRouterModel, stream_openrouter
    from .proxy import (
        ProxyStreamOptions,
        ProxyStreamResponse,
        create_proxy_stream,
        parse_streaming_json,
        stream_proxy,
    )
    from .responses_provider import OpenAIResponsesModel, stream_openai_responses

_LAZY = {
    "AnthropicModel": "anthropic_provider",
    "EventStream": "_event_stream",
    "OpenAICompatModel": "openai_wire",
    "OpenAIResponsesModel": "responses_provider",
    "OpenRouterModel": "openrouter_provider",
    "ProxyStreamOptions": "proxy",
    "ProxyStreamResponse": "proxy",
    "create_proxy_stream": "proxy",
    "extract_citations": "_stream.citations",
    "parse_streaming_json": "proxy",
    "stream_anthropic": "anthropic_provider",
    "stream_openai_completions": "openai_wire",
    "stream_openai_responses": "responses_provider",
    "stream_openrouter": "openrouter_provider",
    "stream_proxy": "proxy",
}
"""Name -> the module that is loaded when the name is first used (PEP 562)."""

__all__ = [
    "Agent",
    "AgentContext",
    "AgentEndEvent",
    "AgentEvent",
    "AgentLoopConfig",
    "AgentMessage",
    "AgentOptions",
    "AgentStartEvent",
    "AgentState",
    "AgentTool",
    "AgentToolResult",
    "AgentToolUpdateCallback",
    "AnthropicModel",
    "AssistantMessage",
    "AssistantMessageEvent",
    "Citation",
    "Compaction",
    "CompactionEndEvent",
    "CompactionStartEvent",
    "Context",
    "CustomAgentMessage",
    "EventStream",
    "ImageContent",
    "Message",
    "MessageEndEvent",
    "MessageStartEvent",
    "MessageUpdateEvent",
    "Model",
    "ModelInfo",
    "OpenAICompatModel",
    "OpenAIResponsesModel",
    "OpenRouterModel",
    "PromptTemplate",
    "PromptVariable",
    "Provider",
    "ProxyStreamOptions",
    "ProxyStreamResponse",
    "SimpleStreamOptions",
    "StreamFn",
    "StreamResponse",
    "TextContent",
    "ThinkingContent",
    "ThinkingLevel",
    "Tool",
    "ToolCall",
    "ToolCallContent",
    "ToolCallDecision",
    "ToolCallInfo",
    "ToolExecutionEndEvent",
    "ToolExecutionStartEvent",
    "ToolExecutionUpdateEvent",
    "ToolResultMessage",
    "TurnEndEvent",
    "TurnStartEvent",
    "Usage",
    "UserMessage",
    "agent_loop",
    "agent_loop_continue",
    "create_agent_stream",
    "create_proxy_stream",
    "default_convert_to_llm",
    "execute_tool_calls",
    "extract_citations",
    "extract_text",
    "hookimpl",
    "parse_streaming_json",
    "skip_tool_call",
    "stream_anthropic",
    "stream_assistant_response",
    "stream_openai_completions",
    "stream_openai_responses",
    "stream_openrouter",
    "stream_proxy",
    "stream_simple",
    "tool",
    "validate_tool_arguments",
    *errors.__all__,
]


def _warn_of_namesake() -> None:
    """Warn if the distribution `tinyagent`, another project, has installed files into this folder too."""
    import os
    import warnings

    try:
        beside = os.listdir(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120,PTH208
    except OSError:
        return
    if any(name.startswith("tinyagent-") and name.endswith((".dist-info", ".egg-info")) for name in beside):
        warnings.warn(
            "The distribution 'tinyagent' is installed beside tinyagent-core. It is another project whose "
            "package has the same name, so that one overwrites files of the other. Repair it: "
            "pip uninstall tinyagent && pip install --force-reinstall --no-deps tinyagent-core",
            RuntimeWarning,
            stacklevel=3,
        )


_warn_of_namesake()


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        if name == "__version__":
            from ._version import __version__

            return __version__
        raise AttributeError(f"module 'tinyagent' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"tinyagent.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
