"""The environment. Only this module reads it, and importing it takes next to nothing.

What the files say comes on top of it in `configuration`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # the first thing that every command does must not begin with importing typing
if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "APPROVALS_FILE",
    "allowed_plugins",
    "cache_directory",
    "config_directory",
    "set_variable",
    "variable",
]

APPROVALS_FILE = "approvals.json"
"""In the configuration directory: what the user allowed for good."""


def variable(name: str) -> str | None:
    """An environment variable without surrounding white space; None if it is unset or blank."""
    value = os.environ.get(name, "").strip()
    return value or None


def set_variable(name: str, value: str) -> None:
    """Set a variable for this process: how an option reaches a plugin that is told by its environment."""
    os.environ[name] = value


def allowed_plugins() -> frozenset[str] | None:
    """What TINYAGENT_PLUGINS lets through, by name or distribution: None for all, empty for none."""
    value = os.environ.get("TINYAGENT_PLUGINS")
    if value is None:
        return None
    names = {name.strip() for name in value.split(",") if name.strip()}
    return frozenset(names | {name.lower().replace("_", "-").replace(".", "-") for name in names})


def config_directory() -> Path:
    """Where `config.toml` and `keys.toml` are."""
    home = variable("TINYAGENT_HOME")
    if home is not None:
        return _expanded(home)
    if sys.platform == "linux":
        # What platformdirs gives here, without the price of importing it; a test compares the two.
        return _expanded(variable("XDG_CONFIG_HOME") or "~/.config") / "tinyagent"
    from platformdirs import user_config_path

    return user_config_path("tinyagent", appauthor=False)


def cache_directory() -> Path:
    """Where files are that can be fetched or made again."""
    home = variable("TINYAGENT_HOME")
    if home is not None:
        return _expanded(home) / "cache"
    if sys.platform == "linux":
        return _expanded(variable("XDG_CACHE_HOME") or "~/.cache") / "tinyagent"
    from platformdirs import user_cache_path

    return user_cache_path("tinyagent", appauthor=False)


def _expanded(path: str) -> Path:
    """`path` with the home directory for `~`; a user without one has a directory that cannot exist."""
    from pathlib import Path

    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(os.devnull, path)
