"""The vocabulary: content, messages, events, tools, models and the provider contract.

Messages and content are plain dictionaries that are JSON as they stand; the typed dictionaries here
say which keys they have. Events are frozen values. Nothing in this module does anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, NotRequired, Protocol, Required, TypeAlias, TypedDict

import msgspec

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "dict[str, JsonValue]"

# ---- content ------------------------------------------------------------------------------------


class Citation(TypedDict, total=False):
    """A source of a text.

    `url` is an http(s) link; a source without one, such as a file, has a `title`. `start` and `end` are
    characters of the text that the source supports, as far as the provider gives them, and `cited_text`
    is the passage of the source.
    """

    url: str
    title: str
    cited_text: str
    start: int
    end: int


class TextContent(TypedDict):
    """A piece of text.

    `citations` are its sources; `extract_citations` lists those of a whole message. `text_signature` is
    what its provider wants back with it.
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
    """The model's reasoning; `thinking_signature` is what its provider wants back with it."""

    type: Literal["thinking"]
    thinking: str
    thinking_signature: NotRequired[str]


class ToolCallContent(TypedDict):
    """A tool call.

    `partial_json` is the text that the model sent: so far while the call is being streamed, and on a
    finished call only if it is not a JSON object. Such a call has empty `arguments` and is never run.
    `tool_call_signature` is what its provider wants back with it.
    """

    type: Literal["tool_call"]
    id: str
    name: str
    arguments: dict[str, Any]
    partial_json: NotRequired[str]
    tool_call_signature: NotRequired[str]


ToolCall = ToolCallContent

# ---- messages -----------------------------------------------------------------------------------

StopReason: TypeAlias = Literal["stop", "length", "tool_use", "error", "aborted"]


RunLimit: TypeAlias = Literal["max_turns", "budget", "repeat"]
"""A limit that can end a run; see `AgentLoopConfig`."""


class Usage(TypedDict, total=False):
    """Tokens and US dollars, normalised; `total` is input + output, `input` includes what was cached.

    `cost` is what the provider charged; with `cost_estimated` it is an estimate by its list price.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    total: int
    cost: float | None
    cost_estimated: bool


class UserMessage(TypedDict):
    """What the user said; `timestamp` is Unix milliseconds."""

    role: Literal["user"]
    content: list[TextContent | ImageContent]
    timestamp: NotRequired[int]


class AssistantMessage(TypedDict):
    """What the model said.

    Images that the model made come behind the other content. `finish_reason` is the provider's own word
    for `stop_reason`. `thinking_level` is what the reply was asked for, if its provider has to ask the same
    in the rest of the turn. The `error_…` fields describe a failure; see `tinyagent.errors.ErrorFields`.
    """

    role: Literal["assistant"]
    content: list[TextContent | ThinkingContent | ToolCallContent | ImageContent]
    stop_reason: StopReason
    timestamp: int
    api: str
    provider: str
    model: str
    usage: Usage | None
    finish_reason: NotRequired[str]
    thinking_level: NotRequired[str]
    error_message: NotRequired[str]
    error_kind: NotRequired[str]
    error_category: NotRequired[str]
    error_hint: NotRequired[str]
    error_status: NotRequired[int]
    error_retryable: NotRequired[bool]
    error_retry_after: NotRequired[float]


class ToolResultMessage(TypedDict):
    """What a tool call gave."""

    role: Literal["tool_result"]
    tool_call_id: str
    tool_name: str
    content: list[TextContent | ImageContent]
    details: dict[str, Any]
    is_error: bool
    timestamp: int


Message: TypeAlias = UserMessage | AssistantMessage | ToolResultMessage


class CustomAgentMessage(TypedDict, total=False):
    """Any other role: kept in the history, not sent to a model unless `convert_to_llm` maps it."""

    role: Required[str]
    timestamp: int


AgentMessage: TypeAlias = Message | CustomAgentMessage

# ---- what a provider yields -----------------------------------------------------------------------


class AssistantMessageEvent(TypedDict, total=False):
    """One step of an assistant message.

    `start`; `text_start|text_delta|text_end`; `thinking_start|_delta|_end`;
    `tool_call_start|_delta|_end`; `done`; `error`. `partial` is the message so far. The `tool_call` of
    a `tool_call_start` has no arguments yet.
    """

    type: Required[str]
    content_index: int
    delta: str
    content: str
    tool_call: ToolCallContent
    reason: str
    message: AssistantMessage
    error: AssistantMessage
    partial: AssistantMessage


STREAM_UPDATE_EVENTS = frozenset(
    f"{block}_{step}" for block in ("text", "thinking", "tool_call") for step in ("start", "delta", "end")
)
"""The assistant message events that reach listeners as `message_update`."""

# ---- events -------------------------------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    type: ClassVar[str]


class AgentStartEvent(_Event, frozen=True, kw_only=True, tag="agent_start"):
    """A run begins."""

    type: ClassVar[str] = "agent_start"


class AgentEndEvent(_Event, frozen=True, kw_only=True, tag="agent_end"):
    """A run is over.

    `messages` are the new ones, in order; `limit` names the limit that ended the run; `usage` is the sum
    over all replies of the run, None if no reply reports any.
    """

    type: ClassVar[str] = "agent_end"
    messages: list[AgentMessage]
    limit: RunLimit | None = None
    usage: Usage | None = None


class TurnStartEvent(_Event, frozen=True, kw_only=True, tag="turn_start"):
    """A turn begins: at most one model call and the tools that it asks for."""

    type: ClassVar[str] = "turn_start"


class TurnEndEvent(_Event, frozen=True, kw_only=True, tag="turn_end"):
    """A turn is over."""

    type: ClassVar[str] = "turn_end"
    message: AssistantMessage
    tool_results: list[ToolResultMessage] = msgspec.field(default_factory=list)


class MessageStartEvent(_Event, frozen=True, kw_only=True, tag="message_start"):
    """A message begins; an assistant's is still empty here."""

    type: ClassVar[str] = "message_start"
    message: AgentMessage


