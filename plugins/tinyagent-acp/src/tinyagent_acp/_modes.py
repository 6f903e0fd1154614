"""The modes of a session: which tool calls run without a question."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ACCEPT_EDITS", "MODES", "READ_ONLY", "Mode", "accepts"]

_EDITS = frozenset(("write", "edit"))
"""The tools of tinyagent-tools-fs that change files."""


class Mode(NamedTuple):
    """A mode that the editor shows."""

    id: str
    name: str
    description: str


READ_ONLY = "read-only"
ACCEPT_EDITS = "accept-edits"

MODES = (
    Mode("ask", "Ask", "Ask before a tool changes something."),
    Mode(ACCEPT_EDITS, "Accept edits", "Write and edit files without a question. Ask about all else."),
    Mode(READ_ONLY, "Read-only", "Refuse every tool that can change something, whatever was approved."),
)
"""All modes; the first one is the default."""


def accepts(mode: str, tool: str) -> bool:
    """Return whether the mode answers a question about a tool with yes."""
    return mode == ACCEPT_EDITS and tool in _EDITS
