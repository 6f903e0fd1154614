"""What was computed for the beginning of a conversation, so that a turn computes only what is new.

Nearly all messages of a request were in the request before. A value that was computed for them is used again
only if they encode to the same JSON as before. So a message that was changed, replaced or removed in between
is never sent in its old form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from tinyagent.agent_types import Message

from .message_checks import is_tool_result

__all__ = ["HistoryCache"]

V = TypeVar("V")

MIN_MESSAGES = 16
"""The length from which a history is cached. A shorter one takes less time than the comparison."""
MAX_HISTORIES = 16
"""Cached histories of an event loop. The one that was not used for the longest time is removed."""
MAX_CACHED_BYTES = 64 << 20
"""Bytes of all cached histories of an event loop."""


class _Beginning(msgspec.Struct, Generic[V], frozen=True):
    """The first messages of a conversation, up to a user or assistant message."""

    count: int
    source: bytes
    """The messages as JSON, to detect changes."""
    value: V

    def begins(self, messages: Sequence[Message]) -> bool:
        """Whether these messages, unchanged, are the beginning of a conversation."""
        if len(messages) > self.count and is_tool_result(messages[self.count]):
            return False  # It may belong to a call in the beginning, which had no result then.
        return self.source == _source(messages[: self.count])


_Histories: TypeAlias = dict[tuple[Hashable, ...], _Beginning[V]]


class HistoryCache(Generic[V]):
    """Values for the beginnings of conversations. Those of an event loop are removed when the loop ends.

    Args:
        size: Returns the bytes of a value.
    """

    def __init__(self, size: Callable[[V], int]) -> None:
        self._size = size
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Histories[V]] = WeakKeyDictionary()

    def split(
        self,
        messages: Sequence[Message],
        key: tuple[Hashable, ...],
        start: V,
        extend: Callable[[V, int, int], V | None],
    ) -> tuple[int, V]:
        """Return the length of a beginning of the conversation, and the value for it.

        The first request of a conversation is not cached, because there may be no second one. The length is
        then 0.

        Args:
            messages: The conversation.
            key: What the value depends on, except for the messages.
            start: The value for no messages.
            extend: `extend(value, start, end)` returns the value for `messages[:end]`, from the value for
                `messages[:start]`. It returns None if these messages cannot be cached.
        """
        histories = self._current() if len(messages) >= MIN_MESSAGES else None
        if histories is None:
            return 0, start
        key = (id(messages[0]), *key)
        known = histories.pop(key, None)
        if known is None:
            self._store(histories, key, _Beginning(0, b"", start))
            return 0, start
        if not known.begins(messages):
            known = _Beginning(0, b"", start)
        # The last message that is no result, and the results after it, can still get more results.
        last = reversed(range(known.count, len(messages)))
        end = next((n for n in last if not is_tool_result(messages[n])), known.count)
        source = _source(messages[known.count : end])
        value = extend(known.value, known.count, end) if source is not None else None
        if source is None or value is None:
            return 0, start
        known = _Beginning(end, known.source + source, value)
        self._store(histories, key, known)
        return known.count, known.value

    def _current(self) -> _Histories[V] | None:
        try:
            return self._loops.setdefault(asyncio.get_running_loop(), {})
        except RuntimeError:
            return None

    def _store(self, histories: _Histories[V], key: tuple[Hashable, ...], beginning: _Beginning[V]) -> None:
        histories[key] = beginning
        size = sum(map(self._bytes, histories.values()))
        while len(histories) > MAX_HISTORIES or size > MAX_CACHED_BYTES:
            size -= self._bytes(histories.pop(next(iter(histories))))

    def _bytes(self, beginning: _Beginning[V]) -> int:
        return len(beginning.source) + self._size(beginning.value)


_encoder = msgspec.json.Encoder()


def _source(messages: Sequence[Message]) -> bytes | None:
    """Return the messages as JSON lines, for comparison; None if this is impossible."""
    try:
        try:
            return _encoder.encode_lines(messages)
        except TypeError:
            return b"".join(map(_source_of, messages))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def _source_of(message: Message) -> bytes:
    try:
        return _encoder.encode(message) + b"\n"
    except TypeError:
        if not isinstance(message, dict):
            raise
        # `details` may hold any object, and is never sent.
        return _encoder.encode({key: value for key, value in message.items() if key != "details"}) + b"\n"
