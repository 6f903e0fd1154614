"""The clients that are compared within a process: lower bounds, other clients, and each of our layers.

A client is an async context manager that returns `ask(body) -> Reply`, which sends a request and reads its
reply to the end. Each imports its packages when it is entered, because no interpreter needs all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Ask = Callable[[Body], Awaitable["Reply"]]
Client = Callable[[str], AbstractAsyncContextManager[Ask]]


@dataclass(slots=True)
class Reply:
    """The content of a reply: the number of deltas, and the pieces of its text or of its tool call."""

    count: int = 0
    pieces: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def text(self) -> str:
        """Return the complete text, joined once."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Entry:
    """The location of a client and its imports."""

    title: str
    place: str
    needs: tuple[str, ...]

    def load(self) -> Client:
        """Import it."""
        module, _, name = self.place.partition(":")
        client: Client = getattr(importlib.import_module(f"bench.clients.{module}"), name)
        return client


OURS = ("httpx", "msgspec", "jiter")
CLIENTS = {
    "floor": Entry("floor: asyncio socket + msgspec, batch by batch", "floors:sockets", ("msgspec",)),
    "httpx": Entry("httpx, raw bytes + msgspec", "floors:httpx_bytes", ("httpx", "msgspec")),
    "openai": Entry("openai client", "peers:openai_client", ("openai",)),
    "stream": Entry("stream_openai_completions", "ours:stream", OURS),
    "agent": Entry("Agent.stream()", "ours:agent", OURS),
    "agent-httpx": Entry("Agent.stream() on httpx", "ours:agent_on_httpx", OURS),
    "agent-uvloop": Entry("Agent.stream() on uvloop", "ours:agent", (*OURS, "uvloop")),
    "listener": Entry("Agent.stream() + a subscribed listener", "ours:agent_with_listener", OURS),
    "jsonl": Entry("Agent.stream() + JSONL to a file", "ours:agent_recorded", OURS),
}


def question(model: str) -> Body:
    """Return the smallest request for a reply of this kind."""
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}
