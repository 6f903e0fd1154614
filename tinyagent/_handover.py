"""What one provider said, made fit for another.

Signatures, encrypted reasoning and ids mean something only to the model that made them. Every
provider passes its history through `handover` before it writes a request, so a conversation can change
models in its middle. Messages of the model that is asked now stay as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, cast

from .agent_types import AssistantMessage, Message

__all__ = ["handover", "is_own"]

_PRIVATE = ("text_signature", "thinking_signature")


def is_own(message: AssistantMessage, model: Any) -> bool:
    """Whether this model, over this protocol, made the message."""
    return (message.get("api"), message.get("provider"), message.get("model")) == (
        getattr(model, "api", ""),
        getattr(model, "provider", ""),
        getattr(model, "id", ""),
    )


def handover(messages: Sequence[Message], model: Any, *, ids: re.Pattern[str] | None = None) -> list[Message]:
    """The history as `model` can take it.

    Of another model's messages the reasoning is left out, with every signature; a message of which
    nothing remains is left out whole. Tool calls stay, and so do their results.

    Args:
        messages: The history; not changed.
        model: Who is asked now: `api`, `provider` and `id` are compared.
        ids: What the provider accepts as the id of a tool call; others are replaced, the same one by
            the same one everywhere.
    """
    taken: list[Message] = []
    for message in messages:
        if message["role"] == "assistant":
            if not is_own(message, model):
                content = [_plain(block) for block in message["content"] if block["type"] != "thinking"]
                content = [block for block in content if block["type"] != "text" or block["text"].strip()]
                if not content:
                    continue
                message = cast(AssistantMessage, {**message, "content": content})
            if ids is not None:
                message = cast(
                    AssistantMessage, {**message, "content": [_with_id(block, ids) for block in message["content"]]}
                )
        elif message["role"] == "tool_result" and ids is not None:
            message = {**message, "tool_call_id": _fit(message["tool_call_id"], ids)}
        taken.append(message)
    return taken


def _plain(block: Any) -> Any:
    return {key: value for key, value in block.items() if key not in _PRIVATE}


def _with_id(block: Any, ids: re.Pattern[str]) -> Any:
    return {**block, "id": _fit(block["id"], ids)} if block["type"] == "tool_call" else block


def _fit(call_id: str, ids: re.Pattern[str]) -> str:
    return call_id if ids.fullmatch(call_id) else f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:16]}"
