"""Anthropic's Messages API, with signed thinking, server tools and prompt caching.

    model = AnthropicModel(id="claude-sonnet-4-5")
    response = await stream_anthropic(model, context, {"api_key": key})

`request_body` builds a request from a history, `AnthropicDecoder` decodes a reply to events, and
`stream_anthropic` connects the two over HTTP.

A message stores the data that the API requires in the next request. The `thinking_signature` of a thinking
block is the API's signature. Blocks other than text, thinking and tool calls (`redacted_thinking`,
`fallback`, calls and results of server tools, future types) are stored as thinking blocks without text, with
the block as JSON in `thinking_signature`. Signatures are base64, so a `{` distinguishes the two. More fields
of texts and calls, such as citations, are stored as JSON in `text_signature` and `tool_call_signature`.

A server tool may take longer than one reply (`pause_turn`). The reply so far is then sent back, and the next
reply continues the same message. A `refusal` ends the message with an error of the kind `content_filter`. The
message has the content so far and, like every failed message, is not sent back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Unpack
from urllib.parse import unquote_to_bytes

from . import _json
from ._json import as_dict, as_int, as_list, as_str, count, dollars
from ._net.request import get_json
from ._stream.builder import BuilderEvent
from ._stream.citations import add_citations, read_citations
from ._stream.decoder import DecoderOptions, ReplyDecoder
from ._stream.history import adapt_history, is_own
from ._stream.model import HttpModel, as_model, check_model, connection_options
from ._stream.model_families import claude_version, effort_for, family_of, note, temperature_for
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import encode_body, endpoint, list_timeout, request_headers
from ._stream.usage import add_usages
from ._tool_schemas import tool_schema
from .agent_types import (
    AssistantBlock,
    AssistantMessage,
    Citation,
    Context,
    ImageContent,
    Message,
    ModelIdentity,
    ModelInfo,
    SimpleStreamOptions,
    TextContent,
    ToolResultMessage,
    Usage,
)
from .errors import InvalidReplyError, TinyAgentError

__all__ = [
    "AnthropicDecoder",
    "AnthropicModel",
    "list_anthropic_models",
    "request_body",
    "stream_anthropic",
]

API_VERSION = "2023-06-01"
BUDGETS = {"minimal": 1024, "low": 4096, "medium": 8192, "high": 16384, "xhigh": 24576}
"""Thinking tokens for each level, for models that require a number."""
MIN_BUDGET = 1024
"""The smallest budget that the API accepts."""
ANSWER_ROOM = 4096
"""Tokens that are reserved for the answer."""
IDS = r"[a-zA-Z0-9_-]{1,64}"
_ADAPTIVE_EFFORTS = ("low", "medium", "high", "max")


@dataclass
class AnthropicModel(HttpModel):
    """A model of the Messages API, at Anthropic or a compatible server.

    Attributes:
        base_url: With or without `/v1/messages`.
        headers: Sent with each request; `anthropic-beta` goes here.
        max_tokens: The longest reply, if the call does not say; the API wants a number.
        reasoning: Whether it can think; False keeps `thinking_level` from it.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the request's body, last; None as a value takes a field out. `tools` are
            added to the agent's own.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        cache: How long prompts are cached: `5m`, `1h` (dearer to write), None for not at all.
        thinking: `budget` for models that take a number of tokens, `adaptive` for those that take an
            effort; `auto` goes by the version in a Claude's id, and takes others to want a budget.
        max_pauses: How often a paused reply is sent back to go on; only with tools on the server.
    """

    provider: str = "anthropic"
    id: str = "claude-sonnet-4-5"
    api: str = "anthropic-messages"
    base_url: str = "https://api.anthropic.com"
    context_window: int = 200_000
    max_tokens: int = 16_384
    reasoning: bool | None = True
    api_key_env: str | None = "ANTHROPIC_API_KEY"
    cache: Literal["5m", "1h"] | None = "5m"
    thinking: Literal["auto", "budget", "adaptive"] = "auto"
    max_pauses: int = 8


# ---- the request ----------------------------------------------------------------------------------


def request_body(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request."""
    return request_and_level(model, context, options)[0]


