"""Load the plugins of `llm`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import llm.plugins  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.errors import PluginError

__all__ = ["load_plugins"]

_failure: PluginError | None = None


def load_plugins() -> None:
    """Load the plugins of `llm`, unless they are loaded.

    `llm` stops at the first plugin that fails, and then counts as loaded. So the failure is stored.

    Raises:
        PluginError: One cannot be loaded.
    """
    global _failure
    if _failure is None:
        try:
            llm.plugins.load_plugins()
        except Exception as error:  # noqa: BLE001 - whatever the code of a plugin raises
            reason = f"{type(error).__name__}: {error}"
            broken = _broken()
            package = broken.dist.name if broken is not None and broken.dist is not None else ""
            _failure = PluginError(
                f"The plugin {package or 'of an unknown package'} of llm cannot be loaded: {reason}",
                # `llm uninstall` loads the plugins, too.
                hint=f"No plugin of llm can be used until you repair or remove it: pip uninstall {package}"
                if package
                else "LLM_LOAD_PLUGINS names the packages to load, separated by commas.",
            )
    if _failure is not None:
        raise _failure


def _broken() -> EntryPoint | None:
    """Return the first plugin that cannot be imported."""
    for entry in entry_points(group="llm"):
        try:
            entry.load()
        except Exception:  # noqa: BLE001 - it is the one that is looked for
            return entry
    return None
