"""The server side of the proxy protocol: decode requests, encode assistant message events. No I/O.

Events have extension fields, which other clients ignore:

    done, error     finishReason, of the provider; normalUsage, tinyagent's usage
    done            signatures, {contentIndex: signature} of blocks that were signed after their end;
                    citations, {contentIndex: [Citation]} of texts; thinkingLevel, the level of the request,
                    if later requests of the turn need it; refusal, true if the text is the model's refusal
    toolcall_end    the final id and toolName; contentSignature; arguments, the JSON text, if the deltas do
                    not add up to it
    error           errorKind, errorCategory, errorHint, errorStatus, retryable, retryAfter, as in
                    `tinyagent.errors.ErrorFields`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, NoReturn, cast

import msgspec

from tinyagent import AgentTool, Context, ThinkingLevel
from tinyagent.agent_types import (
    AssistantMessage,
    AssistantMessageEvent,
    Citation,
    JsonDict,
    JsonObject,
    Message,
    SimpleStreamOptions,
    ToolCallContent,
    Usage,
)

__all__ = ["BadRequestError", "EventWriter", "Failure", "StreamRequest", "read_request"]


# ---- the request --------------------------------------------------------------------------------------


class BadRequestError(ValueError):
    """The request violates the protocol; the message shows where."""


class _Model(msgspec.Struct):
    id: str
    provider: str = ""
    api: str = ""
    thinking_level: str | None = None


class _Tool(msgspec.Struct):
    name: str
    description: str = ""
    parameters: JsonDict = {}


class _Context(msgspec.Struct):
    system_prompt: str | None = None
    messages: list[JsonDict] = []
    tools: list[_Tool] | None = None


class _Options(msgspec.Struct, rename="camel"):
    temperature: float | None = None
    max_tokens: int | None = None
    reasoning: str | None = None
    session_id: str | None = None
    thinking_budgets: dict[str, int] | None = None
    response_schema: JsonDict | None = None


class _Body(msgspec.Struct):
    model: _Model
    context: _Context
    options: _Options = msgspec.field(default_factory=_Options)


class StreamRequest(NamedTuple):
    """A caller's request. The provider and the model have the caller's names."""

    provider: str
    model_id: str
    context: Context
    options: SimpleStreamOptions


_LEVELS = tuple(ThinkingLevel)
_BLOCKS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "image": {"url": str},
    "thinking": {"thinking": str},
    "tool_call": {"id": str, "name": str, "arguments": dict},
}
_ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "user": (("text", "image"), ()),
    "assistant": (("text", "thinking", "tool_call"), ()),
    "tool_result": (("text", "image"), ("tool_call_id", "tool_name")),
}
"""For each role: the types of blocks that a message may have, and the text fields that it must have."""


def read_request(body: bytes) -> StreamRequest:
    """Read and check a request.

    Raises:
        BadRequestError: The request is not JSON, or violates the protocol.
    """
    try:
        # Not msgspec, which does not decode integers beyond 64 bits in tool call arguments.
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the request is not JSON: {str(error)[:200]}") from None
    try:
        request = msgspec.convert(value, _Body)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadRequestError(f"the request violates the protocol: {error}") from None
    if not request.model.id.strip():
        raise BadRequestError("model.id is empty")
    messages = [
        _checked(message, f"context.messages[{number}]")
        for number, message in enumerate(request.context.messages)
    ]
    level = request.options.reasoning or request.model.thinking_level or "off"
    if level not in _LEVELS:
        raise BadRequestError(f"the thinking level {level[:40]!r} is not one of {', '.join(_LEVELS)}")
    options: SimpleStreamOptions = {
        "temperature": request.options.temperature,
        "max_tokens": request.options.max_tokens,
        "session_id": request.options.session_id,
        "thinking_budgets": request.options.thinking_budgets,
        "thinking_level": None if level == "off" else ThinkingLevel(level),
        "response_schema": request.options.response_schema,
    }
    return StreamRequest(
        provider=request.model.provider,
        model_id=request.model.id,
        context=Context(
            system_prompt=request.context.system_prompt or "",
            messages=messages,
            # Without `execute`, because the caller runs the tools.
            tools=[
                AgentTool(
                    tool.name, tool.description, tool.parameters or {"type": "object", "properties": {}}
                )
                for tool in request.context.tools or ()
            ],
        ),
        options=options,
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _checked(message: JsonObject, where: str) -> Message:
    """Check a message, and add the fields that a caller may omit."""
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequestError(f"{where}: the role {str(role)[:40]!r} is not one of {', '.join(_ROLES)}")
    blocks, fields = _ROLES[role]
    for name in fields:
        if not isinstance(message.get(name), str):
            raise BadRequestError(f"{where}.{name} is missing or not a string")
    content = message.get("content")
    if not isinstance(content, list):
        raise BadRequestError(f"{where}.content is not a list")
    for number, block in enumerate(content):
        place = f"{where}.content[{number}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(block, dict) or not isinstance(kind, str) or kind not in blocks:
            raise BadRequestError(f"{place}: the type {str(kind)[:40]!r} is not one of {', '.join(blocks)}")
        for name, wanted in _BLOCKS[kind].items():
            if not isinstance(block.get(name), wanted):
                raise BadRequestError(f"{place}.{name} is missing or has the wrong type")
    if role == "tool_result":
        message = {"details": {}, "is_error": False, **message}
    return cast(Message, message)


# ---- the reply ----------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """The failure of a reply, as reported to the caller.

    Attributes:
        kind: As in `tinyagent.errors`.
        category: The nearest kind of `tinyagent.errors`, if `kind` is a plugin's own.
        status: The HTTP status of the provider's reply.
        retryable: Whether an immediate retry at the proxy may help.
        retry_after: Seconds to wait, from the provider.
        ours: The proxy's operator must act: the cause is logged and hidden from the caller. Other messages
            are not logged, because they may quote the prompt.
    """

    kind: str
    message: str
    hint: str | None = None
    retryable: bool = False
    retry_after: float | None = None
    ours: bool = False
    category: str | None = None
    status: int | None = None


_NAMES = {
    f"{kind}_{step}": f"{name}_{step}"
    for kind, name in (("text", "text"), ("thinking", "thinking"), ("tool_call", "toolcall"))
    for step in ("start", "delta", "end")
}
_REASONS = {"tool_use": "toolUse"}
_SIGNATURES = {"text": "text_signature", "thinking": "thinking_signature", "tool_call": "tool_call_signature"}
_quoted = msgspec.json.Encoder().encode


class EventWriter:
    """Writes the events of one reply.

    Attributes:
        usage: The usage of the reply, after its end.
        finish: `stop`, `length`, `toolUse`, `error` or `aborted`, after the end of the reply.
    """

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.finish = ""
        self._heads: dict[tuple[str, int], bytes] = {}
        self._signed: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def event(self, event: AssistantMessageEvent) -> bytes:
        """Encode an assistant message event, except `error`. Events unknown to the protocol become empty."""
        match event["type"]:
            case "start":
                return _line({"type": "start"})
            case "done":
                return self._done(event["message"])
            case "text_delta" | "thinking_delta" | "tool_call_delta":
                return self._delta(event["type"], event["content_index"], event["delta"])
            case "tool_call_start" | "tool_call_end":
                return self._edge(event["type"], event["content_index"], None, event["tool_call"])
            case "text_start" | "thinking_start":
                return self._edge(event["type"], event["content_index"], None, None)
            case "text_end" | "thinking_end":
                # `partial` is built when it is read, so it is not read for each delta of a long reply.
                return self._edge(event["type"], event["content_index"], event.get("partial"), None)
        return b""

    def error(self, failure: Failure, message: AssistantMessage | None = None) -> bytes:
        """Encode the end of a failed reply, with its usage so far."""
        self.finish = "error"
        return _line(
            {
                "type": "error",
                "reason": "error",
                "errorMessage": failure.message,
                "errorKind": failure.kind,
                "errorCategory": failure.category,
                "errorHint": failure.hint,
                "errorStatus": failure.status,
                "retryable": failure.retryable,
                "retryAfter": failure.retry_after,
                **self._ending(message),
            }
        )

    def _delta(self, kind: str, index: int, delta: str) -> bytes:
        if kind == "tool_call_delta":
            self._arguments.setdefault(index, []).append(delta)
        head = self._heads.get((kind, index))
        if head is None:
            head = b'data: {"type":"%b","contentIndex":%d,"delta":' % (_NAMES[kind].encode(), index)
            self._heads[kind, index] = head
        try:
            text = _quoted(delta)
        except UnicodeEncodeError:  # half of a surrogate pair; the other half may be in the next delta
            text = json.dumps(delta).encode()
        return b"%b%b}\n\n" % (head, text)

    def _edge(
        self, kind: str, index: int, partial: AssistantMessage | None, call: ToolCallContent | None
    ) -> bytes:
        fields: dict[str, object] = {"type": _NAMES[kind], "contentIndex": index}
        if call is not None:
            fields |= {"id": call["id"], "toolName": call["name"]}
        if kind.endswith("_end"):
            block: Mapping[str, object] = call or {}
            if call is not None:
                fields["arguments"] = self._other_arguments(index, call)
            else:
                block = _block_at(partial, index)
            signature = _signature(block)
            if signature is not None:
                self._signed[index] = fields["contentSignature"] = signature
        return _line(fields)

    def _other_arguments(self, index: int, call: ToolCallContent) -> str | None:
        """Return the JSON text of a call's arguments if the deltas do not add up to it; None otherwise."""
        text = "".join(self._arguments.pop(index, ()))
        partial = call.get("partial_json")
        if partial is not None:
            return None if partial == text else partial
        arguments = call.get("arguments") or {}
        try:
            same = (json.loads(text) if text.strip() else {}) == arguments
        except (ValueError, RecursionError):
            same = False
        return None if same else json.dumps(arguments)

    def _done(self, message: AssistantMessage) -> bytes:
        self.finish = _REASONS.get(message["stop_reason"], message["stop_reason"])
        late: dict[str, str] = {}
        cited: dict[str, list[Citation]] = {}
        for index, block in enumerate(message["content"]):
            signature = _signature(block)
            if signature is not None and signature != self._signed.get(index):
                late[str(index)] = signature
            if block["type"] == "text" and (citations := block.get("citations")):
                cited[str(index)] = citations
        fields = {"signatures": late or None, "citations": cited or None, **self._ending(message)}
        fields["thinkingLevel"] = message.get("thinking_level")
        fields["refusal"] = message.get("refusal")
        return _line({"type": "done", "reason": self.finish, **fields})

    def _ending(self, message: AssistantMessage | None) -> dict[str, object]:
        """Return the fields that `done` and `error` share."""
        if message is None:
            return {"usage": _usage({})}
        self.usage = message.get("usage")
        return {
            "finishReason": message.get("finish_reason"),
            "usage": _usage(self.usage or {}),
            "normalUsage": self.usage,
            "images": [block["url"] for block in message["content"] if block["type"] == "image"] or None,
        }


def _usage(usage: Usage) -> dict[str, object]:
    """Return usage in the protocol's form: `input` without cached tokens, the cost in parts."""
    read, write = usage.get("cache_read") or 0, usage.get("cache_write") or 0
    uncached, output = max((usage.get("input") or 0) - read - write, 0), usage.get("output") or 0
    return {
        "input": uncached,
        "output": output,
        "cacheRead": read,
        "cacheWrite": write,
        "totalTokens": uncached + read + write + output,
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": usage.get("cost") or 0},
    }


def _block_at(message: AssistantMessage | None, index: int) -> Mapping[str, object]:
    content = message["content"] if message is not None else []
    return content[index] if index < len(content) else {}


def _signature(block: Mapping[str, object]) -> str | None:
    signature = block.get(_SIGNATURES.get(str(block.get("type")), ""))
    return signature if isinstance(signature, str) and signature else None


def _line(fields: Mapping[str, object]) -> bytes:
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        text = _quoted(known)
    except UnicodeEncodeError:
        text = json.dumps(known).encode()
    return b"data: %b\n\n" % text
