"""What metadata and source show about installed plugins: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tinyagent.errors import TinyAgentError
from tinyagent_cli.config.settings import Settings, load_settings

from .builtin import provider_plugins
from .compatibility import hooks_misfit, version_misfit
from .discovery import Plugin
from .selection import Preferences

__all__ = ["is_disabled", "problems", "readable_settings"]


def problems(
    plugins: Sequence[Plugin], settings: Settings | None, *, are_loaded: bool = False
) -> Iterator[str]:
    """Yield plugins that do not fit this version, and names that several claim; each with what to do.

    Args:
        plugins: The plugins.
        settings: The settings; None if they cannot be read.
        are_loaded: Whether they were loaded, which has shown the hooks that do not fit.
    """
    for plugin in plugins:
        misfit = version_misfit(plugin) or (None if are_loaded else hooks_misfit(plugin))
        if misfit is not None:
            yield f"The plugin {plugin} {misfit.why}. {misfit.hint}"
    preferences = Preferences({} if settings is None else settings.preferred_plugins)
    others = [plugin for plugin in plugins if plugin.group != "providers"]
    providers = provider_plugins(() if settings is None else settings.providers)
    for conflict in preferences.conflicts([*others, *providers]):
        yield f"{conflict.error} {conflict.error.hint}"


def readable_settings() -> Settings | None:
    """Return the settings; None if they cannot be read, which `doctor` and each run report."""
    try:
        return load_settings()
    except TinyAgentError:
        return None


def is_disabled(plugin: Plugin, settings: Settings | None) -> bool:
    """Return whether the configuration disables a plugin of the group `hooks`."""
    disabled = settings.disabled_plugins if settings is not None else ()
    return plugin.group == "hooks" and (plugin.name in disabled or plugin.distribution in disabled)
