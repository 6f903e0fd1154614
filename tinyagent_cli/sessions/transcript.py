"""Show a recorded conversation as the live run showed it, or write it as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tinyagent import _json, extract_text
from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent.agent_types import (
    AgentEvent,
    AgentMessage,
    MessageEndEvent,
    MessageStartEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
)
from tinyagent.jsonl import HistoryRecord, Record, ResultRecord, SessionRecord
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.activity import call_line
from tinyagent_cli.terminal.live import columns, fit
from tinyagent_cli.terminal.output import Output
from tinyagent_cli.terminal.sanitise import clean, one_line
from tinyagent_cli.terminal.text import TextRenderer

__all__ = ["markdown", "show"]


class _OnOutput(AppContext):
    """Messages on standard output, among the replies that they belong to."""

    def __init__(self, app: AppContext, output: Output) -> None:
        super().__init__(app.args)
        self.verbosity, self.no_color = app.verbosity, app.no_color
        self._output = output

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether the messages are shown on a terminal."""
        return self._output.is_terminal

    def _write(self, text: str) -> None:
        self._output.write_now(f"{text}\n".encode("utf-8", "replace"))


class _Unbuffered(Output):
    """Standard output without an event loop."""

    def write(self, data: bytes) -> None:
        self.write_now(data)


_WIDTH = 200
"""The most characters of a line that is not on a terminal."""
_ERROR_LINES = 5
"""How many lines of a failed call's result are shown."""


class _Activity:
    """Shows the ended tool calls, and thinking with -v, as `terminal.activity` does in a live run."""

    def __init__(self, app: _OnOutput, before: Callable[[], None]) -> None:
        self._app = app
        self._before = before
        self._calls: dict[str, str] = {}

    def __call__(self, event: AgentEvent) -> None:
        match event:
            case MessageEndEvent(message=message) if is_assistant(message) and self._app.verbosity:
                for block in message["content"]:
                    if block["type"] == "thinking" and block["thinking"].strip():
                        self._before()
                        self._app.dim(one_line(f"∴ {block['thinking']}", self._width()))
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                self._calls[call_id] = call_line(name, args)
            case ToolExecutionEndEvent(tool_call_id=call_id, tool_name=name, result=result, is_error=failed):
                text = "\n".join(part["text"] for part in result.content if part["type"] == "text")
                self._end(self._calls.pop(call_id, one_line(name)), text, failed)

    def _end(self, call: str, text: str, failed: bool) -> None:
        app, width = self._app, self._width()
        mark = app.paint("31", "✗") if failed else app.paint("32", "✓")
        self._before()
        app.show(f"{mark} {fit(call, width - 2)}")
        if failed or app.verbosity:
            shown = [one_line(line, _WIDTH) for line in text[-10_000:].splitlines() if line.strip()]
            for line in shown[-(_ERROR_LINES if failed else 1) :]:
                app.dim(f"  {fit(line, width - 2)}")

    def _width(self) -> int:
        return columns() - 1 if self._app.stderr_is_terminal else _WIDTH


def show(app: AppContext, records: Iterable[Record], stdout: Output) -> None:
    """Show the prompts, the replies and the tool calls; thinking with -v. The errors are those of `records`.

    Raises:
        WriteError: Standard output cannot be written.
    """
    output = _Unbuffered(stdout.fd, stdout.name)
    texts = TextRenderer(output)
    on_output = _OnOutput(app, output)
    activity = _Activity(on_output, texts.end_line)
    for record in records:
        if isinstance(record, SessionRecord):
            on_output.dim(_heading(record))
        elif isinstance(record, ResultRecord):
            if record.error is not None:
                on_output.error(record.error.message)
        elif isinstance(record, HistoryRecord | MessageEndEvent):
            message = record.message
            if message.get("role") == "user":
                _show_prompt(message, output)
            if isinstance(record, HistoryRecord):
                texts(MessageStartEvent(message=message))
            ended = MessageEndEvent(message=message)
            texts(ended)
            activity(ended)
        else:
            texts(record)
            activity(record)
        if output.error is not None:
            raise output.error


def _heading(header: SessionRecord) -> str:
    model = header.model or {}
    name = "/".join(str(part) for part in dict.fromkeys((model.get("provider"), model.get("id"))) if part)
    return " · ".join(part for part in (header.id[:8], header.created[:16].replace("T", " "), name) if part)


def _show_prompt(message: AgentMessage, output: Output) -> None:
    text = _prompt_text(message)
    if output.is_terminal:
        text = clean(text)
    lines = "".join(f"> {line}".rstrip() + "\n" for line in text.split("\n"))
    output.write(f"\n{lines}\n".encode("utf-8", "replace"))


def _prompt_text(message: AgentMessage) -> str:
    images = sum(1 for block in message["content"] if block["type"] == "image")
    shown = [extract_text(message), f"[{images} image{'s' if images > 1 else ''}]" if images else ""]
    return "\n".join(part for part in shown if part)


def markdown(messages: Iterable[AgentMessage]) -> Iterator[str]:
    """Yield a conversation as Markdown, one message at a time."""
    for message in messages:
        if message["role"] == "user":
            yield f"## User\n\n{_prompt_text(message)}\n\n"
        elif is_assistant(message):
            text = extract_text(message)
            yield f"## Assistant\n\n{text}\n\n" if text else ""
            for block in message["content"]:
                if block["type"] == "tool_call":
                    arguments = _json.encode_lossy(block["arguments"]).decode("utf-8", "replace")
                    yield f"### Tool call: {block['name']}\n\n{_fenced(arguments, 'json')}\n\n"
        elif is_tool_result(message):
            state = " (failed)" if message["is_error"] else ""
            yield f"### Result of {message['tool_name']}{state}\n\n{_fenced(extract_text(message))}\n\n"


def _fenced(text: str, language: str = "") -> str:
    """Return a block of code whose fence is longer than any run of backquotes in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
