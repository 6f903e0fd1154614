"""Repaired histories are reused only if nothing has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tinyagent._stream import history_cache, repair_cache
from tinyagent._stream.history import repair_history
from tinyagent._stream.repair_cache import repair_again
from tinyagent.agent_types import Message, ToolCallContent
from tinyagent.testing import assistant, tool_result, user


def history(count: int = 20) -> list[Message]:
    """A conversation in which every third message calls a tool."""
    messages: list[Message] = []
    for n in range(count):
        read: ToolCallContent = {
            "type": "tool_call",
            "id": f"c{n}",
            "name": "read",
            "arguments": {"path": str(n)},
        }
        messages += [user(f"{n}"), assistant(read), tool_result(f"c{n}", "read", "text")]
    return messages


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of messages that each call of `repair_history` checks."""
    counts: list[int] = []

    def counting(messages: Any, **options: Any) -> list[Message]:
        counts.append(len(messages))
        return repair_history(messages, **options)

    monkeypatch.setattr(repair_cache, "repair_history", counting)
    return counts


async def test_the_third_request_checks_only_what_is_new(checked: list[int]) -> None:
    """The first two requests check all messages. The result is always that of a full repair."""
    messages = history()
    for _ in range(2):
        assert repair_history(messages) == repair_again(messages)
        assert sum(checked) == len(messages)
        checked.clear()
    messages = [*messages, user("more"), assistant("fine")]
    assert repair_history(messages) == repair_again(messages)
    assert sum(checked) < 6


async def test_a_changed_message_is_seen() -> None:
    """A change inside a message, deep or not, is in the next request."""
    messages: Any = history()
    for _ in range(2):
        repair_again(messages)
    messages[0]["content"][0]["text"] = "changed"
    assert "changed" == repair_again(messages)[0]["content"][0]["text"]  # type: ignore[typeddict-item]
    messages[1]["content"][0]["arguments"]["path"] = "elsewhere"
    assert repair_history(messages) == repair_again(messages)
    del messages[2]
    assert repair_history(messages) == repair_again(messages)


async def test_equal_copies_are_not_mixed_with_their_originals() -> None:
    """After messages were replaced by copies, changes of the originals are not sent."""
    messages: Any = history()
    for _ in range(2):
        repair_again(messages)
    copies = [messages[0], *copy.deepcopy(messages[1:])]
    expected = copy.deepcopy(repair_history(copies))
    repair_again(copies)
    messages[3]["content"][0]["text"] = "of the original"
    assert expected == repair_again(copies)


async def test_old_histories_are_forgotten(monkeypatch: pytest.MonkeyPatch, checked: list[int]) -> None:
    """The number of cached histories, and their size, are limited."""
    monkeypatch.setattr(history_cache, "MAX_HISTORIES", 2)
    histories = [history() for _ in range(4)]
    for messages in histories:
        for _ in range(2):
            repair_again(messages)
    for messages, count in zip(reversed(histories), (2, 2, 60, 60), strict=True):
        checked.clear()
        repair_again(messages)
        assert sum(checked) == count
    monkeypatch.setattr(history_cache, "MAX_CACHED_BYTES", 1)
    for _ in range(4):
        checked.clear()
        assert repair_history(histories[0]) == repair_again(histories[0])
        assert sum(checked) == 60


async def test_what_is_not_a_message_is_left_out() -> None:
    """Values that a callback returned by mistake are left out, with a warning, as in a full repair."""
    messages: Any = [*history(), "text", None, user("more")]
    assert repair_history(messages) == repair_again(messages)


async def test_any_cut_of_a_history_gives_the_same() -> None:
    """Growing a history message by message never differs from repairing it as a whole."""
    whole: Any = history(12)
    whole.insert(7, assistant("failed", stop_reason="error"))
    whole.insert(20, tool_result("unknown", "read", "orphan"))
    for count in range(1, len(whole) + 1):
        assert repair_history(whole[:count]) == repair_again(whole[:count])
