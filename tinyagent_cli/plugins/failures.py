"""Why a plugin cannot be used, and how to solve it: it is not configured, lacks a package, or is broken.

If a plugin raises one of tinyagent's own errors, its message and hint are shown. Everything else is a defect
of the plugin or of its installation.
"""

from __future__ import annotations

import sys

from tinyagent.errors import (
    ConfigurationError,
    MissingKeyError,
    NotConfiguredError,
    PluginError,
    TinyAgentError,
)
from tinyagent_cli.config.environment import missing_variable

from .discovery import EntryPoint

__all__ = ["BUILT_IN", "CONFIGURED", "FILE", "failure", "remedy", "status"]

BUILT_IN, CONFIGURED, FILE = "built in", "config.toml", "file"
"""Values of `EntryPoint.distribution` for plugins without a distribution."""


def failure(entry: EntryPoint, what: str, error: BaseException | None, hint: str | None) -> TinyAgentError:
    """Return the error for a plugin that cannot be used.

    Args:
        entry: The plugin.
        what: The predicate of the message, such as "cannot be loaded".
        error: The exception that it raised, if any.
        hint: The hint; derived from the error if None.
    """
    subject = f"The tool file {entry.version}" if entry.distribution == FILE else f"The plugin {entry}"
    if isinstance(error, NotConfiguredError | MissingKeyError):
        return NotConfiguredError(_sentence(f"{subject} is not set up: {error}"), hint=hint or error.hint)
    if isinstance(error, ConfigurationError):
        message = _sentence(f"{subject} is not set up correctly: {error}")
        return ConfigurationError(message, hint=hint or error.hint)
    if isinstance(error, TinyAgentError):
        return PluginError(_sentence(f"{subject} {what}: {error}"), hint=hint or error.hint or remedy(entry))
    if isinstance(error, ImportError) and error.name:
        why, advice = _missing_import(entry, error)
        return PluginError(_sentence(f"{subject} {what}: {why}"), hint=hint or advice)
    variable = missing_variable(error) if isinstance(error, KeyError) else None
    if variable is not None:
        message = f"{subject} is not set up: the environment variable {variable} is not set."
        return NotConfiguredError(message, hint=hint or f"Set it: export {variable}=…")
    why = "" if error is None else f": {type(error).__name__}: {error}"
    return PluginError(_sentence(f"{subject} {what}{why}"), hint=hint or remedy(entry))


def status(error: TinyAgentError | None) -> str:
    """Return the status for `plugins list --check`: `ok`, `not set up` or `broken`."""
    if error is None:
        return "ok"
    return "not set up" if isinstance(error, ConfigurationError) else "broken"


def _missing_import(entry: EntryPoint, error: ImportError) -> tuple[str, str | None]:
    """Return the reason of a failed import, and a hint."""
    name = error.name or ""
    top = name.partition(".")[0]
    if top in ("tinyagent", "tinyagent_cli"):
        # A name or module that another version of tinyagent has.
        return f"it does not fit this version of tinyagent: {error}", _reinstall(entry)
    if not isinstance(error, ModuleNotFoundError):
        return f"{type(error).__name__}: {error}", _reinstall(entry)
    if top == entry.value.partition(":")[0].strip().partition(".")[0]:
        return f"its own module {name!r} is not there", _reinstall(entry)
    more = "" if str(error).startswith("No module named") else f": {error}"
    return f"it needs the module {name!r}, which is not installed{more}", _reinstall(entry)


def _reinstall(entry: EntryPoint) -> str | None:
    if entry.distribution == FILE:
        return f"Install the package that has it into the environment of tinyagent: {sys.prefix}"
    if entry.distribution in (BUILT_IN, CONFIGURED):
        return None
    from .namesake import installed_from

    command = f"tinyagent plugins install --upgrade {installed_from(entry.distribution)}"
    return f"Install it again, with what it needs: {command}"


def remedy(entry: EntryPoint) -> str | None:
    """Return the hint for any other failure of a plugin; None if it has no distribution.

    The plugin may only lack some configuration, so the hint is not to uninstall it.
    """
    if entry.distribution in (BUILT_IN, CONFIGURED, FILE):
        return None
    from .namesake import installed_from

    return (
        "Set up what its documentation asks for. If that is done, upgrade it: "
        f"tinyagent plugins install --upgrade {installed_from(entry.distribution)}"
    )


def _sentence(text: str) -> str:
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
