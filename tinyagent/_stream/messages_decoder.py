"""Decodes the replies of Anthropic's Messages API. `anthropic_provider` describes what a message stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Unpack

from tinyagent import _json
from tinyagent._json import as_dict, as_int, as_list, as_str, count, dollars
from tinyagent.agent_types import AssistantMessage, Citation, ModelIdentity, Usage
from tinyagent.errors import TinyAgentError

from .builder import BuilderEvent
from .citations import add_citations, read_citations
from .decoder import DecoderOptions, ReplyDecoder
from .signatures import signature_of
from .usage import add_usages

__all__ = ["AnthropicDecoder", "normal_usage"]

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
        """`text`, `thinking`, `tool_call`, `answer` (a call whose arguments are text), `raw` (stored
        unchanged) or `unknown` (left out)."""
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
        make_continuation: Returns the body of the request that continues a paused reply; None if none does.
        max_pauses: How often a paused reply is continued.
        thinking_level: The level of the request, which the message stores for the rest of its turn.
        answer_tool: The tool whose call is the answer: its arguments become text.
    """

    def __init__(
        self,
        model: ModelIdentity,
        *,
        make_continuation: Callable[[AssistantMessage], bytes] | None = None,
        max_pauses: int = 0,
        thinking_level: str = "off",
        answer_tool: str | None = None,
        **options: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(model, **options)
        if thinking_level != "off":
            self._fields["thinking_level"] = thinking_level
        self._make_continuation = make_continuation
        self._pauses_left = max_pauses
        self._answer_tool = answer_tool
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
        if reason := as_str(delta.get("stop_reason")):
            self._set_finish_reason(reason)
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
        elif kind == "tool_use" and self._answer_tool is not None and block.get("name") == self._answer_tool:
            index, event = self.builder.open_text()
            self._open[at] = _Block("answer", index, as_dict(block.get("input")))
            out.append(event)
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
        if kind in ("text", "tool_use") and self._open[at].kind != "answer":
            fields = {name: value for name, value in block.items() if name not in _OWN_FIELDS and value}
            self._open[at].fields = fields

    def _delta(self, at: int | None, delta: dict[str, object], out: list[BuilderEvent]) -> None:
        kind = as_str(delta.get("type"))
        block = self._open.get(at)
        wanted = _DELTAS.get(kind)
        if block is not None and block.kind == "raw":
            self._add_to_raw(block, kind, delta)
        elif block is not None and block.kind == "answer":
            piece = delta.get("partial_json")
            if isinstance(piece, str) and piece:
                out.append(self.builder.delta(block.index, piece))
            elif isinstance(piece, dict):
                block.whole = piece
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
        if block.kind == "answer" and block.whole and not self.builder.text(block.index).strip():
            out.append(self.builder.delta(block.index, _json.encode(block.whole).decode()))
        out.append(self._closed(block))

    def _closed(self, block: _Block) -> BuilderEvent:
        if block.kind == "raw":
            whole = {**block.whole, **{name: "".join(pieces) for name, pieces in block.pieces.items()}}
            if block.json:
                whole["input"] = _json.decode_object("".join(block.json)) or {}
            self._note_sources(whole)
            return self.builder.close(block.index, thinking_signature=signature_of(whole))
        stored = signature_of(block.fields) if block.fields else ""
        if block.kind == "tool_call":
            # The pieces are used; without pieces, the initial content of the block is.
            whole = block.whole if not self.builder.text(block.index).strip() else {}
            fields = {"tool_call_signature": stored} if stored else {}
            return self._close_call(block.index, whole or None, **fields)
        if block.kind == "thinking":
            return self.builder.close(block.index, **block.whole)
        self._last_text = block.index
        cited = read_citations(block.fields.get("citations"))
        self._cites = self._cites or bool(cited)
        texts: dict[str, object] = {"text_signature": stored} if stored else {}
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
        parts = [self._redact(as_str(details.get(key))) for key in ("category", "explanation")]
        return ": ".join(filter(None, parts))


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
