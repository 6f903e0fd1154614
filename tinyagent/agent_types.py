"""The types of the library: content, messages, events, tools, models and the provider contract.

Messages and content are plain dictionaries that can be encoded as JSON. The typed dictionaries here declare
their keys. Events are frozen structs. This module has no behaviour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NotRequired,
    Protocol,
    Required,
    TypeAlias,
    TypedDict,
)

import msgspec

if TYPE_CHECKING:
    import httpx

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "dict[str, JsonValue]"

JsonDict: TypeAlias = dict[str, Any]
"""A JSON object of a model, a tool or a user: arguments, details, a schema. Its author knows its fields."""

# ---- content ------------------------------------------------------------------------------------


class Citation(TypedDict, total=False):
    """A source of a text.

    `url` is an http(s) link. A source without a link, such as a file, has a `title`. `start` and `end` are
    the position in the text that the source supports, in characters, if the provider sends it. `cited_text`
    is the passage of the source.
    """

    url: str
    title: str
    cited_text: str
    start: int
    end: int


class TextContent(TypedDict):
    """A block of text.

    `citations` are its sources; `extract_citations` returns those of a whole message. `text_signature` has
    data that its provider requires in the next request.
    """

    type: Literal["text"]
    text: str
    text_signature: NotRequired[str]
    citations: NotRequired[list[Citation]]


class ImageContent(TypedDict):
    """An image by http(s) or `data:` URL."""

    type: Literal["image"]
    url: str
    mime_type: NotRequired[str]


class ThinkingContent(TypedDict):
    """The model's reasoning. `thinking_signature` has data that its provider requires in the next request."""

    type: Literal["thinking"]
    thinking: str
    thinking_signature: NotRequired[str]


class ToolCallContent(TypedDict):
    """A tool call.

    `partial_json` is the text of the arguments: the text so far while the call is streamed, and in a finished
    call only if the text is not a JSON object. Such a call has empty `arguments` and is never run.
    `tool_call_signature` has data that its provider requires in the next request.
    """

    type: Literal["tool_call"]
    id: str
    name: str
    arguments: JsonDict
    partial_json: NotRequired[str]
    tool_call_signature: NotRequired[str]


ToolCall = ToolCallContent

# ---- messages -----------------------------------------------------------------------------------

StopReason: TypeAlias = Literal["stop", "length", "tool_use", "error", "aborted"]


RunLimit: TypeAlias = Literal["max_turns", "budget", "max_total_tokens", "repeat"]
"""A limit that can end a run; see `AgentLoopConfig`."""

CompactionReason: TypeAlias = Literal["limit", "overflow", "request"]
"""Why a conversation is compacted: it is near the limit, it was too long, or the user asks for it."""


class Usage(TypedDict, total=False):
    """Tokens and US dollars, normalised. `total` is input + output, and `input` includes cached tokens.

    `cost` is the provider's own figure; with `cost_estimated`, it is an estimate by the list price.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    total: int
    cost: float | None
    cost_estimated: bool


AssistantBlock: TypeAlias = TextContent | ThinkingContent | ToolCallContent | ImageContent
"""A block of a reply. Compare `type` to narrow it."""


class UserMessage(TypedDict):
    """A message of the user. `timestamp` is in Unix milliseconds.

    `summary` is true if the message is the summary of older messages that it replaces; see
    `CompactionEndEvent`.
    """

    role: Literal["user"]
    content: list[TextContent | ImageContent]
    timestamp: NotRequired[int]
    summary: NotRequired[bool]


class AssistantMessage(TypedDict):
    """A reply of the model.

    Generated images follow the other content. `finish_reason` is the provider's own value for `stop_reason`.
    `thinking_level` is the level of the request, if the rest of the turn must use the same one. `refusal` is
    true if the provider marks the text as the model's refusal to answer. The `error_…` fields describe a
    failure; see `tinyagent.errors.ErrorFields`.
    """

    role: Literal["assistant"]
    content: list[AssistantBlock]
    stop_reason: StopReason
    timestamp: int
    api: str
    provider: str
    model: str
    usage: Usage | None
    finish_reason: NotRequired[str]
    thinking_level: NotRequired[str]
    refusal: NotRequired[bool]
    error_message: NotRequired[str]
    error_kind: NotRequired[str]
    error_category: NotRequired[str]
    error_hint: NotRequired[str]
    error_status: NotRequired[int]
    error_retryable: NotRequired[bool]
    error_retry_after: NotRequired[float]


class ToolResultMessage(TypedDict):
    """The result of a tool call."""

    role: Literal["tool_result"]
    tool_call_id: str
    tool_name: str
    content: list[TextContent | ImageContent]
    details: JsonDict
    is_error: bool
    timestamp: int


Message: TypeAlias = UserMessage | AssistantMessage | ToolResultMessage


class CustomAgentMessage(TypedDict, total=False):
    """A message of any other role. A model gets it only if `convert_to_llm` converts it."""

    role: Required[str]
    timestamp: int


AgentMessage: TypeAlias = Message
"""A message in a history or an event. Compare `role` to narrow it.

