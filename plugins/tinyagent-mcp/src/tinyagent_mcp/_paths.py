"""The files of the plugin, and paths in the command of a server."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute", "cache_directory", "config_file"]

_SCRIPTS = frozenset((".py", ".js", ".mjs", ".cjs", ".ts", ".sh", ".rb", ".jar", ".toml", ".json"))


def config_file() -> Path:
    """Return the file of TINYAGENT_MCP_FILE, or else the one beside tinyagent's own configuration."""
    given = os.environ.get("TINYAGENT_MCP_FILE", "").strip()
    if given:
        return Path(given).expanduser()
    home = os.environ.get("TINYAGENT_HOME", "").strip()
    if home:
        return Path(home).expanduser() / "mcp.toml"
    from platformdirs import user_config_path

    return user_config_path("tinyagent", appauthor=False) / "mcp.toml"


def cache_directory() -> Path:
    """Return the directory of cached lists of tools."""
    home = os.environ.get("TINYAGENT_HOME", "").strip()
    if home:
        return Path(home).expanduser() / "cache" / "mcp"
    from platformdirs import user_cache_path

    return user_cache_path("tinyagent", appauthor=False) / "mcp"


def absolute(word: str) -> str:
    """Make an existing path absolute, because the server starts in another directory."""
    is_path = word in (".", "..") or os.sep in word or Path(word).suffix in _SCRIPTS
    return os.path.abspath(word) if is_path and Path(word).exists() else word  # noqa: PTH100 - keeps links
