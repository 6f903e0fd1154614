"""OpenAI's Responses API. Reasoning is sent back with each request, and nothing is stored at OpenAI.

    model = OpenAIResponsesModel(id="gpt-5")
    response = await stream_openai_responses(model, context, {"api_key": key})

`request_body` builds a request from a history, `ResponsesDecoder` decodes a reply to events, and
`stream_openai_responses` connects the two over HTTP.

A reply is a list of items. The next request must contain them unchanged, because the API checks their
relations by their ids. Therefore a message stores them: a reasoning item, with its encrypted reasoning, is
the `thinking_signature` of its block, as JSON. The id of a message item is in the `text_signature` of its
blocks. The id of a function call is in its `tool_call_signature`; the id of the block is the `call_id`.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from . import _json
from ._json import as_dict, as_int, as_list, as_str, count, dollars
from ._stream.builder import BuilderEvent
from ._stream.citations import add_citations, read_citations
from ._stream.decoder import DecoderOptions, ReplyDecoder
from ._stream.finish_reasons import finish_kind
from ._stream.history import AUDIO_NOTE, IMAGE_NOTE, NO_RESULT, adapt_history
from ._stream.model import HttpModel, as_model, check_model
from ._stream.model_families import ModelFamily, family_of, note, settings_for
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import endpoint, request_headers
from ._stream.servers import dialect_of, server_of
from ._tool_schemas import tool_schema
from .agent_types import (
    AssistantBlock,
    Citation,
    Context,
    ImageContent,
    Message,
    ModelIdentity,
    SimpleStreamOptions,
    TextContent,
    Usage,
)
from .errors import ProviderError, TinyAgentError

__all__ = [
    "OpenAIResponsesModel",
    "ResponsesDecoder",
    "request_body",
    "stream_openai_responses",
    "wants_responses",
]

IDS = r"[a-zA-Z0-9_-]{1,64}"
LONGEST_CACHE_KEY = 64


@dataclass
class OpenAIResponsesModel(HttpModel):
    """A model of the Responses API, at OpenAI or a compatible server.

    Attributes:
        base_url: With or without `/responses`. It may have a query.
        name: The name to display.
        headers: Sent with each request.
        context_window: Tokens of the context window.
        max_tokens: The most output tokens of the model. The limit of a call is `options["max_tokens"]`.
        reasoning: Whether the model reasons; None to decide by its id. A request to a reasoning model asks
            for its encrypted reasoning and has no temperature.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field. `tools` are
            added to those of the agent.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        reasoning_summary: The kind of reasoning summary to request if there is a thinking level.
    """

    provider: str = "openai"
    id: str = "gpt-5"
    api: str = "openai-responses"
    base_url: str = "https://api.openai.com/v1"
    context_window: int = 400_000
    max_tokens: int = 128_000
    api_key_env: str | None = "OPENAI_API_KEY"
    reasoning_summary: str | None = "auto"


# ---- the request ----------------------------------------------------------------------------------


def request_body(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request."""
    model = as_model(model, OpenAIResponsesModel)
    extra = dict(model.extra_body)
    stored = bool(extra.get("store"))
    body: dict[str, object] = {
        "model": model.id,
        "stream": True,
        "store": False,
        "input": _input(
            adapt_history(context.messages, model, ids=IDS, tools=context.tools, images=True), stored
        ),
    }
    if context.system_prompt:
        body["instructions"] = context.system_prompt
    tools: list[dict[str, object]] = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool_schema(tool).parameters,
            "strict": False,
        }
        for tool in context.tools or ()
    ]
    tools += extra.pop("tools", None) or ()
    if tools:
        body["tools"] = tools
    if options.get("max_tokens"):
        body["max_output_tokens"] = options["max_tokens"]
    _set_reasoning(body, model, options)
    searches = any(str(tool.get("type")).startswith("web_search") for tool in tools)
    if searches and server_of(model.base_url, model.provider) == "openai":
        body["include"] = [*as_list(body.get("include")), "web_search_call.action.sources"]
    session = options.get("session_id")
    if session:
        body["prompt_cache_key"] = (
            session if len(session) <= LONGEST_CACHE_KEY else hashlib.sha256(session.encode()).hexdigest()
        )
    body |= extra
    return {key: value for key, value in body.items() if value is not None}


