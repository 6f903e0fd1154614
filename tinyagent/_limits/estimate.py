"""Estimate the tokens of a request before it is sent."""

from __future__ import annotations

from tinyagent import _json
from tinyagent.agent_types import Context, Message, SimpleStreamOptions

__all__ = ["OutputEstimate", "input_tokens"]

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8, so that texts in Chinese and Japanese are estimated well, too."""
IMAGE_TOKENS = 1000
FIRST_OUTPUT_TOKENS = 256
"""The estimate for an output before any is known."""
_WEIGHT = 0.1
"""The weight of a new output in the mean."""


def input_tokens(context: Context) -> float:
    """Return an estimate of the tokens of a request."""
    total = _size(context.system_prompt)
    for message in context.messages:
        total += _message_size(message)
    for tool in context.tools or ():
        total += _size(tool.name) + _size(tool.description) + len(_json.encode(tool.parameters))
    return total / BYTES_PER_TOKEN


def _message_size(message: Message) -> int:
    total = 0
    for block in message["content"]:
        match block["type"]:
            case "text":
                total += _size(block["text"])
            case "thinking":
                total += _size(block["thinking"])
            case "image":
                total += IMAGE_TOKENS * BYTES_PER_TOKEN
            case "tool_call":
                total += _size(block["name"]) + len(_json.encode(block["arguments"]))
    return total


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class OutputEstimate:
    """The mean of the outputs of a provider."""

    def __init__(self) -> None:
        self._mean: float = FIRST_OUTPUT_TOKENS

    def tokens(self, options: SimpleStreamOptions) -> float:
        """Return an estimate of the tokens of a reply."""
        most = options.get("max_tokens")
        return self._mean if most is None else min(self._mean, most)

    def add(self, tokens: float) -> None:
        """Count the tokens of a reply."""
        self._mean += _WEIGHT * (tokens - self._mean)
