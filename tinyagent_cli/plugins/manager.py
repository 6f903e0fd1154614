"""Plugins: found by their metadata, imported when they are requested, and isolated from each other.

This is the only module that uses pluggy. Errors while a plugin is loaded become a `PluginError` that names
the plugin, its distribution and its version, and fail only the command that requested it. The order in which
plugins are found decides nothing: if two plugins claim a name, the error names both, unless the configuration
chooses one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, ParamSpec, TypeAlias, TypeVar

import pluggy

from tinyagent import hookspecs
from tinyagent._tool_schemas import tool_schema
from tinyagent.agent_types import AgentEvent, AgentTool, Provider
from tinyagent.errors import ConfigurationError, PluginError, TinyAgentError
from tinyagent_cli.config.files import names_a_file
from tinyagent_cli.terminal.signals import StopRun
from tinyagent_cli.version import DISTRIBUTION

from . import builtin as builtin_plugins
from .discovery import EntryPoint, find, normalised
from .failures import BUILT_IN, CONFIGURED, FILE, failure
from .tool_sources import ToolSource, import_file, module_name

if TYPE_CHECKING:
    import click

    from tinyagent_cli.config.files import ProviderTable
    from tinyagent_cli.config.settings import Settings

__all__ = ["Hook", "PluginManager", "SinkFactory"]

P = ParamSpec("P")
T = TypeVar("T")

SinkFactory: TypeAlias = Callable[[], Callable[[AgentEvent], None]]
"""Makes the sink of one run."""

BUILT_IN_NAMES = frozenset({BUILT_IN, "tinyagent", DISTRIBUTION})
"""Names of tinyagent's own plugins in `[plugins] prefer`."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REGISTER = {
    "tools": "tinyagent_register_tools",
    "providers": "tinyagent_register_providers",
    "commands": "tinyagent_register_commands",
}
_IN_HOOKS = ("tinyagent_before_tool_call", "tinyagent_after_tool_call", "tinyagent_register_sinks")


class Hook(NamedTuple):
    """One plugin's implementation of a hook. `call` passes only the arguments that it declares."""

    plugin: str
    function: Callable[..., object]
    arguments: tuple[str, ...]

    def call(self, **arguments: object) -> object:
        return self.function(*[arguments[name] for name in self.arguments])


class _Claim(NamedTuple):
    """A requested tool, and whether it was requested by its own name."""

    tool: AgentTool
    entry: EntryPoint
    by_name: bool


