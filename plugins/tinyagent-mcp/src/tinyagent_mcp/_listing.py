"""Cache the lists of what servers offer between runs.

A list is valid for a day, or until the configuration or the program of the server changes. Each start of the
server renews it. It contains no secrets. A file that is unreadable, or writable by other users, is ignored.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonDict
from tinyagent.text_files import read_config, write_private

from ._config import ServerConfig
from ._paths import cache_directory

__all__ = [
    "ListedArgument",
    "ListedPrompt",
    "ListedTool",
    "Listing",
    "forget",
    "recall",
    "remember",
]

VERSION = 3
"""The version of the file."""

MAX_AGE_S = 86_400.0

MAX_BYTES = 64 << 20
"""The limit of the file of one server."""


class ListedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool, as described by the server."""

    name: str
    title: str = ""
    description: str = ""
    input_schema: JsonDict
    read_only: bool = False


class ListedArgument(msgspec.Struct, frozen=True, kw_only=True):
    """An argument of a prompt."""

    name: str
    description: str = ""
    required: bool = False


class ListedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, as described by the server."""

    name: str
    description: str = ""
    arguments: list[ListedArgument] = []


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a server offers.

    Attributes:
        resources: Whether the server has resources.
        problems: Descriptions of the tools that were omitted.
    """

    version: int = VERSION
    fingerprint: str
    server: str = ""
    tools: list[ListedTool]
    prompts: list[ListedPrompt] = []
    resources: bool = False
    problems: list[str] = []

    def tool(self, name: str) -> ListedTool | None:
        """Return the tool with this name."""
        return next((tool for tool in self.tools if tool.name == name), None)


def recall(config: ServerConfig) -> Listing | None:
    """Return the cached list of this server if it is still valid."""
    if not config.remember:
        return None
    path = _file(config.name)
    try:
        if not 0 <= time.time() - path.stat().st_mtime < MAX_AGE_S:
            return None
        listing = msgspec.json.decode(read_config(path, limit=MAX_BYTES) or "", type=Listing)
    except (OSError, ValueError, ConfigurationError):
        return None
    good = listing.version == VERSION and listing.fingerprint == config.fingerprint()
    return listing if good else None


def remember(config: ServerConfig, listing: Listing) -> None:
    """Cache a list. If the file cannot be written, the next run asks the server again."""
    if not config.remember:
        return
    try:
        write_private(_file(config.name), msgspec.json.encode(listing))
    except OSError:
        pass


def forget(name: str) -> None:
    """Remove the cached list of a server."""
    try:
        _file(name).unlink(missing_ok=True)
    except OSError:
        pass  # it is not used, because it belongs to another configuration


def _file(name: str) -> Path:
    return cache_directory() / f"{name}.json"
