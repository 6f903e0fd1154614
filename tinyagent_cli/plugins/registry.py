"""The plugins of a command: `PluginLoader` loads what is requested, `Registry` is the result.

A plugin goes through three types: `Plugin` is found by its metadata, `LoadedPlugin` is imported and checked,
and the frozen `Registry` has the hooks of all that are loaded. An error while a plugin is loaded names the
plugin, its distribution and its version, and fails only the command that requested it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.errors import ConfigurationError, NotConfiguredError, PluginError, TinyAgentError
from tinyagent_cli.config.environment import set_variable, user_file

from .builtin import provider_plugins
from .discovery import EXECUTORS, Plugin, find
from .loading import Hook, LoadedPlugin, load
from .registrations import (
    SinkFactory,
    command_of,
    executor_of,
    input_of,
    provider_of,
    require_guard,
    sinks_of,
    templates_of,
    tools_of,
)
from .selection import Preferences, ToolClaim, list_names, plugin_of_tool
from .tool_sources import ToolFile, ToolSource, source_of

if TYPE_CHECKING:
    import click

    from tinyagent.agent_types import AgentTool, PromptTemplate, Provider
    from tinyagent.executors import ExecutorFactory
    from tinyagent_cli.config.files import ProviderTable, SandboxTable
    from tinyagent_cli.config.settings import Settings

__all__ = ["PluginLoader", "Registry", "TemplateClaim", "ToolSet"]


class Registry(NamedTuple):
    """The loaded plugins of a command. A plugin that was loaded under two names is in it once."""

    plugins: tuple[LoadedPlugin, ...] = ()

    def hooks(self, name: str) -> list[Hook]:
        """Return the implementations of a hook, in the order of the plugins' names."""
        found = [hook for loaded in self.plugins for hook in loaded.hooks.get(name, ())]
        return sorted(found, key=lambda hook: hook.plugin)

    def sinks(self) -> list[tuple[str, SinkFactory]]:
        """Return the sinks of all plugins: a name for messages, and the factory."""
        return [sink for loaded in self.plugins for sink in sinks_of(loaded)]

    async def tools_have_changed(self) -> bool:
        """Return whether a plugin reports that its tools have changed."""
        changed = False
        for hook in self.hooks("tinyagent_tools_changed"):
            answer = hook.call()
            changed |= bool(await answer if inspect.isawaitable(answer) else answer)
        return changed


class ToolSet(NamedTuple):
    """The tools of a command, and the source of each by its name."""

    tools: list[AgentTool]
    sources: dict[str, ToolSource]


class TemplateClaim(NamedTuple):
    """A prompt template, and the plugin that offers it."""

    template: PromptTemplate
    plugin: Plugin


