"""`repair_history` for the loop, which repairs the same growing conversation in every turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tinyagent.agent_types import Message

from .history import repair_history
from .history_cache import HistoryCache

__all__ = ["repair_again"]

_Repaired: TypeAlias = list[int | Message]
"""The repaired messages. An unchanged one is represented by its position in the conversation, so that the
current object is sent. The others were created by the repair."""

_cache: HistoryCache[_Repaired] = HistoryCache(lambda repaired: 8 * len(repaired))


def repair_again(messages: Sequence[Message]) -> list[Message]:
    """Do the same as `repair_history`, and reuse the result of an earlier call for the beginning."""

    def extend(repaired: _Repaired, start: int, end: int) -> _Repaired:
        positions = {id(messages[n]): n for n in range(start, end)}
        added = repair_history(messages[start:end], first=start + 1)
        return repaired + [positions.get(id(message), message) for message in added]

    count, repaired = _cache.split(messages, (), [], extend)
    known = [messages[each] if isinstance(each, int) else each for each in repaired]
    return known + repair_history(messages[count:], first=count + 1)
