"""A page as a server sent it. Apart from the download, so that the process that reads it imports little."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Page"]


@dataclass(frozen=True)
class Page:
    """What a server sent. `complete` is False if there was more of it than is read."""

    url: str
    status: int
    reason: str
    content_type: str
    retry_after: str | None
    body: bytes
    complete: bool