class MessageUpdateEvent(_Event, frozen=True, kw_only=True, tag="message_update", gc=False):
    """The assistant's message grew; `message` is the message so far, built when it is read."""

    type: ClassVar[str] = "message_update"
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

    type: ClassVar[str] = "message_end"
    message: AgentMessage


class ToolExecutionStartEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_start"):
    """A tool call is taken up."""

    type: ClassVar[str] = "tool_execution_start"
    tool_call_id: str
    tool_name: str
    args: dict[str, Any]


class ToolExecutionUpdateEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_update"):
    """A running tool reports what it has so far."""

    type: ClassVar[str] = "tool_execution_update"
    tool_call_id: str
    tool_name: str
    args: dict[str, Any]
    partial_result: AgentToolResult


class ToolExecutionEndEvent(_Event, frozen=True, kw_only=True, tag="tool_execution_end"):
    """A tool call is over."""

    type: ClassVar[str] = "tool_execution_end"
    tool_call_id: str
    tool_name: str
    result: AgentToolResult
    is_error: bool


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
)

# A snapshot for each delta would make a run quadratic in its length, so `message` is read through to
# the assistant event's `partial`, unless somebody gave one. The Struct's own slot stays underneath.
_given_message = MessageUpdateEvent.__dict__["message"].__get__


def _message_so_far(event: MessageUpdateEvent) -> Any:
    given = _given_message(event)
    return event.assistant_message_event.get("partial") if given is None else given


MessageUpdateEvent.message = property(_message_so_far)  # type: ignore[assignment]

# ---- tools --------------------------------------------------------------------------------------


@dataclass
class AgentToolResult:
    """What a tool gives back: `content` for the model, `details` for programs and people.

    `terminate=True` ends the run after the batch of calls that this one is part of.
    """

    content: list[TextContent | ImageContent] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    terminate: bool = False


AgentToolUpdateCallback: TypeAlias = Callable[[AgentToolResult], None]
"""Reports a partial result; may be called from any thread, and is ignored once the call has ended."""

