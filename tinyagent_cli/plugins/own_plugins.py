"""The plugins of the tinyagent project, for `plugins search`."""

from __future__ import annotations

from importlib import resources

__all__ = ["own_plugins"]


def own_plugins() -> dict[str, str]:
    """Return each distribution with its description. A test compares own_plugins.txt with their metadata."""
    text = (resources.files("tinyagent_cli.plugins") / "own_plugins.txt").read_text(encoding="utf-8")
    return {
        name: description for name, _, description in (line.partition(": ") for line in text.splitlines())
    }
