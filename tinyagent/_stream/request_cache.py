"""The encoded messages of earlier requests, so that a turn encodes only what is new.

A request contains the whole conversation, and nearly all of it was in the request before. The cache stores
the encoded beginning of a conversation. It is used again only if these messages encode to the same JSON as
before, so a message that was changed, replaced or removed in between is never sent in its old form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from weakref import WeakKeyDictionary

import msgspec

from tinyagent import _json
from tinyagent.agent_types import Message

from .history import UsedIds, is_sendable

__all__ = ["Convert", "encode_history"]

Convert = Callable[[Sequence[Message], UsedIds], Sequence[object]]
"""Converts messages to the form of a protocol. It adds their ids of tool calls to the used ones.

The conversion of a message may not depend on messages before the last user or assistant message, except by
the used ids.
"""

MIN_MESSAGES = 16
"""The length from which a history is cached. Shorter ones are encoded in less time than the checks take."""
MAX_HISTORIES = 16
"""Cached histories of an event loop. The one that was not used for the longest time is removed."""
MAX_CACHED_BYTES = 64 << 20
"""Bytes of all cached histories of an event loop."""


class _Beginning(msgspec.Struct, frozen=True):
    """The first messages of a conversation, up to a user or assistant message."""

    count: int
    source: bytes
    """The messages as JSON, to detect changes."""
    encoded: bytes
    """The converted messages as JSON, separated by commas."""
    used: UsedIds

    def begins(self, messages: Sequence[Message]) -> bool:
        """Whether these messages, unchanged, are the beginning of a conversation."""
        if len(messages) > self.count and messages[self.count].get("role") == "tool_result":
            return False  # It may belong to a call in the beginning, which was encoded without a result.
        return self.source == _source(messages[: self.count])

    def size(self) -> int:
        return len(self.source) + len(self.encoded)


_Cache = dict[tuple[Hashable, ...], _Beginning]

_caches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Cache] = WeakKeyDictionary()
"""Each cache ends with its event loop."""


def encode_history(messages: Sequence[Message], key: tuple[Hashable, ...], convert: Convert) -> bytes:
    """Return the converted messages as JSON, separated by commas and without brackets.

    Args:
        messages: The conversation.
        key: All that `convert` depends on, except for the messages.
        convert: Converts messages to the form of a protocol.

    Raises:
        TypeError: A message contains a value that JSON cannot represent.
    """
    cache = _current_cache() if len(messages) >= MIN_MESSAGES else None
    if cache is None:
        return _encode_items(convert(messages, {}))
    key = (id(messages[0]), *key)
    known = cache.pop(key, None)
    if known is None or not known.begins(messages):
        known = _Beginning(0, b"", b"", {})
    added = messages[known.count :]
    if not all(map(is_sendable, added)):
        return _encode_items(convert(messages, {}))
    cut = next((n for n in reversed(range(len(added))) if added[n]["role"] != "tool_result"), 0)
    source = _source(added[:cut])
    if source is None:
        return _encode_items(convert(messages, {}))
    used = known.used.copy()
    encoded = _join(known.encoded, _encode_items(convert(added[:cut], used)))
    known = _Beginning(known.count + cut, _join(known.source, source), encoded, used)
    _store(cache, key, known)
    return _join(encoded, _encode_items(convert(added[cut:], used.copy())))


def _current_cache() -> _Cache | None:
    try:
        return _caches.setdefault(asyncio.get_running_loop(), {})
    except RuntimeError:
        return None


def _store(cache: _Cache, key: tuple[Hashable, ...], beginning: _Beginning) -> None:
    cache[key] = beginning
    size = sum(each.size() for each in cache.values())
    while len(cache) > MAX_HISTORIES or size > MAX_CACHED_BYTES:
        size -= cache.pop(next(iter(cache))).size()


_encoder = msgspec.json.Encoder()


def _source(messages: Sequence[Message]) -> bytes | None:
    """Return the messages as JSON, for comparison; None if this is impossible."""
    try:
        try:
            return _encoder.encode(messages)[1:-1]
        except TypeError:
            return _join(*map(_source_of, messages))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def _source_of(message: Message) -> bytes:
    try:
        return _encoder.encode(message)
    except TypeError:
        # `details` may hold any object, and is never sent.
        return _encoder.encode({key: value for key, value in message.items() if key != "details"})


def _encode_items(values: Sequence[object]) -> bytes:
    return _json.encode(values)[1:-1]


def _join(*parts: bytes) -> bytes:
    return b",".join(part for part in parts if part)
