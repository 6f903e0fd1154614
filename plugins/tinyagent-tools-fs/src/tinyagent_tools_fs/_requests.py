"""What a search is asked for. It runs in another process, so these values are sent to it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ._places import Places
from ._root import Parts, Root

__all__ = ["SEARCH_TIMEOUT_S", "GlobRequest", "GrepRequest", "Item", "Place"]

SEARCH_TIMEOUT_S = 30.0
"""Seconds that a search may take."""

Item = dict[str, str | int | bool]
"""A match or a report of a search; its keys show which."""


@dataclass(frozen=True)
class Place:
    """The folder in which to search, in bytes, because names may not be valid text."""

    root: bytes
    start: bytes
    secret: tuple[bytes, ...] = ()

    def open(self) -> tuple[Root, Parts]:
        """Return the root, with the same protected places, and the parts of the start."""
        secret = tuple(map(os.fsdecode, self.secret))
        parts = tuple(part for part in os.fsdecode(self.start).split("/") if part)
        return Root(os.fsdecode(self.root), lambda: Places(secret=secret)), parts


@dataclass(frozen=True)
class GlobRequest:
    """The arguments of `glob`."""

    pattern: str
    hidden: bool
    ignored: bool
    limit: int


@dataclass(frozen=True)
class GrepRequest:
    """The arguments of `grep`.

    Attributes:
        rg: The path of ripgrep; None to search without it.
        rg_checked: Whether its version is known to be new enough.
    """

    pattern: str
    glob: str | None
    literal: bool
    ignore_case: bool
    context: int
    hidden: bool
    ignored: bool
    limit: int
    rg: str | None
    rg_checked: bool = False
