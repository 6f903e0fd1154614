"""The lists of models that providers have returned, one file for each provider in the cache directory.

`models list` and `models search` write them. They are used to search, to complete in the shell, and to find
the model for a part of its name. A list that cannot be read counts as missing, since it can be made again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tinyagent.agent_types import ModelInfo
from tinyagent.text_files import write_private

from .environment import cache_directory

__all__ = ["Listing", "read", "read_all", "write"]

_MAX_BYTES = 16 << 20
"""Larger files are ignored. The list of OpenRouter has less than 1 MiB."""


class Listing(msgspec.Struct, frozen=True):
    """The models of a provider.

    Attributes:
        provider: The name of the provider.
        time: When it returned the list, in seconds since 1970.
    """

    provider: str
    time: float
    models: list[ModelInfo]

    @property
    def age_s(self) -> float:
        """The age of the list in seconds."""
        return max(0.0, time.time() - self.time)


def _file(provider: str) -> Path:
    safe = "".join(character if character.isalnum() or character in "-_" else "%" for character in provider)
    return cache_directory() / f"models-{safe}.json"


def read(provider: str) -> Listing | None:
    """Return the stored list of a provider; None without a stored list."""
    found = _read(_file(provider))
    return found if found is not None and found.provider == provider else None


def read_all() -> list[Listing]:
    """Return all stored lists, by the name of the provider."""
    found = [_read(path) for path in cache_directory().glob("models-*.json")]
    return sorted((each for each in found if each is not None), key=lambda each: each.provider)


def _read(path: Path) -> Listing | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write(provider: str, models: Sequence[ModelInfo]) -> None:
    """Store the list of a provider. If that is not possible, later commands know fewer models."""
    try:
        write_private(_file(provider), msgspec.json.encode(Listing(provider, time.time(), list(models))))
    except OSError:
        pass