class PluginManager:
    """The interface of the commands to plugins.

    Args:
        providers: The configured providers, by name.
        disabled: Disabled plugins of the group `tinyagent.hooks`.
        config_file: The configuration file, for messages.
        prefer: The distribution to use for a name that several claim.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderTable] | None = None,
        disabled: frozenset[str] = frozenset(),
        config_file: Path | None = None,
        prefer: Mapping[str, str] | None = None,
    ) -> None:
        self.providers: Mapping[str, ProviderTable] = providers or {}
        self.disabled = disabled
        self.config_file = config_file
        self.prefer: Mapping[str, str] = prefer or {}
        self.sources: dict[str, ToolSource] = {}
        self._pluggy = pluggy.PluginManager(hookspecs.NAME)
        self._pluggy.add_hookspecs(hookspecs)
        self._objects: dict[EntryPoint, object] = {}
        self._failures: dict[EntryPoint, TinyAgentError] = {}
        self._labels: dict[int, str] = {}

    @classmethod
    def from_settings(cls, found: Settings) -> PluginManager:
        """Return a manager with the settings of the configuration files."""
        from .log_warnings import show_warnings

        show_warnings()
        file = found.directory / "config.toml"
        return cls(found.providers, found.disabled_plugins, file, found.preferred_plugins)

    # ---- tools --------------------------------------------------------------------------------------

    def tools(self, names: Iterable[str]) -> list[AgentTool]:
        """Return the tools that `-t` names: `plugin`, `plugin.tool`, `file.py` or `file.py:tool`."""
        claims: dict[str, list[_Claim]] = {}
        for name in names:
            entry, wanted = self._tool_source(name)
            offered = self._tools_of(entry)
            if wanted is not None and wanted not in offered:
                raise ConfigurationError(
                    f"The plugin {entry} has no tool {wanted!r}; it has: {_list(offered)}."
                )
            for tool in offered.values() if wanted is None else [offered[wanted]]:
                claims.setdefault(tool.name, []).append(_Claim(tool, entry, wanted is not None))
        chosen = [self._one_of(name, offers) for name, offers in claims.items()]
        self.sources |= {claim.tool.name: _source(claim.entry) for claim in chosen}
        return [claim.tool for claim in chosen]

    async def changed_tools(self, names: Iterable[str]) -> list[AgentTool] | None:
        """Return the tools that `-t` names if a plugin reports a change; None otherwise."""
        changed = False
        for hook in self.hooks("tinyagent_tools_changed"):
            answer = hook.call()
            changed |= bool(await answer if inspect.isawaitable(answer) else answer)
        return self.tools(names) if changed else None

    def _one_of(self, name: str, claims: list[_Claim]) -> _Claim:
        """Choose among tools with the same name: one requested as `plugin.tool`, or the preferred one."""
        for some in (claims, [claim for claim in claims if claim.by_name]):
            if len({id(claim.tool) for claim in some}) == 1:
                return some[0]
        entries = [claim.entry for claim in claims]
        preferred = self._preferred(name, entries)
        if preferred is not None:
            return claims[entries.index(preferred)]
        first, second = list(dict.fromkeys(map(str, entries)))[:2]
        raise ConfigurationError(
            f"The tool {name!r} is offered by {first} and by {second}.",
            hint=f"Say which: -t {entries[-1].name}.{name}, or {self._how_to_prefer(name)}",
        )

    def _tool_source(self, name: str) -> tuple[EntryPoint, str | None]:
        if names_a_file(name):
            path, colon, wanted = name.rpartition(":") if ".py:" in name else (name, "", "")
            return self._file(path), wanted if colon else None
        entries = find("tools")
        known = {entry.name for entry in entries}
        if name in known:
            return self._only(entries, name), None
        plugin, dot, tool = name.rpartition(".")
        if dot and plugin in known:
            return self._only(entries, plugin), tool
        raise ConfigurationError(
            f"Unknown tool {name!r}.{_meant(name, known)} Installed: {_list(known)}.",
            hint=f"A file works too: -t ./{name}.py. Installed plugins: tinyagent plugins list",
        )

    def _file(self, path: str) -> EntryPoint:
        file = Path(path).expanduser()
        if not file.is_file():
            raise ConfigurationError(f"The tool file {path!r} does not exist, or is not a file.")
        return EntryPoint("tools", file.stem, str(file.resolve()), FILE, path)

    def _tools_of(self, entry: EntryPoint) -> dict[str, AgentTool]:
        offered: dict[str, AgentTool] = {}

        def register(tool: AgentTool) -> None:
            if not isinstance(tool, AgentTool):
                raise TypeError(
                    f"register() got {_kind(tool)}, not an AgentTool; is @tool missing on the function?"
                )
            if not _TOOL_NAME.fullmatch(str(tool.name)):
                raise ValueError(
                    f"a tool's name is 1 to 64 letters, digits, '_' or '-'; this one is {tool.name!r}"
                )
            tool_schema(tool)
            if offered.setdefault(tool.name, tool) is not tool:
                raise ValueError(f"it registers two tools named {tool.name!r}")

        plugin = self._load(entry)
        if not self._register_with(entry, plugin, register):
            # A module without hooks offers all tools at its top level.
            found = [thing for thing in vars(plugin).values() if isinstance(thing, AgentTool)]
            for tool in found:
                self._guarded(entry, "cannot be used", register, tool)
        if not offered:
            raise self._failed(
                entry,
                "offers no tools",
                None,
                hint="Mark a function with @tool and register it in tinyagent_register_tools; in a file, its "
                "top level is enough.",
            )
        return offered

    # ---- providers ----------------------------------------------------------------------------------

    def provider(self, name: str) -> Provider:
        """Return the provider of this name."""
        claims = [entry for entry in self.provider_entries() if entry.name == name]
        if name in self.providers:
            # A configured provider replaces the built-in one of the same name.
            claims = [entry for entry in claims if entry.distribution != BUILT_IN]
        if not claims:
            known = {entry.name for entry in self.provider_entries()}
            raise ConfigurationError(
                f"Unknown provider {name!r}.{_meant(name, known)} Known: {_list(known)}.",
                hint="The part of -m before the first slash is the provider. Your own endpoints go into "
                f"[providers.NAME]{f' in {self.config_file}' if self.config_file else ''}.",
            )
        entry = self._only(claims, name)
        offered: dict[str, Provider] = {}

        def register(provider: Provider) -> None:
            if not isinstance(provider, Provider):
                raise TypeError(f"register() got {_kind(provider)}, not a Provider")
            if offered.setdefault(provider.name, provider) is not provider:
                raise ValueError(f"it registers two providers named {provider.name!r}")

        if not self._register_with(entry, self._load(entry), register):
            self._no_hook(entry)
        if name not in offered:
            raise self._failed(entry, f"registers no provider named {name!r}, only: {_list(offered)}", None)
        return offered[name]

    def provider_entries(self) -> list[EntryPoint]:
        """Return all providers, built-in, configured and installed, without importing them."""
        return [
            *(EntryPoint("providers", name, "", BUILT_IN, "") for name in builtin_plugins.NAMES),
            *(EntryPoint("providers", name, "", CONFIGURED, "") for name in self.providers),
            *find("providers"),
        ]

    # ---- commands -----------------------------------------------------------------------------------

    def command(self, name: str) -> click.Command:
        """Return the sub-command of a plugin."""
        import click

        entry = self._only(find("commands"), name)
        group = click.Group()
        if not self._register_with(entry, self._load(entry), None, group=group):
            self._no_hook(entry)
        command = group.commands.get(name)
        if command is None:
            raise self._failed(entry, f"adds no command {name!r}, only: {_list(group.commands)}", None)
        return command

    # ---- hooks --------------------------------------------------------------------------------------

    def load_hooks(self) -> None:
        """Load the plugins of the group `tinyagent.hooks`, which must be loaded before a tool may run.

        Raises:
            PluginError: At least one cannot be loaded; the message names all of them.
            ConfigurationError: The only problem is that some are not configured.
        """
        problems: list[TinyAgentError] = []
        for entry in find("hooks"):
            if entry.name in self.disabled or entry.distribution in self.disabled:
                continue
            try:
                plugin = self._load(entry)
                if not any(self._implementations(name, plugin) for name in _IN_HOOKS):
                    self._no_hook(entry)
            except TinyAgentError as error:
                problems.append(error)
        if problems:
            where = f" in {self.config_file}" if self.config_file else ""
            hints = list(dict.fromkeys(error.hint for error in problems if error.hint))
            hints.append(
                "Plugins of the group tinyagent.hooks guard tool calls, so nothing runs without them. "
                f'To switch one off: [plugins] disable = ["NAME"]{where}.'
            )
            only_setup = all(isinstance(error, ConfigurationError) for error in problems)
            raised = ConfigurationError if only_setup else PluginError
            raise raised("\n".join(map(str, problems)), hint="\n".join(hints))

    def hooks(self, name: str) -> list[Hook]:
        """Return the implementations of a hook in all loaded plugins, in the order of the plugins' names."""
        found = [
            Hook(self._labels[id(impl.plugin)], impl.function, tuple(impl.argnames))
            for impl in getattr(self._pluggy.hook, name).get_hookimpls()
        ]
        return sorted(found, key=lambda hook: hook.plugin)

    def sinks(self) -> list[tuple[str, SinkFactory]]:
        """Return the sinks of all plugins loaded so far: a name for messages, and the factory."""
        found: list[tuple[str, SinkFactory]] = []
        for entry, plugin in self._objects.items():
            for hook in self._implementations("tinyagent_register_sinks", plugin):

                def register(name: str, factory: SinkFactory, plugin: str = hook.plugin) -> None:
                    found.append((f"{name!r} of the plugin {plugin}", factory))

                self._guarded(entry, "cannot be used", hook.call, register=register)
        return found

    # ---- looking at all of them -----------------------------------------------------------------------

    def check(self, entry: EntryPoint) -> TinyAgentError | None:
        """Load a plugin to check it. Return the error; None if it works."""
        try:
            match entry.group:
                case "tools":
                    self._tools_of(entry)
                case "providers":
                    self.provider(entry.name)
                case "commands":
                    self.command(entry.name)
                case _:
                    plugin = self._load(entry)
                    if not any(self._implementations(name, plugin) for name in _IN_HOOKS):
                        self._no_hook(entry)
        except TinyAgentError as error:
            return error
        return None

    # ---- loading --------------------------------------------------------------------------------------

    def _only(self, entries: Sequence[EntryPoint], name: str) -> EntryPoint:
        claims = [entry for entry in entries if entry.name == name]
        if len(claims) > 1:
            preferred = self._preferred(name, claims)
            if preferred is not None:
                return preferred
            raise PluginError(
                f"The name {name!r} is claimed by {' and by '.join(map(_whose, claims))}.",
                hint=f"Say whose it is: {self._how_to_prefer(name)} Or uninstall one, or let only the other "
                "through: TINYAGENT_PLUGINS=DISTRIBUTION.",
            )
        return claims[0]

    def _preferred(self, name: str, entries: Sequence[EntryPoint]) -> EntryPoint | None:
        if name not in self.prefer:
            return None
        wanted = normalised(self.prefer[name])
        wanted = BUILT_IN if wanted in BUILT_IN_NAMES else wanted
        return next((entry for entry in entries if normalised(entry.distribution) == wanted), None)

    def _how_to_prefer(self, name: str) -> str:
        where = f" in {self.config_file}" if self.config_file else " in config.toml"
        return f'[plugins] prefer = {{{name} = "DISTRIBUTION"}}{where}.'

    def _load(self, entry: EntryPoint) -> object:
        if entry in self._failures:
            raise self._failures[entry]
        if entry not in self._objects:
            plugin = self._guarded(entry, "cannot be loaded", self._object, entry)
            self._guarded(entry, "does not fit the hooks", self._register, plugin, entry)
            self._objects[entry] = plugin
        return self._objects[entry]

    def _object(self, entry: EntryPoint) -> object:
        if entry.distribution == BUILT_IN:
            return builtin_plugins.BuiltinProviders(entry.name)
        if entry.distribution == CONFIGURED:
            return builtin_plugins.ConfiguredProvider(entry.name, self.providers[entry.name])
        if entry.distribution == FILE:
            return import_file(Path(entry.value))
        module, _, attributes = entry.value.partition(":")
        plugin: object = import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            plugin = getattr(plugin, attribute)
        return plugin() if isinstance(plugin, type) else plugin

    def _register(self, plugin: object, entry: EntryPoint) -> None:
        if id(plugin) in self._labels:  # one object behind two entry points
            return
        self._labels[id(plugin)] = str(entry)
        self._pluggy.register(plugin, name=f"{entry.group}:{entry.name}:{entry.distribution}:{entry.value}")
        try:
            for caller in self._pluggy.get_hookcallers(plugin) or ():
                for impl in caller.get_hookimpls():
                    if impl.plugin is not plugin:
                        continue
                    if not caller.has_spec() and not impl.optionalhook:
                        known = [name for name in dir(hookspecs) if name.startswith("tinyagent_")]
                        raise ValueError(f"unknown hook {caller.name!r}.{_meant(caller.name, known)}")
                    if impl.wrapper or impl.hookwrapper:
                        raise ValueError(f"{caller.name!r} is a wrapper; hooks here are called one by one")
        except ValueError:
            self._pluggy.unregister(plugin)
            del self._labels[id(plugin)]
            raise

    def _implementations(self, hook: str, plugin: object) -> list[Hook]:
        return [
            Hook(self._labels[id(plugin)], impl.function, tuple(impl.argnames))
            for impl in getattr(self._pluggy.hook, hook).get_hookimpls()
            if impl.plugin is plugin
        ]

    def _register_with(
        self, entry: EntryPoint, plugin: object, register: Callable[..., None] | None, **arguments: object
    ) -> bool:
        """Call the plugin's own register hook; return whether it has one."""
        hooks = self._implementations(_REGISTER[entry.group], plugin)
        for hook in hooks:
            self._guarded(entry, "cannot be used", hook.call, register=register, **arguments)
        return bool(hooks)

    def _no_hook(self, entry: EntryPoint) -> NoReturn:
        wanted = _REGISTER.get(entry.group) or " or ".join(_IN_HOOKS)
        raise self._failed(entry, f"has no function {wanted} marked with @hookimpl", None)

    def _guarded(
        self, entry: EntryPoint, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return function(*args, **kwargs)
        except (KeyboardInterrupt, PluginError):
            raise
        except BaseException as error:
            ours = entry.distribution in (BUILT_IN, CONFIGURED)
            if isinstance(error, StopRun) or (ours and isinstance(error, TinyAgentError)):
                raise
            raise self._failed(entry, what, error) from error

    def _failed(
        self, entry: EntryPoint, what: str, error: BaseException | None, hint: str | None = None
    ) -> TinyAgentError:
        if isinstance(error, pluggy.PluginValidationError):
            what, error = f"{what}: {' '.join(str(error).split())}", None
        found = self._failures[entry] = failure(entry, what, error, hint)
        return found


def _whose(entry: EntryPoint) -> str:
    return f"{entry.distribution} {entry.version}".strip()


def _source(entry: EntryPoint) -> ToolSource:
    if entry.distribution == FILE:
        return ToolSource(entry.value, module_name(Path(entry.value)), is_file=True)
    module = entry.value.partition(":")[0].strip()
    return ToolSource(normalised(entry.distribution), module, is_file=False)


def _kind(thing: object) -> str:
    return (
        f"the function {thing.__name__}()"
        if callable(thing) and hasattr(thing, "__name__")
        else repr(thing)[:80]
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1, 0.7)
    return f" Did you mean {near[0]!r}?" if near else ""
