"""The limits of a run: model calls, cost, tokens, and repetitions without progress."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from tinyagent import _json
from tinyagent._cancel import run_in_thread
from tinyagent._stream.message_checks import has_failed
from tinyagent._stream.usage import total_tokens
from tinyagent.agent_types import (
    AgentLoopConfig,
    AssistantMessage,
    RunLimit,
    RunSettings,
    ToolResultMessage,
)
from tinyagent.errors import as_amount

__all__ = ["RunLimits", "check_limits"]

_log = logging.getLogger(__name__)


def check_limits(options: RunSettings) -> None:
    """Check the values of `max_turns`, `max_repeats`, `max_total_tokens` and `max_cost`.

    Raises:
        ValueError: One of them is not a valid number. The message names it.
    """
    for name, value in (
        ("max_turns", options.max_turns),
        ("max_repeats", options.max_repeats),
        ("max_total_tokens", options.max_total_tokens),
    ):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number from 1, or None for no limit.")
    cost: object = options.max_cost
    if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | float) or not cost >= 0):
        raise ValueError(f"max_cost is {cost!r}; it must be an amount in US dollars, or None for no limit.")


class RunLimits:
    """Counts what one run has used."""

    def __init__(self, config: AgentLoopConfig) -> None:
        self._config = config
        self._turns = 0
        self._cost_usd = 0.0
        self._tokens = 0.0
        self._has_noted_unknown_cost = False
        self._has_noted_unknown_tokens = False
        self._last_call: bytes = b""
        self._repeats = 0
        """How many times in a row the last tool call has had the same result."""
        self._failing_turns = 0

    def count_turn(self) -> None:
        """Count a turn when it starts."""
        self._turns += 1

    def repeat_turn(self) -> None:
        """Do not count the last turn, because the next one repeats it."""
        self._turns -= 1

    async def count_usage(self, message: AssistantMessage) -> None:
        """Add the tokens and the cost of a reply."""
        self._count_tokens(message)
        await self._count_cost(message)

    def _count_tokens(self, message: AssistantMessage) -> None:
        total = total_tokens(message.get("usage"))
        is_limited = self._config.max_total_tokens is not None
        if total is None and is_limited and not has_failed(message) and not self._has_noted_unknown_tokens:
            self._has_noted_unknown_tokens = True
            model = message.get("model", "")
            self._note(f"max_total_tokens: no usage is reported by {model!r}, so its replies do not count.")
        self._tokens += total or 0

    async def _count_cost(self, message: AssistantMessage) -> None:
        """Add the provider's own figure or, if there is a budget, the list price."""
        usage = message.get("usage") or {}
        cost = as_amount(usage.get("cost"))
        if cost is None and self._config.max_cost is not None:
            from tinyagent._prices import estimate_cost

            if usage:  # In a thread, because the first price loads the table.
                estimate = partial(estimate_cost, self._config.model, usage)
                cost = await run_in_thread(estimate, "tinyagent prices")
            if cost is None and not has_failed(message) and not self._has_noted_unknown_cost:
                self._has_noted_unknown_cost = True
                what = "no price is known for" if usage else "no usage is reported by"
                self._note(f"max_cost: {what} {message.get('model', '')!r}, so its replies do not count.")
        self._cost_usd += cost or 0.0

    def count_repeats(self, message: AssistantMessage, results: Sequence[ToolResultMessage]) -> None:
        """Count how often the model has repeated itself without progress."""
        calls = {block["id"]: block for block in message["content"] if block["type"] == "tool_call"}
        for result in results:
            call = calls[result["tool_call_id"]]
            same = _json.encode([call["name"], call["arguments"], result["content"], result["is_error"]])
            self._repeats = self._repeats + 1 if same == self._last_call else 1
            self._last_call = same
            if self._is_too_often(self._repeats):
                return  # A later call of the same turn must not reset the count.
        # Turns are counted, not calls: within one turn, the model could not see the first failure.
        failing = results and all(result["is_error"] for result in results)
        self._failing_turns = self._failing_turns + 1 if failing else 0

    def reset_repeats(self) -> None:
        """Start the count again, because the user has intervened."""
        self._last_call, self._repeats, self._failing_turns = b"", 0, 0

    @property
    def is_last_turn(self) -> bool:
        """Whether the current turn is the last one because of a limit on calls, cost or tokens."""
        return self._has_used_all_turns or self._has_spent_budget or self._has_used_all_tokens

    def reached(self) -> RunLimit | None:
        """Return the limit that the run has reached."""
        if self._has_used_all_turns:
            return "max_turns"
        if self._is_too_often(max(self._repeats, self._failing_turns)):
            return "repeat"
        if self._has_spent_budget:
            return "budget"
        return "max_total_tokens" if self._has_used_all_tokens else None

    @property
    def _has_used_all_turns(self) -> bool:
        return self._config.max_turns is not None and self._turns >= self._config.max_turns

    @property
    def _has_spent_budget(self) -> bool:
        return self._config.max_cost is not None and self._cost_usd >= self._config.max_cost

    @property
    def _has_used_all_tokens(self) -> bool:
        limit = self._config.max_total_tokens
        return limit is not None and self._tokens >= limit

    def _is_too_often(self, times: int) -> bool:
        return self._config.max_repeats is not None and times >= self._config.max_repeats

    def _note(self, text: str) -> None:
        """Pass a note for the user to `on_note` or, without it, to the log."""
        if self._config.on_note is None:
            _log.warning(text)
            return
        try:
            self._config.on_note(text)
        except Exception:  # noqa: BLE001 - the reply is complete, and a note does not change it
            _log.exception("on_note raised; the run continues.")
