"""The encoded messages of earlier requests, so that a turn encodes only what is new; see `history_cache`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

import msgspec

from tinyagent.agent_types import Message

from .history import is_sendable
from .history_cache import HistoryCache
from .request import EncodedItems, encode_items

__all__ = ["Convert", "RequestCache"]


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


class _Encoded(msgspec.Struct, Generic[State], frozen=True):
    """The beginning of a conversation."""

    items: bytes
    """The converted messages as JSON, separated by commas."""
    state: State
    """The state after them. It may not be changed."""


class RequestCache(Generic[State]):
    """The encoded histories of one protocol."""

    def __init__(self) -> None:
        self._cache: HistoryCache[_Encoded[State]] = HistoryCache(lambda encoded: len(encoded.items))

    def encode(
        self, messages: Sequence[Message], key: tuple[Hashable, ...], convert: Convert[State], state: State
    ) -> tuple[list[EncodedItems], State]:
        """Encode the converted messages.

        Args:
            messages: The conversation.
            key: All that `convert` depends on, except for the messages.
            convert: Converts messages to the form of the protocol.
            state: The state before the first message.

        Returns:
            The encoded messages, in parts, and the state after the last message.

        Raises:
            ConfigurationError: A message contains a value that JSON cannot represent.
        """

        def extend(known: _Encoded[State], start: int, end: int) -> _Encoded[State] | None:
            if not all(map(is_sendable, messages[start:])):
                return None
            after = known.state.copy()
            added = encode_items(convert(messages[start:end], after))
            return _Encoded(b",".join(items for items in (known.items, added) if items), after)

        count, known = self._cache.split(messages, key, _Encoded(b"", state), extend)
        last = known.state.copy()
        return [known.items, encode_items(convert(messages[count:], last))], last
