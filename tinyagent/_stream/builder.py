"""Build an assistant message from deltas.

A provider calls one method for each delta and yields the event that it returns. The builder stores the pieces
in one flat list. An event stores the builder and the number of pieces at its time, and `event["partial"]` is
built from them when it is read. So a delta has constant cost, and an event always shows the message at its
own time. Each block has its own list of pieces and changes, so reading a block takes time in proportion to
its length, and a message of many blocks takes linear time.

    builder = MessageBuilder(model)
    yield builder.start()
    index, event = builder.open_text()
    yield event
    yield builder.delta(index, "Hel")
    yield builder.close(index)
    yield builder.done("stop")

`absorb` converts events of other implementations (with full `partial` dicts, or deltas only) to events of the
builder. The loop uses it for every custom provider.
"""

from __future__ import annotations

import copy
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, Self, TypeAlias, TypeVar, cast

import jiter

from tinyagent import _json
from tinyagent.agent_types import AssistantMessage, AssistantMessageEvent, StopReason
from tinyagent.errors import InvalidReplyError

from .model import ModelIdentity

__all__ = [
    "MAX_BLOCKS",
    "BuilderEvent",
    "MessageBuilder",
    "ModelIdentity",
    "StreamEvent",
    "copy_message",
    "finished_arguments",
    "now_ms",
    "parse_partial_object",
    "read_arguments",
    "unique_id",
]

MAX_BLOCKS = 10_000
"""The most blocks of one message. More raise `InvalidReplyError`."""

_TEXT_KEY = {"text": "text", "thinking": "thinking", "tool_call": "partial_json"}


def now_ms() -> int:
    """Return the current time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


AnyMessage = TypeVar("AnyMessage", bound=Mapping[str, Any])


class BuilderEvent(dict[str, Any]):
    """An assistant message event. Its `partial` is built when it is read."""

    __slots__ = ("_builder", "_count")

    _builder: MessageBuilder
    _count: int

    def __missing__(self, key: str) -> Any:
        if key == "partial":
            return self._builder.snapshot(self._count)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key == "partial" or dict.__contains__(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        """Do the same as `dict.get`. `partial` always has a value."""
        if key == "partial" and not dict.__contains__(self, key):
            return self._builder.snapshot(self._count)
        return dict.get(self, key, default)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy or a pickle contains the message of this event, not the builder, which may still grow.
        return (_restore_event, (dict(self), self._builder.snapshot(self._count)))


StreamEvent: TypeAlias = AssistantMessageEvent | BuilderEvent
"""An event of a provider's stream: a plain dict, or an event of the builder."""


def _restore_event(fields: dict[str, Any], message: AssistantMessage) -> BuilderEvent:
    event = BuilderEvent(fields)
    event._builder = MessageBuilder.holding(message)
    event._count = len(event._builder._pieces)
    return event


