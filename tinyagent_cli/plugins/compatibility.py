"""Whether a plugin fits this version of tinyagent, by its metadata, and what to do if it does not."""

from __future__ import annotations

from inspect import signature
from typing import NamedTuple

from tinyagent import hookspecs
from tinyagent.errors import TinyAgentError
from tinyagent_cli.version import DISTRIBUTION, version

from .declarations import declared_hooks
from .discovery import Plugin
from .tool_sources import ToolFile

__all__ = ["Misfit", "hooks_misfit", "other_version", "upgrade_plugin", "upgrade_tinyagent", "version_misfit"]


class Misfit(NamedTuple):
    """Why a plugin does not fit, as the predicate of a sentence, and what to do."""

    why: str
    hint: str


def version_misfit(plugin: Plugin) -> Misfit | None:
    """Return why a plugin does not accept the running version of tinyagent; None if it does.

    Installers check this, too, but not for what they do not install together.
    """
    if not plugin.needs or _is_at_least(plugin.needs):
        return None
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        wanted, ours = SpecifierSet(plugin.needs), Version(version())
        if wanted.contains(ours, prereleases=True):
            return None
        newer = any(
            spec.operator in (">", ">=", "~=", "==") and Version(spec.version.removesuffix(".*")) > ours
            for spec in wanted
        )
    except (InvalidSpecifier, InvalidVersion):
        return None  # an installer would have refused it
    hint = upgrade_tinyagent() if newer else upgrade_plugin(plugin)
    return Misfit(f"needs {DISTRIBUTION}{plugin.needs}, and this is {version()}", hint)


def _is_at_least(needs: str) -> bool:
    """Return whether `needs` is the usual `>=X.Y` and is met, which needs no import."""
    wanted, ours = (text.split(".") for text in (needs.removeprefix(">="), version()))
    if not needs.startswith(">=") or not all(part.isdecimal() for part in (*wanted, *ours)):
        return False
    return [int(part) for part in wanted] <= [int(part) for part in ours]


def hooks_misfit(plugin: Plugin) -> Misfit | None:
    """Return which hook in the source of a plugin does not fit this version; None if all do."""
    for name, arguments in declared_hooks(plugin).items():
        specification = getattr(hookspecs, name, None) if name.startswith("tinyagent_") else None
        if specification is None:
            return Misfit(
                f"has the hook {name!r}, which tinyagent {version()} does not have", other_version(plugin)
            )
        known = signature(specification).parameters
        unknown = [argument for argument in arguments if argument not in known]
        if unknown:
            why = f"expects {', '.join(map(repr, unknown))} in its hook {name}"
            return Misfit(f"{why}, which tinyagent {version()} does not pass", other_version(plugin))
    return None


def other_version(plugin: Plugin | ToolFile) -> str:
    """Return the hint for a plugin that was written for another version of tinyagent."""
    if isinstance(plugin, ToolFile):
        return f"Adapt the file to this version, or upgrade tinyagent: {_upgrade_command()}"
    if plugin.is_part_of_tinyagent:
        return upgrade_tinyagent()
    return f"{upgrade_plugin(plugin)}\nIf that does not help, upgrade tinyagent: {_upgrade_command()}"


def upgrade_tinyagent() -> str:
    """Return the hint that upgrades tinyagent."""
    return f"Upgrade tinyagent: {_upgrade_command()}"


def _upgrade_command() -> str:
    from .installer import Installer

    try:
        return Installer.of_this_environment().upgrade_command()
    except TinyAgentError:
        return f"pip install --upgrade {DISTRIBUTION}"


def upgrade_plugin(plugin: Plugin) -> str:
    """Return the hint that upgrades a plugin, or, if it is installed from its folder, to adapt its code."""
    from .namesake import installed_from

    source = installed_from(plugin.distribution)
    if source.startswith("--editable "):
        folder = source.removeprefix("--editable ")
        return f"Adapt its code in {folder}: docs/hooks.md has the hooks of this version."
    if source.rstrip("'\"").endswith(".whl"):
        source = plugin.distribution  # the same file would install the same version
    return f"Upgrade the plugin: tinyagent plugins install --upgrade {source}"
