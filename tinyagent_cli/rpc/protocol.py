"""The commands of a client, and the replies to them."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from tinyagent import _json
from tinyagent.agent_types import JsonDict
from tinyagent_cli.exit_codes import Failure
from tinyagent_cli.run.approvals import Answer

__all__ = [
    "Abort",
    "Answer",
    "ApprovalRequest",
    "Approve",
    "Command",
    "CommandError",
    "Compact",
    "CompactData",
    "Follow",
    "Image",
    "InputKind",
    "InputRequest",
    "Messages",
    "ModelData",
    "Prompt",
    "Respond",
    "Response",
    "SetModel",
    "SetReadOnly",
    "SetTools",
    "State",
    "StateData",
    "Steer",
    "ToolsData",
    "decode",
    "failure",
    "success",
    "with_id",
]

Id: TypeAlias = str | int | None
InputKind: TypeAlias = Literal["form", "link", "completion", "reply"]


class _Command(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    id: Id = None

    @property
    def type(self) -> str:
        """The name of the command."""
        return str(self.__struct_config__.tag)


class Image(
    msgspec.Struct, frozen=True, tag_field="type", tag="image", forbid_unknown_fields=True, kw_only=True
):
    """An image: either `data` in base64, or a `url` (https, http or data). Its type is that of its bytes."""

    data: str | UnsetType = UNSET
    mime_type: str | UnsetType = msgspec.field(default=UNSET, name="mimeType")
    url: str | UnsetType = UNSET


class Prompt(_Command, frozen=True, tag="prompt"):
    """Start a run with a message and images, or with a template and the values of its variables.

    The template's model, tools, system prompt and schema apply to this run. With `answers_input` the client
    answers each `input_request` of the run; otherwise they are declined and not sent.
    """

    message: str = ""
    images: tuple[Image, ...] = ()
    template: str | UnsetType = UNSET
    parameters: dict[str, str | int | float] = {}
    answers_input: bool = False


class Steer(_Command, frozen=True, tag="steer"):
    """Send a message to the run. Tool calls that have not started are skipped."""

    message: str = ""
    images: tuple[Image, ...] = ()


class Follow(_Command, frozen=True, tag="follow_up"):
    """Send a message for the end of the run."""

    message: str = ""
    images: tuple[Image, ...] = ()


class Abort(_Command, frozen=True, tag="abort"):
    """End the run, whose result follows, or the compaction."""


class State(_Command, frozen=True, tag="state"):
    """Return the settings, and what is under way."""


class Messages(_Command, frozen=True, tag="messages"):
    """Return the conversation."""


class Compact(_Command, frozen=True, tag="compact"):
    """Replace the older messages by a summary."""

    instructions: str = ""


class SetModel(_Command, frozen=True, tag="set_model"):
    """Choose the model of the next runs."""

    model: str


class SetTools(_Command, frozen=True, tag="set_tools"):
    """Choose the tools of the next requests."""

    tools: tuple[str, ...]


class SetReadOnly(_Command, frozen=True, tag="set_read_only"):
    """Refuse every tool that can change something, whatever was approved, or end this."""

    enabled: bool


class Approve(_Command, frozen=True, tag="approve"):
    """Answer an `approval_request`."""

    request: str
    answer: Answer


class Respond(_Command, frozen=True, tag="respond"):
    """Answer an `input_request`; `values` are those of a form."""

    request: str
    accept: bool
    values: JsonDict = {}


Command: TypeAlias = (
    Prompt
    | Steer
    | Follow
    | Abort
    | State
    | Messages
    | Compact
    | SetModel
    | SetTools
    | SetReadOnly
    | Approve
    | Respond
)


class Response(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="response"):
    """The reply to a command.

    `command` is its type, or `parse` for a line that is not a command, and `id` is its id. If `tinyagent rpc`
    cannot start, `command` is `start`, and this is its only line. A reply with
    `success` has the `data` that the command returns, if it returns any. Otherwise `error` is what went
    wrong, `kind` its class, and `hint` what to do next.
    """

    id: str | int | UnsetType = UNSET
    command: str
    success: bool
    data: JsonDict | UnsetType = UNSET
    error: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="approval_request"):
    """A tool call of the run waits for an `approve` command, with one of `answers`.

    `sandbox` says what confines the call.
    """

    id: str | int | UnsetType = UNSET
    request: str
    tool_call_id: str
    tool_name: str
    args: JsonDict
    answers: list[Answer]
    sandbox: str


class InputRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="input_request"):
    """A tool of the run asks the user, and waits for a `respond` command.

    `source` is who asks, and `message` its text, which may come from elsewhere. A `form` asks for values that
    fit the JSON Schema `schema`, and a `link` to open `url` in a browser. A `completion` asks whether to send
    the prompt in `message` to the model, and a `reply` whether to pass on the reply of the model.
    """

    id: str | int | UnsetType = UNSET
    request: str
    kind: InputKind
    source: str
    message: str
    schema: JsonDict | UnsetType = UNSET
    url: str | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET


class StateData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of `state`. `run` is the id of the prompt of the run under way, if it has one."""

    model: str
    thinking_level: str
    tools: list[str]
    read_only: bool
    messages: int
    is_streaming: bool
    run: Id
    queued: int
    pending_tool_calls: list[str]
    approval_requests: list[ApprovalRequest]
    input_requests: list[InputRequest]
    session: str | None


