"""Write a run into its session: the lines of `tinyagent.jsonl` without deltas, as they happen.

Every saved run imports this module, and `tinyagent.jsonl` takes longer to import than a session may cost. So
the few kinds of lines are made here from dicts; a test requires the lines of `tinyagent.jsonl.Encoder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tinyagent import _json
from tinyagent._stream.builder import now_ms
from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentMessage,
    AgentStartEvent,
    CompactionEndEvent,
    CompactionStartEvent,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    ToolExecutionUpdateEvent,
    ToolResultMessage,
    TurnEndEvent,
    TurnStartEvent,
)

from .files import SUFFIX, create_file, month, unlock, working_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SessionLines", "SessionWriter", "new_session"]


class SessionLines:
    """Makes the lines of one run. A body that a line before it has is not repeated.

    Args:
        clock: Returns Unix milliseconds.
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._seq = 0
        self._run: list[AgentMessage] = []
        self._turn_message: AgentMessage | None = None
        self._turn_results: list[ToolResultMessage] = []
        self._args: dict[str, object] = {}
        self._results: dict[str, dict[str, object]] = {}

    def record(self, fields: Mapping[str, object]) -> bytes:
        """Return the line of a header, of a message of the history or of a result."""
        return _json.encode_lossy({**fields, "time": self._clock()}) + b"\n"

    def event(self, event: AgentEvent) -> bytes:
        """Return the line of an event; empty for a delta."""
        if type(event) is MessageUpdateEvent:
            return b""
        self._seq += 1
        kind, fields = self._fields(event)
        line = {"type": kind, "seq": self._seq, "time": self._clock(), **fields}
        return _json.encode_lossy(line) + b"\n"

    def _fields(self, event: AgentEvent) -> tuple[str, dict[str, object]]:
        match event:
            case MessageStartEvent(message=message):
                return "message_start", self._message_start(message)
            case MessageEndEvent(message=message):
                return "message_end", self._message_end(message)
            case ToolExecutionStartEvent(tool_call_id=call_id, tool_name=name, args=args):
                self._args[call_id] = args
                return "tool_execution_start", {"tool_call_id": call_id, "tool_name": name, "args": args}
            case ToolExecutionUpdateEvent(tool_call_id=call_id, tool_name=name, args=args):
                fields: dict[str, object] = {"tool_call_id": call_id, "tool_name": name}
                if self._args.get(call_id) != args:
                    fields["args"] = args
                return "tool_execution_update", {**fields, "partial_result": vars(event.partial_result)}
            case ToolExecutionEndEvent():
                return "tool_execution_end", self._tool_end(event)
            case TurnStartEvent():
                self._turn_message, self._turn_results = None, []
                self._args, self._results = {}, {}
                return "turn_start", {}
            case TurnEndEvent(message=last, tool_results=results):
                fields = {} if last == self._turn_message else {"message": last}
                if results != self._turn_results:
                    fields["tool_results"] = results
                return "turn_end", fields
            case AgentStartEvent():
                self._run = []
                return "agent_start", {}
            case AgentEndEvent(messages=new, limit=limit, usage=usage):
                fields = {"limit": limit}
                if usage is not None:
                    fields["usage"] = usage
                if new != self._run:
                    fields["messages"] = new
                return "agent_end", fields
            case CompactionStartEvent() | CompactionEndEvent():
                fields = {name: getattr(event, name) for name in event.__struct_fields__}
                return event.type, fields
        raise TypeError(f"not an event: {event!r}")

    def _message_start(self, message: AgentMessage) -> dict[str, object]:
        role = message.get("role", "")
        if is_assistant(message):
            named = {key: message.get(key) for key in ("timestamp", "api", "provider", "model")}
            empty = {"role": role, "content": [], "stop_reason": "stop", **named, "usage": None}
            return {"role": role, **({**named} if message == empty else {"message": message})}
        known = self._known_result(message)
        if known is not None:
            return {"role": role, **known}
        call_id = message.get("tool_call_id")
        return {"role": role, "tool_call_id": call_id} if is_tool_result(message) else {"role": role}

    def _message_end(self, message: AgentMessage) -> dict[str, object]:
        known = self._known_result(message)
        self._run.append(message)
        if is_assistant(message):
            self._turn_message = message
        elif is_tool_result(message):
            self._turn_results.append(message)
        return {"role": message.get("role", ""), **({"message": message} if known is None else known)}

    def _known_result(self, message: AgentMessage) -> dict[str, object] | None:
        """Return what names a tool result whose body is in its `tool_execution_end`; None for another."""
        if not is_tool_result(message):
            return None
        call_id, timestamp = message["tool_call_id"], message.get("timestamp")
        known = self._results.get(call_id)
        if known is None or {**known, "timestamp": timestamp} != message:
            return None
        return {"tool_call_id": call_id, "timestamp": timestamp}

    def _tool_end(self, event: ToolExecutionEndEvent) -> dict[str, object]:
        call_id, name, result = event.tool_call_id, event.tool_name, event.result
        self._args.pop(call_id, None)
        self._results[call_id] = {
            "role": "tool_result",
            "tool_call_id": call_id,
            "tool_name": name,
            "content": result.content,
            "details": result.details,
            "is_error": event.is_error,
        }
        fields = {"tool_call_id": call_id, "tool_name": name, "result": vars(result)}
        return {**fields, "is_error": event.is_error}


