"""Load plugins, and read the tools, providers, commands and sinks that they register.

This is the only module that uses pluggy: to find the functions of a plugin that implement hooks, and to
check them against the specifications. The hooks are called here and in the run, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeAlias, TypeVar

import pluggy

from tinyagent import hookspecs
from tinyagent._tool_schemas import tool_schema
from tinyagent.agent_types import AgentEvent, AgentTool, PromptTemplate, Provider
from tinyagent.errors import PluginError, TinyAgentError
from tinyagent_cli.terminal.signals import StopRun
from tinyagent_cli.version import version

from . import builtin
from .discovery import BUILT_IN, CONFIGURED, Plugin
from .failures import failure
from .tool_sources import ToolFile, import_file

if TYPE_CHECKING:
    import click

    from tinyagent.executors import ExecutorFactory
    from tinyagent_cli.config.files import ProviderTable

__all__ = [
    "Hook",
    "LoadedPlugin",
    "SinkFactory",
    "command_of",
    "executor_of",
    "filled_in",
    "input_of",
    "load",
    "provider_of",
    "require_guard",
    "require_inputs",
    "sinks_of",
    "suggestion",
    "templates_of",
    "tools_of",
]

P = ParamSpec("P")
T = TypeVar("T")

SinkFactory: TypeAlias = Callable[[], Callable[[AgentEvent], None]]
"""Makes the sink of one run."""

_TOOL_NAME = r"[A-Za-z0-9_-]{1,64}"
_GUARD_HOOKS = ("tinyagent_before_tool_call", "tinyagent_after_tool_call", "tinyagent_register_sinks")
_INPUT_HOOKS = ("tinyagent_register_templates", "tinyagent_read_input")
_ORDER_MARKS = ("tryfirst", "trylast", "wrapper", "hookwrapper")
"""Options of `hookimpl` that would change the order of hooks, which is that of the plugins' names."""


class Hook(NamedTuple):
    """One plugin's implementation of a hook. `call` passes only the arguments that it declares."""

    plugin: str
    function: Callable[..., object]
    arguments: tuple[str, ...]

    def call(self, **arguments: object) -> object:
        return self.function(*[arguments[name] for name in self.arguments])


class LoadedPlugin(NamedTuple):
    """A plugin after its import.

    Attributes:
        plugin: The plugin as it was found.
        implementation: The module or the instance of the entry point.
        hooks: Its implementations of each hook, by the name of the hook; a hook may have several.
    """

    plugin: Plugin | ToolFile
    implementation: object
    hooks: Mapping[str, tuple[Hook, ...]]


def load(plugin: Plugin | ToolFile, providers: Mapping[str, ProviderTable]) -> LoadedPlugin:
    """Import a plugin and read its hooks.

    Args:
        plugin: A plugin or a tool file.
        providers: The configured providers, by name.

    Raises:
        TinyAgentError: The plugin cannot be used; the message names it.
    """
    implementation = _guarded(plugin, "cannot be loaded", _import, plugin, providers)
    hooks = _guarded(
        plugin, f"does not fit the hooks of tinyagent {version()}", _read_hooks, implementation, str(plugin)
    )
    return LoadedPlugin(plugin, implementation, hooks)


def _import(plugin: Plugin | ToolFile, providers: Mapping[str, ProviderTable]) -> object:
    if isinstance(plugin, ToolFile):
        return import_file(plugin.path)
    if plugin.distribution == BUILT_IN:
        return builtin.BuiltinProviders(plugin.name)
    if plugin.distribution == CONFIGURED:
        return builtin.ConfiguredProvider(plugin.name, providers[plugin.name])
    module, _, attributes = plugin.value.partition(":")
    found: object = import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        found = getattr(found, attribute)
    return found() if isinstance(found, type) else found