ToolExecute: TypeAlias = Callable[
    [str, dict[str, Any], asyncio.Event | None, AgentToolUpdateCallback],
    Awaitable[AgentToolResult],
]


@dataclass
class Tool:
    """What a model is told of a tool; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass
class AgentTool(Tool):
    """A tool that can be run.

    Attributes:
        label: A name for people.
        execute: `async (tool_call_id, args, signal, on_update) -> AgentToolResult`.
        read_only: It changes nothing, so it needs no approval and may run beside others.
        timeout: Seconds after which the call becomes an error result; None for no limit.
        origin: Identifies what carries out the call, if that is not the plugin's own code: a hash of the
            configuration of an MCP server, for example. Remembered approvals end when it changes.
    """

    label: str = ""
    execute: ToolExecute | None = None
    read_only: bool = False
    timeout: float | None = None
    origin: str = ""


@dataclass
class ToolCallInfo:
    """A tool call whose arguments are valid, as the hooks see it."""

    tool: AgentTool
    tool_call_id: str
    arguments: dict[str, Any]
    assistant_message: AssistantMessage
    context: AgentContext | None = None


@dataclass
class ToolCallDecision:
    """What a hook decides; None leaves things as they are.

    Attributes:
        block: Refuse the call, or withhold its result, for this reason.
        arguments: Before the call: run it with these.
        is_error: Whether the result counts as an error.
        terminate: End the run after this batch of calls.
        content: After the call: what the model gets in place of the tool's content.
        details: After the call: what programs get in place of the tool's details.
    """

    block: str | None = None
    arguments: dict[str, Any] | None = None
    is_error: bool | None = None
    terminate: bool = False
    content: list[TextContent | ImageContent] | None = None
    details: dict[str, Any] | None = None


class ToolExecutionResult(TypedDict):
    """What a batch of tool calls gave, and the steering messages that cut it short."""

    tool_results: list[ToolResultMessage]
    steering_messages: list[AgentMessage] | None


# ---- models and providers -----------------------------------------------------------------------


class ThinkingLevel(StrEnum):
    """How much the model is asked to reason."""

    OFF = "off"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


ThinkingBudgets: TypeAlias = Mapping[str, int]
"""Reasoning tokens allowed for each thinking level, by the level's name."""


@dataclass
class Model:
    """Which model, of whom, over which wire protocol."""

    provider: str = ""
    id: str = ""
    api: str = ""
    thinking_level: ThinkingLevel = ThinkingLevel.OFF


@dataclass
class ModelInfo:
    """A model that a provider lists; prices are US dollars for a million tokens."""

    id: str
    name: str = ""
    context_window: int | None = None
    max_tokens: int | None = None
    input_price: float | None = None
    output_price: float | None = None


@dataclass
class Context:
    """What a model is sent."""

    system_prompt: str = ""
    messages: list[Message] = field(default_factory=list)
    tools: list[AgentTool] | None = None


@dataclass
class AgentContext:
    """What a run starts from: like `Context`, with messages of any role."""

    system_prompt: str = ""
    messages: list[AgentMessage] = field(default_factory=list)
    tools: list[AgentTool] | None = None


class SimpleStreamOptions(TypedDict, total=False):
    """How one model call is made.

    `timeout` is seconds, or a mapping with any of `connect`, `first_event`, `idle`.
    `signal`, once set, ends the call at once. `on_retry` hears why a request is sent again.
    `on_note` hears what of a request was changed or left out because the model does not take it.
    """

    api_key: str | None
    temperature: float | None
    max_tokens: int | None
    signal: asyncio.Event | None
    session_id: str | None
    thinking_level: ThinkingLevel | None
    thinking_budgets: ThinkingBudgets | None
    timeout: float | Mapping[str, float] | None
    on_retry: Callable[[str], None] | None
    on_note: Callable[[str], None] | None


