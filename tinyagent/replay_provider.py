"""The provider `replay:FILE`, which answers with a recorded run.

The n-th model call gets the n-th reply of the file, with its recorded deltas and its end, which may be an
error or an abort. A session file has no deltas; then each block is sent as one delta. The request is ignored.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import _json, jsonl
from ._stream.builder import BuilderEvent, MessageBuilder, StreamEvent, now_ms
from ._stream.generator_reply import GeneratorReply
from ._stream.message_checks import is_assistant
from .agent_types import (
    AssistantBlock,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    JsonValue,
    MessageEndEvent,
    MessageStartEvent,
    MessageUpdateEvent,
    Model,
    ModelIdentity,
    Provider,
    SimpleStreamOptions,
    StreamResponse,
)
from .errors import ConfigurationError, ProviderError, RecordError
from .text_files import MAX_RECORD_BYTES, read_bytes

__all__ = ["replay_provider"]


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


class _Replay:
    def __init__(self, path: Path, on_warning: Callable[[str], None] | None) -> None:
        self._path = path
        self._on_warning = on_warning
        self._replies: list[_RecordedReply] | None = None
        self._count = 0

    def model(self, model_id: str, options: Mapping[str, JsonValue]) -> Model:
        if "base_url" in options:
            raise ConfigurationError("A replay has no base_url: it sends no requests.")
        self._read()
        return Model(provider="replay", id=str(self._path), api="replay")

    async def stream(
        self, model: ModelIdentity, context: Context, options: SimpleStreamOptions
    ) -> StreamResponse:
        replies = self._read()
        self._count += 1
        if self._count > len(replies):
            raise ProviderError(
                f"{self._path} has {len(replies)} recorded {'reply' if len(replies) == 1 else 'replies'}, "
                f"and this is model call {self._count}.",
                provider="replay",
                hint="Replay it with the prompt and the tools of the recorded run, or record it again.",
            )
        return GeneratorReply(_play(replies[self._count - 1]))

    def _read(self) -> list[_RecordedReply]:
        if self._replies is None:
            data = read_bytes(self._path, limit=MAX_RECORD_BYTES, name=f"the replay {self._path}")
            try:
                self._replies = _replies(data, self._on_warning)
            except RecordError as error:
                raise RecordError(f"the replay {self._path}: {error}", hint=error.hint) from None
            if not self._replies:
                raise ConfigurationError(
                    f"The replay {self._path} contains no reply of a model.",
                    hint="Record one: tinyagent run --jsonl … > FILE",
                )
        return self._replies


def _replies(lines: bytes, on_warning: Callable[[str], None] | None) -> list[_RecordedReply]:
    replies: list[_RecordedReply] = []
    reply = _RecordedReply()
    for event in jsonl.read(lines, on_warning=on_warning):
        if isinstance(event, MessageStartEvent):
            reply = _RecordedReply()
        elif isinstance(event, MessageUpdateEvent):
            reply.steps.append(event.assistant_message_event)
        elif isinstance(event, MessageEndEvent) and is_assistant(event.message):
            reply.message = event.message
            replies.append(reply)
            reply = _RecordedReply()
    return replies


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
