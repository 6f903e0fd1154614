"""Read the environment variables. No other module reads them. It is cheap to import.

`settings` combines them with the configuration files.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # every command imports this module first, and typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "allowed_plugins",
    "approvals_file",
    "cache_directory",
    "config_directory",
    "environment_with",
    "exact_variable",
    "has_home",
    "keys_file",
    "missing_variable",
    "sessions_directory",
    "set_variable",
    "state_directory",
    "user_file",
    "variable",
]


def variable(name: str) -> str | None:
    """Return an environment variable without surrounding white space; None if it is unset or blank."""
    value = os.environ.get(name, "").strip()
    return value or None


def exact_variable(name: str) -> str:
    """Return an environment variable as it is; an empty text if it is unset."""
    return os.environ.get(name, "")


def set_variable(name: str, value: str) -> None:
    """Set a variable of this process. Some options reach a plugin through its environment."""
    os.environ[name] = value


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with further variables, for a child process."""
    return {**os.environ, **variables}


def missing_variable(error: KeyError) -> str | None:
    """Return the variable whose lookup, `os.environ[NAME]`, raised the error; None for other lookups."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    lookup = type(os.environ).__getitem__.__code__
    return str(error.args[0]) if trace is not None and trace.tb_frame.f_code is lookup else None


def allowed_plugins() -> frozenset[str] | None:
    """Return the names and distributions in TINYAGENT_PLUGINS; None if all plugins may load."""
    value = os.environ.get("TINYAGENT_PLUGINS")
    if value is None:
        return None
    names = {name.strip() for name in value.split(",") if name.strip()}
    return frozenset(names | {name.lower().replace("_", "-").replace(".", "-") for name in names})


def config_directory() -> Path:
    """Return the directory of the user's files."""
    return _directory("XDG_CONFIG_HOME", "~/.config")


def user_file() -> Path:
    """Return the path of the user's configuration."""
    return config_directory() / "config.toml"


def keys_file() -> Path:
    """Return the path of the stored keys."""
    return config_directory() / "keys.toml"


def approvals_file() -> Path:
    """Return the path of the stored approvals."""
    return config_directory() / "approvals.json"


def cache_directory() -> Path:
    """Return the cache directory."""
    directory = _directory("XDG_CACHE_HOME", "~/.cache")
    return directory / "cache" if variable("TINYAGENT_HOME") else directory


def state_directory() -> Path:
    """Return the directory of what commands store by themselves, such as sessions."""
    return _directory("XDG_STATE_HOME", "~/.local/state")


def _directory(name: str, default: str) -> Path:
    """Return the directory of an XDG variable, as platformdirs does, but on Linux without its import."""
    home = variable("TINYAGENT_HOME")
    if home is not None:
        return _expanded(home)
    if sys.platform == "linux":
        return _expanded(variable(name) or default) / "tinyagent"
    from platformdirs import PlatformDirs

    found = PlatformDirs("tinyagent", appauthor=False)
    return {
        "XDG_CONFIG_HOME": found.user_config_path,
        "XDG_CACHE_HOME": found.user_cache_path,
        "XDG_STATE_HOME": found.user_state_path,
    }[name]


def sessions_directory() -> Path:
    """Return the directory of the sessions."""
    return state_directory() / "sessions"


def has_home() -> bool:
    """Return whether the user has a home directory, or a variable that names another place for files."""
    named = variable("TINYAGENT_HOME") or variable("XDG_STATE_HOME")
    return named is not None or os.path.isdir(os.path.expanduser("~"))  # noqa: PTH111, PTH112


def _expanded(path: str) -> Path:
    """Replace `~` by the home directory. Without a home directory, return a path that cannot exist."""
    from pathlib import Path

    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(os.devnull, path)