def request_and_level(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions
) -> tuple[dict[str, object], str]:
    """Return the body of a request and its thinking level, which the message must store."""
    model = as_model(model, AnthropicModel)
    cache = model.cache
    point = {"type": "ephemeral", **({"ttl": "1h"} if cache == "1h" else {})} if cache else None
    history = adapt_history(context.messages, model, ids=IDS, tools=context.tools)
    messages = _messages(history)
    body: dict[str, object] = {"model": model.id, "stream": True, "messages": messages}
    if context.system_prompt.strip():
        body["system"] = [{"type": "text", "text": context.system_prompt}]
    extra = dict(model.extra_body)
    tools: list[dict[str, object]] = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool_schema(tool).parameters,
        }
        for tool in context.tools or ()
    ]
    tools += [dict(tool) for tool in extra.pop("tools", None) or ()]
    if tools:
        body["tools"] = tools
    if "thinking" in extra:
        level = "off"
        body["thinking"] = extra["thinking"]
    else:
        level = thinking_level(model, history, options)
    _set_limits(body, model, options, level)
    if "thinking" not in body:
        level = "off"
    body |= extra
    body = {key: value for key, value in body.items() if value is not None}
    if point is not None:
        _set_cache_points(body, point)
    return body, level


def _set_limits(
    body: dict[str, object], model: AnthropicModel, options: SimpleStreamOptions, level: str
) -> None:
    """Set `max_tokens`, thinking and temperature, which depend on each other."""
    asked = options.get("max_tokens")
    limit = asked or model.max_tokens or AnthropicModel.max_tokens
    family, version = family_of(model.id), _version(model)
    own_budget = (options.get("thinking_budgets") or {}).get(level)
    by_hand = as_int(as_dict(body.get("thinking")).get("budget_tokens"))
    if by_hand and not asked:
        limit = max(limit, by_hand + ANSWER_ROOM)
    if level == "off":
        pass
    elif version >= (4, 6) and not (own_budget and version == (4, 6)):
        body["thinking"] = {"type": "adaptive"}
        if version >= (4, 7):
            # By default, these models send no text of their thinking.
            as_dict(body["thinking"])["display"] = "summarized"
        efforts = family.efforts if "max" in family.efforts else _ADAPTIVE_EFFORTS
        body["output_config"] = {"effort": effort_for(model.id, level, efforts, options)}
    else:
        budget = max(int(own_budget or BUDGETS.get(level, MIN_BUDGET)), MIN_BUDGET)
        if asked:
            budget = min(budget, max(limit - ANSWER_ROOM, limit // 2))
        else:
            limit = max(limit, budget + ANSWER_ROOM)
        if budget >= MIN_BUDGET:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        else:
            note(options, f"A reply of {limit} tokens has no room to think: the thinking level was left out.")
    body["max_tokens"] = limit
    thinks = as_dict(body.get("thinking")).get("type") in ("enabled", "adaptive")
    if thinks:
        family = family._replace(temperature=False)  # The API refuses it for all thinking models.
    temperature = temperature_for(model.id, family, options, thinks=thinks)
    if temperature is not None:
        body["temperature"] = temperature


def _version(model: AnthropicModel) -> tuple[int, int]:
    """Return the version of a Claude model. For other models, return one with the same thinking settings."""
    mode = model.thinking
    version = claude_version(model.id) or (0, 0)
    if mode == "adaptive":
        return max(version, (4, 6))
    if mode == "budget":
        return min(version, (4, 5))
    return version


def thinking_level(model: AnthropicModel, history: Sequence[Message], options: SimpleStreamOptions) -> str:
    """Return the thinking level of a request, which must not change during a turn.

    A turn that calls tools goes on as it began: the API refuses thinking that is switched on or off between
    a call and its result. The turn's first reply says how that was.

    Args:
        model: Who is asked.
        history: What is sent, after `handover`.
        options: The call's options.
    """
    asked = str(options.get("thinking_level") or model.thinking_level or "off")
    if not model.reasoning or family_of(model.id).reasons is False:
        if asked != "off":
            note(options, f"{model.id} does not reason: the thinking level {asked!r} was left out.")
        return "off"
    first = _first_reply_of_turn(history)
    if first is None:
        return asked
    began = str(first.get("thinking_level", "")) if is_own(first, model) else ""
    if not began and _version(model) >= (5, 0):
        return asked  # These models think by default, so a level changes nothing.
    if not began:
        thought = any(block["type"] == "thinking" and _is_thought(block) for block in first["content"])
        began = (asked if asked != "off" else "low") if thought else "off"
    if began != asked:
        note(options, f"The thinking level stays {began!r} until this turn's tool calls are done.")
    return began


def _first_reply_of_turn(history: Sequence[Message]) -> AssistantMessage | None:
    """Return the first reply of a turn that continues after tool calls; None if a new turn starts."""
    first: AssistantMessage | None = None
    calling = False
    for message in history:
        if message["role"] == "assistant":
            first, calling = first or message, False
        elif message["role"] == "tool_result":
            calling = True
        elif not calling:  # A user's message among the results is part of the turn.
            first = None
    return first if calling else None


def _is_thought(block: Mapping[str, object]) -> bool:
    """Whether a thinking block is a thinking block of the API, and not a stored block of another type."""
    signature = as_str(block.get("thinking_signature"))
    kept = _json.decode_object(signature) if signature.startswith("{") else None
    return bool(signature) if kept is None else kept.get("type") == "redacted_thinking"


def _set_cache_points(body: dict[str, object], point: dict[str, str]) -> None:
    """Mark the system prompt, the last tool, and the last block of the last two user messages for caching.

    Four are allowed. The last but one is where the previous request put its own, so that it is found
    however much came between. If the user has marks of their own, these are all.
    """
    if any("cache_control" in block for block in _all_blocks(body)):
        return
    places: list[dict[str, object]] = []
    places += as_list(body.get("system"))[-1:]
    places += as_list(body.get("tools"))[-1:]
    questions = [message for message in as_list(body["messages"]) if message["role"] == "user"]
    places += [message["content"][-1] for message in questions[-2:]]
    for place in places[:4]:
        place["cache_control"] = point


def _all_blocks(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield every block of a request that can be marked for caching."""
    yield from as_list(body.get("system"))
    yield from as_list(body.get("tools"))
    for message in as_list(body["messages"]):
        for block in message["content"]:
            yield block
            inner = block.get("content") if block["type"] == "tool_result" else None
            yield from inner if isinstance(inner, list) else ()


def _messages(history: Sequence[Message]) -> list[dict[str, object]]:
    """Convert the conversation to alternating messages, with tool results first, as the API requires."""
    messages: list[dict[str, object]] = []
    for message in history:
        if message["role"] == "assistant":
            role, blocks = "assistant", _assistant_blocks(message["content"])
            while blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
                blocks.pop()  # The API refuses a reply that ends with thinking, as a truncated one may.
        elif message["role"] == "tool_result":
            role, blocks = "user", [_result_block(message)]
        elif message["role"] == "user":
            role, blocks = "user", _blocks(message["content"])
        else:
            continue
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            as_list(messages[-1]["content"]).extend(blocks)
        else:
            messages.append({"role": role, "content": blocks})
    for entry in messages:
        if entry["role"] == "user":
            as_list(entry["content"]).sort(key=lambda block: block["type"] != "tool_result")
    return messages


def _assistant_blocks(content: Sequence[AssistantBlock]) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = []
    for part in content:
        if part["type"] == "text":
            if part["text"].strip():
                block = {"type": "text", "text": part["text"], **_kept(part.get("text_signature"))}
                blocks.append(_marked(block, part))
        elif part["type"] == "tool_call":
            call = {"type": "tool_use", "id": part["id"], "name": part["name"], "input": part["arguments"]}
            blocks.append({**call, **_kept(part.get("tool_call_signature"))})
        elif part["type"] == "thinking":
            signature = part.get("thinking_signature") or ""
            if signature.startswith("{"):
                raw = _json.decode_object(signature)
                if raw is not None:
                    blocks.append(raw)
            elif signature:
                blocks.append({"type": "thinking", "thinking": part["thinking"], "signature": signature})
    return blocks


def _kept(signature: object) -> dict[str, object]:
    """Return the further fields of a block, as the API sent them."""
    return (_json.decode_object(signature) if isinstance(signature, str) and signature else None) or {}


def _marked(block: dict[str, object], part: Mapping[str, object]) -> dict[str, object]:
    """Return the block with the user's own mark for caching."""
    return {**block, "cache_control": part["cache_control"]} if part.get("cache_control") else block


def _result_block(message: ToolResultMessage) -> dict[str, object]:
    block: dict[str, object] = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
    content = _blocks(message["content"])
    if content:
        block["content"] = content
    if message["is_error"]:
        block["is_error"] = True
    return block


def _blocks(content: str | Sequence[TextContent | ImageContent]) -> list[dict[str, object]]:
    """Convert text and images. Blank texts are left out, because the API refuses them."""
    blocks: list[dict[str, object]] = []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content:
        if part["type"] == "image":
            blocks.append(_marked({"type": "image", "source": _image_source(part)}, part))
        elif part["text"].strip():
            blocks.append(_marked({"type": "text", "text": part["text"]}, part))
    return blocks


def _image_source(image: ImageContent) -> dict[str, str]:
    url = image["url"]
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    head, _, data = url[5:].partition(",")
    kind, *parameters = head.split(";")
    if "base64" not in (parameter.strip().lower() for parameter in parameters):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {
        "type": "base64",
        "media_type": kind.strip().lower() or image.get("mime_type") or "image/png",
        "data": data,
    }


# ---- the reply ------------------------------------------------------------------------------------

_PAUSES = ("pause_turn", "compaction")

_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_call", "partial_json"),
}
"""The kind of block of each type of delta, and the field with its text."""
_OWN_FIELDS = ("type", "text", "id", "name", "input")
"""Fields of texts and calls that our blocks represent."""


class _Block:
    """An open block of the reply."""

    __slots__ = ("fields", "index", "json", "kind", "pieces", "whole")

    def __init__(self, kind: str, index: int = -1, whole: dict[str, object] | None = None) -> None:
        self.kind = kind
        """`text`, `thinking`, `tool_call`, `raw` (stored unchanged) or `unknown` (left out)."""
        self.index = index
        self.whole = whole or {}
        """The original block of a raw block; the input of a call."""
        self.fields: dict[str, object] = {}
        """More fields, which are sent back to the API."""
        self.json: list[str] = []
        self.pieces: dict[str, list[str]] = {}
        """The texts of a raw block, in pieces."""


class AnthropicDecoder(ReplyDecoder):
    """The events of the Messages API.

    Args:
        make_continuation: Returns the body of the request that continues a paused reply, if there is one.
        max_pauses: How often.
        thinking_level: What the reply was asked for; kept in the message for the rest of its turn.
    """

    def __init__(
        self,
        model: ModelIdentity,
        *,
        make_continuation: Callable[[AssistantMessage], bytes] | None = None,
        max_pauses: int = 0,
        thinking_level: str = "off",
        **options: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(model, **options)
        if thinking_level != "off":
            self._fields["thinking_level"] = thinking_level
        self._make_continuation = make_continuation
        self._pauses_left = max_pauses
        self._open: dict[int | None, _Block] = {}
        self._raw_usage: dict[str, object] = {}
        self._before: list[Usage] = []
        """The usage of the replies that this one continues."""
        self._details: object = None
        self._sources: list[Citation] = []
        self._cites = False
        """Whether a text has its own citations."""
        self._last_text: int | None = None

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        if data.strip() == b"[DONE]":
            self._finish(out)
            return
        value = self._object(data)
        if value is None:
            return
        match value.get("type") or name.decode("utf-8", "replace"):
            case "content_block_delta":
                self._delta(as_int(value.get("index")), as_dict(value.get("delta")), out)
            case "content_block_start":
                self._start(as_int(value.get("index")), as_dict(value.get("content_block")), out)
            case "content_block_stop":
                self._close(as_int(value.get("index")), out)
            case "ping":
                self._ignore_event()
                self.pings += 1
            case "message_start":
                self._count(as_dict(value.get("message")).get("usage"))
            case "message_delta":
                self._count(value.get("usage"))
                self._note_end(as_dict(value.get("delta")))
            case "message_stop":
                self._finish(out)
            case kind:
                if kind == "error" or value.get("error"):
                    self._stop(self._reported(value))

    def _take_document(self, value: dict[str, object], out: list[BuilderEvent]) -> bool:
        if not isinstance(value.get("content"), list):
            return False
        self._count(value.get("usage"))
        for at, block in enumerate(as_list(value["content"])):
            self._start(at, as_dict(block), out)
            self._close(at, out)
        self._note_end(value)
        self._finish(out)
        return True

    def _note_end(self, delta: dict[str, object]) -> None:
        if word := as_str(delta.get("stop_reason")):
            self._set_finish_reason(word)
        self._details = delta.get("stop_details") or self._details

    def _count(self, usage: object) -> None:
        """Update the token counts. A later report replaces the counts that it contains."""
        self._raw_usage |= {key: item for key, item in as_dict(usage).items() if item is not None}

    # ---- blocks -------------------------------------------------------------------------------------

    def _start(self, at: int | None, block: dict[str, object], out: list[BuilderEvent]) -> None:
        self._close(at, out)
        kind = as_str(block.get("type"))
        if kind in ("text", "thinking"):
            self._add(at, kind, block.get(kind), out)
            if kind == "thinking":
                self._sign(at, block.get("signature"), out)
        elif kind == "tool_use":
            index, event = self.builder.open_tool_call(as_str(block.get("id")), as_str(block.get("name")))
            self._open[at] = _Block("tool_call", index, as_dict(block.get("input")))
            out.append(event)
        elif kind:
            index, event = self.builder.open_thinking()
            self._open[at] = _Block("raw", index, block)
            out.append(event)
        else:
            self._open[at] = _Block("unknown")
        if kind in ("text", "tool_use"):
            fields = {name: value for name, value in block.items() if name not in _OWN_FIELDS and value}
            self._open[at].fields = fields

    def _delta(self, at: int | None, delta: dict[str, object], out: list[BuilderEvent]) -> None:
        kind = as_str(delta.get("type"))
        block = self._open.get(at)
        wanted = _DELTAS.get(kind)
        if block is not None and block.kind == "raw":
            self._add_to_raw(block, kind, delta)
        elif wanted is None:
            if kind == "signature_delta":
                self._sign(at, delta.get("signature"), out)
            elif kind == "citations_delta" and isinstance(delta.get("citation"), dict):
                if block is None or block.kind != "text":
                    self._close(at, out)
                    self._add(at, "text", "", out)
                fields = self._open[at].fields
                if not isinstance(fields.get("citations"), list):
                    fields["citations"] = []
                as_list(fields["citations"]).append(delta["citation"])
        elif block is not None and block.kind == wanted[0]:
            piece = delta.get(wanted[1])
            if isinstance(piece, str) and piece:
                out.append(self.builder.delta(block.index, piece))
            elif isinstance(piece, dict) and block.kind == "tool_call":
                block.whole = piece
        elif block is None or block.kind != "unknown":
            # A delta without a start, or of another kind than its block, is not discarded.
            self._close(at, out)
            self._add(at, wanted[0], delta.get(wanted[1]), out)

    @staticmethod
    def _add_to_raw(block: _Block, kind: str, delta: dict[str, object]) -> None:
        """Collect the pieces of the texts of a block, also of an unknown type."""
        for name, value in delta.items():
            if kind == "input_json_delta":
                block.json.append(as_str(value) if name == "partial_json" else "")
            elif name == "type":
                continue
            elif isinstance(value, str):
                start = as_str(block.whole.get(name))
                block.pieces.setdefault(name, [start] if start else []).append(value)
            else:
                block.whole = {**block.whole, name: value}

    def _add(self, at: int | None, kind: str, piece: object, out: list[BuilderEvent]) -> None:
        """Open a block with its initial content."""
        if kind == "tool_call":
            index, event = self.builder.open_tool_call()
        else:
            index, event = self.builder.open_text() if kind == "text" else self.builder.open_thinking()
        self._open[at] = _Block(kind, index)
        out.append(event)
        if text := as_str(piece):
            out.append(self.builder.delta(index, text))

    def _sign(self, at: int | None, signature: object, out: list[BuilderEvent]) -> None:
        if at not in self._open:
            self._add(at, "thinking", "", out)
        if self._open[at].kind == "thinking" and as_str(signature):
            self._open[at].whole["thinking_signature"] = signature

    def _close(self, at: int | None, out: list[BuilderEvent]) -> None:
        block = self._open.pop(at, None)
        if block is None or block.kind == "unknown":
            return
        out.append(self._closed(block))

    def _closed(self, block: _Block) -> BuilderEvent:
        if block.kind == "raw":
            whole = {**block.whole, **{name: "".join(pieces) for name, pieces in block.pieces.items()}}
            if block.json:
                whole["input"] = _json.decode_object("".join(block.json)) or {}
            self._note_sources(whole)
            return self.builder.close(block.index, thinking_signature=_json.encode(whole).decode())
        kept = _json.encode(block.fields).decode() if block.fields else ""
        if block.kind == "tool_call":
            # The pieces are used; without pieces, the initial content of the block is.
            whole = block.whole if not self.builder.text(block.index).strip() else {}
            fields = {"tool_call_signature": kept} if kept else {}
            return self._close_call(block.index, whole or None, **fields)
        if block.kind == "thinking":
            return self.builder.close(block.index, **block.whole)
        self._last_text = block.index
        cited = read_citations(block.fields.get("citations"))
        self._cites = self._cites or bool(cited)
        texts: dict[str, object] = {"text_signature": kept} if kept else {}
        return self.builder.close(block.index, **texts, **({"citations": cited} if cited else {}))

    def _note_sources(self, block: Mapping[str, object]) -> None:
        """Record the sources of a server search."""
        if as_str(block.get("type")).endswith("_tool_result"):
            found = read_citations(block.get("content"))
            add_citations(self._sources, [source for source in found if "url" in source])

    # ---- the end ------------------------------------------------------------------------------------

    def _finish(self, out: list[BuilderEvent]) -> None:
        for at in list(self._open):
            self._close(at, out)
        reason = self.finish_reason
        if reason is None and not self.shown:
            self._stop(self._invalid("the reply is empty: its end came first"))
        elif reason == "error":
            self._stop(self._reported(self._details or "the provider ended the reply with an error"))
        elif reason in _PAUSES and self._make_continuation is not None and self._pauses_left > 0:
            self._pauses_left -= 1
            self._pause(self._make_continuation(self.builder.message()))
        else:
            if self._sources and not self._cites and self._last_text is not None:
                # A text without citations gets the sources of the searches.
                self.builder.update(self._last_text, citations=self._sources)
            self._conclude(out, details=self._reason())

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """Return the `error` event, with the content so far and the fields of the API."""
        for block in self._open.values():
            if block.kind == "text" and block.fields:
                self._closed(block)
        return super().fail(error)

    def start_continuation(self) -> None:
        """Prepare for the reply that continues this one."""
        super().start_continuation()
        if self._raw_usage:
            self._before.append(normal_usage(self._raw_usage))
        self._raw_usage, self._details = {}, None

    def _usage(self) -> Usage | None:
        return add_usages([*self._before, normal_usage(self._raw_usage) if self._raw_usage else None])

    def _reason(self) -> str:
        """Return the provider's reason for withholding the reply."""
        details = as_dict(self._details)
        words = [self._redact(as_str(details.get(key))) for key in ("category", "explanation")]
        return ": ".join(word for word in words if word)


def normal_usage(usage: Mapping[str, object]) -> Usage:
    """Convert Anthropic's usage. Its `input_tokens` do not include cached tokens; our `input` does."""
    read = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    input_tokens = count(usage.get("input_tokens")) + read + written
    output_tokens = count(usage.get("output_tokens"))
    return {
        "input": input_tokens,
        "output": output_tokens,
        "cache_read": read,
        "cache_write": written,
        "reasoning": count(as_dict(usage.get("output_tokens_details")).get("thinking_tokens")),
        "total": input_tokens + output_tokens,
        "cost": dollars(usage.get("cost")),
    }


# ---- the stream -----------------------------------------------------------------------------------


async def stream_anthropic(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from the Messages API.

    `session_id` is not sent: the API knows no sessions, and caches by the prompt itself.

    Args:
        model: An `AnthropicModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: if the reply did not begin.
    """
    options = options or {}
    model = as_model(model, AnthropicModel)
    base_url = check_model(model, 'AnthropicModel(id="claude-sonnet-4-5")')
    headers, secrets = _headers(model, options.get("api_key"))
    body, level = request_and_level(model, context, options)
    _unbind_thinking(body, headers, model)

    def make_continuation(reply: AssistantMessage) -> bytes:
        messages = [
            *as_list(body["messages"]),
            {"role": "assistant", "content": _assistant_blocks(reply["content"])},
        ]
        return encode_body({**body, "messages": messages})

    paused = _uses_server_tools(body)
    return await open_stream(
        messages_url(base_url),
        body,
        model=model,
        options=options,
        headers=headers,
        secrets=secrets,
        decoder=partial(
            AnthropicDecoder,
            model,
            make_continuation=make_continuation if paused else None,
            max_pauses=model.max_pauses,
            thinking_level=level,
        ),
    )


_BINDING_BETA = "thinking-binding-controls-2026-08-01"


def _unbind_thinking(body: dict[str, object], headers: dict[str, str], model: AnthropicModel) -> None:
    """Allow the API to omit thinking from requests with another system prompt or other tools.

    Claude Fable from 5.1 on refuses a request whose thinking blocks were made under another beginning of the
    conversation, as after a change of the tools
    (https://platform.claude.com/docs/en/models/fable-5-1/migration-guide).
    """
    if "fable" not in str(model.id).lower() or _version(model) < (5, 1):
        return
    kinds = {block["type"] for message in as_list(body["messages"]) for block in message["content"]}
    thinking = as_dict(body.get("thinking")) or {"type": "adaptive"}  # a model that always thinks
    if kinds.isdisjoint({"thinking", "redacted_thinking"}) or "block_binding" in thinking:
        return
    body["thinking"] = {**thinking, "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    name = next((name for name in headers if name.lower() == "anthropic-beta"), "anthropic-beta")
    betas = [beta for beta in headers.get(name, "").split(",") if beta.strip()]
    headers[name] = ",".join([*betas, _BINDING_BETA])


async def list_anthropic_models(
    model: ModelIdentity, options: SimpleStreamOptions | None = None
) -> list[ModelInfo]:
    """Return the models of `GET /v1/models`, for `Provider.list_models`. `model.id` may be empty."""
    options = options or {}
    model = as_model(model, AnthropicModel)
    headers, secrets = _headers(model, options.get("api_key"))
    url = messages_url(model.base_url, "/models")
    url += f"{'&' if '?' in url else '?'}limit=1000"
    value = await get_json(
        url, headers=headers, secrets=secrets, **connection_options(model, options), **list_timeout(options)
    )
    items = value.get("data") if isinstance(value, dict) else None
    if not isinstance(items, list):
        name = model.provider
        raise InvalidReplyError(f"{name}: the list of models is not a list", provider=name)
    return [
        ModelInfo(
            id=as_str(item.get("id")),
            name=as_str(item.get("display_name")),
            context_window=as_int(item.get("max_input_tokens")),
            max_tokens=as_int(item.get("max_tokens")),
        )
        for item in map(as_dict, items)
        if as_str(item.get("id"))
    ]


def _headers(model: HttpModel, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, and the secrets in them."""
    variable = model.api_key_env
    headers, secrets = request_headers(model, api_key, variable=variable, header="x-api-key", prefix="")
    if not any(name.lower() == "anthropic-version" for name in headers):
        headers["anthropic-version"] = API_VERSION
    return headers, secrets


def messages_url(base_url: str, path: str = "/messages") -> str:
    """Return the endpoint under a base URL that may end before or after `/v1`, or with `/messages`."""
    has_version = re.search(r"/(?:v1|messages)/*\s*$", base_url.partition("?")[0])
    return endpoint(base_url, path if has_version else f"/v1{path}")


def _uses_server_tools(body: Mapping[str, object]) -> bool:
    """Whether the request has server tools. Only then can a reply pause and be continued."""
    own = all("input_schema" in tool for tool in as_list(body.get("tools")))
    return not own or bool(body.get("mcp_servers") or body.get("context_management"))
