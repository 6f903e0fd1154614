"""Decodes the replies of chat/completions, and accepts the deviations of real servers."""

from __future__ import annotations

import json
from typing import Unpack

import msgspec

from tinyagent import _json
from tinyagent._json import as_dict, as_str, count, decode_lenient, dollars
from tinyagent.agent_types import Citation, ModelIdentity, Usage
from tinyagent.errors import TinyAgentError

from .builder import BuilderEvent
from .chat_fields import IN_CONTENT, SignedFields, detail_text, merge
from .chat_types import Chunk, Delta, ToolCall, chunk_of, decode
from .citations import add_citations, read_citations
from .decoder import DecoderOptions, ReplyDecoder
from .finish_reasons import is_final
from .history import AUDIO_NOTE
from .signatures import signature_of

__all__ = ["Call", "ChatDecoder", "normal_usage"]

MAX_LAST_CHUNKS = 4
"""Chunks from the finish reason on that are read again at the end of the reply."""


class Call:
    """A tool call whose pieces are being collected."""

    __slots__ = ("arguments", "block", "extra", "id", "name", "whole")

    def __init__(self, block: int, call_id: str, name: str) -> None:
        self.block = block
        self.id = call_id
        """The id from the server."""
        self.name = name
        self.arguments = False
        """Whether a piece of the arguments has arrived."""
        self.whole: object = None
        """The arguments, if the server sent them as an object and not as text."""
        self.extra: dict[str, object] = {}
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
        self._half = ""
        """The first half of a surrogate pair, from the end of a delta."""
        self._raw = False
        """Whether the current chunk may contain surrogates."""
        self._calls: list[Call] = []
        self._by_index: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}
        self._text_block = -1
        """The first text block."""
        self._signed = SignedFields()
        self._audio = False
        self._annotations: list[object] = []
        self._last_chunks: list[bytes] = []
        """The chunks from the finish reason on. They may have fields that were not decoded."""
        self._tagged = False
        """Whether the last reasoning was sent as `content`, where it may have tags around it."""

    def fail(self, error: TinyAgentError | None = None) -> BuilderEvent:
        """Return the `error` event, with the content so far."""
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
            if self.finish_reason is None and not self.shown and not self._signed.details:
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
            for text in map(detail_text, details):
                if text:
                    self._think(text, "", out)
        if details:
            self._signed.add_details(details)
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
            self._fields["refusal"] = True
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
                        self._think(text, IN_CONTENT, out)
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
        if isinstance(url, str) and url and url not in self._images:  # Servers may send it repeatedly.
            self._images.append(url)

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
        self._signed.add(extra)
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

    def _sign(self) -> None:
        """Store the fields to send back: on the first block of reasoning, else of text, else on a call."""
        record = self._signed.record()
        if self._thinking_block >= 0:
            field = self._reasoning_field
            signed = signature_of({"field": field, **record}) if record else field
            if signed:
                self.builder.update(self._thinking_block, thinking_signature=signed)
        elif record and self._text_block >= 0:
            self.builder.update(self._text_block, text_signature=signature_of(record))
        elif record and self._calls:
            self._calls[0].extra |= record

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
            call = Call(block, call_id, name)
            self._calls.append(call)
        elif call_id and not call.id:
            call.id = call_id
            self.builder.update(call.block, id=self.builder.unique_id(call_id))
        if call_id:
            self._by_id[call_id] = call
        if delta.extra is not None:
            merge(call.extra, {"call": delta.extra})
        if function is not None and function.extra is not None:
            merge(call.extra, {"function": function.extra})
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

    def _find(self, index: int | None, call_id: str, name: str) -> Call | None:
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
            signed = {"tool_call_signature": signature_of(call.extra)} if call.extra else {}
            out.append(self._close_call(call.block, arguments, **signed))

    # ---- the end --------------------------------------------------------------------------------------

    def _finish(self, out: list[BuilderEvent]) -> None:
        if self._audio and len(self.builder) == 0 and not self._images:
            self._say(AUDIO_NOTE, out)
        nowhere = self._signed.has_unknown and self._text_block < 0 and not self._calls
        if (self._signed.details or nowhere) and self._thinking_block < 0:
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
