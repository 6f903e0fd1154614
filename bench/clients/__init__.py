"""What is compared within a process: the floors, the competitors, and every layer of ours.

A client is an async context manager that gives `ask(body) -> Reply`: send one request, read the reply
to its end, say what came. Each imports what it needs when it is opened, so that one interpreter can
have one of them and another the other.
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
    """What one reply brought: how many deltas, and the pieces of its text or of its tool call."""

    count: int = 0
    pieces: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def text(self) -> str:
        """The whole text, put together once."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Entry:
    """Where a client is and what it imports."""

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
    "listener": Entry("Agent.stream() + a subscribed listener", "ours:agent_heard", OURS),
    "jsonl": Entry("Agent.stream() + JSONL to a file", "ours:agent_recorded", OURS),
}


def question(model: str) -> Body:
    """The smallest request for a reply of this kind."""
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}