_ASSUMED = ModelFamily(efforts=("low", "medium", "high"), temperature=False)
"""The family of a model that reasons according to its configuration only."""


def _set_reasoning(
    body: dict[str, object], model: OpenAIResponsesModel, options: SimpleStreamOptions
) -> None:
    """Set effort and temperature, which depend on each other and on the model."""
    settings = settings_for(model, options, reasons=model.reasoning, assumed=_ASSUMED)
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.family.reasons or settings.level:
        body["include"] = ["reasoning.encrypted_content"]
    if settings.effort is not None:
        summary = {"summary": model.reasoning_summary} if model.reasoning_summary else {}
        body["reasoning"] = {"effort": settings.effort, **summary}


def _input(history: Sequence[Message], stored: bool) -> list[dict[str, object]]:
    items: list[dict[str, object]] = []
    for message in history:
        if message["role"] == "assistant":
            items += _output_items(message["content"], stored)
        elif message["role"] == "tool_result":
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": _output(message["content"]),
                }
            )
        elif message["role"] == "user":
            content = _parts(message["content"])
            if content:
                items.append({"type": "message", "role": "user", "content": content})
    return items


def _output(content: str | Sequence[TextContent | ImageContent]) -> object:
    """Convert the result of a tool, if possible to plain text."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content if part["type"] == "text"]
    return _parts(content) if len(texts) < len(content) else "\n".join(texts) or "(no output)"


def _parts(content: str | Sequence[TextContent | ImageContent]) -> list[dict[str, object]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [
        {"type": "input_image", "image_url": part["url"], "detail": "auto"}
        if part["type"] == "image"
        else {"type": "input_text", "text": part["text"]}
        for part in content
        if part["type"] == "image" or part["text"]
    ]


def _output_items(content: Sequence[AssistantBlock], stored: bool) -> list[dict[str, object]]:
    """Convert a reply back to its items."""
    items: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    for part in content:
        if part["type"] == "thinking":
            item = _kept(part.get("thinking_signature"))
            # Without its encrypted content, an item only refers to data that was not stored.
            if item.get("type") and (stored or item["type"] != "reasoning" or _is_whole(item)):
                items.append(item)
                if item["type"] == _IMAGE:
                    images.append(item)
        elif part["type"] == "tool_call":
            call = {
                "type": "function_call",
                "call_id": part["id"],
                "name": part["name"],
                "arguments": _json.encode(part["arguments"]).decode(),
            }
            items.append({**call, **_kept(part.get("tool_call_signature"))})
        elif part["type"] == "image" and images:
            # The image is a block of the message. Its item is stored in another block, without the image.
            images.pop(0)["result"] = part["url"].partition(",")[2]
        elif part["type"] == "image":
            _add_text(items, IMAGE_NOTE)
        elif part["text"]:
            _add_text(items, part)
    # The API requires another item after each reasoning item, which a truncated reply may not have.
    while items and items[-1]["type"] == "reasoning":
        items.pop()
    return items + _missing_outputs(items)


_OUTPUTS: dict[str, dict[str, object]] = {
    "custom_tool_call": {"type": "custom_tool_call_output"},
    "apply_patch_call": {"type": "apply_patch_call_output", "status": "failed"},
}
"""Types of calls, other than function calls, that need an output, and the fixed fields of that output."""


def _missing_outputs(items: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return outputs for calls that cannot be run here. Without them, the API refuses the next request."""
    answered = {item.get("call_id") for item in items if str(item["type"]).endswith("_output")}
    return [
        {**_OUTPUTS[item["type"]], "call_id": item["call_id"], "output": NO_RESULT}
        for item in items
        if item["type"] in _OUTPUTS and item.get("call_id") and item["call_id"] not in answered
    ]


