"""The lines of the format, as structs.

A line is a record (session, history, result) or an event. The structs of events have optional fields for the
bodies that a reader cannot restore; see `tinyagent.jsonl` for the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from tinyagent.agent_types import AgentEvent, JsonDict

__all__ = [
    "EVENT_LINES",
    "LINES",
    "VERSION",
    "AgentEndLine",
    "AgentStartLine",
    "CompactionEndLine",
    "CompactionStartLine",
    "DeltaLine",
    "ErrorRecord",
    "EventLine",
    "HistoryRecord",
    "LineStruct",
    "MessageEndLine",
    "MessageStartLine",
    "MessageUpdateLine",
    "Record",
    "ResultRecord",
    "SessionRecord",
    "SkippedUpdateLine",
    "ToolEndLine",
    "ToolStartLine",
    "ToolUpdateLine",
    "TurnEndLine",
    "TurnStartLine",
]

VERSION = 1
"""The version of the format, in the `session` line."""

# The reader does not check the fields of these objects, so that it can also read what newer versions and
# other programs write. For a type checker they are what this version writes.
if TYPE_CHECKING:
    from tinyagent.agent_types import (
        AgentMessage,
        AssistantMessage,
        CompactionReason,
        JsonValue,
        RunLimit,
        ToolResultMessage,
        Usage,
        UserMessage,
    )
else:
    JsonValue = bool | int | float | str | list | dict | None
    AgentMessage = AssistantMessage = ToolResultMessage = Usage = UserMessage = JsonDict
    CompactionReason = RunLimit = str

# ---- records ------------------------------------------------------------------------------------


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """The first line of a stream, with the settings of the run. `created` is an RFC 3339 time.

    `empty_stdin` is present, and true, if standard input was an empty pipe or file. The command before it in
    a pipeline may have failed.

    The header of a session file also has the working directory (`cwd`), and the id of the session that it is
    a copy of (`parent`).
    """

    version: int
    id: str
    created: str
    model: JsonDict | None
    system_prompt: str
    thinking_level: str
    tools: list[str]
    tinyagent: str
    empty_stdin: bool | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    parent: str | UnsetType = UNSET
    fingerprints: dict[str, str] | UnsetType = UNSET
    time: int | UnsetType = UNSET


class HistoryRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="history"):
    """A message of the history that the run continues."""

    message: AgentMessage
    time: int | UnsetType = UNSET


class ErrorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An error, with `kind`, message and hint as `tinyagent.errors` defines them.

    `status` (HTTP), `retryable` and `retry_after` (seconds) are present if they are known.
    """

    kind: str
    message: str
    hint: str | None = None
    status: int | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """The last line of a run, whether it succeeded or failed.

    `value` is the validated answer of a run with a schema. `session` is present if the run is saved: the id
    of its session, for `tinyagent run --session`.
    """

    ok: bool
    exit_code: int
    stop_reason: str | None
    text: str
    usage: JsonDict | None
    turns: int
    duration_ms: int
    error: ErrorRecord | None
    value: JsonValue | UnsetType = UNSET
    session: str | UnsetType = UNSET
    time: int | UnsetType = UNSET


Record: TypeAlias = SessionRecord | HistoryRecord | AgentEvent | ResultRecord

# ---- events -------------------------------------------------------------------------------------

# The classes of lines have no docstrings: msgspec would publish them in the schema.


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    seq: int = 0
    time: int = 0


class AgentStartLine(Line, frozen=True, kw_only=True, tag="agent_start"):
    pass


class AgentEndLine(Line, frozen=True, kw_only=True, tag="agent_end"):
    limit: RunLimit | None = None
    usage: Usage | UnsetType = UNSET
    messages: list[AgentMessage] | UnsetType = UNSET


class TurnStartLine(Line, frozen=True, kw_only=True, tag="turn_start"):
    pass


class TurnEndLine(Line, frozen=True, kw_only=True, tag="turn_end"):
    message: AssistantMessage | UnsetType = UNSET
    tool_results: list[ToolResultMessage] | UnsetType = UNSET


class MessageStartLine(Line, frozen=True, kw_only=True, tag="message_start"):
    role: str
    tool_call_id: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    api: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    message: AgentMessage | UnsetType = UNSET


class MessageUpdateLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message_update"):
    seq: int = 0
    time: int | UnsetType = UNSET
    assistant_message_event: JsonDict
    blocks: dict[str, JsonDict] | UnsetType = UNSET
    envelope: JsonDict | UnsetType = UNSET
    snapshot: bool | JsonDict | UnsetType = UNSET
    message: AssistantMessage | UnsetType | None = UNSET


class DeltaLine(msgspec.Struct, frozen=True, tag_field="type", tag="message_update", gc=False):
    """The short form of `MessageUpdateLine`. Nearly every line has this form, so it must be fast to write."""

    seq: int
    assistant_message_event: JsonDict


class MessageEndLine(Line, frozen=True, kw_only=True, tag="message_end"):
    role: str = ""
    tool_call_id: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    message: AgentMessage | UnsetType = UNSET


class ToolStartLine(Line, frozen=True, kw_only=True, tag="tool_execution_start"):
    tool_call_id: str
    tool_name: str
    args: JsonDict


class ToolUpdateLine(Line, frozen=True, kw_only=True, tag="tool_execution_update"):
    tool_call_id: str
    tool_name: str
    args: JsonDict | UnsetType = UNSET
    partial_result: JsonDict


class ToolEndLine(Line, frozen=True, kw_only=True, tag="tool_execution_end"):
    tool_call_id: str
    tool_name: str
    result: JsonDict
    is_error: bool


class CompactionStartLine(Line, frozen=True, kw_only=True, tag="compaction_start"):
    reason: CompactionReason
    tokens: int
    context_window: int | None = None


class CompactionEndLine(Line, frozen=True, kw_only=True, tag="compaction_end"):
    summary: UserMessage | None = None
    kept: list[int] = []
    replaced: int = 0
    tokens: int = 0
    usage: Usage | None = None
    error_message: str | None = None


class SkippedUpdateLine(msgspec.Struct, frozen=True, tag_field="type", tag="message_update", gc=False):
    """A `message_update` line for a reader that does not need it: only its JSON syntax is checked."""

    assistant_message_event: msgspec.Raw


EventLine: TypeAlias = (
    AgentStartLine
    | TurnStartLine
    | MessageStartLine
    | MessageUpdateLine
    | MessageEndLine
    | ToolStartLine
    | ToolUpdateLine
    | ToolEndLine
    | TurnEndLine
    | AgentEndLine
    | CompactionStartLine
    | CompactionEndLine
)
LineStruct: TypeAlias = SessionRecord | HistoryRecord | EventLine | ResultRecord

EVENT_LINES: tuple[type[EventLine], ...] = get_args(EventLine)
_ALL_LINES: tuple[type[LineStruct], ...] = (SessionRecord, HistoryRecord, *EVENT_LINES, ResultRecord)
LINES = {str(line.__struct_config__.tag): line for line in _ALL_LINES}
"""The struct of each type of line."""
