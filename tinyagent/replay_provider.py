"""The provider `replay:FILE`, which answers with a recorded run.

The n-th model call gets the n-th reply of the file, with its recorded deltas and its end, which may be an
error or an abort. A session file has no deltas; then each block is sent as one delta.

A request for a summary (`Agent.compact`) gets the next recorded summary.

The request is ignored, unless the header has `fingerprints` (`tinyagent run --record`). Then each model call
must have the recorded system prompt, prompts, tool results, tools and schema. The fingerprints are those of
the definitions of the tools and of the schema, which a record does not contain.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import UNSET

from . import _json, jsonl
from ._answer import extract_text
from ._stream.builder import BuilderEvent, MessageBuilder, StreamEvent, now_ms
from ._stream.compaction import SYSTEM_PROMPT, compacted, summary_text
from ._stream.generator_reply import GeneratorReply
from ._stream.history import repair_history
from ._stream.message_checks import is_assistant, is_tool_result
from .agent_types import (
    AgentMessage,
    AssistantBlock,
    AssistantMessage,
    AssistantMessageEvent,
    CompactionEndEvent,
    CompactionStartEvent,
    Context,
    JsonDict,
    JsonValue,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    Model,
    ModelIdentity,
    Provider,
    SimpleStreamOptions,
    StreamResponse,
    Tool,
)
from .errors import ConfigurationError, ProviderError, RecordError
from .jsonl import HistoryRecord, SessionRecord
from .text_files import MAX_RECORD_BYTES, read_bytes

__all__ = ["replay_provider", "request_fingerprints"]

_SCHEMA = "schema"
_SHOWN = 200
"""How many characters of a text an error shows."""


def request_fingerprints(tools: Iterable[Tool], schema: JsonDict | None) -> dict[str, str]:
    """Return the fingerprints of a request: a hash for each `tool NAME`, and one for the `schema`.

    Args:
        tools: The tools of the request.
        schema: The JSON Schema of the answer.
    """
    parts: dict[str, object] = {f"tool {tool.name}": [tool.description, tool.parameters] for tool in tools}
    if schema is not None:
        parts[_SCHEMA] = schema
    return {
        name: hashlib.sha256(msgspec.json.encode(part, order="sorted")).hexdigest()[:16]
        for name, part in parts.items()
    }


def replay_provider(path: str | Path, *, on_warning: Callable[[str], None] | None = None) -> Provider:
    """Return a provider that answers with the run recorded in `path`. Each run needs its own provider.

    The file is read by `make_model`, or else by the first call. They raise `ConfigurationError` if the file
    cannot be read, and `RecordError` if a line is not in the format.

    Args:
        path: The output of `tinyagent run --jsonl`, or a session file; also several in sequence.
        on_warning: Called with a warning if the last line is incomplete; `warnings.warn` if None.
    """
    replay = _Replay(Path(path), on_warning)
    return Provider(name="replay", stream_fn=replay.stream, make_model=replay.model)


@dataclass
class _RecordedReply:
    """A recorded reply: the events of its stream, and its message."""

    steps: list[AssistantMessageEvent] = field(default_factory=list)
    message: AssistantMessage | None = None
    request: _RecordedRequest | None = None


@dataclass(frozen=True)
class _RecordedRequest:
    """The request of a recorded reply: the first `count` messages of a conversation, which may grow."""

    system_prompt: str
    fingerprints: Mapping[str, str]
    conversation: list[AgentMessage]
    count: int

    def differences(self, context: Context, schema: JsonDict | None) -> Iterator[str]:
        """Yield how a request differs from this one."""
        if context.system_prompt != self.system_prompt:
            yield _difference("the system prompt", context.system_prompt, self.system_prompt)
        present = request_fingerprints(context.tools or (), schema)
        for name in dict.fromkeys((*self.fingerprints, *present)):
            if name not in present:
                yield f"the {name} is missing"
            elif name not in self.fingerprints:
                yield f"the {name} is new"
            elif present[name] != self.fingerprints[name]:
                yield f"the {name} has changed"
        recorded = _inputs(repair_history(self.conversation[: self.count]))
        sent = _inputs(context.messages)
        for ours, theirs in zip(sent, recorded, strict=False):
            if (ours["role"], ours["content"]) != (theirs["role"], theirs["content"]):
                yield _difference(_name_of(theirs), extract_text(ours), extract_text(theirs))
                return
        if len(sent) != len(recorded):
            yield f"it has {len(sent)} prompts and tool results, and {len(recorded)} are recorded"


def _inputs(messages: Sequence[AgentMessage]) -> list[AgentMessage]:
    """Return the messages that no model wrote."""
    return [message for message in messages if not is_assistant(message)]


def _name_of(message: AgentMessage) -> str:
    return f"the result of {message['tool_name']}" if is_tool_result(message) else "the prompt"


def _difference(what: str, ours: str, recorded: str) -> str:
    if ours == recorded:
        return f"{what} differs"
    return f"{what} is {ours[:_SHOWN]!r}, and {recorded[:_SHOWN]!r} is recorded"


@dataclass
class _ReplayModel(Model):
    context_window: int | None = None


class _Replay:
    def __init__(self, path: Path, on_warning: Callable[[str], None] | None) -> None:
        self._path = path
        self._on_warning = on_warning
        self._replies: list[_RecordedReply] | None = None
        self._summaries: list[CompactionEndEvent] = []
        self._count = 0
        self._asked = 0
        self._window: int | None = None

    def model(self, model_id: str, options: Mapping[str, JsonValue]) -> Model:
        if "base_url" in options:
            raise ConfigurationError("A replay has no base_url: it sends no requests.")
        self._read()
        # With the recorded context window, the conversation is compacted where it was.
        return _ReplayModel("replay", str(self._path), "replay", context_window=self._window)

    async def stream(
        self, model: ModelIdentity, context: Context, options: SimpleStreamOptions
    ) -> StreamResponse:
        replies = self._read()
        if context.system_prompt == SYSTEM_PROMPT:
            return GeneratorReply(_play(self._next_summary(model)))
        self._count += 1
        if self._count > len(replies):
            raise ProviderError(
                f"{self._path} has {len(replies)} recorded {'reply' if len(replies) == 1 else 'replies'}, "
                f"and this is model call {self._count}.",
                provider="replay",
                hint="Replay it with the prompt and the tools of the recorded run, or record it again.",
            )
        reply = replies[self._count - 1]
        if reply.request is not None:
            difference = next(reply.request.differences(context, options.get("response_schema")), None)
            if difference is not None:
                raise ProviderError(
                    f"Model call {self._count} is not the one recorded in {self._path}: {difference}.",
                    provider="replay",
                    hint="Record the run again with --record. A record of -o is not compared.",
                )
        return GeneratorReply(_play(reply))

    def _next_summary(self, model: ModelIdentity) -> _RecordedReply:
        self._asked += 1
        if self._asked > len(self._summaries):
            raise ProviderError(
                f"{self._path} has no recorded summary for compaction {self._asked}.",
                provider="replay",
                hint="Record the run again, or replay it without compaction.",
            )
        end = self._summaries[self._asked - 1]
        message: AssistantMessage = {
            "role": "assistant",
            "content": [{"type": "text", "text": summary_text(end.summary)}],
            "stop_reason": "stop",
            "timestamp": 0,
            "api": model.api,
            "provider": model.provider,
            "model": model.id,
            "usage": end.usage,
        }
        return _RecordedReply(message=message)

    def _read(self) -> list[_RecordedReply]:
        if self._replies is None:
            data = read_bytes(self._path, limit=MAX_RECORD_BYTES, name=f"the replay {self._path}")
            try:
                self._replies, self._summaries, self._window = _replies(data, self._on_warning)
            except RecordError as error:
                raise RecordError(f"the replay {self._path}: {error}", hint=error.hint) from None
            if not self._replies:
                raise ConfigurationError(
                    f"The replay {self._path} contains no reply of a model.",
                    hint="Record one: tinyagent run --jsonl … > FILE",
                )
        return self._replies


def _replies(
    lines: bytes, on_warning: Callable[[str], None] | None
) -> tuple[list[_RecordedReply], list[CompactionEndEvent], int | None]:
    """Return the replies, the compactions, and the context window if it was the reason of one."""
    replies: list[_RecordedReply] = []
    summaries: list[CompactionEndEvent] = []
    window: int | None = None
    reply = _RecordedReply()
    header: SessionRecord | None = None
    conversation: list[AgentMessage] = []
    for event in jsonl.read_records(lines, on_warning=on_warning):
        if isinstance(event, SessionRecord):
            header, conversation = event, []
        elif isinstance(event, HistoryRecord):
            conversation.append(event.message)
        elif isinstance(event, MessageStartEvent):
            reply = _RecordedReply()
        elif isinstance(event, MessageUpdateEvent):
            reply.steps.append(event.assistant_message_event)
        elif isinstance(event, MessageEndEvent):
            if is_assistant(event.message):
                reply.message = event.message
                reply.request = _request(header, conversation)
                replies.append(reply)
                reply = _RecordedReply()
            conversation.append(event.message)
        elif isinstance(event, CompactionEndEvent) and event.summary is not None:
            conversation = compacted(conversation, event)
            summaries.append(event)
        elif isinstance(event, CompactionStartEvent) and event.reason == "limit":
            window = window or event.context_window
    return replies, summaries, window


def _request(header: SessionRecord | None, conversation: list[AgentMessage]) -> _RecordedRequest | None:
    """Return the request of the next reply; None if the record is not to be compared."""
    if header is None or header.fingerprints is UNSET:
        return None
    return _RecordedRequest(header.system_prompt, header.fingerprints, conversation, len(conversation))


async def _play(reply: _RecordedReply) -> AsyncGenerator[StreamEvent, None]:
    assert reply.message is not None
    final = copy.deepcopy(reply.message)
    final["timestamp"] = now_ms()
    content = final["content"]
    model = Model(provider=final.get("provider", ""), id=final.get("model", ""), api=final.get("api", ""))
    builder = MessageBuilder(model, timestamp=final["timestamp"])
    yield builder.start()
    for step in reply.steps:
        kind, _, part = str(step.get("type")).rpartition("_")
        index = step.get("content_index")
        if not isinstance(index, int) or not 0 <= index < len(content) or content[index]["type"] != kind:
            continue
        if part == "start" and index == len(builder):
            yield _open(builder, content[index])
        elif part == "delta" and index < len(builder):
            yield builder.delta(index, str(step.get("delta", "")))
        elif part == "end" and index < len(builder):
            yield _close(builder, index, content[index])
        if part != "delta":
            await asyncio.sleep(0)
    if not reply.steps:
        for index, block in enumerate(content):
            if block["type"] == "image":
                continue  # an image has no events; it is in the final message
            yield _open(builder, block)
            yield builder.delta(index, _text_of(block))
            yield _close(builder, index, block)
            await asyncio.sleep(0)
    reason = final["stop_reason"]
    if reason in ("error", "aborted"):
        yield {"type": "error", "reason": reason, "error": final}
    else:
        yield {"type": "done", "reason": reason, "message": final}


def _open(builder: MessageBuilder, block: AssistantBlock) -> BuilderEvent:
    if block["type"] == "tool_call":
        return builder.open_tool_call(block["id"], block["name"])[1]
    return (builder.open_thinking() if block["type"] == "thinking" else builder.open_text())[1]


def _close(builder: MessageBuilder, index: int, block: AssistantBlock) -> BuilderEvent:
    if block["type"] == "tool_call":
        return builder.close(index, None if "partial_json" in block else block["arguments"])
    signatures = {key: value for key, value in block.items() if key.endswith("_signature")}
    return builder.close(index, **signatures)


def _text_of(block: AssistantBlock) -> str:
    """Return the text that is streamed for a block."""
    match block["type"]:
        case "text":
            return block["text"]
        case "thinking":
            return block["thinking"]
        case "tool_call":
            raw = block.get("partial_json")
            return _json.encode(block["arguments"]).decode() if raw is None else raw
        case _:
            return ""