def _add_text(items: list[dict[str, object]], part: TextContent) -> None:
    kept = _kept(part.get("text_signature"))
    annotations = kept.pop("annotations", [])
    piece: dict[str, object] = {"type": "output_text", "text": part["text"], "annotations": annotations}
    if kept.pop("refusal", False):
        piece = {"type": "refusal", "refusal": part["text"]}
    last = items[-1] if items else {}
    if kept.get("id") and last.get("id") == kept["id"]:
        as_list(last["content"]).append(piece)
        return
    items.append({"type": "message", "role": "assistant", "status": "completed", "content": [piece], **kept})


def _kept(signature: object) -> dict[str, object]:
    return (_json.decode_object(signature) if isinstance(signature, str) and signature else None) or {}


def _is_whole(item: Mapping[str, object]) -> bool:
    return bool(item.get("encrypted_content") or item.get("content"))


# ---- the reply ------------------------------------------------------------------------------------

_TEXT = {
    "response.output_text.delta": "text",
    "response.output_text.done": "text",
    "response.refusal.delta": "refusal",
    "response.refusal.done": "refusal",
}
"""Events of the answer, and their field with the complete text."""
_REASONING = (
    "response.reasoning",
    "response.reasoning_text",
    "response.reasoning_summary",
    "response.reasoning_summary_text",
)
"""Prefixes of reasoning events (before `.delta` and `.done`), also of compatible servers."""
_TRANSCRIPT = ("response.audio.transcript", "response.audio_transcript", "response.output_audio_transcript")
_AUDIO = ("response.audio", "response.output_audio")
"""Prefixes of the events of spoken answers (before `.delta`): text and sound."""
_IMAGE = "image_generation_call"


class _Item:
    """An item of the reply, with one block for each part of its content."""

    __slots__ = (
        *("annotations", "blocks", "call_id", "ended", "given", "has_stable_id", "id", "kind", "latest"),
        *("phase", "refusals", "source", "wholes"),
    )

    def __init__(self, kind: str, item_id: str) -> None:
        self.kind = kind
        self.id = item_id
        self.has_stable_id = False
        """Whether another event had the same id. Some servers use a new id for each event."""
        self.call_id = ""
        self.blocks: dict[int, int] = {}
        """Part of the content -> block."""
        self.annotations: dict[int, list[object]] = {}
        self.refusals: set[int] = set()
        self.phase: object = None
        self.source = ""
        """The kind of events that the reasoning is read from. A server may send two kinds."""
        self.latest = 0
        """The latest part of the reasoning."""
        self.wholes: set[int] = set()
        """Parts that arrived complete, before any of their deltas."""
        self.ended = False
        self.given: dict[str, object] = {}
        """The complete item, once it has arrived."""

    def has_whole(self, part: int, event: Mapping[str, object]) -> bool:
        """Whether a delta repeats a complete part. Without an id, it may belong to another item."""
        return part in self.wholes and bool(self.id) and event.get("item_id") == self.id

    @property
    def is_cut(self) -> bool:
        """Whether the API has marked a text or a call as incomplete."""
        return self.kind in ("message", "function_call") and self.given.get("status") == "incomplete"

    @property
    def is_raw(self) -> bool:
        """Whether the item has no text and is only stored, to be sent back unchanged."""
        return self.kind not in ("message", "function_call", "reasoning")