class MessageBuilder:
    """Builds one assistant message.

    Args:
        model: The model that replies; None for a message without one.
        timestamp: Unix milliseconds; now if None.
    """

    __slots__ = (
        "_blocks",
        "_cache",
        "_changes",
        "_changes_of",
        "_deltas",
        "_foreign",
        "_given_ids",
        "_head",
        "_ids",
        "_last",
        "_marks",
        "_pieces",
        "_runs",
        "_sized",
        "_tail",
        "_tail_from",
    )

    def __init__(self, model: ModelIdentity | None, *, timestamp: int | None = None) -> None:
        self._head: dict[str, Any] = {
            "role": "assistant",
            "content": [],
            "stop_reason": "stop",
            "timestamp": now_ms() if timestamp is None else timestamp,
            "api": getattr(model, "api", "") or "",
            "provider": getattr(model, "provider", "") or "",
            "model": getattr(model, "id", "") or "",
            "usage": None,
        }
        self._blocks: list[dict[str, Any]] = []
        self._deltas: list[dict[str, Any]] = []
        """The common fields of the delta events of each block."""
        self._pieces: list[str] = []
        self._marks: list[tuple[int, int]] = []
        """The block that the pieces from each index on belong to."""
        self._runs: list[list[int]] = []
        """The marks of each block."""
        self._changes: list[tuple[int, int, dict[str, Any]]] = []
        """The fields that were set, with the number of pieces at that time and the block."""
        self._changes_of: list[list[tuple[int, int, dict[str, Any]]]] = []
        """The same changes by block."""
        self._tail: dict[str, Any] = {}
        self._tail_from = sys.maxsize
        self._last = -1
        self._ids: dict[str, int] = {}
        self._foreign: dict[tuple[str, int | None], int] = {}
        """Our index for each kind and index of a block from the provider, for `absorb`."""
        self._given_ids: dict[int, str] = {}
        self._cache: dict[int, tuple[int, str]] = {}
        """The number of pieces and the text at the last reading of each block."""
        self._sized = (0, 0)

    @classmethod
    def holding(cls, message: Mapping[str, Any]) -> Self:
        """Return a builder that contains this message."""
        builder = cls(None, timestamp=0)
        builder._head = {**message, "content": []}
        for block in message["content"]:
            text_key = _TEXT_KEY.get(block["type"])
            index, _ = builder._open(dict(block))
            if text_key is not None:
                builder.update(index, **{text_key: None, **block})
        return builder

    # ---- growing --------------------------------------------------------------------------------

    def start(self) -> BuilderEvent:
        """Return the `start` event."""
        return self._event({"type": "start"})

    def open_text(self, **fields: Any) -> tuple[int, BuilderEvent]:
        """Open a text block. Return its index and the event."""
        return self._open({"type": "text", "text": "", **fields})

    def open_thinking(self, **fields: Any) -> tuple[int, BuilderEvent]:
        """Open a thinking block. Return its index and the event."""
        return self._open({"type": "thinking", "thinking": "", **fields})

    def open_tool_call(self, call_id: str = "", name: str = "") -> tuple[int, BuilderEvent]:
        """Open a tool call. A missing or repeated id is replaced by a new one."""
        call_id = unique_id(call_id, self._ids)
        # None as arguments means that they are still streamed.
        index, event = self._open(
            {"type": "tool_call", "id": call_id, "name": name, "arguments": None, "partial_json": ""}
        )
        event["tool_call"] = {"type": "tool_call", "id": call_id, "name": name, "arguments": {}}
        return index, event

    def unique_id(self, call_id: str) -> str:
        """Return `call_id`, or a new id if it is empty or in use."""
        return unique_id(call_id, self._ids)

    def add_image(self, url: str) -> None:
        """Add an image block. There is no event for it, so it must follow all other blocks."""
        image = {"type": "image", "url": url}
        if url.startswith("data:"):
            image["mime_type"] = url[5:].partition(",")[0].partition(";")[0]
        self._open(image)

    def delta(self, index: int, piece: str) -> BuilderEvent:
        """Add `piece` to a block: text or, for a tool call, JSON text of the arguments."""
        if index != self._last:
            self._mark(index)
        self._pieces.append(piece)
        event = BuilderEvent(self._deltas[index])  # Copying a dict is faster than creating one.
        event["delta"] = piece
        event._builder = self
        event._count = len(self._pieces)
        return event

    def update(self, index: int, /, **fields: Any) -> None:
        """Set other fields of a block, such as a signature or a late name."""
        change = (len(self._pieces), index, fields)
        self._changes.append(change)
        self._changes_of[index].append(change)
        self._mark(index)

    def text(self, index: int) -> str:
        """Return the text of a block so far; for a tool call, the JSON text of its arguments."""
        return self.text_at(index, len(self._pieces))

    def close(self, index: int, arguments: Any = None, **fields: Any) -> BuilderEvent:
        """Close a block.

        A tool call's arguments are parsed here, strictly: no text at all is `{}`; text that is not an
        object leaves `arguments` empty and the text in `partial_json`, which marks the call invalid.
        `arguments`, if given, is the object or its text, and the pieces are not looked at.
        """
        kind = self._blocks[index]["type"]
        if kind != "tool_call":
            if fields:
                self.update(index, **fields)
            block = self.block(index)
            return self._event({"type": f"{kind}_end", "content_index": index, "content": block[kind]})
        known, raw = read_arguments(self.text(index) if arguments is None else arguments)
        fields |= {"arguments": known, "partial_json": raw}
        self.update(index, **fields)
        return self._event({"type": "tool_call_end", "content_index": index, "tool_call": self.block(index)})

    def done(self, reason: StopReason, **fields: Any) -> BuilderEvent:
        """Finish the message, and set `fields` (`usage`, `finish_reason`)."""
        self._finish({**fields, "stop_reason": reason})
        return self._event({"type": "done", "reason": reason, "message": self.message()})

    def fail(self, reason: StopReason, error_message: str, **fields: Any) -> BuilderEvent:
        """End the message as failed (`error`) or `aborted`, with the content so far."""
        self._finish({**fields, "stop_reason": reason, "error_message": error_message})
        return self._event({"type": "error", "reason": reason, "error": self.message()})

    # ---- reading --------------------------------------------------------------------------------

    def message(self) -> AssistantMessage:
        """Return the current message as a new dict."""
        return self._assemble(len(self._pieces))

    def snapshot(self, count: int) -> AssistantMessage:
        """Return the message at `count` pieces as a new dict."""
        return self._assemble(count)

    def block(self, index: int) -> Any:
        """Return a current block as a new dict."""
        return self.block_at(index, len(self._pieces))

    def __len__(self) -> int:
        return len(self._blocks)

    def text_length(self) -> int:
        """Return the characters of all pieces so far, counted from the last call on."""
        done, length = self._sized
        length += sum(map(len, self._pieces[done:]))
        self._sized = len(self._pieces), length
        return length

    # ---- reading an earlier state, for `jsonl` -----------------------------------------------------

    def length_at(self, count: int) -> int:
        """Return the number of blocks at `count` pieces."""
        return bisect_left(self._runs, count, key=self._opened)

    def text_at(self, index: int, count: int) -> str:
        """Return the text of a block from its deltas at `count` pieces, read from the last call on."""
        done, text = self._cache.get(index, (0, ""))
        if done > count:
            done, text = 0, ""
        marks, runs = self._marks, self._runs[index]
        first = max(bisect_right(runs, done, key=lambda n: marks[n][0]) - 1, 0)
        parts = [text]
        for n in runs[first:]:
            begin = marks[n][0]
            if begin >= count:
                break
            end = marks[n + 1][0] if n + 1 < len(marks) else count
            parts += self._pieces[max(begin, done) : min(end, count)]
        text = "".join(parts)
        self._cache[index] = count, text
        return text

    def block_at(self, index: int, count: int) -> dict[str, Any]:
        """Return a block at `count` pieces as a new dict."""
        block = dict(self._blocks[index])
        if block["type"] == "image":
            return block
        block[_TEXT_KEY[block["type"]]] = self.text_at(index, count)
        for begin, _, fields in self._changes_of[index]:
            if begin >= count:
                break
            block.update(fields)
        if block["type"] == "tool_call":
            if block["arguments"] is None:
                block["arguments"] = parse_partial_object(block["partial_json"]) or {}
            if block["partial_json"] is None:
                del block["partial_json"]
        return block

    def changed_between(self, since: int, until: int) -> set[int]:
        """Return the blocks that changed after `since` pieces and up to `until` pieces."""
        first = bisect_left(self._marks, since, key=_begin)
        last = bisect_left(self._marks, until, key=_begin)
        changed = {index for _, index in self._marks[first:last]}
        if first and since < until and (first == last or self._marks[first][0] > since):
            changed.add(self._marks[first - 1][1])
        return changed

    # ---- events of other implementations ----------------------------------------------------------

    def absorb(self, event: Any) -> BuilderEvent:
        """Convert an event of another implementation to an event of the builder.

        Its `partial`, `message` or `error` is copied, so that later changes by the provider have no effect.
        """
        kind = event.get("type") if isinstance(event, Mapping) else None
        if not isinstance(kind, str):
            raise InvalidReplyError(
                f"The provider yielded a {type(event).__name__} that is no assistant message event: "
                "that is a mapping with a `type`."
            )
        block, _, step = kind.rpartition("_")
        if step in ("start", "delta", "end") and block in _TEXT_KEY:
            own = self._absorb_step(block, step, event)
        elif kind in ("done", "error"):
            own = self._absorb_end(kind, event)
        else:
            own = self._event({key: value for key, value in event.items() if key != "partial"})
        if isinstance(event.get("partial"), Mapping):
            own["partial"] = copy_message({**self._head, **event["partial"], "role": "assistant"})
        return own

    def _absorb_step(self, kind: str, step: str, event: Mapping[str, Any]) -> BuilderEvent:
        given: Any = event.get("tool_call")
        call: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        call_id, name = str(call.get("id") or ""), str(call.get("name") or "")
        place = event.get("content_index")
        key = (kind, place if isinstance(place, int) else None)
        index = self._foreign.get(key)
        if step == "start" or index is None:
            # The indices of the provider may have gaps; ours count the blocks.
            if kind == "tool_call":
                index, opened = self.open_tool_call(call_id, name)
                self._given_ids[index] = call_id
            else:
                index, opened = self._open({"type": kind, kind: ""})
            self._foreign[key] = self._foreign[kind, None] = index
            if step == "start":
                return opened
        if step == "delta":
            return self.delta(index, str(event.get("delta") or ""))
        if kind == "tool_call":
            known = {"name": name} if name else {}
            if call_id and call_id != self._given_ids[index]:
                known["id"] = self.unique_id(call_id)
            arguments, raw = finished_arguments(
                call.get("arguments"), call.get("partial_json"), self.text(index)
            )
            return self.close(index, arguments if raw is None else raw, **known)
        content = event.get("content")
        changed = isinstance(content, str) and content != self.text(index)
        return self.close(index, **({kind: content} if changed else {}))

    def _absorb_end(self, kind: str, event: Mapping[str, Any]) -> BuilderEvent:
        key = "message" if kind == "done" else "error"
        whole, reason = event.get(key), event.get("reason")
        if isinstance(whole, Mapping):
            message: dict[str, Any] = copy_message({**self.message(), **whole})
            told = "stop_reason" in whole and reason not in ("length", "max_tokens", "error", "aborted")
            if reason is not None and not told:
                message["stop_reason"] = reason
            if kind == "error" and message["stop_reason"] not in ("error", "aborted"):
                message["stop_reason"] = "error"
            return self._event({"type": kind, "reason": reason or message["stop_reason"], key: message})
        if kind == "done":
            return self.done(cast(StopReason, reason or "stop"))
        failed: StopReason = "aborted" if reason == "aborted" else "error"
        return self.fail(failed, str(whole or "The provider gave no reason."))

    # ---- internals ------------------------------------------------------------------------------

    def _event(self, fields: dict[str, Any]) -> BuilderEvent:
        event = BuilderEvent(fields)
        event._builder = self
        event._count = len(self._pieces)
        return event

    def _open(self, block: dict[str, Any]) -> tuple[int, BuilderEvent]:
        index = len(self._blocks)
        if index >= MAX_BLOCKS:
            name = self._head["provider"]
            raise InvalidReplyError(
                f"{name or 'the provider'}: the reply has more than {MAX_BLOCKS:,} blocks", provider=name
            )
        self._blocks.append(block)
        self._runs.append([])
        self._changes_of.append([])
        self._deltas.append({"type": f"{block['type']}_delta", "content_index": index, "delta": ""})
        self._mark(index)
        return index, self._event({"type": f"{block['type']}_start", "content_index": index})

    def _mark(self, index: int) -> None:
        """Assign the following pieces to a block. An empty piece marks the point of the change."""
        self._runs[index].append(len(self._marks))
        self._marks.append((len(self._pieces), index))
        self._pieces.append("")
        self._last = index

    def _finish(self, fields: dict[str, Any]) -> None:
        self._tail = fields
        self._tail_from = len(self._pieces)
        self._pieces.append("")

    def _opened(self, runs: list[int]) -> int:
        """At how many pieces the block of these runs was opened."""
        return self._marks[runs[0]][0]

    def _assemble(self, count: int) -> AssistantMessage:
        content = [self.block_at(index, count) for index in range(self.length_at(count))]
        message: dict[str, Any] = {**self._head, "content": content}
        if count > self._tail_from:
            message |= self._tail
        return cast(AssistantMessage, message)