class StreamResponse(Protocol):
    """A reply under way: iterate it for the events, await `result()` for the whole message."""

    def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]: ...

    async def result(self) -> AssistantMessage:
        """The whole message, failures included; reads on to the end if nobody has."""
        ...


StreamFn: TypeAlias = Callable[[Any, Context, SimpleStreamOptions], Awaitable[StreamResponse]]
"""The provider contract: `async (model, context, options) -> StreamResponse`.

It returns as soon as the reply is under way and yields each delta as it arrives. Its last event is
`done` or `error`; an error after the reply began is such an event, not an exception. When the task that
reads it is cancelled, or `options["signal"]` is set, it closes its connection at once. The
loop turns an exception, or a missing end, into an `error` message.
"""


@dataclass
class Provider:
    """A provider as plugins register it.

    Attributes:
        name: The part of `-m` before the first slash.
        stream_fn: See `StreamFn`.
        make_model: `(model_id, options) -> Model`; options come from the configuration and from `-O`.
        api_key_env: The environment variable that holds its key; None if it needs none.
        list_models: Asks the provider for its models.
    """

    name: str
    stream_fn: StreamFn
    make_model: Callable[[str, Mapping[str, Any]], Model]
    api_key_env: str | None = None
    list_models: Callable[[], Awaitable[list[ModelInfo]]] | None = None


# ---- the loop -----------------------------------------------------------------------------------

ToolExecutionMode: TypeAlias = Literal["auto", "parallel", "sequential"]

ConvertToLlm: TypeAlias = Callable[[list[Any]], list[Message] | Awaitable[list[Message]]]
TransformContext: TypeAlias = Callable[
    [list[Any], asyncio.Event | None], list[AgentMessage] | Awaitable[list[AgentMessage]]
]
GetApiKey: TypeAlias = Callable[[str], str | None | Awaitable[str | None]]
GetTools: TypeAlias = Callable[[], list[AgentTool] | None | Awaitable[list[AgentTool] | None]]
GetMessages: TypeAlias = Callable[[], list[Any] | Awaitable[list[Any]]]
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


@dataclass
class AgentLoopConfig:
    """How a run is made. Callbacks may be sync or async; see `contract.md` section 9 for each.

    Attributes:
        get_tools: Called before each request to the model. Returns the tools from then on, or None for those
            before.
        max_turns: Model calls in the run; None for no limit.
        max_cost: The budget in US dollars: the run ends after the turn that reaches it; None for no limit.
            A provider that does not say what it charges counts by its list price, if that is known.
        max_repeats: The run ends when the same tool call has given the same result so many times in a row,
            or when every tool call has failed in so many turns in a row; None for no limit.
    """

    model: Any
    convert_to_llm: ConvertToLlm
    transform_context: TransformContext | None = None
    get_api_key: GetApiKey | None = None
    get_steering_messages: GetMessages | None = None
    get_follow_up_messages: GetMessages | None = None
    get_tools: GetTools | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    session_id: str | None = None
    thinking_level: ThinkingLevel | None = None
    thinking_budgets: ThinkingBudgets | None = None
    tool_execution: ToolExecutionMode = "auto"
    before_tool_call: BeforeToolCall | None = None
    after_tool_call: AfterToolCall | None = None
    should_stop_after_turn: ShouldStop | None = None
    max_turns: int | None = None
    max_cost: float | None = None
    max_repeats: int | None = 10
    timeout: float | Mapping[str, float] | None = None
    on_retry: Callable[[str], None] | None = None
    on_note: Callable[[str], None] | None = None


class AgentState(TypedDict):
    """What an agent is and does at the moment it was read.

    `is_streaming` is true until the last listener of the run has returned. `error` is why the last reply
    failed, and `limit` is the limit that ended the last run; each is None until something sets it, and
    again from the start of the next run.
    """

    system_prompt: str
    model: Any
    thinking_level: ThinkingLevel
    tools: list[AgentTool]
    messages: list[AgentMessage]
    is_streaming: bool
    stream_message: AssistantMessage | None
    pending_tool_calls: set[str]
    error: str | None
    limit: RunLimit | None
