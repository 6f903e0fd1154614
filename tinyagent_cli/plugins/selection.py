"""Select the plugin for a name that a user has typed.

The selection does not depend on the order of the plugins: if two plugins claim a name, the error shows both,
unless the configuration chooses one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.errors import ConfigurationError, PluginError
from tinyagent_cli.config.environment import user_file
from tinyagent_cli.config.files import names_a_file
from tinyagent_cli.version import DISTRIBUTION

from .discovery import BUILT_IN, Plugin, find, normalised
from .tool_sources import ToolFile

if TYPE_CHECKING:
    from tinyagent.agent_types import AgentTool

__all__ = ["BUILT_IN_NAMES", "NameConflict", "Preferences", "ToolClaim", "list_names", "plugin_of_tool"]

BUILT_IN_NAMES = frozenset({BUILT_IN, "tinyagent", DISTRIBUTION})
"""Names of tinyagent's own plugins in `[plugins] prefer`."""


class ToolClaim(NamedTuple):
    """A requested tool, and whether it was requested by its own name."""

    tool: AgentTool
    plugin: Plugin | ToolFile
    by_name: bool


class NameConflict(NamedTuple):
    """A name of one group that several distributions claim, and the error of a command that uses it."""

    group: str
    name: str
    plugins: Sequence[Plugin]
    error: PluginError


class Preferences(NamedTuple):
    """Which distribution to use for a name that several claim.

    Attributes:
        distributions: The distribution for each such name.
    """

    distributions: Mapping[str, str]

    def choose(self, name: str, plugins: Sequence[Plugin]) -> Plugin:
        """Return the one plugin of `plugins` that `name` means.

        Raises:
            PluginError: Several claim the name, and the configuration chooses none of them.
        """
        if len(plugins) == 1:
            return plugins[0]
        preferred = self._preferred(name, plugins)
        if preferred is not None:
            return preferred
        raise self._conflict(name, plugins)

    def conflicts(self, plugins: Iterable[Plugin]) -> Iterator[NameConflict]:
        """Yield the names that several plugins of a group claim, if the configuration chooses none of them.

        Plugins of the group `hooks` are loaded together, whatever their names.
        """
        claims: dict[tuple[str, str], list[Plugin]] = {}
        for plugin in plugins:
            if plugin.group != "hooks":
                claims.setdefault((plugin.group, plugin.name), []).append(plugin)
        for (group, name), claimants in sorted(claims.items()):
            if len(claimants) > 1 and self._preferred(name, claimants) is None:
                yield NameConflict(group, name, claimants, self._conflict(name, claimants))

    def _conflict(self, name: str, plugins: Sequence[Plugin]) -> PluginError:
        claims = " and by ".join(plugin.origin for plugin in plugins)
        return PluginError(
            f"The name {name!r} is claimed by {claims}.",
            hint=f"Choose one: {self._how_to_prefer(name)} Or uninstall one, or allow only the other one: "
            "TINYAGENT_PLUGINS=DISTRIBUTION.",
        )

    def choose_tool(self, name: str, claims: Sequence[ToolClaim]) -> ToolClaim:
        """Choose among tools with the same name: one requested as `plugin.tool`, or the preferred one.

        Raises:
            ConfigurationError: Two different tools have the name, and neither is chosen.
        """
        for candidates in (claims, [claim for claim in claims if claim.by_name]):
            if len({id(claim.tool) for claim in candidates}) == 1:
                return candidates[0]
        preferred = self._preferred(
            name, [claim.plugin for claim in claims if isinstance(claim.plugin, Plugin)]
        )
        for claim in claims:
            if preferred is not None and claim.plugin == preferred:
                return claim
        first, second = list(dict.fromkeys(str(claim.plugin) for claim in claims))[:2]
        last = claims[-1].plugin
        request = f"{last.argument}:{name}" if isinstance(last, ToolFile) else f"{last.name}.{name}"
        raise ConfigurationError(
            f"The tool {name!r} is offered by {first} and by {second}.",
            hint=f"Choose one: -t {request}, or {self._how_to_prefer(name)}",
        )

    def _preferred(self, name: str, plugins: Sequence[Plugin]) -> Plugin | None:
        if name not in self.distributions:
            return None
        wanted = normalised(self.distributions[name])
        wanted = BUILT_IN if wanted in BUILT_IN_NAMES else wanted
        return next((plugin for plugin in plugins if normalised(plugin.distribution) == wanted), None)

    def _how_to_prefer(self, name: str) -> str:
        return f'[plugins] prefer = {{{name} = "DISTRIBUTION"}} in {user_file()}.'


def plugin_of_tool(request: str, preferences: Preferences) -> tuple[Plugin | ToolFile, str | None]:
    """Return the plugin that `-t REQUEST` means, and the tool of it if the request names one.

    Args:
        request: `plugin`, `plugin.tool`, `file.py` or `file.py:tool`.
        preferences: The user's choice among plugins with the same name.

    Raises:
        ConfigurationError: There is no such plugin or file.
    """
    if names_a_file(request):
        path, colon, tool = request.rpartition(":") if ".py:" in request else (request, "", "")
        return _tool_file(path), tool if colon else None
    plugins = find("tools")
    known = {plugin.name for plugin in plugins}
    name, tool_name = request, None
    if name not in known:
        name, _, tool_name = request.rpartition(".")
    if name not in known:
        raise _unknown_tool(request, known)
    return preferences.choose(name, [plugin for plugin in plugins if plugin.name == name]), tool_name


def _unknown_tool(request: str, known: set[str]) -> ConfigurationError:
    from tinyagent_cli.terminal.hints import suggestion

    from .declarations import declared_tools

    owners = [plugin for plugin in sorted(known) if request in declared_tools(plugin)]
    if owners:
        return ConfigurationError(
            f"{request!r} is a tool of the plugin {owners[0]!r}.",
            hint=f"Write {owners[0]}.{request}, or {owners[0]} for all its tools.",
        )
    if "," in request:  # as pi has it
        each = " ".join(f"-t {name.strip()}" for name in request.split(",") if name.strip())
        return ConfigurationError(f"Unknown tool {request!r}.", hint=f"Name each tool by itself: {each}")
    return ConfigurationError(
        f"Unknown tool {request!r}.{suggestion(request, known)} Installed: {list_names(known)}.",
        hint=f"A file works too: -t ./{request}.py. Installed plugins: tinyagent plugins list",
    )


def _tool_file(argument: str) -> ToolFile:
    path = Path(argument).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"The tool file {argument!r} does not exist, or is not a file.")
    return ToolFile(path.resolve(), argument)


def list_names(names: Iterable[str]) -> str:
    """Return names for a message, sorted; `none` if there are none."""
    return ", ".join(sorted(names)) or "none"
