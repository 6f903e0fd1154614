"""What a loaded plugin registers: tools, providers, commands, executors, templates, inputs and sinks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tinyagent._tool_schemas import tool_schema
from tinyagent.agent_types import AgentEvent, AgentTool, PromptTemplate, Provider
from tinyagent.errors import TinyAgentError

from .discovery import Plugin
from .failures import failure
from .loading import Hook, LoadedPlugin, guarded
from .tool_sources import ToolFile

if TYPE_CHECKING:
    import click

    from tinyagent.executors import ExecutorFactory

__all__ = [
    "SinkFactory",
    "command_of",
    "executor_of",
    "filled_in",
    "input_of",
    "provider_of",
    "require_guard",
    "require_inputs",
    "sinks_of",
    "templates_of",
    "tools_of",
]

T = TypeVar("T")

SinkFactory: TypeAlias = Callable[[], Callable[[AgentEvent], None]]
"""Makes the sink of one run."""

_TOOL_NAME = r"[A-Za-z0-9_-]{1,64}"
_GUARD_HOOKS = ("tinyagent_before_tool_call", "tinyagent_after_tool_call", "tinyagent_register_sinks")
_INPUT_HOOKS = ("tinyagent_register_templates", "tinyagent_read_input")


def tools_of(loaded: LoadedPlugin, requested: Sequence[str] | None = None) -> dict[str, AgentTool]:
    """Return the tools that a plugin registers, by name.

    If only single tools are requested, the plugin may register fewer than all.

    A module without hooks offers all tools at its top level.

    Raises:
        TinyAgentError: The plugin has no tools, or one that cannot be used.
    """
    from tinyagent.tools import FunctionTool

    offered: dict[str, AgentTool] = {}

    def register(tool: object) -> None:
        if not isinstance(tool, AgentTool):
            raise TypeError(
                f"register() got {_kind(tool)}, not an AgentTool; is @tool missing on the function?"
            )
        if not re.fullmatch(_TOOL_NAME, str(tool.name)):
            raise ValueError(
                f"a tool's name is 1 to 64 letters, digits, '_' or '-'; this one is {tool.name!r}"
            )
        if isinstance(tool, FunctionTool):
            tool.let_calls_leave_sandbox()  # the user is asked about each such call
        tool_schema(tool)
        _add(offered, tool.name, tool, "tools")

    hooks = loaded.hooks.get("tinyagent_register_tools", ())
    _call(loaded, hooks, register=register, requested=requested)
    if not hooks:
        for thing in list(vars(loaded.implementation).values()):
            if isinstance(thing, AgentTool):
                guarded(loaded.plugin, "cannot be used", register, thing)
    if not offered:
        raise failure(
            loaded.plugin,
            "offers no tools",
            None,
            hint="Mark a function with @tool and register it in tinyagent_register_tools; in a file, its "
            "top level is enough.",
        )
    return offered


def provider_of(loaded: LoadedPlugin, name: str) -> Provider:
    """Return the provider that a plugin registers under this name.

    Raises:
        TinyAgentError: The plugin registers no such provider.
    """
    offered: dict[str, Provider] = {}

    def register(provider: object) -> None:
        if not isinstance(provider, Provider):
            raise TypeError(f"register() got {_kind(provider)}, not a Provider")
        _add(offered, provider.name, provider, "providers")

    _call(loaded, _required(loaded, "tinyagent_register_providers"), register=register)
    return _chosen(loaded, offered, name, "registers no provider named")


def command_of(loaded: LoadedPlugin, name: str) -> click.Command:
    """Return the sub-command that a plugin adds under this name.

    Raises:
        TinyAgentError: The plugin adds no such command.
    """
    import click

    group = click.Group()
    _call(loaded, _required(loaded, "tinyagent_register_commands"), group=group)
    return _chosen(loaded, group.commands, name, "adds no command")


def executor_of(loaded: LoadedPlugin, name: str) -> ExecutorFactory:
    """Return the factory of the executor that a plugin registers under this name.

    Raises:
        TinyAgentError: The plugin registers no such executor.
    """
    offered: dict[str, ExecutorFactory] = {}

    def register(name: str, factory: ExecutorFactory) -> None:
        _add(offered, name, factory, "executors")

    _call(loaded, _required(loaded, "tinyagent_register_executors"), register=register)
    return _chosen(loaded, offered, name, "registers no executor named")


def _chosen(loaded: LoadedPlugin, offered: Mapping[str, T], name: str, what: str) -> T:
    """Return what a plugin offers under the name of its entry point.

    Raises:
        TinyAgentError: It offers other names only.
    """
    if name not in offered:
        only = ", ".join(sorted(offered)) or "none"
        raise failure(loaded.plugin, f"{what} {name!r}, only: {only}", None, None)
    return offered[name]


def templates_of(loaded: LoadedPlugin, requested: str | None) -> dict[str, PromptTemplate]:
    """Return the prompt templates that a plugin registers, by name.

    Raises:
        TinyAgentError: The plugin cannot be used.
    """
    offered: dict[str, PromptTemplate] = {}

    def register(template: object) -> None:
        if not isinstance(template, PromptTemplate):
            raise TypeError(f"register() got {_kind(template)}, not a PromptTemplate")
        if "/" not in template.name:
            raise ValueError(f"the name of a template is SOURCE/NAME; this one is {template.name!r}")
        _add(offered, template.name, template, "templates")

    _call(
        loaded, loaded.hooks.get("tinyagent_register_templates", ()), register=register, requested=requested
    )
    return offered


def filled_in(template: PromptTemplate, plugin: Plugin | ToolFile, values: Mapping[str, str]) -> str:
    """Return the prompt of a plugin's template.

    Raises:
        TinyAgentError: The plugin failed.
    """
    text: object = guarded(plugin, f"cannot fill in {template.name!r}", template.fill_in, values)
    if not isinstance(text, str):
        raise failure(plugin, f"returned {_kind(text)} for {template.name!r}, not a text", None, None)
    return text


def input_of(loaded: LoadedPlugin, argument: str) -> list[bytes]:
    """Return what a plugin reads for `-f NAME:ARGUMENT`.

    Raises:
        TinyAgentError: The plugin cannot read it.
    """
    (hook, *_) = _required(loaded, "tinyagent_read_input")
    parts = guarded(loaded.plugin, f"cannot read {argument!r}", hook.call, argument=argument)
    if not isinstance(parts, list | tuple) or not all(isinstance(part, bytes) for part in parts):
        raise failure(loaded.plugin, f"returned no bytes for {argument!r}", None, None)
    return list(parts)


def require_inputs(loaded: LoadedPlugin) -> None:
    """Refuse a plugin of the group `tinyagent.inputs` that has no hook for it.

    Raises:
        PluginError: It has none.
    """
    if not any(name in loaded.hooks for name in _INPUT_HOOKS):
        raise _without_hook(loaded, " or ".join(_INPUT_HOOKS))


def sinks_of(loaded: LoadedPlugin) -> list[tuple[str, SinkFactory]]:
    """Return the sinks that a plugin registers: a name for messages, and the factory."""
    found: list[tuple[str, SinkFactory]] = []

    def register(name: str, factory: SinkFactory) -> None:
        found.append((f"{name!r} of the plugin {loaded.plugin}", factory))

    _call(loaded, loaded.hooks.get("tinyagent_register_sinks", ()), register=register)
    return found


def require_guard(loaded: LoadedPlugin) -> None:
    """Refuse a plugin of the group `tinyagent.hooks` that has no hook of a run.

    Raises:
        PluginError: It has none.
    """
    if not any(name in loaded.hooks for name in _GUARD_HOOKS):
        raise _without_hook(loaded, " or ".join(_GUARD_HOOKS))


def _call(loaded: LoadedPlugin, hooks: Iterable[Hook], **arguments: object) -> None:
    """Let a plugin register what it offers."""
    for hook in hooks:
        guarded(loaded.plugin, "cannot be used", hook.call, **arguments)


def _add(offered: dict[str, T], name: str, thing: T, what: str) -> None:
    if offered.setdefault(name, thing) is not thing:
        raise ValueError(f"it registers two {what} named {name!r}")


def _required(loaded: LoadedPlugin, name: str) -> tuple[Hook, ...]:
    if name not in loaded.hooks:
        raise _without_hook(loaded, name)
    return loaded.hooks[name]


def _without_hook(loaded: LoadedPlugin, names: str) -> TinyAgentError:
    return failure(loaded.plugin, f"has no function {names} marked with @hookimpl", None, None)


def _kind(thing: object) -> str:
    name = getattr(thing, "__name__", None)
    return f"the function {name}()" if callable(thing) and name is not None else repr(thing)[:80]
