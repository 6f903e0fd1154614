"""The log: one line a call, appended by one write, so that runs side by side do not mix."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyagent import AgentEvent, ToolExecutionEndEvent, ToolExecutionStartEvent

__all__ = ["Log"]


class Log:
    """A file that lines are appended to.

    Args:
        path: The file; it is made when it is not there, readable by its owner.
        hidden: What is done to arguments before they are written.
    """

    def __init__(self, path: str, hidden: Callable[[Any], Any]) -> None:
        self._path = Path(path).expanduser()
        self._hidden = hidden

    def check(self) -> None:
        """Raise OSError unless a line could be written."""
        os.close(self._open())

    def sink(self) -> Callable[[AgentEvent], None]:
        """Hears the events of one run."""
        begun: dict[str, tuple[dict[str, Any], float]] = {}

        def hear(event: AgentEvent) -> None:
            if isinstance(event, ToolExecutionStartEvent):
                begun[event.tool_call_id] = (event.args, time.monotonic())
            elif isinstance(event, ToolExecutionEndEvent):
                arguments, start = begun.pop(event.tool_call_id, ({}, time.monotonic()))
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

        return hear

    def _append(self, line: dict[str, Any]) -> None:
        fd = self._open()
        try:
            os.write(fd, json.dumps(line, ensure_ascii=True).encode() + b"\n")
        finally:
            os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
