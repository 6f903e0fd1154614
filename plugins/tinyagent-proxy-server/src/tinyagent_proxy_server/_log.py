"""The log line of a request: caller, model, duration, usage and outcome. No prompts, no secrets."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import TypeAlias

from tinyagent.agent_types import Usage

__all__ = ["LogLine"]

MAX_VALUE_CHARACTERS = 300
_PLAIN = re.compile(r"[\w./:@+*-]+", re.ASCII)
_ORDER = (
    *("from", "token", "model", "path", "status", "finish"),
    *("ms", "input", "output", "cost", "retries", "error", "why"),
)


LogValue: TypeAlias = str | int | float | None


class LogLine(dict[str, LogValue]):
    """The fields of a line. `str` writes them as `name=value`; text from callers is quoted and truncated."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()

    def add_usage(self, usage: Usage | None) -> None:
        """Add the tokens and the cost of a reply."""
        if usage is not None:
            self |= {"input": usage.get("input"), "output": usage.get("output"), "cost": usage.get("cost")}

    def __str__(self) -> str:
        self["ms"] = round((time.monotonic() - self._since) * 1000)
        fields = [f"{name}={_value(self[name])}" for name in _ORDER if self.get(name) is not None]
        return " ".join([f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", *fields])


def _value(value: LogValue) -> str:
    text = str(value)
    if len(text) > MAX_VALUE_CHARACTERS:
        text = f"{text[:MAX_VALUE_CHARACTERS]}…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
