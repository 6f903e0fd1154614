"""The list prices are loaded during the reply, so that the end of a run does not wait for them."""

from __future__ import annotations

import threading

import pytest

from tinyagent import _prices
from tinyagent.agent_types import AgentStartEvent, MessageUpdateEvent, ModelIdentity
from tinyagent.openai_wire import OpenAICompatModel
from tinyagent_cli.run.outcome import PriceLoader


def test_prices_are_loaded_once_when_the_reply_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first delta starts a thread that loads them. Later deltas do nothing."""
    loaded: list[ModelIdentity] = []
    done = threading.Event()

    def has_price(model: ModelIdentity) -> bool:
        loaded.append(model)
        done.set()
        return True

    monkeypatch.setattr(_prices, "has_price", has_price)
    model = OpenAICompatModel(id="m")
    loader = PriceLoader(model)
    loader(AgentStartEvent())
    assert not done.is_set()
    delta = MessageUpdateEvent(
        assistant_message_event={"type": "text_delta", "content_index": 0, "delta": "Hi."}  # type: ignore[typeddict-item]
    )
    for _ in range(3):
        loader(delta)
    assert done.wait(60)
    assert [model] == loaded
