"""The run as JSON lines: a header, the messages of the history, the events, and a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tinyagent.agent_types import AgentEvent, AgentMessage
from tinyagent.jsonl import Encoder, HistoryRecord, ResultRecord, SessionRecord
from tinyagent_cli.terminal.output import Output

__all__ = ["JsonlSink", "ResultSink"]


class JsonlSink:
    """One stream of lines to one output.

    Attributes:
        started: Whether the header was written.
    """

    def __init__(self, output: Output) -> None:
        self.output: Output = output
        self.started: bool = False
        self._encoder = Encoder()

    def begin(self, header: Mapping[str, object], history: Sequence[AgentMessage] = ()) -> None:
        """Write the header and the messages that the run continues from."""
        self.started = True
        self.output.write_now(self._encoder.encode(msgspec.convert(header, SessionRecord)))
        for message in history:
            self.output.write_now(self._encoder.encode(HistoryRecord(message=message)))

    def __call__(self, event: AgentEvent) -> None:
        line = self._encoder.encode(event)
        if line:
            self.output.write(line)

    def end(self, result: Mapping[str, object]) -> None:
        """Write the result line."""
        self.output.write_now(self._encoder.encode(msgspec.convert(result, ResultRecord)))


class ResultSink(JsonlSink):
    """Writes only the result line."""

    def begin(self, header: Mapping[str, object], history: Sequence[AgentMessage] = ()) -> None:
        """Write nothing."""
        self.started = True

    def __call__(self, event: AgentEvent) -> None:
        """Write nothing."""
