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
    """A roll of dice in place of a model; `id` is the dice notation, such as `2d6`."""

    seed: int | None = None


class Reply:
    """A stream: iterate over its events, or await `result()` for the complete message."""

    def __init__(self, model: DiceModel) -> None:
        self.rolled, total = roll_dice(model.id, model.seed)
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
        """Return the parts of the text: each die, then the sum."""
        return [*(f"[{die}] " for die in self.rolled), self.end]

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        """Yield each part of the text. The last event is always `done` or `error`."""
        yield {"type": "start"}
        yield {"type": "text_start", "content_index": 0}
        for piece in self.pieces():
            yield {"type": "text_delta", "content_index": 0, "delta": piece}
        yield {"type": "text_end", "content_index": 0, "content": "".join(self.pieces())}
        yield {"type": "done", "reason": "stop", "message": self.message}

    async def result(self) -> AssistantMessage:
        """Return the complete message."""
        return self.message


async def stream_dice(model: DiceModel, context: Context, options: SimpleStreamOptions) -> Reply:
    """Roll the dice. An exception ends the run with an error message."""
    return Reply(model)


def make_model(model_id: str, options: Mapping[str, Any]) -> DiceModel:
    """Make a model: for `-m dice/2d6 -O seed=7`, the arguments are `"2d6"` and `{"seed": ...}`."""
    seed = options.get("seed")
    return DiceModel(
        provider="dice", id=model_id or "d6", api="dice", seed=None if seed is None else int(seed)
    )


dice_provider = Provider(name="dice", stream_fn=stream_dice, make_model=make_model)