def _begin(mark: tuple[int, int]) -> int:
    return mark[0]


def read_arguments(value: object) -> tuple[dict[str, Any], str | None]:
    """Parse arguments: `(arguments, None)`, or `({}, raw_text)` if they are not a JSON object."""
    if isinstance(value, dict):
        return value, None
    if isinstance(value, str):
        arguments = _json.decode_object(value) if value.strip() else {}
        return (arguments, None) if arguments is not None else ({}, value)
    return {}, _json.encode(value).decode()


def finished_arguments(
    arguments: object, text: object, streamed: str = ""
) -> tuple[dict[str, Any], str | None]:
    """Parse the arguments of a finished call of another implementation; see `read_arguments`.

    Args:
        arguments: The `arguments` of the call.
        text: The `partial_json` of the call, which is the text from the model.
        streamed: The pieces that were streamed, for a call without arguments.
    """
    if isinstance(text, str) and text.strip():
        parsed, raw = read_arguments(text)
        return (
            (arguments, None) if raw is None and isinstance(arguments, dict) and arguments else (parsed, raw)
        )
    return read_arguments(streamed if arguments in (None, {}, "") and streamed else arguments)


def unique_id(call_id: str, taken: dict[str, int]) -> str:
    """Return `call_id`, or a new id if it is empty or in use.

    Args:
        call_id: The id from the provider.
        taken: The ids in use, each with the last suffix that was tried for it. The new id is added.
    """
    candidate, suffix = call_id or "call_1", taken.get(call_id, 1)
    while candidate in taken:
        suffix += 1
        candidate = f"{call_id or 'call'}_{suffix}"
    taken[call_id] = suffix
    taken.setdefault(candidate, 1)
    return candidate


def copy_message(message: AnyMessage) -> AnyMessage:
    """Return a deep copy of a message as a dict."""
    return cast(AnyMessage, copy.deepcopy(dict(message)))


def parse_partial_object(text: str) -> dict[str, Any] | None:
    """Parse a prefix of a JSON object as far as possible; None if it does not start like an object."""
    if not text:
        return None
    try:
        value = jiter.from_json(text.encode("utf-8", "replace"), partial_mode="trailing-strings")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
