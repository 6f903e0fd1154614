"""One line a request: who, what, how long, how much, and how it ended. No prompts, no secrets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["LogLine"]

LONGEST = 300
_PLAIN = re.compile(r"[\w./:@+*-]+", re.ASCII)
_ORDER = (
    *("from", "token", "model", "path", "status", "finish"),
    *("ms", "input", "output", "cost", "retries", "error", "why"),
)


class LogLine(dict[str, Any]):
    """The fields of a line; `str` writes it as `name=value`, with what callers sent quoted and bounded."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()

    def spent(self, usage: Mapping[str, Any] | None) -> None:
        """Note what a reply took."""
        for name in ("input", "output", "cost"):
            if usage is not None and usage.get(name) is not None:
                self[name] = usage[name]

    def __str__(self) -> str:
        self["ms"] = round((time.monotonic() - self._since) * 1000)
        fields = [f"{name}={_value(self[name])}" for name in _ORDER if self.get(name) is not None]
        return " ".join([f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", *fields])


def _value(value: Any) -> str:
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