class ResponsesDecoder(ReplyDecoder):
    """The events of the Responses API.

    The API says most things more than once: in deltas, in the whole part, the whole item, and the list of all
    items at the end. Servers leave out some of these. An item is known by its id, and by its place in the
    list where ids are missing or change; what was streamed is not taken again.
    """

    def __init__(self, model: ModelIdentity, **options: Unpack[DecoderOptions]) -> None:
        super().__init__(model, **options)
        self._items: list[_Item] = []
        self._by_id: dict[str, _Item] = {}
        self._at: dict[tuple[int | None, str], _Item] = {}
        """The latest item for each position and kind. Some servers send wrong positions."""
        self._raw_usage: dict[str, object] = {}
        self._citations: dict[int, list[Citation]] = {}
        """The citations of each text block."""
        self._sources: list[Citation] = []
        self._announced: list[_Item] = []
        """Reasoning items without a block so far."""
        self._audio = False
        self._is_cut = False
        """Whether the API has marked the reply, or an item of it, as incomplete."""

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        if data.strip() == b"[DONE]":
            if self.finish_reason is None and not self.shown:
                self._stop(self._invalid("the reply is empty: its end marker came first"))
            else:
                self._finish(out)
            return
        value = self._object(data)
        if value is None:
            return
        kind = as_str(value.get("type")) or name.decode("utf-8", "replace")
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                self._text(value, value.get("delta"), kind, out)
            case "response.output_text.done" | "response.refusal.done":
                self._whole_text(value, value.get(_TEXT[kind]), kind, out)
            case "response.function_call_arguments.delta":
                item = self._item(value, "function_call")
                if not item.has_whole(0, value):
                    self._add(item, 0, value.get("delta"), out)
            case "response.function_call_arguments.done":
                item = self._item(value, "function_call")
                if 0 not in item.blocks or not self.builder.text(item.blocks[0]):
                    item.wholes.add(0)
                self._complete(item, 0, value.get("arguments"), out)
            case "response.content_part.done" | "response.reasoning_summary_part.done":
                self._take_part(value, as_dict(value.get("part")), out)
            case "response.output_text.annotation.added":
                part = as_int(value.get("content_index")) or 0
                annotation = value.get("annotation")
                self._item(value, "message").annotations.setdefault(part, []).append(annotation)
            case "response.output_item.added":
                self._begin(value, as_dict(value.get("item")), out)
            case "response.output_item.done":
                self._take_item(value, as_dict(value.get("item")), out)
            case "response.completed" | "response.incomplete" | "response.failed" | "response.done":
                self._end(as_dict(value.get("response")), kind, out)
            case "response.cancelled":
                self._stop(self._reported("the reply was cancelled at the provider"))
            case "keepalive" | "ping":
                self._ignore_event()
                self.pings += 1
            case _:
                source, _, step = kind.rpartition(".")
                if source in _REASONING and step in ("delta", "done"):
                    self._think(value, source, step, out)
                elif source in _TRANSCRIPT and step == "delta":
                    self._text(value, value.get("delta"), "response.output_text.delta", out)
                elif source in _AUDIO and step == "delta":
                    self._audio = True
                elif kind == "error" or value.get("error"):
                    self._stop(self._reported(value))

    def _take_document(self, value: dict[str, object], out: list[BuilderEvent]) -> bool:
        if not isinstance(value.get("output"), list):
            return False
        self._end(value, "response.completed", out)
        return True

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """Return the `error` event, with the content so far."""
        for item in self._items:
            if item.kind == "message" and not item.ended:
                self._sign_texts(item)
        return super().fail(error)

    # ---- items --------------------------------------------------------------------------------------

    def _item(
        self,
        value: Mapping[str, object],
        kind: str,
        given: Mapping[str, object] | None = None,
        begins: bool = False,
    ) -> _Item:
        """Return the item of an event; a new one if the event is its first.

        Args:
            value: The event.
            kind: The item's type.
            given: The item, if the event holds it.
            begins: Whether the event announces an item.
        """
        item_id = as_str((given or {}).get("id")) or as_str(value.get("item_id"))
        item = self._by_id.get(item_id)
        if item is not None and item.kind == kind and not (begins and item.ended):
            item.has_stable_id = item.has_stable_id or (given is None and item_id == item.id)
            return item
        place = (as_int(value.get("output_index")), kind)
        here = self._at.get(place)
        if here is not None and not self._is_another(here, item_id, given, begins):
            if item_id:
                here.id = here.id or item_id
                self._by_id.setdefault(item_id, here)
            return here
        self._at[place] = item = self._new_item(kind, item_id)
        return item

    @staticmethod
    def _is_another(here: _Item, item_id: str, given: Mapping[str, object] | None, begins: bool) -> bool:
        """Whether an event at the position of `here`, with an unknown id, belongs to another item."""
        if here.ended:
            return begins or (bool(item_id) and {**here.given, "id": ""} != {**(given or {}), "id": ""})
        return bool(item_id and here.id) and (begins or here.has_stable_id)

    def _new_item(self, kind: str, item_id: str) -> _Item:
        item = _Item(kind, item_id)
        self._items.append(item)
        if item_id:
            self._by_id[item_id] = item
        return item

    def _begin(self, value: Mapping[str, object], given: dict[str, object], out: list[BuilderEvent]) -> None:
        kind = as_str(given.get("type"))
        if not kind:
            return
        item = self._item(value, kind, given, begins=True)
        if item.blocks:
            return
        if kind == "function_call":
            self._open_call(item, given, out)
        elif kind == "reasoning":
            self._announced.append(item)
        elif item.is_raw:
            self._block(item, 0, out)  # opened now to keep the order of the items

    def _open_call(self, item: _Item, given: Mapping[str, object], out: list[BuilderEvent]) -> int:
        self._open_announced(out)
        item.call_id = as_str(given.get("call_id"))
        index, event = self.builder.open_tool_call(item.call_id, as_str(given.get("name")))
        item.blocks[0] = index
        out.append(event)
        return index

    def _block(self, item: _Item, part: int, out: list[BuilderEvent]) -> int:
        """Return the open block of a part of an item."""
        index = item.blocks.get(part)
        if index is None:
            if item.kind == "function_call":
                return self._open_call(item, {}, out)
            if item.kind != "reasoning":
                self._open_announced(out)
            if item.kind == "message":
                index, event = self.builder.open_text()
                self._citations[index] = []
            else:
                index, event = self.builder.open_thinking()
            item.blocks[part] = index
            out.append(event)
        return index

    def _open_announced(self, out: list[BuilderEvent]) -> None:
        """Open the blocks of earlier reasoning items, to keep the order of the items."""
        announced, self._announced = self._announced, []
        for item in announced:
            if not item.ended:
                self._block(item, 0, out)

    def _add(self, item: _Item, part: int, piece: object, out: list[BuilderEvent]) -> None:
        if isinstance(piece, str) and piece and not item.ended:
            index = self._block(item, part, out)
            out.append(self.builder.delta(index, piece))

    def _complete(self, item: _Item, part: int, whole: object, out: list[BuilderEvent]) -> None:
        """Add the missing rest of a text that is now complete."""
        had = self.builder.text(item.blocks[part]) if part in item.blocks else ""
        if isinstance(whole, str) and whole.startswith(had):
            self._add(item, part, whole[len(had) :], out)

    def _take_item(
        self, value: Mapping[str, object], given: dict[str, object], out: list[BuilderEvent]
    ) -> None:
        kind = as_str(given.get("type"))
        if kind:
            self._end_item(self._item(value, kind, given), given, out)

    def _end_item(self, item: _Item, given: dict[str, object], out: list[BuilderEvent]) -> None:
        """End a complete item, and add the content that was not streamed."""
        if item.ended and (item.blocks or not given):
            return
        item.ended = False
        item.given = given
        item.id = item.id or as_str(given.get("id"))
        if item.kind == "message":
            self._end_message(item, given, out)
        elif item.kind == "function_call":
            self._end_call(item, given, out)
        elif item.kind == "reasoning":
            self._end_reasoning(item, given, out)
        else:
            self._end_raw(item, given, out)
        item.ended = True

    # ---- text and citations -------------------------------------------------------------------------

    def _text(self, value: Mapping[str, object], piece: object, kind: str, out: list[BuilderEvent]) -> None:
        part = as_int(value.get("content_index")) or 0
        item = self._item(value, "message")
        if item.has_whole(part, value):
            return
        new = part not in item.blocks
        self._add(item, part, piece, out)
        if new and part in item.blocks:
            if _TEXT[kind] == "refusal":
                item.refusals.add(part)
            self._sign_text(item, part)

    def _whole_text(
        self, value: Mapping[str, object], text: object, kind: str, out: list[BuilderEvent]
    ) -> None:
        """End a part. Its text is used if no part of the item was streamed."""
        item, part = self._item(value, "message"), as_int(value.get("content_index")) or 0
        if part not in item.blocks and (item.wholes or not item.blocks):
            self._text(value, text, kind, out)
            item.wholes.add(part)

    def _take_part(
        self, value: Mapping[str, object], part: Mapping[str, object], out: list[BuilderEvent]
    ) -> None:
        """End a part that arrives as an object. Servers may send no other event for it."""
        kind = as_str(part.get("type"))
        if kind in ("reasoning_text", "summary_text"):
            source = "response.reasoning_text" if kind == "reasoning_text" else _REASONING[-1]
            self._think({**value, "text": part.get("text")}, source, "done", out)
        elif kind in ("output_text", "text", "refusal", "output_audio"):
            event = "response.refusal.done" if kind == "refusal" else "response.output_text.done"
            self._whole_text(value, part.get(_key(part)), event, out)

    def _sign_text(self, item: _Item, part: int) -> None:
        """Store the fields that the API requires with a text, and its citations in our format."""
        kept: dict[str, object] = {}
        if item.id:
            kept["id"] = item.id
        if isinstance(item.phase, str):
            kept["phase"] = item.phase
        if part in item.refusals:
            kept["refusal"] = True
        annotations = [value for value in item.annotations.get(part, ()) if isinstance(value, dict) and value]
        fields: dict[str, object] = {}
        if annotations:
            kept["annotations"] = annotations
            index = item.blocks[part]
            add_citations(self._citations[index], read_citations(annotations))
            if self._citations[index]:
                fields["citations"] = self._citations[index]
        if kept:
            fields["text_signature"] = _json.encode(kept).decode()
        if fields:
            self.builder.update(item.blocks[part], **fields)

    def _sign_texts(self, item: _Item) -> None:
        for part in item.blocks:
            self._sign_text(item, part)

    def _end_message(self, item: _Item, given: dict[str, object], out: list[BuilderEvent]) -> None:
        content = given.get("content")
        parts = [as_dict(piece) for piece in content] if isinstance(content, list) else []
        texts = [as_str(piece.get(_key(piece))) for piece in parts]
        streamed = "".join(self.builder.text(index) for index in item.blocks.values())
        for part, (piece, text) in enumerate(zip(parts, texts, strict=True)):
            place = part
            if part not in item.blocks and streamed and streamed == "".join(texts):
                place = max(item.blocks)  # Everything was streamed with other positions.
            else:
                self._complete(item, part, text, out)
            if _key(piece) == "refusal":
                item.refusals.add(place)
            annotations = piece.get("annotations")
            if isinstance(annotations, list) and annotations:
                item.annotations[place] = annotations
        item.phase = given.get("phase")
        self._sign_texts(item)
        out += [self.builder.close(index) for index in item.blocks.values()]

    # ---- calls, reasoning, and items without text ---------------------------------------------------

    def _end_call(self, item: _Item, given: dict[str, object], out: list[BuilderEvent]) -> None:
        index = item.blocks[0] if item.blocks else self._open_call(item, given, out)
        whole = given.get("arguments")
        self._complete(item, 0, whole, out)
        fields: dict[str, object] = {}
        if not item.call_id and as_str(given.get("call_id")):
            fields["id"] = self.builder.unique_id(as_str(given["call_id"]))
        if not self.builder.block(index)["name"] and as_str(given.get("name")):
            fields["name"] = given["name"]
        if item.id:
            fields["tool_call_signature"] = _json.encode({"id": item.id}).decode()
        out.append(self._close_call(index, whole if isinstance(whole, dict) else None, **fields))

    def _think(self, value: Mapping[str, object], source: str, step: str, out: list[BuilderEvent]) -> None:
        """Parts of a summary are paragraphs of one block."""
        item = self._item(value, "reasoning")
        item.source = item.source or source
        part = as_int(value.get("summary_index", value.get("content_index"))) or 0
        streamed = 0 in item.blocks and not item.wholes and self.builder.text(item.blocks[0]) != ""
        if item.source != source or (step == "done" and (streamed or part in item.wholes)):
            return
        if step == "done":
            item.wholes.add(part)
        elif item.has_whole(part, value):
            return
        piece = value.get("delta", value.get("text"))
        if isinstance(piece, dict):
            piece = piece.get("text")
        if part != item.latest and 0 in item.blocks and self.builder.text(item.blocks[0]):
            self._add(item, 0, "\n\n", out)
        item.latest = part
        self._add(item, 0, piece, out)

    def _end_reasoning(self, item: _Item, given: dict[str, object], out: list[BuilderEvent]) -> None:
        pieces = given.get("summary") or given.get("content")
        had = self.builder.text(item.blocks[0]) if item.blocks else ""
        if not had and isinstance(pieces, list):
            self._add(item, 0, "\n\n".join(as_str(as_dict(piece).get("text")) for piece in pieces), out)
        kept = {"type": "reasoning", "id": item.id, "summary": given.get("summary") or []}
        for key in ("encrypted_content", "content"):
            if given.get(key):
                # The API accepts reasoning in one form only, and the encrypted form is its own.
                kept[key] = given[key]
                break
        fields = {"thinking_signature": _json.encode(kept).decode()} if given else {}
        out.append(self.builder.close(self._block(item, 0, out), **fields))

    def _end_raw(self, item: _Item, given: dict[str, object], out: list[BuilderEvent]) -> None:
        """Store an item, to send it back. Its sources become sources of the text."""
        for holder in (given, as_dict(given.get("action"))):
            for key in ("sources", "results"):
                found = read_citations(holder.get(key))
                add_citations(self._sources, [source for source in found if "url" in source])
        kept = {key: value for key, value in given.items() if not (item.kind == _IMAGE and key == "result")}
        fields = {"thinking_signature": _json.encode(kept).decode()} if given else {}
        out.append(self.builder.close(self._block(item, 0, out), **fields))

    # ---- the end ------------------------------------------------------------------------------------

    def _end(self, response: dict[str, object], kind: str, out: list[BuilderEvent]) -> None:
        self._raw_usage = as_dict(response.get("usage"))
        status = as_str(response.get("status")) or kind.removeprefix("response.")
        if kind == "response.failed" or status in ("failed", "cancelled") or response.get("error"):
            self._stop(self._reported(response.get("error") or f"the reply ended as {status}"))
            return
        self._end_items(response.get("output"), out)
        self.finish_reason: str | None = status
        if kind == "response.incomplete" or status == "incomplete":
            details = as_dict(response.get("incomplete_details"))
            self.finish_reason = as_str(details.get("reason")) or "incomplete"
            self._is_cut = True
        self._finish(out)

    def _end_items(self, output: object, out: list[BuilderEvent]) -> None:
        """Read the list of all items, which may repeat items that were streamed."""
        listed = [as_dict(given) for given in output] if isinstance(output, list) else []
        listed = [given for given in listed if as_str(given.get("type"))]
        found: dict[int, _Item] = {}
        for at, given in enumerate(listed):
            item = self._by_id.get(as_str(given.get("id")))
            if item is not None and item.kind == given["type"]:
                found[at] = item
        matched = {id(item) for item in found.values()}
        unmatched: dict[str, deque[_Item]] = {}
        for item in self._items:
            if id(item) not in matched:
                unmatched.setdefault(item.kind, deque()).append(item)
        for at, given in enumerate(listed):
            item = found.get(at)
            if item is None and (known := self._by_id.get(as_str(given.get("id")))) and known.given == given:
                continue  # listed twice
            if item is None:
                # Without an id or with a new one, it is the next item of this kind.
                rest = unmatched.get(given["type"])
                item = rest.popleft() if rest else self._new_item(given["type"], as_str(given.get("id")))
            self._end_item(item, given, out)

    def _finish(self, out: list[BuilderEvent]) -> None:
        for item in self._items:
            if item.blocks:
                self._end_item(item, {}, out)
        self._add_sources()
        for item in self._items:
            image = item.given.get("result") if item.kind == _IMAGE else None
            if as_str(image):
                image_type = as_str(item.given.get("output_format")) or "png"
                self.builder.add_image(f"data:image/{image_type};base64,{image}")
        if self._audio and len(self.builder) == 0:
            self._text({}, AUDIO_NOTE, "response.output_text.delta", out)
            self._end_item(self._items[-1], {}, out)
        word = self.finish_reason or "completed"
        cut = self._is_cut or any(item.is_cut for item in self._items)
        if cut and finish_kind(word, has_content=True) == "complete":
            word = "incomplete"
        self._conclude(out, word=word)

    def _add_sources(self) -> None:
        """Add the sources of the server's searches to the last text, after its own citations."""
        if self._sources and self._citations:
            last = max(self._citations)
            cited = {citation.get("url") for citations in self._citations.values() for citation in citations}
            more = [source for source in self._sources if source.get("url") not in cited]
            if more:
                self.builder.update(last, citations=[*self._citations[last], *more])

    def _usage(self) -> Usage | None:
        return normal_usage(self._raw_usage) if self._raw_usage else None


