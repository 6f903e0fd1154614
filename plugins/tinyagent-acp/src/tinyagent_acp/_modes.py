"""The modes of a session: which tool calls run without a question, and what a question offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from acp.schema import PermissionOptionKind

__all__ = ["ACCEPT_EDITS", "MODES", "READ_ONLY", "Mode", "accepts", "choices"]

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


class Choice(NamedTuple):
    """An answer that the editor offers, with the one of `tinyagent rpc` as its id."""

    id: str
    kind: PermissionOptionKind
    name: str


def choices(answers: Sequence[str], tool: str) -> list[Choice]:
    """Return what the editor offers for a question of `tinyagent rpc`, the narrowest approval first."""
    known = [
        Choice("yes", "allow_once", "Allow once"),
        Choice("project", "allow_always", "Always allow exactly this call in this project"),
        Choice("always", "allow_always", f"Allow every call of {tool} in this session"),
        Choice("outside", "allow_once", "Allow once, outside the sandbox"),
        Choice("no", "reject_once", "Reject"),
    ]
    return [choice for choice in known if choice.id in answers]
