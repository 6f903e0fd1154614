"""The prompt templates that plugins had at the last `templates list`, for shell completion.

A completion runs no plugin. A list that cannot be read counts as missing, since it can be made again.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tinyagent.agent_types import PromptTemplate
from tinyagent.text_files import write_private

from .environment import cache_directory

__all__ = ["KnownTemplate", "read_known", "write_known"]

_MAX_BYTES = 4 << 20


class KnownTemplate(msgspec.Struct, frozen=True):
    """The name and the description of a template, and those of its variables."""

    name: str
    description: str
    variables: dict[str, str]


def read_known() -> list[KnownTemplate]:
    """Return the stored list; empty without one."""
    path = cache_directory() / "templates.json"
    try:
        if path.stat().st_size > _MAX_BYTES:
            return []
        return msgspec.json.decode(path.read_bytes(), type=list[KnownTemplate])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return []


def write_known(templates: Iterable[PromptTemplate]) -> None:
    """Store a list. If that is not possible, fewer names are completed."""
    known = [
        KnownTemplate(
            template.name,
            template.description,
            {variable.name: variable.description for variable in template.variables},
        )
        for template in templates
    ]
    try:
        write_private(cache_directory() / "templates.json", msgspec.json.encode(known))
    except OSError:
        pass