def _key(piece: Mapping[str, object]) -> str:
    """Return the field of a part that has its text."""
    return {"refusal": "refusal", "output_audio": "transcript"}.get(as_str(piece.get("type")), "text")


def normal_usage(usage: Mapping[str, object]) -> Usage:
    """Convert the usage of the Responses API."""
    input_tokens, output_tokens = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    read, written = as_dict(usage.get("input_tokens_details")), as_dict(usage.get("output_tokens_details"))
    return {
        "input": input_tokens,
        "output": output_tokens,
        "cache_read": count(read.get("cached_tokens")),
        "cache_write": count(read.get("cache_write_tokens")),
        "reasoning": count(written.get("reasoning_tokens")),
        "total": input_tokens + output_tokens,
        "cost": dollars(usage.get("cost")),
    }


# ---- the stream -----------------------------------------------------------------------------------


async def stream_openai_responses(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from the Responses API.

    `session_id` is sent as `prompt_cache_key`. Thinking budgets are not: the API takes an effort.

    Args:
        model: An `OpenAIResponsesModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, OpenAIResponsesModel)
    base_url = check_model(model, 'OpenAIResponsesModel(id="gpt-5")')
    headers, secrets = _headers(model, options.get("api_key"))
    url, body = endpoint(base_url, "/responses"), request_body(model, context, options)
    open_reply = partial(
        open_stream,
        url,
        model=model,
        options=options,
        headers=headers,
        secrets=secrets,
        decoder=partial(ResponsesDecoder, model),
    )
    if url in _refuse_summaries:
        as_dict(body.get("reasoning")).pop("summary", None)
    summary = as_dict(body.get("reasoning")).get("summary")
    try:
        return await open_reply(body)
    except ProviderError as error:
        if not (summary and error.status == 400 and _NAMES_SUMMARY.search(str(error))):
            if error.status in (404, 405) and server_of(base_url) != "openai":
                error.hint = (
                    "Without a Responses API, choose the server's protocol: -O api=openai-completions"
                )
            raise
    _refuse_summaries.add(url)
    note(options, f"{model.provider}: this key gets no reasoning summaries, so they are not requested.")
    as_dict(body["reasoning"]).pop("summary")
    return await open_reply(body)


_NAMES_SUMMARY = re.compile(r"(?i)reasoning[ ._]summar")
"""OpenAI sends summaries only to verified organizations, and refuses the whole request of others."""
_refuse_summaries: set[str] = set()
"""URLs that have refused summaries, in this process."""


def wants_responses(model_id: str) -> bool:
    """Whether OpenAI serves a model by the Responses API.

    chat/completions refuses the tools of models that reason, or does not have these models at all.

    Args:
        model_id: As OpenAI writes it; dated, fine-tuned and future ids are read, too.
    """
    return family_of(model_id).responses


def _headers(model: HttpModel, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, and the secrets in them."""
    variable = model.api_key_env
    header = dialect_of(server_of(model.base_url, model.provider)).key_header
    if header:
        return request_headers(model, api_key, variable=variable, header=header, prefix="")
    return request_headers(model, api_key, variable=variable)
