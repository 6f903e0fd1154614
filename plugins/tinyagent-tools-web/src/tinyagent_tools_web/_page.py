"""A downloaded page. This is a separate module, so that the process that converts it imports little."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Page"]


@dataclass(frozen=True)
class Page:
    """The response of a server. `complete` is False if the body was longer than the limit."""

    url: str
    status: int
    reason: str
    content_type: str
    retry_after: str | None
    body: bytes
    complete: bool
