"""The chat/completions protocol: requests and replies.

`chat_request` builds a request from a context. `ChatDecoder` decodes the bytes of the reply to events, and
accepts the deviations of real servers; it does no I/O. `_wire` connects the two over HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, Unpack
from urllib.parse import urlsplit

import msgspec

from . import _json
from ._json import as_dict, as_int, as_list, as_str, count, decode_lenient, dollars
from ._net.request import get_json
from ._stream import request as _request_parts
from ._stream.builder import BuilderEvent
from ._stream.chat_types import REASONING_FIELDS, Chunk, Delta, ToolCall, chunk_of, decode
from ._stream.citations import add_citations, read_citations
from ._stream.decoder import DecoderOptions, ReplyDecoder
from ._stream.finish_reasons import is_final
from ._stream.history import AUDIO_NOTE, UsedIds, adapt_history, is_own
from ._stream.model import HttpModel, as_model, check_model, connection_options
from ._stream.model_families import ModelFamily, note, settings_for
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import list_timeout
from ._stream.request_cache import encode_history
from ._stream.servers import (
    OPENROUTER_URL,
    SERVERS,
    Dialect,
    KnownServer,
    dialect_of,
    known_servers,
    server_of,
)
from ._tool_schemas import tool_schema
from .agent_types import (
    Citation,
    Context,
    Message,
    ModelIdentity,
    ModelInfo,
    SimpleStreamOptions,
    Usage,
)
from .errors import InvalidReplyError, ProviderError, TinyAgentError

__all__ = [
    "ChatDecoder",
    "KnownServer",
    "OpenAICompatModel",
    "chat_request",
    "endpoint",
    "known_servers",
    "list_openai_models",
    "stream_openai_completions",
]


@dataclass
class OpenAICompatModel(HttpModel):
    """A model of any chat/completions server.

    Attributes:
        base_url: With or without `/chat/completions`. It may have a query.
        name: The name to display.
        headers: Sent with each request. `Authorization` here replaces the API key.
        context_window: Tokens of the context window.
        max_tokens: The most output tokens of the model. The limit of a call is `options["max_tokens"]`.
        reasoning: Whether the model reasons, if its id is unknown. A thinking level is then sent.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        transport: The HTTP engine: `direct`, `httpx`, or `auto` to decide by the proxy.
        http_client: A client of your own for the requests. It is never closed.
    """

    provider: str = "openai-compatible"
    api: str = "openai-completions"
    base_url: str = OPENROUTER_URL
    reasoning: bool | None = False


def endpoint(base_url: str, path: str = "/chat/completions") -> str:
    """Return the URL of `path` under a base URL, which may end with `/chat/completions`."""
    return _request_parts.endpoint(base_url, path)


# ---- the request --------------------------------------------------------------------------------------


_PARTS = "content.thinking"
"""The signature of reasoning that was a part of the content (Mistral)."""

_CACHE_MARK = {"type": "ephemeral"}

MAX_LAST_CHUNKS = 4

_refuse_stream_options: set[str] = set()
"""Servers of this process that refused `stream_options`."""


def chat_request(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request, before it is encoded."""
    model = as_model(model, HttpModel)
    messages = [*_system_message(context), *_messages(model, context, context.messages)]
    return _request(model, context, options, messages)


