"""Why a plugin cannot be used, and how to solve it: it is not configured, lacks a package, or is broken.

If a plugin raises one of tinyagent's own errors, its message and hint are shown. An `InputError` is about
what the user has typed. Everything else is a defect of the plugin or of its installation.
"""

from __future__ import annotations

import sys
from types import ModuleType

from tinyagent.errors import (
    ConfigurationError,
    InputError,
    MissingKeyError,
    NotConfiguredError,
    PluginError,
    TinyAgentError,
)
from tinyagent_cli.config.environment import missing_variable
from tinyagent_cli.version import version

from .discovery import Plugin, find
from .tool_sources import ToolFile

__all__ = ["failure", "missing_key", "remedy", "require_plugin", "status"]


def failure(
    plugin: Plugin | ToolFile, what: str, error: BaseException | None, hint: str | None
) -> TinyAgentError:
    """Return the error for a plugin that cannot be used.

    Args:
        plugin: The plugin or tool file.
        what: The predicate of the message, such as "cannot be loaded".
        error: The exception that it raised, if any.
        hint: The hint; derived from the error if None.
    """
    subject = f"The tool file {plugin.argument}" if isinstance(plugin, ToolFile) else f"The plugin {plugin}"
    if isinstance(error, NotConfiguredError | MissingKeyError):
        return NotConfiguredError(_sentence(f"{subject} is not set up: {error}"), hint=hint or error.hint)
    if isinstance(error, ConfigurationError):
        message = _sentence(f"{subject} is not set up correctly: {error}")
        return ConfigurationError(message, hint=hint or error.hint)
    variable = missing_variable(error) if isinstance(error, KeyError) else None
    if variable is not None:
        message = f"{subject} is not set up: the environment variable {variable} is not set."
        return NotConfiguredError(message, hint=hint or f"Set it: export {variable}=…")
    why, advice = _cause(plugin, error)
    message = _sentence(f"{subject} {what}{why and f': {why}'}")
    if isinstance(error, InputError):
        return InputError(message, hint=hint or error.hint)
    from .compatibility import version_misfit

    misfit = version_misfit(plugin) if isinstance(plugin, Plugin) else None
    if misfit is not None:
        package = advice if isinstance(error, ModuleNotFoundError) and not _names_tinyagent(error) else None
        return PluginError(
            f"{message} It {misfit.why}.", hint="\n".join(filter(None, (package, misfit.hint)))
        )
    return PluginError(message, hint=hint or advice)


def _cause(plugin: Plugin | ToolFile, error: BaseException | None) -> tuple[str, str | None]:
    """Return the reason of a failure, and a hint."""
    if error is None:
        return "", remedy(plugin)
    if isinstance(error, TinyAgentError):
        return str(error), error.hint or remedy(plugin)
    if isinstance(error, ImportError) and error.name:
        return _missing_import(plugin, error)
    if isinstance(error, AttributeError) and _names_tinyagent(error):
        return _other_version(plugin, error)
    return f"{type(error).__name__}: {error}", remedy(plugin)


def status(error: TinyAgentError) -> str:
    """Return the status for `plugins list --check`: `not set up` or `broken`."""
    return "not set up" if isinstance(error, ConfigurationError) else "broken"


def _missing_import(plugin: Plugin | ToolFile, error: ImportError) -> tuple[str, str | None]:
    """Return the reason of a failed import, and a hint."""
    name = error.name or ""
    top = name.partition(".")[0]
    if _names_tinyagent(error):
        return _other_version(plugin, error)
    if not isinstance(error, ModuleNotFoundError):
        return f"{type(error).__name__}: {error}", _reinstall(plugin)
    if isinstance(plugin, Plugin) and top == plugin.module.partition(".")[0]:
        return f"its own module {name!r} is missing", _reinstall(plugin)
    more = "" if str(error).startswith("No module named") else f": {error}"
    return f"it needs the module {name!r}, which is not installed{more}", _reinstall(plugin)


def _names_tinyagent(error: ImportError | AttributeError) -> bool:
    """Return whether a module of tinyagent is missing, or a name in one."""
    if isinstance(error, ImportError):
        module = error.name or ""
    else:
        module = error.obj.__name__ if isinstance(error.obj, ModuleType) else ""
    return module.partition(".")[0] in ("tinyagent", "tinyagent_cli")


def _other_version(plugin: Plugin | ToolFile, error: Exception) -> tuple[str, str | None]:
    """Return the reason and the hint if a plugin uses what only another version of tinyagent has."""
    from .compatibility import other_version

    return f"it does not fit tinyagent {version()}: {error}", other_version(plugin)


def _reinstall(plugin: Plugin | ToolFile) -> str | None:
    if isinstance(plugin, ToolFile):
        return f"Install the package with this module into the environment of tinyagent: {sys.prefix}"
    if plugin.is_part_of_tinyagent:
        return None
    from .namesake import installed_from

    command = f"tinyagent plugins install --upgrade {installed_from(plugin.distribution)}"
    return f"Install it again, with its dependencies: {command}"


def remedy(plugin: Plugin | ToolFile) -> str | None:
    """Return the hint for any other failure of a plugin; None if it has no distribution.

    The plugin may only lack some configuration, so the hint is not to uninstall it.
    """
    if isinstance(plugin, ToolFile) or plugin.is_part_of_tinyagent:
        return None
    from .namesake import installed_from

    return (
        "Configure it as its documentation describes. If it is configured, upgrade it: "
        f"tinyagent plugins install --upgrade {installed_from(plugin.distribution)}"
    )


def _sentence(text: str) -> str:
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def require_plugin(name: str, distribution: str, option: str) -> None:
    """Refuse an option that needs a plugin of tools.

    Args:
        name: The name of the plugin.
        distribution: Its distribution.
        option: The option, for the message.

    Raises:
        ConfigurationError: The plugin is not installed.
    """
    if all(entry.name != name for entry in find("tools")):
        raise ConfigurationError(
            f"{option} needs the plugin {distribution}, which is not installed.",
            hint=f"Install it: tinyagent plugins install {distribution}",
        )


def missing_key(provider: str, variable: str) -> MissingKeyError:
    """Return the error for a provider without a key, which would be in an environment variable."""
    return MissingKeyError(
        f"There is no key for {provider!r}: {variable} is not set and no key is stored.",
        hint=f"Store it: tinyagent keys set {provider}\nOr set it: export {variable}=…",
    )
