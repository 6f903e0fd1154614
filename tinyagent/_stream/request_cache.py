"""The encoded messages of earlier requests, so that a turn encodes only what is new.

A request contains the whole conversation, and nearly all of it was in the request before. The cache stores
the encoded beginning of a conversation. It is used again only if these messages encode to the same JSON as
before, so a message that was changed, replaced or removed in between is never sent in its old form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from tinyagent import _json
from tinyagent.agent_types import Message

from .history import is_sendable
from .request import cannot_be_sent

__all__ = ["Convert", "HistoryCache", "array_of", "encode_items"]


class ConversionState(Protocol):
    """What the conversion of a message may depend on, apart from the message.

    A protocol chooses its own class: the used ids of tool calls, or these and the end of the request so far.
    """

    def copy(self) -> Self:
        """Return a copy that a conversion may change."""
        ...


State = TypeVar("State", bound=ConversionState)

Convert: TypeAlias = Callable[[Sequence[Message], State], Sequence[object]]
"""Converts messages to the form of a protocol, and updates the state.

It returns what later messages cannot change. The rest, if the protocol has any, stays in the state.
The conversion of a message may not depend on messages before the last user or assistant message, except by
the state.
"""

MIN_MESSAGES = 16
"""The length from which a history is cached. Shorter ones are encoded in less time than the checks take."""
MAX_HISTORIES = 16
"""Cached histories of an event loop. The one that was not used for the longest time is removed."""
MAX_CACHED_BYTES = 64 << 20
"""Bytes of all cached histories of an event loop."""


class _Beginning(msgspec.Struct, Generic[State], frozen=True):
    """The first messages of a conversation, up to a user or assistant message."""

    count: int
    source: bytes
    """The messages as JSON, to detect changes."""
    encoded: bytes
    """The converted messages as JSON, separated by commas."""
    state: State
    """The state after these messages."""

    def begins(self, messages: Sequence[Message]) -> bool:
        """Whether these messages, unchanged, are the beginning of a conversation."""
        following = messages[self.count] if len(messages) > self.count else None
        if isinstance(following, Mapping) and following.get("role") == "tool_result":
            return False  # It may belong to a call in the beginning, which was encoded without a result.
        return self.source == _source(messages[: self.count])

    def size(self) -> int:
        return len(self.source) + len(self.encoded)


class HistoryCache(Generic[State]):
    """The encoded histories of one protocol. Those of an event loop are removed when the loop ends."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[Hashable, ...], _Beginning[State]]
        ] = WeakKeyDictionary()

    def encode(
        self, messages: Sequence[Message], key: tuple[Hashable, ...], convert: Convert[State], state: State
    ) -> tuple[bytes, State]:
        """Encode the converted messages.

        Args:
            messages: The conversation.
            key: All that `convert` depends on, except for the messages.
            convert: Converts messages to the form of the protocol.
            state: The state before the first message.

        Returns:
            The converted messages as JSON, separated by commas and without brackets, and the state after the
            last message.

        Raises:
            ConfigurationError: A message contains a value that JSON cannot represent.
        """
        histories = self._current_histories() if len(messages) >= MIN_MESSAGES else None
        if histories is None:
            return encode_items(convert(messages, state)), state
        key = (id(messages[0]), *key)
        known = histories.pop(key, None)
        if known is None or not known.begins(messages):
            known = _Beginning(0, b"", b"", state.copy())
        added = messages[known.count :]
        if not all(map(is_sendable, added)):
            return encode_items(convert(messages, state)), state
        cut = next((n for n in reversed(range(len(added))) if added[n]["role"] != "tool_result"), 0)
        source = _source(added[:cut])
        if source is None:
            return encode_items(convert(messages, state)), state
        after = known.state.copy()
        encoded = _join(known.encoded, encode_items(convert(added[:cut], after)))
        known = _Beginning(known.count + cut, _join(known.source, source), encoded, after)
        _store(histories, key, known)
        last = after.copy()
        return _join(encoded, encode_items(convert(added[cut:], last))), last

    def _current_histories(self) -> dict[tuple[Hashable, ...], _Beginning[State]] | None:
        try:
            return self._loops.setdefault(asyncio.get_running_loop(), {})
        except RuntimeError:
            return None


def encode_items(values: Sequence[object]) -> bytes:
    """Encode values as JSON, separated by commas and without brackets.

    Raises:
        ConfigurationError: A value cannot be represented in JSON.
    """
    try:
        return _json.encode(values)[1:-1]
    except TypeError as error:
        raise cannot_be_sent(error) from None


def array_of(*parts: bytes) -> msgspec.Raw:
    """Return a JSON array of encoded items. Each part has any number of them, separated by commas."""
    return msgspec.Raw(b"[" + _join(*parts) + b"]")


def _store(
    histories: dict[tuple[Hashable, ...], _Beginning[State]],
    key: tuple[Hashable, ...],
    beginning: _Beginning[State],
) -> None:
    histories[key] = beginning
    size = sum(each.size() for each in histories.values())
    while len(histories) > MAX_HISTORIES or size > MAX_CACHED_BYTES:
        size -= histories.pop(next(iter(histories))).size()


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
        if not isinstance(message, Mapping):  # A callback may have returned anything.
            raise
        # `details` may hold any object, and is never sent.
        return _encoder.encode({key: value for key, value in message.items() if key != "details"})


def _join(*parts: bytes) -> bytes:
    return b",".join(part for part in parts if part)