def _encoded_request(model: HttpModel, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request, with its messages already encoded."""
    tools = tuple(tool.name for tool in context.tools or ())
    try:
        history = encode_history(
            context.messages,
            (model.api, model.provider, model.id, model.base_url, tools),
            partial(_messages, model, context),
        )
        system = [_json.encode(message) for message in _system_message(context)]
    except TypeError as error:
        raise _request_parts.cannot_be_sent(error) from None
    items = b",".join([*system, history] if history else system)
    return _request(model, context, options, msgspec.Raw(b"[" + items + b"]"))


def _request(
    model: HttpModel,
    context: Context,
    options: SimpleStreamOptions,
    messages: Sequence[object] | msgspec.Raw,
) -> dict[str, object]:
    dialect = _dialect(model)
    body: dict[str, object] = {"model": model.id, "messages": messages, "stream": True}
    if _origin(model) not in _refuse_stream_options:
        body["stream_options"] = {"include_usage": True}
    if dialect.cache_control and "claude" in model.id.lower() and not _is_marked(context):
        # Claude caches only on request. This marks the last block that can be cached
        # (https://openrouter.ai/docs/guides/best-practices/prompt-caching).
        body["cache_control"] = _CACHE_MARK
    if context.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool_schema(tool).parameters,
                },
            }
            for tool in context.tools
        ]
    _set_reasoning(body, model, dialect, options)
    if dialect.session and options.get("session_id"):
        body[dialect.session] = options["session_id"]
    body.update(model.extra_body)
    return {key: value for key, value in body.items() if value is not None}


def _dialect(model: HttpModel) -> Dialect:
    return dialect_of(_name(model))


def _name(model: HttpModel) -> str:
    return server_of(model.base_url, model.provider)


def _origin(model: HttpModel) -> str:
    """Return scheme, host and port of the server."""
    try:
        parts = urlsplit(model.base_url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"


def _is_marked(context: Context) -> bool:
    """Whether the user has marked blocks for caching. No other marks are then added."""
    return any(
        "cache_control" in block
        for message in context.messages
        if isinstance(message.get("content"), list)
        for block in message["content"]
    )


def _set_reasoning(
    body: dict[str, object], model: HttpModel, dialect: Dialect, options: SimpleStreamOptions
) -> None:
    """Set thinking level, temperature and output limit in the form that model and server accept."""
    settings = settings_for(
        model,
        options,
        reasons=model.reasoning or None,
        assumed=ModelFamily(efforts=dialect.efforts),
        efforts=lambda family: _efforts(family, dialect),
    )
    family, level = settings.family, settings.level
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if options.get("max_tokens") is not None:
        own = family.max_completion_tokens and dialect.thinking == "reasoning_effort"
        body["max_completion_tokens" if own else dialect.max_tokens] = options["max_tokens"]
    if dialect.strict_efforts and family.chat_tools_at_rest and "tools" in body:
        if level:
            note(
                options,
                f"{model.id} accepts tools in chat/completions only without reasoning: the thinking level "
                f"{level!r} was left out. With api = openai-responses it accepts both.",
            )
        if level or not family.off_by_default:
            body["reasoning_effort"] = "none"
    elif not level:
        return
    elif dialect.thinking == "reasoning":
        budget = (options.get("thinking_budgets") or {}).get(level)
        body["reasoning"] = {"max_tokens": budget} if budget else {"effort": settings.effort}
    elif dialect.thinking == "thinking":
        body["thinking"] = {"type": "enabled"}
        if settings.effort is not None:
            body["reasoning_effort"] = settings.effort
    elif dialect.thinking and settings.effort is not None:
        body["reasoning_effort"] = settings.effort
    else:
        note(options, f"The server has no thinking levels for {model.id}: the level {level!r} was left out.")


def _efforts(family: ModelFamily, dialect: Dialect) -> tuple[str, ...]:
    """Return the efforts that can be requested: the model's own or, if they are unknown, the server's."""
    if dialect.thinking == "thinking":
        return family.efforts if family.reasons else ()
    if dialect.thinking == "reasoning" or family.reasons is None:
        return dialect.efforts if dialect.thinking else ()  # OpenRouter maps them for each model
    return family.efforts or (() if dialect.strict_efforts else dialect.efforts)


_Block: TypeAlias = Mapping[str, Any]
"""A content block. It may have fields that its type does not declare, such as `cache_control`."""

_IDS = r"[^\s|]{1,40}"
"""Ids of tool calls that a server accepts, including those of other servers (`functions.add:0`)."""
_WITHOUT_SIGNATURE = r"gemini-[12]\b"
_NO_SIGNATURE = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""The value for calls of other models where Gemini 3 and later require their own signature
(https://ai.google.dev/gemini-api/docs/thought-signatures)."""
_MISTRAL_ID = r"[A-Za-z0-9]{9}"


def _system_message(context: Context) -> list[dict[str, object]]:
    return [{"role": "system", "content": context.system_prompt}] if context.system_prompt else []


def _messages(
    model: HttpModel, context: Context, messages: Sequence[Message], used: UsedIds | None = None
) -> list[dict[str, object]]:
    """Convert messages to the provider's format. See `adapt_history` for `used`."""
    sent: list[dict[str, object]] = []
    name, dialect = _name(model), _dialect(model)
    fit = _short_id if name == "mistral" else str
    needs_signature = name == "gemini" and not re.search(_WITHOUT_SIGNATURE, model.id)
    images: list[dict[str, object]] = []

    def attach() -> None:
        """Add the images of tool results, in a user message after the last result."""
        if images:
            note = {"type": "text", "text": "Attached image(s) from the tool results:"}
            sent.append({"role": "user", "content": [note, *images]})
            images.clear()

    for message in adapt_history(
        messages, model, ids=_IDS, tools=context.tools, images=dialect.images, used=used
    ):
        if message["role"] == "tool_result":
            pictures = [_image(block) for block in message["content"] if block["type"] == "image"]
            images += pictures
            text = _content([block for block in message["content"] if block["type"] == "text"], dialect)
            text = text or ("(see the attached image)" if pictures else "(no output)")
            sent.append({"role": "tool", "tool_call_id": fit(message["tool_call_id"]), "content": text})
            continue
        attach()
        if message["role"] == "assistant":
            entry = _assistant(message["content"], dialect, fit)
            if entry is None:
                continue
            if dialect.reasoning is not None:
                entry.setdefault("reasoning_content", dialect.reasoning)
            if needs_signature and entry.get("tool_calls") and not is_own(message, model):
                as_list(entry["tool_calls"])[0].setdefault("extra_content", _NO_SIGNATURE)
            sent.append(entry)
        else:
            sent.append({"role": "user", "content": _content(message["content"], dialect)})
    attach()
    return sent


def _short_id(call_id: str) -> str:
    """Return an id of nine letters and digits; Mistral accepts no other ids."""
    if re.fullmatch(_MISTRAL_ID, call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _content(
    content: Sequence[_Block], dialect: Dialect, *, separator: str = "\n"
) -> str | list[dict[str, object]]:
    """Convert text and images to parts or, if possible, to plain text, which every server accepts."""
    marked = dialect.cache_control and any("cache_control" in block for block in content)
    if not marked and all(block["type"] == "text" for block in content):
        return separator.join(block["text"] for block in content)
    return [_part(block, marked) for block in content]


def _part(block: _Block, marked: bool) -> dict[str, object]:
    part = _image(block) if block["type"] == "image" else {"type": "text", "text": block["text"]}
    if marked and "cache_control" in block:
        part["cache_control"] = block["cache_control"]
    return part


def _image(block: _Block) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": block["url"]}}


def _assistant(
    content: Sequence[_Block], dialect: Dialect, fit: Callable[[str], str]
) -> dict[str, object] | None:
    """Convert an assistant message to the provider's format; None if it has no content to send."""
    texts = [block for block in content if block["type"] == "text"]
    images = [block for block in content if block["type"] == "image"]
    calls = [_sent_call(block, fit) for block in content if block["type"] == "tool_call"]
    entry: dict[str, object] = {
        "role": "assistant",
        "content": _content(texts, dialect, separator="") or None,
    }
    if calls:
        entry["tool_calls"] = calls
    if images:
        entry["images"] = [_image(block) for block in images]
    _send_back(content, entry)
    if entry["content"] is None:
        if len(entry) == 2:
            return None
        if not (calls and dialect.null_content):
            entry["content"] = ""
    return entry


def _sent_call(block: _Block, fit: Callable[[str], str]) -> dict[str, object]:
    extra = _extra_fields(block.get("tool_call_signature"))
    arguments = _json.encode(block["arguments"]).decode()
    function = {"name": block["name"] or "unknown", "arguments": arguments}
    call = {"id": fit(block["id"]), "type": "function", "function": as_dict(extra.get("function")) | function}
    return as_dict(extra.get("call")) | call


def _extra_fields(signature: object) -> dict[str, object]:
    """Return the fields that `ChatDecoder` stored in a signature, to send them back."""
    if not isinstance(signature, str) or not signature.startswith("{"):
        return {}
    return _json.decode_object(signature) or {}


def _send_back(content: Sequence[_Block], entry: dict[str, object]) -> None:
    """Add reasoning and unknown fields where the server sent them, according to the signatures."""
    by_field: dict[str, list[str]] = {}
    details: list[object] = []
    for block in content:
        signature = block.get(f"{block['type']}_signature")
        extra = _extra_fields(signature)
        for name, value in as_dict(extra.get("message")).items():
            entry.setdefault(name, value)
        if block["type"] != "thinking":
            continue
        details += as_list(extra.get("reasoning_details"))
        name = as_str(extra.get("field") if extra else signature)
        if name in REASONING_FIELDS or name == _PARTS:
            by_field.setdefault(name, []).append(block["thinking"])
    if details:
        entry["reasoning_details"] = details
    for name, pieces in by_field.items():
        text = "".join(pieces)
        if name != _PARTS:
            entry[name] = text
        elif text:
            parts: list[object] = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
            if entry["content"]:
                parts.append({"type": "text", "text": entry["content"]})
            entry["content"] = parts


# ---- the reply: decoding -------------------------------------------------------------------------------


class _Call:
    """A tool call whose pieces are being collected."""

    __slots__ = ("arguments", "block", "id", "kept", "name", "whole")

    def __init__(self, block: int, call_id: str, name: str) -> None:
        self.block = block
        self.id = call_id
        """The id from the server."""
        self.name = name
        self.arguments = False
        """Whether a piece of the arguments has arrived."""
        self.whole: object = None
        """The arguments, if the server sent them as an object and not as text."""
        self.kept: dict[str, object] = {}
        """Unknown fields of the call and its function, which are sent back."""


class ChatDecoder(ReplyDecoder):
    """Decodes the bytes of a chat/completions reply to events."""

    def __init__(self, model: ModelIdentity, **options: Unpack[DecoderOptions]) -> None:
        super().__init__(model, **options)
        self._raw_usage: object = None
        self._block = -1
        """The index of the open text or thinking block; `_block_type` is its type."""
        self._block_type = ""
        self._thinking_block = -1
        self._reasoning_field = ""
        self._details: list[object] = []
        self._half = ""
        """The first half of a surrogate pair, from the end of a delta."""
        self._raw = False
        """Whether the current chunk may contain surrogates."""
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._text_block = -1
        """The first text block."""
        self._extra: dict[str, object] = {}
        """Unknown fields of the message, which are sent back."""
        self._lists: dict[str, list[object]] = {}
        """Unknown fields of the message that are lists."""
        self._images: dict[str, None] = {}
        """The URLs of the images, in order."""
        self._audio = False
        self._annotations: list[object] = []
        self._last_chunks: list[bytes] = []
        """The chunks from the finish reason on. They may have fields that were not decoded."""
        self._tagged = False
        """Whether the last reasoning was sent as `content`, where it may have tags around it."""

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """The `error` event; what was built so far stays."""
        self._flush_half([])
        self._add_images()
        return super().fail(error)

    def _usage(self) -> Usage | None:
        return normal_usage(self._raw_usage)

    def _take_document(self, value: dict[str, object], out: list[BuilderEvent]) -> bool:
        if not isinstance(value.get("choices"), list) or not value["choices"]:
            return False
        self._last_chunks.append(_json.encode(value))
        self._step(chunk_of(value), out)
        if not self.ended:
            self._set_finish_reason(self.finish_reason or "stop")
            self._finish(out)
        return True

    # ---- events -------------------------------------------------------------------------------------

    def _take_event(self, name: bytes, data: bytes, out: list[BuilderEvent]) -> None:
        try:
            chunk = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            odd = self._odd(data, out)
            if odd is None:
                return
            chunk = odd
        if not chunk.choices and chunk.usage is None and chunk.error is None and self._is_error(data):
            return
        self._step(chunk, out)
        self._raw = False
        if self.finish_reason is not None and len(self._last_chunks) < MAX_LAST_CHUNKS:
            self._last_chunks.append(data)

    def _odd(self, data: bytes, out: list[BuilderEvent]) -> Chunk | None:
        """Decode an unusual event: the end marker, a blank one, unexpected types, or no JSON."""
        if data.strip() == b"[DONE]":
            if self.finish_reason is None and not self.shown and not self._details:
                self._stop(self._invalid("the reply is empty: its end marker came first"))
            else:
                self._finish(out)
            return None
        value = self._object(data, _decode_with_surrogates)
        if value is None:
            return None
        self._raw = True
        return chunk_of(value)

    def _is_error(self, data: bytes) -> bool:
        """Detect an error that has no `error` field: vLLM uses `object`, FastAPI uses `detail`."""
        value = decode_lenient(data)
        if isinstance(value, dict) and (
            value.get("object") == "error"
            or (
                "choices" not in value
                and any(isinstance(value.get(key), str) for key in ("message", "detail"))
            )
        ):
            self._stop(self._reported(value))
            return True
        return False

    def _step(self, chunk: Chunk, out: list[BuilderEvent]) -> None:
        usage = chunk.usage
        if usage is None and chunk.x_groq is not None:
            usage = chunk.x_groq.get("usage") if isinstance(chunk.x_groq, dict) else None
        if usage and isinstance(usage, dict):
            self._raw_usage = usage
        for choice in chunk.choices or ():
            if choice.index:
                continue
            delta = choice.delta or choice.message
            if delta is not None:
                self._add(delta, out)
            if choice.finish_reason and is_final(choice.finish_reason):
                self._set_finish_reason(choice.finish_reason)
            if choice.error:
                self._stop(self._reported(choice.error))
                return
        if chunk.error:
            self._stop(self._reported(chunk.error))

    def _add(self, delta: Delta, out: list[BuilderEvent]) -> None:
        details = delta.reasoning_details
        if delta.extra is not None:
            delta = self._take_extra(delta, delta.extra, out)
        if delta.reasoning_content:
            self._think(delta.reasoning_content, "reasoning_content", out)
        elif delta.reasoning:
            self._think(delta.reasoning, "reasoning", out)
        elif delta.reasoning_text:
            self._think(delta.reasoning_text, "reasoning_text", out)
        elif details:
            for text in map(_detail_text, details):
                if text:
                    self._think(text, "", out)
        if details:
            self._collect(details, self._details)
        content = delta.content
        if content:
            if isinstance(content, str):
                if self._half or self._raw:
                    content = self._mend(content)
                if self._block_type == "text":
                    out.append(self.builder.delta(self._block, content))
                elif content:
                    self._say(self._untagged(content), out)
            else:
                self._add_parts(content, out)
        if delta.refusal:
            self._say(delta.refusal, out)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._call(call, out)
        elif delta.function_call is not None:
            # The protocol before tool calls: one call without an id.
            self._call(ToolCall(index=0, function=delta.function_call), out)

    def _add_parts(self, parts: list[object], out: list[BuilderEvent]) -> None:
        for part in parts:
            if isinstance(part, str):
                self._say(part, out)
            elif not isinstance(part, dict):
                continue
            elif part.get("type") == "thinking":
                inner = part.get("thinking")
                pieces = inner if isinstance(inner, list) else [inner]
                for piece in pieces:
                    text = piece.get("text") if isinstance(piece, dict) else piece
                    if isinstance(text, str) and text:
                        self._think(text, _PARTS, out)
            elif isinstance(part.get("text"), str):
                self._say(part["text"], out)
            else:
                self._take_image(part)

    # ---- images, audio and unknown fields -------------------------------------------------------------

    def _take_image(self, part: object) -> None:
        """Record an image: `{"type": "image_url", "image_url": {"url": …}}`, as OpenRouter sends it."""
        image = as_dict(part)
        url = image.get("image_url") or image.get("url")
        url = url.get("url") if isinstance(url, dict) else url
        if not url and isinstance(image.get("b64_json"), str):
            url = f"data:image/png;base64,{image['b64_json']}"
        if isinstance(url, str) and url:
            self._images.setdefault(url)

    def _add_images(self) -> None:
        """Add the images after the other blocks, since servers may send them at any time and repeatedly."""
        for url in self._images:
            self.builder.add_image(url)
        self._images.clear()

    def _take_audio(self, audio: object, out: list[BuilderEvent]) -> None:
        """Add the transcript of an audio reply as text. The sound itself is discarded."""
        fields = as_dict(audio)
        self._audio = self._audio or bool(fields.get("data"))
        self._say(as_str(fields.get("transcript")), out)

    def _take_extra(self, delta: Delta, extra: dict[str, object], out: list[BuilderEvent]) -> Delta:
        """Read the rare fields of a delta, store the unknown ones, and return the rest of the delta.

        If Gemini marks a delta as a thought, its content is reasoning.
        """
        extra = dict(extra)
        images = extra.pop("images", None)
        for image in images if isinstance(images, list) else ():
            self._take_image(image)
        for name in ("annotations", "citations"):
            cited = extra.pop(name, None)
            if isinstance(cited, list):
                self._annotations += cited
        self._take_audio(extra.pop("audio", None), out)
        google = as_dict(as_dict(extra.get("extra_content")).get("google"))
        is_thought = google.get("thought") is True
        if "thought" in google:
            rest = {key: value for key, value in google.items() if key != "thought"}
            extra["extra_content"] = {**as_dict(extra["extra_content"]), "google": rest}
        self._store_fields(extra)
        if not is_thought or not isinstance(delta.content, str):
            return delta
        text = self._mend(delta.content)
        self._think(text if self._tagged else text.removeprefix("<thought>"), "", out)
        self._tagged = True
        return msgspec.structs.replace(delta, content=None)

    def _untagged(self, text: str) -> str:
        """Return the first text after reasoning without the closing tag of the reasoning."""
        if self._tagged:
            self._tagged = False
            text = text.removeprefix("</thought>")
        return text

    # ---- blocks -------------------------------------------------------------------------------------

    def _say(self, text: str, out: list[BuilderEvent]) -> None:
        if not text:
            return
        if self._block_type != "text":
            self._close_block(out)
            self._block, event = self.builder.open_text()
            self._block_type = "text"
            if self._text_block < 0:
                self._text_block = self._block
            out.append(event)
        out.append(self.builder.delta(self._block, text))

    def _think(self, text: str, where: str, out: list[BuilderEvent]) -> None:
        if not text:
            return
        if where and not self._reasoning_field:
            self._reasoning_field = where
        if self._block_type != "thinking":
            self._close_block(out)
            # The first block is signed at the end, when all fields to send back are known.
            signed = self._thinking_block >= 0 and self._reasoning_field
            fields = {"thinking_signature": self._reasoning_field} if signed else {}
            self._block, event = self.builder.open_thinking(**fields)
            self._block_type = "thinking"
            if self._thinking_block < 0:
                self._thinking_block = self._block
            out.append(event)
        out.append(self.builder.delta(self._block, text))

    def _close_block(self, out: list[BuilderEvent]) -> None:
        self._flush_half(out)
        if self._block_type:
            out.append(self.builder.close(self._block))
            self._block_type = ""

    def _mend(self, text: str) -> str:
        """Join a surrogate pair that is split between two deltas."""
        text = self._half + text
        self._half = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _json.without_surrogates(text)

    def _flush_half(self, out: list[BuilderEvent]) -> None:
        if self._half and self._block_type == "text":
            self._half = ""
            out.append(self.builder.delta(self._block, "\ufffd"))

    def _store_fields(self, fields: Mapping[str, object]) -> None:
        """Store unknown fields, to send them back. Lists may arrive in pieces."""
        for name, value in fields.items():
            if isinstance(value, list):
                self._collect(value, self._lists.setdefault(name, []))
            else:
                _merge(self._extra, {name: value})

    @staticmethod
    def _collect(details: list[object], collected: list[object]) -> None:
        """Add items that must be sent back. Pieces of the same text become one item."""
        for detail in details:
            last = collected[-1] if collected else None
            if isinstance(last, dict) and isinstance(detail, dict) and _continues(last, detail):
                for key, value in detail.items():
                    if key in _DETAIL_TEXT:
                        last.setdefault(key, []).append(value)
                    elif value is not None:
                        last[key] = value
            elif isinstance(detail, dict):
                # Pieces are joined at the end, so that long reasoning takes linear time.
                collected.append(
                    {key: [value] if key in _DETAIL_TEXT else value for key, value in detail.items()}
                )
            else:
                collected.append(detail)

    def _sign(self) -> None:
        """Store the fields to send back: on the first block of reasoning, else of text, else on a call."""
        record: dict[str, object] = {}
        if self._details:
            record["reasoning_details"] = _whole(self._details)
        fields = {**self._extra, **{name: _whole(pieces) for name, pieces in self._lists.items()}}
        if fields:
            record["message"] = fields
        if self._thinking_block >= 0:
            field = self._reasoning_field
            signature = _signature({"field": field, **record}) if record else field
            if signature:
                self.builder.update(self._thinking_block, thinking_signature=signature)
        elif record and self._text_block >= 0:
            self.builder.update(self._text_block, text_signature=_signature(record))
        elif record and self._calls:
            self._calls[0].kept |= record

    def _take_last_chunks(self) -> None:
        """Read the last chunks: they may have usage in a choice (Moonshot) and sources (Perplexity, xAI)."""
        cited: list[Citation] = []
        add_citations(cited, read_citations(self._annotations))
        for data in self._last_chunks:
            chunk = as_dict(decode_lenient(data))
            choices = chunk.get("choices")
            if isinstance(choices, list) and choices and not _counts(self._raw_usage):
                self._raw_usage = as_dict(choices[0]).get("usage") or self._raw_usage
            add_citations(cited, read_citations(chunk.get("search_results") or chunk.get("citations")))
        if cited and self._text_block >= 0:
            self.builder.update(self._text_block, citations=cited)

    # ---- tool calls ---------------------------------------------------------------------------------

    def _call(self, delta: ToolCall, out: list[BuilderEvent]) -> None:
        index, call_id, function = delta.index, delta.id or "", delta.function
        name = (function.name if function is not None else None) or ""
        arguments = function.arguments if function is not None else None
        call = self._find(index, call_id, name)
        if call is None:
            self._close_block(out)
            block, event = self.builder.open_tool_call(call_id, name)
            out.append(event)
            call = _Call(block, call_id, name)
            self._calls.append(call)
        elif call_id and not call.id:
            call.id = call_id
            self.builder.update(call.block, id=self.builder.unique_id(call_id))
        if call_id:
            self._by_id[call_id] = call
        if delta.extra is not None:
            _merge(call.kept, {"call": delta.extra})
        if function is not None and function.extra is not None:
            _merge(call.kept, {"function": function.extra})
        if index is not None:
            self._by_index[index] = call
        if name and name != call.name and not call.arguments:
            # The name arrives in fragments or growing prefixes. It is complete when the arguments start.
            call.name = name if name.startswith(call.name) else call.name + name
            self.builder.update(call.block, name=call.name)
        if arguments is None or arguments == "":
            return
        if not isinstance(arguments, str):
            call.whole = arguments
            arguments = _json.encode(arguments).decode()
        call.arguments = True
        out.append(self.builder.delta(call.block, arguments))

    def _find(self, index: int | None, call_id: str, name: str) -> _Call | None:
        """Return the call that a delta belongs to; None if it starts a new one."""
        if index is not None:
            call = self._by_index.get(index)
            return None if call is not None and call_id and call.id and call.id != call_id else call
        if call_id:
            return self._by_id.get(call_id)
        latest = self._calls[-1] if self._calls else None
        if latest is not None and name:
            is_new = name != latest.name or _json.decode_object(self.builder.text(latest.block)) is not None
            return None if is_new else latest
        return latest

    def _close_calls(self, out: list[BuilderEvent]) -> None:
        for call in self._calls:
            text = self.builder.text(call.block)
            arguments = {} if call.whole is None and text.strip() == "null" else call.whole
            signed = {"tool_call_signature": _signature(call.kept)} if call.kept else {}
            event = self.builder.close(call.block, arguments, **signed)
            if not call.name:
                # `partial_json` marks the call as invalid.
                self.builder.update(call.block, arguments={}, partial_json=text)
                event["tool_call"] = self.builder.block(call.block)
            out.append(event)

    # ---- the end --------------------------------------------------------------------------------------

    def _finish(self, out: list[BuilderEvent]) -> None:
        if self._audio and len(self.builder) == 0 and not self._images:
            self._say(AUDIO_NOTE, out)
        nowhere = (self._extra or self._lists) and self._text_block < 0 and not self._calls
        if (self._details or nowhere) and self._thinking_block < 0:
            # Fields without readable text need a block that stores them for the next request.
            self._close_block(out)
            self._block, event = self.builder.open_thinking()
            self._block_type, self._thinking_block = "thinking", self._block
            out.append(event)
        self._sign()
        self._take_last_chunks()
        self._close_block(out)
        self._close_calls(out)
        self._add_images()
        self._conclude(out)


def _decode_with_surrogates(data: bytes) -> object:
    """Decode JSON in which a surrogate pair may be split between two deltas."""
    return json.loads(data.decode("utf-8", "replace"))


def _signature(record: Mapping[str, object]) -> str:
    return _json.encode(record).decode()


def _merge(target: dict[str, object], fields: Mapping[str, object]) -> None:
    """Add fields: objects are merged, and other values replace earlier ones."""
    for key, value in fields.items():
        known = target.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        elif value:
            target[key] = value


_DETAIL_TEXT = ("text", "summary", "thinking")
_IN_PIECES = ("reasoning.text", "reasoning.summary", "thinking")
"""Types of items that arrive in pieces: OpenRouter's `reasoning_details`, LiteLLM's `thinking_blocks`."""


def _whole(collected: list[object]) -> list[object]:
    """Join the pieces of the texts of collected items."""
    return [
        {key: _joined(value) if key in _DETAIL_TEXT else value for key, value in item.items()}
        if isinstance(item, dict)
        else item
        for item in collected
    ]


def _continues(last: Mapping[str, object], detail: Mapping[str, object]) -> bool:
    return (
        detail.get("type") == last.get("type")
        and detail.get("type") in _IN_PIECES
        and detail.get("index") == last.get("index")
        and detail.get("id") in (None, last.get("id"))
        and not last.get("signature")
    )


def _joined(pieces: list[object]) -> object:
    strings = [piece for piece in pieces if isinstance(piece, str)]
    return "".join(strings) if strings else pieces[0]


def _detail_text(detail: object) -> str:
    if not isinstance(detail, dict):
        return ""
    text = detail.get("text") or detail.get("summary")
    return text if isinstance(text, str) else ""


def _counts(usage: object) -> bool:
    """Whether a usage counts any tokens. Some servers send an object of zeros beside the real one."""
    return any(count(value) for value in as_dict(usage).values())


def normal_usage(usage: object) -> Usage | None:
    """Convert the usage of chat/completions; None if the reply has no usage."""
    if not isinstance(usage, dict) or not usage:
        return None
    read, written = (
        as_dict(usage.get("prompt_tokens_details")),
        as_dict(usage.get("completion_tokens_details")),
    )
    # Some gateways use the names of the Responses API.
    input_tokens = count(usage.get("prompt_tokens")) or count(usage.get("input_tokens"))
    output_tokens = count(usage.get("completion_tokens")) or count(usage.get("output_tokens"))
    return {
        "input": input_tokens,
        "output": output_tokens,
        "cache_read": count(read.get("cached_tokens"))
        or count(usage.get("prompt_cache_hit_tokens"))
        or count(usage.get("cached_tokens")),
        "cache_write": count(read.get("cache_write_tokens"))
        or count(usage.get("cache_creation_input_tokens")),
        "reasoning": count(written.get("reasoning_tokens")),
        # xAI counts reasoning only in the total.
        "total": max(input_tokens + output_tokens, count(usage.get("total_tokens"))),
        "cost": dollars(usage.get("cost")),
    }


# ---- the stream ------------------------------------------------------------------------------------------


async def stream_openai_completions(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from any chat/completions server.

    Args:
        model: An `OpenAICompatModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, HttpModel)
    base_url = check_model(model, 'OpenAICompatModel(id=…, base_url="http://127.0.0.1:8080/v1")')
    headers, secrets = request_headers(model, options.get("api_key"))
    body = _encoded_request(model, context, options)
    open_reply = partial(
        open_stream,
        endpoint(base_url),
        model=model,
        options=options,
        headers=headers,
        secrets=secrets,
        decoder=partial(ChatDecoder, model),
    )
    try:
        return await open_reply(body)
    except ProviderError as error:
        if not refuses_stream_options(error, body, model, options):
            raise
    del body["stream_options"]
    return await open_reply(body)


_NAMES_STREAM_OPTIONS = r"(?i)stream[ _]?options|include[ _]?usage"


def refuses_stream_options(
    error: ProviderError, body: Mapping[str, object], model: HttpModel, options: SimpleStreamOptions
) -> bool:
    """Whether a request failed because the server does not accept `stream_options`.

    If so, later requests of this process to the same server omit it, and `on_note` is called.
    """
    if error.status not in (400, 422) or "stream_options" not in body:
        return False
    asked_by_user = "stream_options" in model.extra_body
    if asked_by_user or not re.search(_NAMES_STREAM_OPTIONS, str(error)):
        return False
    _refuse_stream_options.add(_origin(model))
    note(options, f"{model.provider}: the server refuses stream_options, so it is omitted.")
    return True


def request_headers(model: HttpModel, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, including the API key, and the secrets in them."""
    known = SERVERS.get(server_of(model.base_url))
    variable = model.api_key_env or (known.api_key_env if known is not None else None)
    header = _dialect(model).key_header
    if header:
        return _request_parts.request_headers(model, api_key, variable=variable, header=header, prefix="")
    return _request_parts.request_headers(model, api_key, variable=variable)


async def list_openai_models(
    model: ModelIdentity, options: SimpleStreamOptions | None = None
) -> list[ModelInfo]:
    """Return the models of `GET {base}/models`, for `Provider.list_models`. `model.id` may be empty."""
    options = options or {}
    model = as_model(model, HttpModel)
    headers, secrets = request_headers(model, options.get("api_key"))
    value = await get_json(
        endpoint(model.base_url, "/models"),
        headers=headers,
        secrets=secrets,
        **connection_options(model, options),
        **list_timeout(options),
    )
    items = value.get("data", value.get("models")) if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise InvalidReplyError(
            f"{model.provider}: the list of models is not a list", provider=model.provider or ""
        )
    return [
        ModelInfo(
            id=str(item["id"]),
            name=str(item.get("name") or ""),
            context_window=as_int(item.get("context_length") or item.get("context_window")),
            max_tokens=as_int(item.get("max_completion_tokens")),
            input_price=_per_million(as_dict(item.get("pricing")).get("prompt")),
            output_price=_per_million(as_dict(item.get("pricing")).get("completion")),
        )
        for item in items
        if isinstance(item, dict) and item.get("id")
    ]


def _per_million(price: object) -> float | None:
    """Convert OpenRouter's price, in US dollars per token, to US dollars per million tokens."""
    try:
        dollars_each = float(str(price))
    except ValueError:
        return None
    return dollars_each * 1e6 if 0 <= dollars_each < float("inf") else None
