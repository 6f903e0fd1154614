"""The repaired messages of earlier requests, so that a turn checks only what is new.

The cache is used only if the same message objects encode to the same JSON as before. If a message was
changed, replaced or removed in between, all messages are checked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import msgspec

from tinyagent.agent_types import Message

from .history import repair_history

__all__ = ["repair_again"]

MIN_MESSAGES = 16
"""The length from which a history is cached."""
MAX_HISTORIES = 16
"""Cached histories of an event loop. The one that was not used for the longest time is removed."""
MAX_CACHED_BYTES = 64 << 20
"""Bytes of JSON of all cached histories of an event loop."""


class _Repaired(msgspec.Struct, frozen=True):
    """The beginning of a history, up to a user or assistant message."""

    ids: list[int]
    source: bytes
    """The messages as JSON, to detect changes."""
    messages: list[Message]
    """The repaired messages. They keep the objects alive, so that no other object gets their ids."""
    originals: list[Message]

    def begins(self, messages: Sequence[Message]) -> bool:
        count = len(self.ids)
        if len(messages) > count and _is_result(messages[count]):
            return False  # It may belong to a call of the beginning, which was repaired without a result.
        beginning = messages[:count]
        return list(map(id, beginning)) == self.ids and _source(beginning) == self.source


_caches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Repaired]] = WeakKeyDictionary()
"""Each cache ends with its event loop."""
_encoder = msgspec.json.Encoder()


def repair_again(messages: Sequence[Message]) -> list[Message]:
    """Do the same as `repair_history`, and reuse the result of an earlier call for the beginning.

    To be called inside an event loop.
    """
    if len(messages) < MIN_MESSAGES:
        return repair_history(messages)
    cache = _caches.setdefault(asyncio.get_running_loop(), {})
    key = id(messages[0])
    known = cache.pop(key, None)
    if known is None or not known.begins(messages):
        known = _Repaired([], b"", [], [])
    count = len(known.ids)
    added = messages[count:]
    cut = next((n for n in reversed(range(len(added))) if not _is_result(added[n])), 0)
    source = _source(added[:cut])
    if source is None:
        return known.messages + repair_history(added, first=count + 1)
    beginning = added[:cut]
    known = _Repaired(
        known.ids + list(map(id, beginning)),
        known.source + source,
        known.messages + repair_history(beginning, first=count + 1),
        known.originals + list(beginning),
    )
    cache[key] = known
    size = sum(len(each.source) for each in cache.values())
    while len(cache) > MAX_HISTORIES or size > MAX_CACHED_BYTES:
        size -= len(cache.pop(next(iter(cache))).source)
    return known.messages + repair_history(added[cut:], first=count + cut + 1)


def _is_result(message: object) -> bool:
    # A callback may have returned anything.
    return isinstance(message, dict) and message.get("role") == "tool_result"


def _source(messages: Sequence[Message]) -> bytes | None:
    """Return the messages as JSON lines, for comparison; None if this is impossible."""
    try:
        return _encoder.encode_lines(messages)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
