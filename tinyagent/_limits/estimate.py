"""Estimate the tokens of a request before it is sent."""

from __future__ import annotations

from tinyagent._stream.token_estimate import fixed_tokens, message_tokens
from tinyagent.agent_types import Context, SimpleStreamOptions

__all__ = ["OutputEstimate", "input_tokens"]

FIRST_OUTPUT_TOKENS = 256
"""The estimate for an output before any is known."""
_WEIGHT = 0.1
"""The weight of a new output in the mean."""


def input_tokens(context: Context) -> int:
    """Return an estimate of the tokens of a request."""
    messages = sum(map(message_tokens, context.messages))
    return messages + fixed_tokens(context.system_prompt, context.tools)


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
