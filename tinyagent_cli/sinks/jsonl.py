"""The run as JSON lines, with a header before it and a result after it, whatever happens."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tinyagent.agent_types import AgentEvent
from tinyagent.jsonl import VERSION, Encoder, HistoryRecord, ResultRecord, SessionRecord
from tinyagent_cli.output import Output
from tinyagent_cli.version import version

__all__ = ["JsonlSink", "session_record"]


def session_record(
    *,
    model: Any = None,
    system_prompt: str = "",
    thinking_level: str = "off",
    tools: Iterable[str] = (),
) -> SessionRecord:
    """The header, with whatever is known when it is written."""
    known: Mapping[str, Any] | None = None
    if model is not None:
        known = {name: getattr(model, name, "") for name in ("provider", "id", "api")}
    return SessionRecord(
        version=VERSION,
        id=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        model=None if known is None else dict(known),
        system_prompt=system_prompt,
        thinking_level=str(thinking_level),
        tools=list(tools),
        tinyagent=version(),
    )


class JsonlSink:
    """One stream of lines to one output."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._encoder = Encoder()
        self._begun = False

    def begin(self, header: SessionRecord, history: Iterable[Mapping[str, Any]] = ()) -> None:
        """Write the header and the messages that the run goes on from."""
        self._begun = True
        self.output.write_now(self._encoder.encode(header))
        for message in history:
            self.output.write_now(self._encoder.encode(HistoryRecord(message=dict(message))))

    def __call__(self, event: AgentEvent) -> None:
        line = self._encoder.encode(event)
        if line:
            self.output.write(line)

    def end(self, result: ResultRecord) -> None:
        """Write the last line; the header too if nothing was written so far."""
        if not self._begun:
            self.begin(session_record())
        self.output.write_now(self._encoder.encode(result) + self._encoder.close())
