"""The log: one line per call, appended in one write, so that lines of parallel runs do not mix."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from tinyagent import AgentEvent, ToolExecutionEndEvent, ToolExecutionStartEvent
from tinyagent.agent_types import JsonObject, JsonValue

__all__ = ["Log"]


class Log:
    """An append-only log file.

    Args:
        path: The file; created with mode 0600 if it does not exist.
        hidden: Applied to arguments before they are written.
    """

    def __init__(self, path: str, hidden: Callable[[JsonValue], JsonValue]) -> None:
        self._path = Path(path).expanduser()
        self._hidden = hidden

    def check(self) -> None:
        """Check that the file can be written.

        Raises:
            OSError: The file cannot be written.
        """
        os.close(self._open())

    def sink(self) -> Callable[[AgentEvent], None]:
        """Return the sink of one run."""
        calls: dict[str, tuple[JsonObject, float]] = {}

        def log(event: AgentEvent) -> None:
            if isinstance(event, ToolExecutionStartEvent):
                calls[event.tool_call_id] = (event.args, time.monotonic())
            elif isinstance(event, ToolExecutionEndEvent):
                arguments, start = calls.pop(event.tool_call_id, ({}, time.monotonic()))
                self._append(
                    {
                        "time": time.time_ns() // 1_000_000,
                        "tool": event.tool_name,
                        "arguments": self._hidden(arguments),
                        "is_error": event.is_error,
                        "seconds": round(time.monotonic() - start, 3),
                        "characters": sum(
                            len(part["text"]) for part in event.result.content if part["type"] == "text"
                        ),
                    }
                )

        return log

    def _append(self, line: JsonObject) -> None:
        fd = self._open()
        try:
            os.write(fd, json.dumps(line, ensure_ascii=True).encode() + b"\n")
        finally:
            os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
