"""A provider that answers with a roll: `-m dice/2d6`, repeatable with `-O seed=7`."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from tinyagent import (
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    Model,
    Provider,
    SimpleStreamOptions,
)

from .rolling import roll_dice


@dataclass
class DiceModel(Model):
    """A throw of dice in the place of a model; `id` is the throw."""

    seed: int | None = None


class Reply:
    """A reply under way: iterate it for the events, await `result()` for the message."""

    def __init__(self, model: DiceModel) -> None:
        self.thrown, total = roll_dice(model.id, model.seed)
        self.end = f"= {total}"
        self.message: AssistantMessage = {
            "role": "assistant",
            "content": [{"type": "text", "text": "".join(self.pieces())}],
            "stop_reason": "stop",
            "timestamp": time.time_ns() // 1_000_000,
            "api": model.api,
            "provider": model.provider,
            "model": model.id,
            "usage": None,
        }

    def pieces(self) -> list[str]:
        """What is streamed: one die after the other, then the sum."""
        return [*(f"[{die}] " for die in self.thrown), self.end]

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        """Yield each piece as it is known; the last event is always `done` or `error`."""
        yield {"type": "start"}
        yield {"type": "text_start", "content_index": 0}
        for piece in self.pieces():
            yield {"type": "text_delta", "content_index": 0, "delta": piece}
        yield {"type": "text_end", "content_index": 0, "content": "".join(self.pieces())}
        yield {"type": "done", "reason": "stop", "message": self.message}

    async def result(self) -> AssistantMessage:
        """The whole message."""
        return self.message


async def stream_dice(model: DiceModel, context: Context, options: SimpleStreamOptions) -> Reply:
    """Throw the dice. What is raised here ends the run as an error message."""
    return Reply(model)


def make_model(model_id: str, options: Mapping[str, Any]) -> DiceModel:
    """`-m dice/2d6 -O seed=7` arrives here as `"2d6"` and `{"seed": ...}`."""
    seed = options.get("seed")
    return DiceModel(
        provider="dice", id=model_id or "d6", api="dice", seed=None if seed is None else int(seed)
    )


dice_provider = Provider(name="dice", stream_fn=stream_dice, make_model=make_model)