An agent that gets messages of other roles (`CustomAgentMessage`) has them in its history and its
events, too. They are not part of this type, because a `role` of any text would prevent narrowing.
"""

AnyAgentMessage: TypeAlias = Message | CustomAgentMessage
"""A message that an agent accepts."""

# ---- events of a provider -------------------------------------------------------------------------


class ReplyStart(TypedDict):
    """The reply starts. `partial` is the message so far, in this event and in all others that have it."""

    type: Literal["start"]
    partial: NotRequired[AssistantMessage]


class TextStart(TypedDict):
    """A block of text starts. `content_index` is its position in the content of the message."""

    type: Literal["text_start"]
    content_index: int
    partial: NotRequired[AssistantMessage]


class TextDelta(TypedDict):
    """A block of text has grown by `delta`."""

    type: Literal["text_delta"]
    content_index: int
    delta: str
    partial: NotRequired[AssistantMessage]


class TextEnd(TypedDict):
    """A block of text is complete. `content` is all of it."""

    type: Literal["text_end"]
    content_index: int
    content: str
    partial: NotRequired[AssistantMessage]


class ThinkingStart(TypedDict):
    """A block of reasoning starts."""

    type: Literal["thinking_start"]
    content_index: int
    partial: NotRequired[AssistantMessage]


class ThinkingDelta(TypedDict):
    """A block of reasoning has grown by `delta`."""

    type: Literal["thinking_delta"]
    content_index: int
    delta: str
    partial: NotRequired[AssistantMessage]


class ThinkingEnd(TypedDict):
    """A block of reasoning is complete. `content` is all of it."""

    type: Literal["thinking_end"]
    content_index: int
    content: str
    partial: NotRequired[AssistantMessage]


class ToolCallStart(TypedDict):
    """A tool call starts. `tool_call` has no arguments yet."""

    type: Literal["tool_call_start"]
    content_index: int
    tool_call: ToolCallContent
    partial: NotRequired[AssistantMessage]


class ToolCallDelta(TypedDict):
    """The arguments of a tool call, as JSON, have grown by `delta`."""

    type: Literal["tool_call_delta"]
    content_index: int
    delta: str
    partial: NotRequired[AssistantMessage]


class ToolCallEnd(TypedDict):
    """A tool call is complete."""

    type: Literal["tool_call_end"]
    content_index: int
    tool_call: ToolCallContent
    partial: NotRequired[AssistantMessage]


class ReplyDone(TypedDict):
    """The reply has ended. `message` is all of it, and `reason` is its stop reason."""

    type: Literal["done"]
    reason: NotRequired[str]
    message: AssistantMessage


class ReplyError(TypedDict):
    """The reply has failed. `error` is the message so far, with the reason in its `error_message`."""

    type: Literal["error"]
    reason: NotRequired[str]
    error: AssistantMessage


AssistantMessageEvent: TypeAlias = (
    ReplyStart
    | TextStart
    | TextDelta
    | TextEnd
    | ThinkingStart
    | ThinkingDelta
    | ThinkingEnd
    | ToolCallStart
    | ToolCallDelta
    | ToolCallEnd
    | ReplyDone
    | ReplyError
)
"""One step of an assistant message. Compare `type` to narrow it."""

STREAM_UPDATE_EVENTS = frozenset(
    f"{block}_{step}" for block in ("text", "thinking", "tool_call") for step in ("start", "delta", "end")
)
"""The assistant message events that reach listeners as `message_update`."""

# ---- events -------------------------------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


class AgentStartEvent(_Event, frozen=True, kw_only=True, tag="agent_start"):
    """A run starts."""

    type: ClassVar[Literal["agent_start"]] = "agent_start"


class AgentEndEvent(_Event, frozen=True, kw_only=True, tag="agent_end"):
    """A run has ended.

    `messages` are the new messages, in order. `limit` is the limit that ended the run. `usage` is the sum
    over all replies and summaries of the run; None if none of them reports usage.
    """

    type: ClassVar[Literal["agent_end"]] = "agent_end"
    messages: list[AgentMessage]
    limit: RunLimit | None = None
    usage: Usage | None = None


class TurnStartEvent(_Event, frozen=True, kw_only=True, tag="turn_start"):
    """A turn starts: at most one model call, with its tool calls."""

    type: ClassVar[Literal["turn_start"]] = "turn_start"


class TurnEndEvent(_Event, frozen=True, kw_only=True, tag="turn_end"):
    """A turn has ended."""

    type: ClassVar[Literal["turn_end"]] = "turn_end"
    message: AssistantMessage
    tool_results: list[ToolResultMessage] = msgspec.field(default_factory=list)


class MessageStartEvent(_Event, frozen=True, kw_only=True, tag="message_start"):
    """A message starts. An assistant message is still empty."""

    type: ClassVar[Literal["message_start"]] = "message_start"
    message: AgentMessage


class MessageUpdateEvent(_Event, frozen=True, kw_only=True, tag="message_update", gc=False):
    """The assistant message has grown. `message` is the message so far; it is built when it is read."""

    type: ClassVar[Literal["message_update"]] = "message_update"
    assistant_message_event: AssistantMessageEvent
    message: AssistantMessage | None = None

    def __repr__(self) -> str:
        return f"MessageUpdateEvent(assistant_message_event={dict(self.assistant_message_event)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MessageUpdateEvent):
            return NotImplemented
        return self.assistant_message_event == other.assistant_message_event and self.message == other.message


class MessageEndEvent(_Event, frozen=True, kw_only=True, tag="message_end"):
    """A message is complete."""

    type: ClassVar[Literal["message_end"]] = "message_end"
    message: AgentMessage


class ToolExecutionStartEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_start"):
    """A tool call starts."""

    type: ClassVar[Literal["tool_execution_start"]] = "tool_execution_start"
    tool_call_id: str
    tool_name: str
    args: JsonDict


class ToolExecutionUpdateEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_update"):
    """A running tool reports a partial result."""

    type: ClassVar[Literal["tool_execution_update"]] = "tool_execution_update"
    tool_call_id: str
    tool_name: str
    args: JsonDict
    partial_result: AgentToolResult


class ToolExecutionEndEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_end"):
    """A tool call has ended."""

    type: ClassVar[Literal["tool_execution_end"]] = "tool_execution_end"
    tool_call_id: str
    tool_name: str
    result: AgentToolResult
    is_error: bool


class CompactionStartEvent(_Event, frozen=True, kw_only=True, tag="compaction_start"):
    """The model is asked for a summary of the older messages. In a run this is before the reply of a turn.

    `tokens` is the size of the conversation, as far as it is known, and `context_window` that of the model.
    """

    type: ClassVar[Literal["compaction_start"]] = "compaction_start"
    reason: CompactionReason
    tokens: int
    context_window: int | None = None


class CompactionEndEvent(_Event, frozen=True, kw_only=True, tag="compaction_end"):
    """The conversation now consists of `summary` and of the messages at the positions `kept`.

    The positions are counted from the end of the conversation so far: -1 is its last message. `replaced` is
    the number of the other messages, and `tokens` the estimated size of the new conversation. `usage` is that
    of the request for the summary. If it has failed, `error_message` has the reason, `summary` is None, and
    the conversation has not changed.
    """

    type: ClassVar[Literal["compaction_end"]] = "compaction_end"
    summary: UserMessage | None = None
    kept: list[int] = msgspec.field(default_factory=list)
    replaced: int = 0
    tokens: int = 0
    usage: Usage | None = None
    error_message: str | None = None


AgentEvent: TypeAlias = (
    AgentStartEvent
    | AgentEndEvent
    | TurnStartEvent
    | TurnEndEvent
    | MessageStartEvent
    | MessageUpdateEvent
    | MessageEndEvent
    | ToolExecutionStartEvent
    | ToolExecutionUpdateEvent
    | ToolExecutionEndEvent
    | CompactionStartEvent
    | CompactionEndEvent
)

# A snapshot for each delta would make a run quadratic in its length. Therefore `message` reads the `partial`
# of the assistant event, unless the event was created with a message.
_given_message = MessageUpdateEvent.__dict__["message"].__get__


def _message_so_far(event: MessageUpdateEvent) -> AssistantMessage | None:
    own: AssistantMessage | None = _given_message(event)
    step = event.assistant_message_event
    if own is not None or "type" not in step:  # events from files may be of any form
        return own
    return None if step["type"] == "done" or step["type"] == "error" else step.get("partial")


MessageUpdateEvent.message = property(_message_so_far)  # type: ignore[assignment]

# ---- tools --------------------------------------------------------------------------------------


@dataclass
class AgentToolResult:
    """The result of a tool: `content` is for the model, `details` are for programs and users.

    `terminate=True` ends the run after the tool calls of the same reply.
    """

    content: list[TextContent | ImageContent] = field(default_factory=list)
    details: JsonDict = field(default_factory=dict)
    terminate: bool = False


AgentToolUpdateCallback: TypeAlias = Callable[[AgentToolResult], None]
"""Reports a partial result; may be called from any thread, and is ignored once the call has ended."""

ToolExecute: TypeAlias = Callable[
    [str, JsonDict, asyncio.Event | None, AgentToolUpdateCallback],
    Awaitable[AgentToolResult],
]


@dataclass
class Tool:
    """The description of a tool for the model. `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: JsonDict = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True)
class CallSandbox:
    """What confines a call of a tool. Approvals show it, and decide by it.

    Attributes:
        text: What holds for the call, for the user, in one or two sentences.
        active: Whether the call runs in a sandbox.
        leaves: Whether the call asks to run outside the sandbox in which other calls of the tool run. The
            user then has to approve it in any case.
        outside: The arguments of the same call outside the sandbox; None if it cannot run there.
    """

    text: str
    active: bool
    leaves: bool = False
    outside: JsonDict | None = None


@dataclass
class AgentTool(Tool):
    """A tool that can be run.

    Attributes:
        label: The name to display.
        execute: `async (tool_call_id, args, signal, on_update) -> AgentToolResult`.
        read_only: Whether it changes nothing. It then needs no approval and may run in parallel.
        timeout: Seconds until the call ends with an error result; None for no limit.
        origin: Identifies the program that runs the call, if it is not the plugin's own code; for example a
            hash of the configuration of an MCP server. When it changes, remembered approvals become invalid.
        sandbox: Returns what confines a call with these arguments; None if the tool has no sandbox.
    """

    label: str = ""
    execute: ToolExecute | None = None
    read_only: bool = False
    timeout: float | None = None
    origin: str = ""
    sandbox: Callable[[JsonDict], CallSandbox] | None = None


@dataclass
class ToolCallInfo:
    """A tool call with valid arguments, as the hooks receive it."""

    tool: AgentTool
    tool_call_id: str
    arguments: JsonDict
    assistant_message: AssistantMessage
    context: AgentContext | None = None


@dataclass
class ToolCallDecision:
    """The decision of a hook. None changes nothing.

    Attributes:
        block: Refuse the call, or withhold its result, for this reason.
        arguments: Before the call: the arguments to run it with.
        is_error: Whether the result counts as an error.
        terminate: Whether to end the run after the tool calls of the same reply.
        content: After the call: replaces the tool's content.
        details: After the call: replaces the tool's details.
    """

    block: str | None = None
    arguments: JsonDict | None = None
    is_error: bool | None = None
    terminate: bool = False
    content: list[TextContent | ImageContent] | None = None
    details: JsonDict | None = None


class ToolExecutionResult(TypedDict):
    """The results of the tool calls of a reply, and the steering messages that interrupted them."""

    tool_results: list[ToolResultMessage]
    steering_messages: list[AgentMessage] | None


# ---- models and providers -----------------------------------------------------------------------


class ThinkingLevel(StrEnum):
    """How much the model should reason."""

    OFF = "off"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


ThinkingBudgets: TypeAlias = Mapping[str, int]
"""Reasoning tokens allowed for each thinking level, by the level's name."""


class ModelIdentity(Protocol):
    """What identifies a model. A provider accepts any class that has these attributes, such as `Model`."""

    @property
    def api(self) -> str:
        """The wire protocol."""
        ...

    @property
    def provider(self) -> str:
        """The name of the provider."""
        ...

    @property
    def id(self) -> str:
        """The id of the model at the provider."""
        ...


@dataclass
class Model:
    """A model: its provider, its id and its wire protocol."""

    provider: str = ""
    id: str = ""
    api: str = ""
    thinking_level: ThinkingLevel = ThinkingLevel.OFF


@dataclass
class ModelInfo:
    """A model in a provider's list. Prices are in US dollars per million tokens.

    `abilities` are those that the provider reports: `tools`, `images`, `files`, `audio`, `reasoning` and
    `json_schema`.
    """

    id: str
    name: str = ""
    context_window: int | None = None
    max_tokens: int | None = None
    input_price: float | None = None
    output_price: float | None = None
    abilities: tuple[str, ...] = ()


@dataclass
class Context:
    """The input of a model."""

    system_prompt: str = ""
    messages: list[Message] = field(default_factory=list)
    tools: list[AgentTool] | None = None


@dataclass
class AgentContext:
    """The input of a run: like `Context`, with messages of any role."""

    system_prompt: str = ""
    messages: list[AgentMessage] = field(default_factory=list)
    tools: list[AgentTool] | None = None


class SimpleStreamOptions(TypedDict, total=False):
    """The options of one model call.

    `timeout` is in seconds, or a mapping with any of `connect`, `first_event`, `idle`. Setting `signal` ends
    the call at once. `max_retries` is how often a request is sent again before its reply starts; without it,
    the provider decides. `on_retry` is called with the reason when that happens. `on_note` is called with
    a text when a setting is changed or left out because the model does not accept it. `http_client` sends the
    request, in place of the engine that the model chooses; it is never closed. `response_schema` is a JSON
    Schema (draft 2020-12) for an object: the text of the final answer should be such an object. A provider
    enforces it as far as its server can, and the caller validates the answer.
    """

    api_key: str | None
    temperature: float | None
    max_tokens: int | None
    signal: asyncio.Event | None
    session_id: str | None
    thinking_level: ThinkingLevel | None
    thinking_budgets: ThinkingBudgets | None
    timeout: float | Mapping[str, float] | None
    max_retries: int | None
    on_retry: Callable[[str], None] | None
    on_note: Callable[[str], None] | None
    http_client: httpx.AsyncClient | httpx.AsyncBaseTransport | None
    response_schema: JsonDict | None


class StreamResponse(Protocol):
    """An active reply: iterate it for the events, await `result()` for the whole message."""

    def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]: ...

    async def result(self) -> AssistantMessage:
        """Return the whole message, also of a failed reply, after reading the events that are left."""
        ...


# `Any`: each provider declares the class of its own models.
StreamFn: TypeAlias = Callable[[Any, Context, SimpleStreamOptions], Awaitable[StreamResponse]]
"""The provider contract: `async (model, context, options) -> StreamResponse`.

It returns as soon as the reply starts, and yields each delta as it arrives. Its last event is `done` or
`error`. An error after the start of the reply is such an event, not an exception. When the reading task is
cancelled, or `options["signal"]` is set, it closes its connection at once. The loop converts an exception, or
a missing last event, to an `error` message.
"""


@dataclass
class Provider:
    """A provider that a plugin registers.

    Attributes:
        name: The part of `-m` before the first slash.
        stream_fn: See `StreamFn`.
        make_model: `(model_id, options) -> Model`; the options are from the configuration and from `-O`.
        api_key_env: The environment variable with the API key; None if it needs no key.
        list_models: Requests the list of the provider's models.
    """

    name: str
    stream_fn: StreamFn
    make_model: Callable[[str, Mapping[str, JsonValue]], Model]
    api_key_env: str | None = None
    list_models: Callable[[], Awaitable[list[ModelInfo]]] | None = None


@dataclass(frozen=True)
class PromptVariable:
    """A variable of a prompt template, which the user sets with `-P NAME=VALUE`."""

    name: str
    description: str = ""
    required: bool = True


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt template that a plugin registers.

    Attributes:
        name: `SOURCE/NAME`, as in `-p SOURCE/NAME`. The slash tells it from the templates in files.
        fill_in: Returns the prompt for the values of the variables. The command line has checked their names.
        description: What it is for, in a line.
        variables: The variables.
    """

    name: str
    fill_in: Callable[[Mapping[str, str]], str]
    description: str = ""
    variables: tuple[PromptVariable, ...] = ()


# ---- questions of tools -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Form:
    """A question for values.

    Attributes:
        source: Who asks, as a name for the user. Only it gets the values.
        message: What it asks for. It may come from elsewhere, so it must be sanitised.
        schema: A JSON Schema of an object. Each property is a text, a number, a boolean, one of some choices
            (`enum`), or a list of choices.
    """

    source: str
    message: str
    schema: JsonDict


@dataclass(frozen=True, kw_only=True)
class FormAnswer:
    """The answer to a `Form` or a `Link`.

    Attributes:
        accepted: Whether the user agreed.
        values: The values, which fit the schema of the form.
        reason: Why the user was not asked; empty if the user declined.
    """

    accepted: bool
    values: JsonDict = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A question to open an address in a browser, for example to sign in."""

    source: str
    message: str
    url: str


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """A question to the model of the run. It is no part of the conversation of the run.

    Attributes:
        source: Who asks, as a name for the user.
        messages: The messages; the last one is the user's.
        system_prompt: The system prompt.
        max_tokens: The most tokens of the reply.
        temperature: The sampling temperature; None for the default of the model.
        wants_context: Whether it also asked for the conversation of the run, which it does not get.
    """

    source: str
    messages: list[Message]
    system_prompt: str = ""
    max_tokens: int
    temperature: float | None = None
    wants_context: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The reply to a `CompletionRequest`.

    Attributes:
        text: The reply; None if it was not asked for, or the user did not pass it on.
        model: The id of the model.
        is_complete: Whether the model finished, and did not reach `max_tokens`.
        reason: Why there is no reply.
    """

    text: str | None
    model: str = ""
    is_complete: bool = True
    reason: str = ""


class Interaction(Protocol):
    """How tools can ask the user of an application. Its methods must not raise, except for a cancellation."""

    async def fill_in(self, form: Form) -> FormAnswer:
        """Ask the user for values. A cancellation withdraws the question."""
        ...

    async def open_link(self, link: Link) -> FormAnswer:
        """Ask the user to open an address. It must not be opened without consent."""
        ...

    async def complete(self, request: CompletionRequest) -> Completion:
        """Show the question to the user and, with consent, ask the model; then show the reply."""
        ...


# ---- the loop -----------------------------------------------------------------------------------

ToolExecutionMode: TypeAlias = Literal["auto", "parallel", "sequential"]

# A callback declares whether it expects messages of other roles.
ConvertToLlm: TypeAlias = (
    Callable[[list[AgentMessage]], list[Message] | Awaitable[list[Message]]]
    | Callable[[list[AnyAgentMessage]], list[Message] | Awaitable[list[Message]]]
)
TransformContext: TypeAlias = (
    Callable[[list[AgentMessage], asyncio.Event | None], list[AgentMessage] | Awaitable[list[AgentMessage]]]
    | Callable[
        [list[AnyAgentMessage], asyncio.Event | None], list[AgentMessage] | Awaitable[list[AgentMessage]]
    ]
)
GetApiKey: TypeAlias = Callable[[str], str | None | Awaitable[str | None]]
GetTools: TypeAlias = Callable[[], list[AgentTool] | None | Awaitable[list[AgentTool] | None]]
GetMessages: TypeAlias = Callable[[], Sequence[AnyAgentMessage] | Awaitable[Sequence[AnyAgentMessage]]]
BeforeToolCall: TypeAlias = Callable[
    [ToolCallInfo], ToolCallDecision | None | Awaitable[ToolCallDecision | None]
]
AfterToolCall: TypeAlias = Callable[
    [ToolCallInfo, AgentToolResult, bool],
    AgentToolResult | ToolCallDecision | None | Awaitable[AgentToolResult | ToolCallDecision | None],
]
ShouldStop: TypeAlias = Callable[
    [AssistantMessage, list[ToolResultMessage], AgentContext], bool | Awaitable[bool]
]


ContextWindow: TypeAlias = int | Callable[[ModelIdentity, int], int | None] | None


@dataclass(kw_only=True)
class Compaction:
    """When and how a conversation is compacted: a summary by the model replaces its older messages.

    Attributes:
        context_window: Tokens of the context window. Or a function `(model, tokens) -> int | None`, which is
            called in a thread before a request; `tokens` is the size of the conversation. None for the
            model's own `context_window`. If it is not known, only a refused request starts a compaction.
        limit: The share of the context window at which the conversation is compacted.
        keep: The share of the conversation that stays as it is: the latest messages.
        instructions: What the summary should pay attention to; added to the request for it.
    """

    context_window: ContextWindow = None
    limit: float = 0.8
    keep: float = 0.2
    instructions: str = ""


@dataclass(kw_only=True)
class RunSettings:
    """The settings that `AgentOptions` and `AgentLoopConfig` share. Callbacks may be sync or async.

    Attributes:
        transform_context: Changes the messages of each request, before `convert_to_llm`.
        get_api_key: Returns the API key for the name of a provider.
        get_tools: Called before each request to the model. Returns the new tools, or None if they have not
            changed.
        temperature: The sampling temperature; None for the default of the model.
        max_tokens: The most tokens of one reply; None for the default of the model.
        session_id: Identifies the conversation to providers that use it for caching.
        thinking_budgets: Reasoning tokens for each thinking level.
        tool_execution: Whether tool calls of one reply run in parallel. `auto` does so if all are read-only.
        before_tool_call: Called before each tool call; may refuse it or change its arguments.
        after_tool_call: Called after each tool call; may change its result.
        interaction: How tools can ask the user; see `tinyagent.interaction`. None if they cannot.
        should_stop_after_turn: Called after each turn. The run ends if it returns true.
        max_turns: The most model calls in one run; None for no limit.
        max_cost: The budget of one run in US dollars; None for no limit. The run ends after the turn that
            reaches it. The provider's own figure counts, or else its list price. A model without a known
            price counts as free, and a note reports it.
        max_total_tokens: The most tokens of one run, input and output of all its model calls together; None
            for no limit. The run ends after the turn that reaches it. A reply without usage does not count,
            and a note reports it.
        compaction: Compact the conversation before a request that is near the limit of the model, and after a
            refused request that was too long, which is then repeated once; None to send it as it is. The
            request for the summary is no turn; its tokens and its cost count.
        max_repeats: The run ends when the same tool call has had the same result this many times in a row, or
            when every tool call has failed in this many turns in a row; None for no limit.
        timeout: Seconds without an event, or a mapping with any of `connect`, `first_event`, `idle`.
        on_retry: Called with the reason when a request is sent again.
        on_note: Called with a text when a setting is changed or left out because the model does not accept
            it.
        http_client: Your own client, or a transport for one, that sends the requests. It is never closed.
    """

    transform_context: TransformContext | None = None
    get_api_key: GetApiKey | None = None
    get_tools: GetTools | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    session_id: str | None = None
    thinking_budgets: ThinkingBudgets | None = None
    tool_execution: ToolExecutionMode = "auto"
    before_tool_call: BeforeToolCall | None = None
    after_tool_call: AfterToolCall | None = None
    interaction: Interaction | None = None
    should_stop_after_turn: ShouldStop | None = None
    max_turns: int | None = None
    max_cost: float | None = None
    max_total_tokens: int | None = None
    max_repeats: int | None = 10
    compaction: Compaction | None = None
    timeout: float | Mapping[str, float] | None = None
    on_retry: Callable[[str], None] | None = None
    on_note: Callable[[str], None] | None = None
    http_client: httpx.AsyncClient | httpx.AsyncBaseTransport | None = field(default=None, repr=False)


@dataclass
class AgentLoopConfig(RunSettings):
    """The settings of a run.

    Attributes:
        model: The model to call.
        convert_to_llm: Converts the messages of a history to those that the model gets.
        get_steering_messages: Returns the messages that interrupt the run, after each tool call.
        get_follow_up_messages: Returns the messages for the point where the run would otherwise end.
        api_key: The API key, unless `get_api_key` returns one.
        thinking_level: The thinking level; None for the level of the model.
        response_schema: The JSON Schema of the final answer; see `SimpleStreamOptions`.
    """

    model: ModelIdentity
    convert_to_llm: ConvertToLlm
    _: KW_ONLY
    get_steering_messages: GetMessages | None = None
    get_follow_up_messages: GetMessages | None = None
    api_key: str | None = field(default=None, repr=False)
    thinking_level: ThinkingLevel | None = None
    response_schema: JsonDict | None = None


class InitialState(TypedDict, total=False):
    """The state that an agent starts with. The state of another agent (`AgentState`) is accepted, too."""

    system_prompt: str
    model: ModelIdentity | None
    thinking_level: ThinkingLevel | str
    tools: Sequence[AgentTool]
    messages: Sequence[AnyAgentMessage]
    error: str | None
    limit: RunLimit | None


class AgentState(TypedDict):
    """The state of an agent.

    `is_streaming` is true until the last listener of the run has returned. `error` is the reason why the last
    reply failed, and `limit` is the limit that ended the last run. Both are None until they are set, and are
    reset when the next run starts.
    """

    system_prompt: str
    model: ModelIdentity | None
    thinking_level: ThinkingLevel
    tools: list[AgentTool]
    messages: list[AgentMessage]
    is_streaming: bool
    stream_message: AssistantMessage | None
    pending_tool_calls: set[str]
    error: str | None
    limit: RunLimit | None
