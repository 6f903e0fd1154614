"""What a server offers, as it is kept between runs.

A list is good for a day, or until the configuration or the program of the server changes; each start of
the server renews it. What is kept holds no secret, and a file that cannot be read, or that others can write,
is as good as none.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from tinyagent import ConfigurationError
from tinyagent.text_files import read_config, write_private

from ._config import ServerConfig, cache_directory

__all__ = ["ListedTool", "Listing", "recall", "remember"]

DAY = 86_400.0

MAX_BYTES = 64 << 20
"""Of the file of one server."""


class ListedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as the server describes it."""

    name: str
    title: str = ""
    description: str = ""
    input_schema: dict[str, Any]
    read_only: bool = False


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a server offers.

    Attributes:
        resources: Whether it has any to read.
        problems: What of its list was left out, and why.
    """

    version: int = 2
    fingerprint: str
    server: str = ""
    tools: list[ListedTool]
    resources: bool = False
    problems: list[str] = []

    def tool(self, name: str) -> ListedTool | None:
        """The tool of this name."""
        return next((tool for tool in self.tools if tool.name == name), None)


def recall(config: ServerConfig) -> Listing | None:
    """The list that was kept for this very server, if it is still good."""
    if not config.remember:
        return None
    path = _file(config)
    try:
        if not 0 <= time.time() - path.stat().st_mtime < DAY:
            return None
        listing = msgspec.json.decode(read_config(path, limit=MAX_BYTES) or "", type=Listing)
    except (OSError, ValueError, ConfigurationError):
        return None
    good = listing.version == 2 and listing.fingerprint == config.fingerprint()
    return listing if good else None


def remember(config: ServerConfig, listing: Listing) -> None:
    """Keep a list; where that cannot be done, the next run asks the server again."""
    if not config.remember:
        return
    try:
        write_private(_file(config), msgspec.json.encode(listing))
    except OSError:
        pass


def _file(config: ServerConfig) -> Path:
    return cache_directory() / f"{config.name}.json"