class ModelData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of `set_model`."""

    model: str


class CompactData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of `compact`: how many messages are replaced, and the size of the new conversation.

    `usage` is that of the request for the summary, if the provider reports it.
    """

    replaced: int
    tokens: int
    usage: JsonDict | None


class ToolsData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of `set_tools`: the names of the single tools."""

    tools: list[str]


_TYPES = [str(kind.__struct_config__.tag) for kind in get_args(Command)]
_DECODER: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


class CommandError(Exception):
    """A line is not a command.

    Attributes:
        id: The `id` of the line, if it has one.
        command: The `type` of the line; `parse` if it has none.
    """

    def __init__(self, text: str, id: Id = None, command: str = "parse") -> None:
        super().__init__(text)
        self.id: Id = id
        self.command: str = command


def decode(line: bytes) -> Command:
    """Return the command of a line.

    Raises:
        CommandError: The line is not JSON, or not a command.
    """
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = str(error)
    given = _json.decode_object(line.decode("utf-8", "replace"))
    if given is None:
        raise CommandError(f"This line is not a JSON object: {reason}")
    id, command = given.get("id"), given.get("type")
    known_id = id if isinstance(id, str | int) and not isinstance(id, bool) else None
    if not isinstance(command, str):
        raise CommandError(f'The command has no "type". It is one of: {", ".join(_TYPES)}.', known_id)
    if command not in _TYPES:
        reason = f"There is no command {command!r}. There are: {', '.join(_TYPES)}."
    raise CommandError(reason, known_id, command)


def success(command: Command, data: object = None) -> dict[str, object]:
    """Return the reply to a command that was carried out."""
    reply = _response(command.id, command.type, ok=True)
    return reply if data is None else {**reply, "data": data}


def failure(id: Id, command: str, error: Failure) -> dict[str, object]:
    """Return the reply to a command that was not carried out."""
    reply = {**_response(id, command, ok=False), "error": error.message, "kind": error.kind}
    return reply if error.hint is None else {**reply, "hint": error.hint}


def _response(id: Id, command: str, *, ok: bool) -> dict[str, object]:
    named: dict[str, object] = {} if id is None else {"id": id}
    return {"type": "response", **named, "command": command, "success": ok}


def with_id(lines: bytes, id: Id) -> bytes:
    """Add the `id` of a command to lines of `tinyagent.jsonl`. They have a line feed only at their ends."""
    if id is None:
        return lines
    return lines.replace(b"}\n", b',"id":' + _json.encode(id) + b"}\n")
