"""The ids that `models list PROVIDER` saw last, for completion in the shell; nothing else relies on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from .settings import cache_directory

__all__ = ["read", "write"]


def _file(provider: str) -> Path:
    safe = "".join(character if character.isalnum() or character in "-_" else "%" for character in provider)
    return cache_directory() / f"models-{safe}.json"


def read(provider: str) -> list[str]:
    """The ids of a provider's models; empty if they were never listed."""
    try:
        found = json.loads(_file(provider).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [model_id for model_id in found if isinstance(model_id, str)] if isinstance(found, list) else []


def write(provider: str, ids: Iterable[str]) -> None:
    """Keep the ids; where that is not possible, completion knows less, and nothing else happens."""
    path = _file(provider)
    new = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(json.dumps(sorted(ids)), "utf-8")
        new.replace(path)
    except OSError:
        pass
