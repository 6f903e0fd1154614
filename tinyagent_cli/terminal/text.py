"""The reply as text on standard output, piece by piece."""

from __future__ import annotations

from tinyagent import _json, extract_text
from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import (
    AgentEvent,
    AssistantMessage,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
)

from .output import Output
from .sanitise import Sanitizer

__all__ = ["TextRenderer", "text_bytes"]


MAX_SOURCES = 20
"""The maximum number of sources listed below a message; JSONL has all of them."""
MAX_TITLE = 120
"""The maximum length of a source's title."""


def text_bytes(text: str) -> bytes:
    """Return text in UTF-8, with U+FFFD for lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _json.without_surrogates(text).encode()


class TextRenderer:
    """Writes the text of each assistant message, and ends it with a line break.

    The sources that a message cites are listed below its text. On a terminal the text is sanitised; in a
    pipe or a file it is unchanged.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._sanitizer = Sanitizer() if output.is_terminal else None
        self._shown = 0
        self._last = "\n"

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is MessageUpdateEvent:
            step = event.assistant_message_event
            if step["type"] == "text_delta":
                self._write(step["delta"])
        elif type(event) is MessageStartEvent:
            self._shown = 0
        elif type(event) is MessageEndEvent and is_assistant(event.message):
            # For a provider that sends no deltas, this is the complete text.
            self._write(extract_text(event.message)[self._shown :])
            self.end_line()
            self._write_sources(event.message)

    def _write_sources(self, message: AssistantMessage) -> None:
        """List the sources of a message, except those whose links are in its text."""
        if not any("citations" in block for block in message["content"]):
            return
        from tinyagent import extract_citations  # few replies have any

        text = extract_text(message)
        sources = [
            (number, source)
            for number, source in enumerate(extract_citations(message), 1)
            if source.get("url", "") not in text or "url" not in source
        ]
        if not sources:
            return
        lines = ["", "Sources:"]
        for number, source in sources[:MAX_SOURCES]:
            title = " ".join(source.get("title", "").split())[:MAX_TITLE]
            url = "".join(source.get("url", "").split())
            lines.append(f"[{number}] {' - '.join(part for part in (title, url) if part)}")
        if len(sources) > MAX_SOURCES:
            lines.append(f"({len(sources) - MAX_SOURCES} more)")
        self._write_lines("\n".join(lines))

    def _write(self, text: str) -> None:
        self._shown += len(text)
        if self._sanitizer is not None:
            text = self._sanitizer.feed(text)
        if text:
            self._show(text)

    def _show(self, text: str) -> None:
        """Write a piece of the reply, which is sanitised."""
        self._last = text[-1]
        self._output.write(text_bytes(text))

    def _write_lines(self, text: str) -> None:
        """Write lines of tinyagent below the reply."""
        self._write(text)
        self.end_line()

    @property
    def pending(self) -> str:
        """The end of the text that is not shown yet."""
        return ""

    @property
    def at_line_start(self) -> bool:
        """Whether the text so far ends with a line break."""
        return self._last == "\n"

    def end_line(self) -> None:
        """End an unfinished line. Text that the sanitiser holds back is dropped, and the rest is written."""
        if self._last != "\n":
            self._output.write(b"\n")
            self._last = "\n"
        if self._sanitizer is not None:
            self._sanitizer = Sanitizer()
            self._output.flush()