class _HookError(Exception):
    """An implementation of a hook that cannot be called."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@cache
def _specifications() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.NAME)
    manager.add_hookspecs(hookspecs)
    return manager


def _read_hooks(implementation: object, label: str) -> dict[str, tuple[Hook, ...]]:
    """Return the hooks of a plugin, after a check that they can be called."""
    manager = _specifications()
    try:
        manager.register(implementation)
    except pluggy.PluginValidationError as error:
        unknown = _unknown_arguments(manager, implementation)
        raise _HookError(unknown or " ".join(str(error).split())) from None
    try:
        hooks: dict[str, tuple[Hook, ...]] = {}
        for caller in manager.get_hookcallers(implementation) or ():
            for found in caller.get_hookimpls():
                if found.plugin is implementation:
                    _check_hook(caller, found)
                    hook = Hook(label, found.function, tuple(found.argnames))
                    hooks[caller.name] = (*hooks.get(caller.name, ()), hook)
        return hooks
    finally:
        manager.unregister(implementation)


def _unknown_arguments(manager: pluggy.PluginManager, implementation: object) -> str:
    """Return which hook has arguments that its specification does not have; empty if all fit."""
    for attribute in dir(implementation):
        options = manager.parse_hookimpl_opts(implementation, attribute)
        name = (options["specname"] or attribute) if options is not None else ""
        specification = getattr(hookspecs, name, None)
        if callable(specification):
            known = list(signature(specification).parameters)
            unknown = [
                each for each in signature(getattr(implementation, attribute)).parameters if each not in known
            ]
            if unknown:
                has = f"it has: {', '.join(known)}" if known else "it has none"
                return f"{name} has no argument {', '.join(map(repr, unknown))}; {has}"
    return ""


def _check_hook(caller: pluggy.HookCaller, found: pluggy.HookImpl) -> None:
    if not caller.has_spec() and not found.optionalhook:
        known = [name for name in dir(hookspecs) if name.startswith("tinyagent_")]
        raise _HookError(f"unknown hook {caller.name!r}.{suggestion(caller.name, known)}")
    mark = next((mark for mark in _ORDER_MARKS if getattr(found, mark)), None)
    if mark is not None:
        raise _HookError(
            f"{caller.name} in {found.function.__module__} is marked with {mark}=True, which is refused",
            f"Remove {mark} from @hookimpl: the hooks of all plugins are called one by one, in the order of "
            "the plugins' names.",
        )


# ---- registrations ----------------------------------------------------------------------------------------


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
        if offered.setdefault(tool.name, tool) is not tool:
            raise ValueError(f"it registers two tools named {tool.name!r}")

    hooks = loaded.hooks.get("tinyagent_register_tools", ())
    for hook in hooks:
        _guarded(loaded.plugin, "cannot be used", hook.call, register=register, requested=requested)
    if not hooks:
        for thing in list(vars(loaded.implementation).values()):
            if isinstance(thing, AgentTool):
                _guarded(loaded.plugin, "cannot be used", register, thing)
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
        if offered.setdefault(provider.name, provider) is not provider:
            raise ValueError(f"it registers two providers named {provider.name!r}")

    for hook in _required(loaded, "tinyagent_register_providers"):
        _guarded(loaded.plugin, "cannot be used", hook.call, register=register)
    return _chosen(loaded, offered, name, "registers no provider named")


def command_of(loaded: LoadedPlugin, name: str) -> click.Command:
    """Return the sub-command that a plugin adds under this name.

    Raises:
        TinyAgentError: The plugin adds no such command.
    """
    import click

    group = click.Group()
    for hook in _required(loaded, "tinyagent_register_commands"):
        _guarded(loaded.plugin, "cannot be used", hook.call, group=group)
    return _chosen(loaded, group.commands, name, "adds no command")


def executor_of(loaded: LoadedPlugin, name: str) -> ExecutorFactory:
    """Return the factory of the executor that a plugin registers under this name.

    Raises:
        TinyAgentError: The plugin registers no such executor.
    """
    offered: dict[str, ExecutorFactory] = {}

    def register(name: str, factory: ExecutorFactory) -> None:
        if offered.setdefault(name, factory) is not factory:
            raise ValueError(f"it registers two executors named {name!r}")

    for hook in _required(loaded, "tinyagent_register_executors"):
        _guarded(loaded.plugin, "cannot be used", hook.call, register=register)
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


def templates_of(loaded: LoadedPlugin, requested: str | None = None) -> dict[str, PromptTemplate]:
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
        if offered.setdefault(template.name, template) is not template:
            raise ValueError(f"it registers two templates named {template.name!r}")

    for hook in loaded.hooks.get("tinyagent_register_templates", ()):
        _guarded(loaded.plugin, "cannot be used", hook.call, register=register, requested=requested)
    return offered


def filled_in(template: PromptTemplate, plugin: Plugin | ToolFile, values: Mapping[str, str]) -> str:
    """Return the prompt of a plugin's template.

    Raises:
        TinyAgentError: The plugin failed.
    """
    text: object = _guarded(plugin, f"cannot fill in {template.name!r}", template.fill_in, values)
    if not isinstance(text, str):
        raise failure(plugin, f"returned {_kind(text)} for {template.name!r}, not a text", None, None)
    return text


def input_of(loaded: LoadedPlugin, argument: str) -> list[bytes]:
    """Return what a plugin reads for `-f NAME:ARGUMENT`.

    Raises:
        TinyAgentError: The plugin cannot read it.
    """
    (hook, *_) = _required(loaded, "tinyagent_read_input")
    parts = _guarded(loaded.plugin, f"cannot read {argument!r}", hook.call, argument=argument)
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

    for hook in loaded.hooks.get("tinyagent_register_sinks", ()):
        _guarded(loaded.plugin, "cannot be used", hook.call, register=register)
    return found


def require_guard(loaded: LoadedPlugin) -> None:
    """Refuse a plugin of the group `tinyagent.hooks` that has no hook of a run.

    Raises:
        PluginError: It has none.
    """
    if not any(name in loaded.hooks for name in _GUARD_HOOKS):
        raise _without_hook(loaded, " or ".join(_GUARD_HOOKS))


def _required(loaded: LoadedPlugin, name: str) -> tuple[Hook, ...]:
    if name not in loaded.hooks:
        raise _without_hook(loaded, name)
    return loaded.hooks[name]


def _without_hook(loaded: LoadedPlugin, names: str) -> TinyAgentError:
    return failure(loaded.plugin, f"has no function {names} marked with @hookimpl", None, None)


def _guarded(
    plugin: Plugin | ToolFile,
    what: str,
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call code of a plugin. An exception becomes an error with the plugin's name.

    Args:
        plugin: The plugin.
        what: The predicate of the message, such as "cannot be loaded".
        function: What to call.
        *args: Its arguments.
        **kwargs: Its arguments.
    """
    try:
        return function(*args, **kwargs)
    except (KeyboardInterrupt, PluginError, StopRun):
        raise
    except _HookError as error:
        from .compatibility import other_version

        raise failure(plugin, f"{what}: {error}", None, error.hint or other_version(plugin)) from None
    except BaseException as error:
        if isinstance(error, TinyAgentError) and isinstance(plugin, Plugin) and plugin.is_part_of_tinyagent:
            raise
        raise failure(plugin, what, error, None) from error


def _kind(thing: object) -> str:
    name = getattr(thing, "__name__", None)
    return f"the function {name}()" if callable(thing) and name is not None else repr(thing)[:80]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is most similar to `name`; empty if no name is."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1, 0.7)
    return f" Did you mean {near[0]!r}?" if near else ""
