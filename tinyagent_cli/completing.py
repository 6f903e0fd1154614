"""What the shell completes: names that are known without importing anything of a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

__all__ = ["complete_models", "complete_tools"]


def complete_tools(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Installed tool plugins; files are completed by the shell once there is a slash."""
    from .entry_points import find

    return [entry.name for entry in find("tools") if entry.name.startswith(incomplete)]


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Providers, with the slash after which the model's id goes."""
    from . import configuration
    from .plugin_manager import PluginManager

    try:
        plugins = PluginManager.from_settings(configuration.load())
    except Exception:  # noqa: BLE001 - a completion has nobody to complain to
        plugins = PluginManager()
    names = sorted({entry.name for entry in plugins.provider_entries()})
    return [
        {"demo": "demo", "replay": "replay:"}.get(name, f"{name}/")
        for name in names
        if name.startswith(incomplete)
    ]