class SessionWriter:
    """The session of one run. It is a listener.

    Lines are collected until the first user message is complete: a run that fails before leaves no session.
    From then on each line is written at once, by one system call. A write that fails is reported once, and
    the run goes on without its session.

    Args:
        session_id: The id of the session.
        open_file: Returns the open and locked file. It is called for the first user message.
        path: The path of the file.
        warn: Called once if the file cannot be written.
        continues: Whether the session has a header and earlier runs.
        opened: The file, if it is open already; a file without a line is removed at the end.

    Attributes:
        started: Whether a line of this run is in the file.
    """

    def __init__(
        self,
        session_id: str,
        open_file: Callable[[], int],
        path: Path,
        warn: Callable[[str], None],
        *,
        continues: bool = False,
        opened: int | None = None,
    ) -> None:
        self.id: str = session_id
        self.continues: bool = continues
        self.started: bool = False
        self.path: Path = path
        self._open_file = open_file
        self._warn = warn
        self._lines = SessionLines()
        self._waiting: list[bytes] = []
        self._fd: int | None = opened
        self._failed = False

    def begin(self, header: Mapping[str, object], history: Sequence[AgentMessage]) -> None:
        """Begin the run. A new session gets the header and the history."""
        if self.continues or self._waiting:
            return
        self._waiting.append(self._lines.record({**header, "cwd": working_folder()}))
        for message in history:
            self._waiting.append(self._lines.record({"type": "history", "message": message}))

    def __call__(self, event: AgentEvent) -> None:
        if self._failed or type(event) is MessageUpdateEvent:
            return
        line = self._lines.event(event)
        if self.started:
            self._write(line)
            return
        self._waiting.append(line)
        is_prompt = type(event) is MessageEndEvent and event.message.get("role") == "user"
        if is_prompt or (self.continues and type(event) is CompactionEndEvent):
            try:
                if self._fd is None:
                    self._fd = self._open_file()
            except OSError as error:
                self._fail(error)
                return
            self.started = self._write(b"".join(self._waiting))
            self._waiting.clear()

    @property
    def size(self) -> int:
        """The bytes of the file so far; 0 before there is one."""
        return 0 if self._fd is None else os.fstat(self._fd).st_size

    def end_run(self, result: Mapping[str, object]) -> None:
        """Write the result of a run. The next run follows in the same file."""
        if self.started and not self._failed:
            self._write(self._lines.record(result))
        self.continues = self.continues or self.started
        self._lines = SessionLines()

    def undo(self, size: int) -> None:
        """Remove the runs after the first `size` bytes of the file.

        Raises:
            OSError: The file cannot be changed.
        """
        if self._fd is not None:
            os.ftruncate(self._fd, size)
            self.continues = self.started = size > 0

    def end(self, result: Mapping[str, object] | None = None) -> None:
        """Write the result, and close the file. A file without a line is removed."""
        if result is not None and self.started and not self._failed:
            self._write(self._lines.record(result))
        self._failed = True
        if self._fd is None:
            return
        if not self.continues and os.fstat(self._fd).st_size == 0:
            try:
                self.path.unlink()
            except OSError:
                pass  # a file without a line is no session
        unlock(self._fd)
        self._fd = None

    def _write(self, data: bytes) -> bool:
        """Write all of the data or nothing of it. Return whether it is written."""
        assert self._fd is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._cut(len(data) - len(rest))
            self._fail(error)
            return False
        return True

    def _cut(self, count: int) -> None:
        """Take back the first bytes of a line that could not be written, as far as that is possible."""
        assert self._fd is not None
        if count:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - count)
            except OSError:
                pass  # the next writer repairs the line

    def _fail(self, error: OSError) -> None:
        self._failed = True
        self._waiting.clear()
        what = "The rest of this run" if self.started else "This run"
        self._warn(
            f"{what} is not saved in {self.path}: {error.strerror or error}. Without a session: --no-session"
        )


def new_session(directory: Path, warn: Callable[[str], None]) -> SessionWriter:
    """Return a new session without a name; its file is created for the first user message."""
    session_id, folder = os.urandom(16).hex(), month()
    path = directory / folder / (session_id + SUFFIX)
    return SessionWriter(session_id, lambda: create_file(directory, folder, session_id), path, warn)