class PluginLoader:
    """Loads plugins by the names that users type, each once.

    Args:
        providers: The configured providers, by name.
        disabled: Disabled plugins of the group `tinyagent.hooks`.
        preferred: The distribution to use for a name that several plugins have.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderTable] | None = None,
        disabled: frozenset[str] = frozenset(),
        preferred: Mapping[str, str] | None = None,
    ) -> None:
        self._providers = providers or {}
        self._disabled = disabled
        self._preferences = Preferences(preferred or {})
        self._loaded: dict[Plugin | ToolFile, LoadedPlugin] = {}

    @classmethod
    def from_settings(cls, found: Settings) -> PluginLoader:
        """Return a loader with the settings of the configuration files."""
        from .log_warnings import show_warnings

        show_warnings()
        _publish(found.sandbox)
        return cls(found.providers, found.disabled_plugins, found.preferred_plugins)

    def registry(self) -> Registry:
        """Return the plugins that are loaded so far."""
        plugins = {id(loaded.implementation): loaded for loaded in reversed(self._loaded.values())}
        return Registry(tuple(reversed(plugins.values())))

    def load(self, plugin: Plugin | ToolFile) -> LoadedPlugin:
        """Load a plugin, unless it is loaded."""
        if plugin not in self._loaded:
            self._loaded[plugin] = load(plugin, self._providers)
            if isinstance(plugin, Plugin) and plugin.needs:
                self._warn_of_misfit(plugin)
        return self._loaded[plugin]

    def _warn_of_misfit(self, plugin: Plugin) -> None:
        from .compatibility import version_misfit

        misfit = version_misfit(plugin)
        if misfit is not None:
            from logging import getLogger

            getLogger("tinyagent.plugins").warning("The plugin %s %s. %s", plugin, *misfit)

    def tools(self, requests: Iterable[str]) -> ToolSet:
        """Return the tools that `-t` names.

        Args:
            requests: Each is `plugin`, `plugin.tool`, `file.py` or `file.py:tool`.

        Raises:
            TinyAgentError: There is no such tool, two have the same name, or a plugin cannot be used.
        """
        claims: dict[str, list[ToolClaim]] = {}
        found = [plugin_of_tool(request, self._preferences) for request in requests]
        for plugin, wanted in found:
            names = [name for other, name in found if other == plugin]
            single = [name for name in names if name is not None]
            offered = tools_of(self.load(plugin), single if len(single) == len(names) else None)
            if wanted is not None and wanted not in offered:
                raise ConfigurationError(
                    f"The plugin {plugin} has no tool {wanted!r}; it has: {list_names(offered)}."
                )
            for tool in offered.values() if wanted is None else [offered[wanted]]:
                claims.setdefault(tool.name, []).append(ToolClaim(tool, plugin, wanted is not None))
        chosen = [self._preferences.choose_tool(name, offers) for name, offers in claims.items()]
        return ToolSet(
            [claim.tool for claim in chosen],
            {claim.tool.name: source_of(claim.plugin) for claim in chosen},
        )

    def provider_names(self) -> set[str]:
        """Return the names of all providers, without loading one."""
        return {plugin.name for plugin in provider_plugins(self._providers)}

    def provider(self, name: str) -> Provider:
        """Return the provider of this name.

        Raises:
            TinyAgentError: There is no such provider, or its plugin cannot be used.
        """
        plugins = provider_plugins(self._providers)
        claims = [plugin for plugin in plugins if plugin.name == name]
        if not claims:
            from tinyagent_cli.terminal.hints import suggestion

            known = {plugin.name for plugin in plugins}
            raise ConfigurationError(
                f"Unknown provider {name!r}.{suggestion(name, known)} Known: {list_names(known)}.",
                hint="The part of -m before the first slash is the provider. Your own endpoints go into "
                f"[providers.NAME] in {user_file()}.",
            )
        return provider_of(self.load(self._preferences.choose(name, claims)), name)

    def command(self, name: str) -> click.Command:
        """Return the sub-command of a plugin.

        Raises:
            TinyAgentError: The plugin cannot be used.
        """
        claims = [plugin for plugin in find("commands") if plugin.name == name]
        return command_of(self.load(self._preferences.choose(name, claims)), name)

    def executor(self, name: str) -> ExecutorFactory:
        """Return the factory of an executor of a plugin.

        Raises:
            TinyAgentError: There is no such executor, or its plugin cannot be used.
        """
        plugins = find("executors")
        claims = [plugin for plugin in plugins if plugin.name == name]
        if not claims:
            from tinyagent_cli.terminal.hints import suggestion

            known = {*EXECUTORS, *(plugin.name for plugin in plugins)}
            raise ConfigurationError(
                f"Unknown executor {name!r}.{suggestion(name, known)} Installed: {list_names(known)}.",
                hint="Other executors are plugins. That of Ray: tinyagent plugins install tinyagent-ray",
            )
        return executor_of(self.load(self._preferences.choose(name, claims)), name)

    def templates(self, requested: str | None = None) -> dict[str, TemplateClaim]:
        """Return the prompt templates of plugins, by name. One that is not configured has none.

        Args:
            requested: The name of the one that is looked for; None for all.

        Raises:
            TinyAgentError: A plugin cannot be used, or two have a template of the same name.
        """
        found: dict[str, TemplateClaim] = {}
        for plugin in find("inputs"):
            try:
                offered = templates_of(self.load(plugin), requested)
            except NotConfiguredError:
                continue
            for name, template in offered.items():
                if found.setdefault(name, TemplateClaim(template, plugin)).template is not template:
                    raise PluginError(
                        f"The template {name!r} is offered by {found[name].plugin} and by {plugin}."
                    )
        return found

    def input_names(self) -> set[str]:
        """Return the names that can begin an argument of `-f`, without loading a plugin."""
        return {plugin.name for plugin in find("inputs")}

    def read_input(self, name: str, argument: str) -> list[bytes]:
        """Return the texts and images of `-f NAME:ARGUMENT`.

        Raises:
            TinyAgentError: The plugin cannot read it.
        """
        claims = [plugin for plugin in find("inputs") if plugin.name == name]
        return input_of(self.load(self._preferences.choose(name, claims)), argument)

    def load_guards(self) -> None:
        """Load the plugins of the group `tinyagent.hooks`, which must be loaded before a tool may run.

        Raises:
            PluginError: At least one cannot be loaded; the message names all of them.
            ConfigurationError: The only problem is that some are not configured.
        """
        problems: list[TinyAgentError] = []
        for plugin in find("hooks"):
            if plugin.name in self._disabled or plugin.distribution in self._disabled:
                continue
            try:
                require_guard(self.load(plugin))
            except TinyAgentError as error:
                problems.append(error)
        if not problems:
            return
        hints = list(dict.fromkeys(error.hint for error in problems if error.hint))
        hints.append(
            "Plugins of the group tinyagent.hooks guard tool calls, so nothing runs without them. "
            f'To switch one off: [plugins] disable = ["NAME"] in {user_file()}.'
        )
        only_setup = all(isinstance(error, ConfigurationError) for error in problems)
        raised = ConfigurationError if only_setup else PluginError
        raise raised("\n".join(map(str, problems)), hint="\n".join(hints))


def _publish(sandbox: SandboxTable) -> None:
    """Set the variables from which plugins read the settings of the sandbox."""
    if sandbox.mode != "auto":
        set_variable("TINYAGENT_SANDBOX", sandbox.mode)
    if sandbox.network:
        set_variable("TINYAGENT_SANDBOX_NETWORK", "1")
    if sandbox.writable:
        set_variable("TINYAGENT_SANDBOX_WRITABLE", os.pathsep.join(sandbox.writable))
