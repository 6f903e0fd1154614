"""Decodes the replies of OpenAI's Responses API. `responses_provider` describes what a message stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from tinyagent._json import as_dict, as_int, as_str, count, dollars
from tinyagent.agent_types import Citation, ModelIdentity, Usage
from tinyagent.errors import TinyAgentError

from .builder import BuilderEvent
from .citations import add_citations, read_citations
from .decoder import DecoderOptions, ReplyDecoder
from .finish_reasons import finish_kind
from .history import AUDIO_NOTE
from .responses_items import Item, Items
from .responses_request import IMAGE_CALL
from .signatures import signature_of

__all__ = ["ResponsesDecoder"]

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


class ResponsesDecoder(ReplyDecoder):
    """The events of the Responses API.

    The API says most things more than once: in deltas, in the whole part, the whole item, and the list of all
    items at the end. Servers leave out some of these. An item is known by its id, and by its place in the
    list where ids are missing or change; what was streamed is not taken again.
    """

    def __init__(self, model: ModelIdentity, **options: Unpack[DecoderOptions]) -> None:
        super().__init__(model, **options)
        self._items = Items()
        self._raw_usage: dict[str, object] = {}
        self._citations: dict[int, list[Citation]] = {}
        """The citations of each text block."""
        self._sources: list[Citation] = []
        self._announced: list[Item] = []
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
                item = self._items.of_event(value, "function_call")
                if not item.has_whole(0, value):
                    self._add(item, 0, value.get("delta"), out)
            case "response.function_call_arguments.done":
                item = self._items.of_event(value, "function_call")
                if 0 not in item.blocks or not self.builder.text(item.blocks[0]):
                    item.wholes.add(0)
                self._complete(item, 0, value.get("arguments"), out)
            case "response.content_part.done" | "response.reasoning_summary_part.done":
                self._take_part(value, as_dict(value.get("part")), out)
            case "response.output_text.annotation.added":
                part = as_int(value.get("content_index")) or 0
                annotation = value.get("annotation")
                self._items.of_event(value, "message").annotations.setdefault(part, []).append(annotation)
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

    def _begin(
        self, value: Mapping[str, object], received: dict[str, object], out: list[BuilderEvent]
    ) -> None:
        kind = as_str(received.get("type"))
        if not kind:
            return
        item = self._items.of_event(value, kind, received, begins=True)
        if item.blocks:
            return
        if kind == "function_call":
            self._open_call(item, received, out)
        elif kind == "reasoning":
            self._announced.append(item)
        elif item.is_raw:
            self._block(item, 0, out)  # opened now to keep the order of the items

    def _open_call(self, item: Item, received: Mapping[str, object], out: list[BuilderEvent]) -> int:
        self._open_announced(out)
        item.call_id = as_str(received.get("call_id"))
        index, event = self.builder.open_tool_call(item.call_id, as_str(received.get("name")))
        item.blocks[0] = index
        out.append(event)
        return index

    def _block(self, item: Item, part: int, out: list[BuilderEvent]) -> int:
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

    def _add(self, item: Item, part: int, piece: object, out: list[BuilderEvent]) -> None:
        if isinstance(piece, str) and piece and not item.ended:
            index = self._block(item, part, out)
            out.append(self.builder.delta(index, piece))

    def _complete(self, item: Item, part: int, whole: object, out: list[BuilderEvent]) -> None:
        """Add the missing rest of a text that is now complete."""
        had = self.builder.text(item.blocks[part]) if part in item.blocks else ""
        if isinstance(whole, str) and whole.startswith(had):
            self._add(item, part, whole[len(had) :], out)

    def _take_item(
        self, value: Mapping[str, object], received: dict[str, object], out: list[BuilderEvent]
    ) -> None:
        kind = as_str(received.get("type"))
        if kind:
            self._end_item(self._items.of_event(value, kind, received), received, out)

    def _end_item(self, item: Item, received: dict[str, object], out: list[BuilderEvent]) -> None:
        """End a complete item, and add the content that was not streamed."""
        if item.ended and (item.blocks or not received):
            return
        item.ended = False
        item.received = received
        item.id = item.id or as_str(received.get("id"))
        if item.kind == "message":
            self._end_message(item, received, out)
        elif item.kind == "function_call":
            self._end_call(item, received, out)
        elif item.kind == "reasoning":
            self._end_reasoning(item, received, out)
        else:
            self._end_raw(item, received, out)
        item.ended = True

    # ---- text and citations -------------------------------------------------------------------------

    def _text(self, value: Mapping[str, object], piece: object, kind: str, out: list[BuilderEvent]) -> None:
        part = as_int(value.get("content_index")) or 0
        item = self._items.of_event(value, "message")
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
        item, part = self._items.of_event(value, "message"), as_int(value.get("content_index")) or 0
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

    def _sign_text(self, item: Item, part: int) -> None:
        """Store the fields that the API requires with a text, and its citations in our format."""
        stored: dict[str, object] = {}
        if item.id:
            stored["id"] = item.id
        if isinstance(item.phase, str):
            stored["phase"] = item.phase
        if part in item.refusals:
            stored["refusal"] = self._fields["refusal"] = True
        annotations = [value for value in item.annotations.get(part, ()) if isinstance(value, dict) and value]
        fields: dict[str, object] = {}
        if annotations:
            stored["annotations"] = annotations
            index = item.blocks[part]
            add_citations(self._citations[index], read_citations(annotations))
            if self._citations[index]:
                fields["citations"] = self._citations[index]
        if stored:
            fields["text_signature"] = signature_of(stored)
        if fields:
            self.builder.update(item.blocks[part], **fields)

    def _sign_texts(self, item: Item) -> None:
        for part in item.blocks:
            self._sign_text(item, part)

    def _end_message(self, item: Item, received: dict[str, object], out: list[BuilderEvent]) -> None:
        content = received.get("content")
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
        item.phase = received.get("phase")
        self._sign_texts(item)
        out += [self.builder.close(index) for index in item.blocks.values()]

    # ---- calls, reasoning, and items without text ---------------------------------------------------

    def _end_call(self, item: Item, received: dict[str, object], out: list[BuilderEvent]) -> None:
        index = item.blocks[0] if item.blocks else self._open_call(item, received, out)
        whole = received.get("arguments")
        self._complete(item, 0, whole, out)
        fields: dict[str, object] = {}
        if not item.call_id and as_str(received.get("call_id")):
            fields["id"] = self.builder.unique_id(as_str(received["call_id"]))
        if not self.builder.block(index)["name"] and as_str(received.get("name")):
            fields["name"] = received["name"]
        if item.id:
            fields["tool_call_signature"] = signature_of({"id": item.id})
        out.append(self._close_call(index, whole if isinstance(whole, dict) else None, **fields))

    def _think(self, value: Mapping[str, object], source: str, step: str, out: list[BuilderEvent]) -> None:
        """Parts of a summary are paragraphs of one block."""
        item = self._items.of_event(value, "reasoning")
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

    def _end_reasoning(self, item: Item, received: dict[str, object], out: list[BuilderEvent]) -> None:
        pieces = received.get("summary") or received.get("content")
        had = self.builder.text(item.blocks[0]) if item.blocks else ""
        if not had and isinstance(pieces, list):
            self._add(item, 0, "\n\n".join(as_str(as_dict(piece).get("text")) for piece in pieces), out)
        stored = {"type": "reasoning", "id": item.id, "summary": received.get("summary") or []}
        for key in ("encrypted_content", "content"):
            if received.get(key):
                # The API accepts reasoning in one form only, and the encrypted form is its own.
                stored[key] = received[key]
                break
        fields = {"thinking_signature": signature_of(stored)} if received else {}
        out.append(self.builder.close(self._block(item, 0, out), **fields))

    def _end_raw(self, item: Item, received: dict[str, object], out: list[BuilderEvent]) -> None:
        """Store an item, to send it back. Its sources become sources of the text."""
        for holder in (received, as_dict(received.get("action"))):
            for key in ("sources", "results"):
                found = read_citations(holder.get(key))
                add_citations(self._sources, [source for source in found if "url" in source])
        stored = {
            key: value for key, value in received.items() if not (item.kind == IMAGE_CALL and key == "result")
        }
        fields = {"thinking_signature": signature_of(stored)} if received else {}
        out.append(self.builder.close(self._block(item, 0, out), **fields))

    # ---- the end ------------------------------------------------------------------------------------

    def _end(self, response: dict[str, object], kind: str, out: list[BuilderEvent]) -> None:
        self._raw_usage = as_dict(response.get("usage"))
        status = as_str(response.get("status")) or kind.removeprefix("response.")
        if kind == "response.failed" or status in ("failed", "cancelled") or response.get("error"):
            self._stop(self._reported(response.get("error") or f"the reply ended as {status}"))
            return
        for item, received in self._items.match(response.get("output")):
            self._end_item(item, received, out)
        self.finish_reason: str | None = status
        if kind == "response.incomplete" or status == "incomplete":
            details = as_dict(response.get("incomplete_details"))
            self.finish_reason = as_str(details.get("reason")) or "incomplete"
            self._is_cut = True
        self._finish(out)

    def _finish(self, out: list[BuilderEvent]) -> None:
        for item in self._items:
            if item.blocks:
                self._end_item(item, {}, out)
        self._add_sources()
        for item in self._items:
            image = item.received.get("result") if item.kind == IMAGE_CALL else None
            if as_str(image):
                image_type = as_str(item.received.get("output_format")) or "png"
                self.builder.add_image(f"data:image/{image_type};base64,{image}")
        if self._audio and len(self.builder) == 0:
            self._text({}, AUDIO_NOTE, "response.output_text.delta", out)
            self._end_item(self._items.latest(), {}, out)
        reason = self.finish_reason or "completed"
        cut = self._is_cut or any(item.is_cut for item in self._items)
        if cut and finish_kind(reason, has_content=True) == "complete":
            reason = "incomplete"
        self._conclude(out, reason=reason)

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
