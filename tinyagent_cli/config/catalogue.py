"""The model ids of the last `models list PROVIDER`, for shell completion only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tinyagent.text_files import write_private

from .environment import cache_directory

__all__ = ["read", "write"]


def _file(provider: str) -> Path:
    safe = "".join(character if character.isalnum() or character in "-_" else "%" for character in provider)
    return cache_directory() / f"models-{safe}.json"


def read(provider: str) -> list[str]:
    """Return the ids of a provider's models; empty if they were never listed."""
    try:
        found = json.loads(_file(provider).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [model_id for model_id in found if isinstance(model_id, str)] if isinstance(found, list) else []


def write(provider: str, ids: Iterable[str]) -> None:
    """Store the ids. If the file cannot be written, completion offers fewer ids."""
    try:
        write_private(_file(provider), json.dumps(sorted(ids)).encode())
    except OSError:
        pass
