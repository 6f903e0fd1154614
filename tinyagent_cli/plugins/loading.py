"""Load plugins: import them, and read their hooks.

This is the only module that uses pluggy: to find the functions of a plugin that implement hooks, and to
check them against the specifications. The hooks are called here and in the run, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import pluggy

from tinyagent import hookspecs
from tinyagent.errors import PluginError, TinyAgentError
from tinyagent_cli.terminal.signals import StopRun
from tinyagent_cli.version import version

from . import builtin
from .discovery import BUILT_IN, CONFIGURED, Plugin
from .failures import failure
from .tool_sources import ToolFile, import_file

if TYPE_CHECKING:
    from tinyagent_cli.config.files import ProviderTable

__all__ = ["Hook", "LoadedPlugin", "guarded", "load"]

P = ParamSpec("P")
T = TypeVar("T")

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
    implementation = guarded(plugin, "cannot be loaded", _import, plugin, providers)
    hooks = guarded(
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
    found: object = import_module(plugin.module)
    for attribute in filter(None, plugin.value.partition(":")[2].strip().split(".")):
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
        from tinyagent_cli.terminal.hints import suggestion

        known = [name for name in dir(hookspecs) if name.startswith("tinyagent_")]
        raise _HookError(f"unknown hook {caller.name!r}.{suggestion(caller.name, known)}")
    mark = next((mark for mark in _ORDER_MARKS if getattr(found, mark)), None)
    if mark is not None:
        raise _HookError(
            f"{caller.name} in {found.function.__module__} is marked with {mark}=True, which is refused",
            f"Remove {mark} from @hookimpl: the hooks of all plugins are called one by one, in the order of "
            "the plugins' names.",
        )


def guarded(
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
