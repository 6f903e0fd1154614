"""OpenAI's Responses API: reasoning that is sent back, without anything being stored at OpenAI.

    model = OpenAIResponsesModel(id="gpt-5")
    response = await stream_openai_responses(model, context, {"api_key": key})

Three parts: `request_body` writes a request from a history, `ResponsesDecoder` makes events from a reply,
and `stream_openai_responses` puts them on the wire.

A reply is a list of items, and the next request has to hold them as they were: the API checks which item
belongs to which by their ids. So a message keeps them. A reasoning item is the `thinking_signature` of its
block, as JSON, with the encrypted reasoning; the id of a message is in the `text_signature` of its blocks,
that of a function call in the `tool_call_signature`, beside the `call_id` that the call itself has as its id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import _json
from ._handover import handover
from ._message_builder import BuilderEvent
from ._model_families import ModelFamily, settings_for
from ._servers import dialect_of, server_of
from ._tool_schemas import tool_schema
from ._wire import (
    ReplyDecoder,
    ReplyStream,
    check_model,
    dollars,
    endpoint,
    integer,
    mapping,
    open_stream,
    request_headers,
    string,
)
from .agent_types import Context, Message, Model, SimpleStreamOptions
from .errors import ContentFilterError

__all__ = ["OpenAIResponsesModel", "ResponsesDecoder", "request_body", "stream_openai_responses"]

IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}")
LONGEST_NAME = 64
LONGEST_CACHE_KEY = 64


@dataclass
class OpenAIResponsesModel(Model):
    """A model behind the Responses API, OpenAI's own or a compatible one.

    Attributes:
        base_url: With or without `/responses`; a query is kept.
        name: A name for people.
        headers: Sent with each request.
        context_window: Tokens that the model can take in.
        max_tokens: Tokens that the model can give out. A call's limit is `options["max_tokens"]`.
        reasoning: Whether the model reasons; None: judged by its id. A model that does is asked for its
            encrypted reasoning and gets no temperature.
        api_key_env: The environment variable that holds the key; None: no key is needed.
        extra_body: Merged into the request's body, last; None as a value takes a field out. `tools` are
            added to the agent's own.
        ca_file: Certificates of a CA of your own.
        allow_http: Allow http:// to other machines.
        reasoning_summary: What is asked for as text of the reasoning, where a thinking level is set.
    """

    provider: str = "openai"
    id: str = "gpt-5"
    api: str = "openai-responses"
    base_url: str = "https://api.openai.com/v1"
    name: str = ""
    headers: dict[str, str] | None = field(default=None, repr=False)
    context_window: int = 400_000
    max_tokens: int = 128_000
    reasoning: bool | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    extra_body: dict[str, Any] = field(default_factory=dict)
    ca_file: str | None = None
    allow_http: bool = False
    reasoning_summary: str | None = "auto"


# ---- the request ----------------------------------------------------------------------------------


def request_body(model: Any, context: Context, options: SimpleStreamOptions) -> dict[str, Any]:
    """The body of a request."""
    extra = dict(getattr(model, "extra_body", None) or {})
    stored = bool(extra.get("store"))
    body: dict[str, Any] = {
        "model": model.id,
        "stream": True,
        "store": False,
        "input": _input(handover(context.messages, model, ids=IDS), stored),
    }
    if context.system_prompt:
        body["instructions"] = context.system_prompt
    tools: list[dict[str, Any]] = [
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
    session = options.get("session_id")
    if session:
        body["prompt_cache_key"] = (
            session if len(session) <= LONGEST_CACHE_KEY else hashlib.sha256(session.encode()).hexdigest()
        )
    body |= extra
    return {key: value for key, value in body.items() if value is not None}


_ASSUMED = ModelFamily(efforts=("low", "medium", "high"), temperature=False)
"""What a model is taken for that is said to reason, if its id does not tell."""


def _set_reasoning(body: dict[str, Any], model: Any, options: SimpleStreamOptions) -> None:
    """The effort and the temperature, which depend on each other and on the model."""
    settings = settings_for(model, options, reasons=getattr(model, "reasoning", None), assumed=_ASSUMED)
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.family.reasons or settings.level:
        body["include"] = ["reasoning.encrypted_content"]
    if settings.effort is not None:
        body["reasoning"] = {"effort": settings.effort}
        summary = getattr(model, "reasoning_summary", "auto")
        if summary:
            body["reasoning"]["summary"] = summary


def _input(history: Sequence[Message], stored: bool) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
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


def _output(content: Any) -> Any:
    """What a tool gave: plain text where it is nothing else."""
    if isinstance(content, str):
        return content
    if any(part["type"] == "image" for part in content):
        return _parts(content)
    return "\n".join(part["text"] for part in content) or "(no output)"


def _parts(content: Any) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [
        {"type": "input_image", "image_url": part["url"], "detail": "auto"}
        if part["type"] == "image"
        else {"type": "input_text", "text": part["text"]}
        for part in parts
        if part["type"] == "image" or part["text"]
    ]


def _output_items(content: Sequence[Any], stored: bool) -> list[dict[str, Any]]:
    """A reply as the items that it came in."""
    items: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "thinking":
            item = _kept(part.get("thinking_signature"))
            # Without its encrypted content an item is only a name for what was not stored.
            if item.get("type") and (stored or item["type"] != "reasoning" or _is_whole(item)):
                items.append(item)
        elif part["type"] == "tool_call":
            call = {
                "type": "function_call",
                "call_id": part["id"],
                # A name that the model invented may be one that the API refuses to see again.
                "name": re.sub(r"[^a-zA-Z0-9_-]", "_", part["name"])[:LONGEST_NAME] or "unknown",
                "arguments": _json.encode(part["arguments"]).decode(),
            }
            items.append({**call, **_kept(part.get("tool_call_signature"))})
        elif part["text"]:
            _add_text(items, part)
    # The API wants something after each reasoning item, and a reply that was cut may lack it.
    while items and items[-1]["type"] == "reasoning":
        items.pop()
    return items


def _add_text(items: list[dict[str, Any]], part: Any) -> None:
    kept = _kept(part.get("text_signature"))
    piece: dict[str, Any] = {"type": "output_text", "text": part["text"], "annotations": []}
    if kept.pop("refusal", False):
        piece = {"type": "refusal", "refusal": part["text"]}
    last = items[-1] if items else {}
    if kept.get("id") and last.get("id") == kept["id"]:
        last["content"].append(piece)
        return
    items.append({"type": "message", "role": "assistant", "status": "completed", "content": [piece], **kept})


def _kept(signature: Any) -> dict[str, Any]:
    return (_json.decode_object(signature) if isinstance(signature, str) and signature else None) or {}


def _is_whole(item: Mapping[str, Any]) -> bool:
    return bool(item.get("encrypted_content") or item.get("content"))


# ---- the reply ------------------------------------------------------------------------------------


class _Item:
    """An item of the reply: its open blocks, one for each part of its content."""

    __slots__ = ("blocks", "call_id", "ended", "id", "kind", "latest")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = ""
        self.call_id = ""
        self.blocks: dict[int, int] = {}
        """Part of the content -> block."""
        self.ended = False
        self.latest = 0


class ResponsesDecoder(ReplyDecoder):
    """The events of the Responses API."""

    def __init__(self, model: Any, **given: Any) -> None:
        super().__init__(model, **given)
        self._items: list[_Item] = []
        self._at: dict[tuple[int | str, str], _Item] = {}
        """Where the reply is in its list of items, and of what kind: servers there are that count badly."""
        self._usage: dict[str, Any] = {}

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
        kind = value.get("type") or name.decode("utf-8", "replace")
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                self._text(value, kind, out)
            case "response.function_call_arguments.delta":
                self._arguments(value, out)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                self._think(value, out)
            case "response.output_item.added":
                self._begin(value, mapping(value.get("item")), out)
            case "response.output_item.done":
                given = mapping(value.get("item"))
                self._end_item(self._item(value, string(given.get("type"))), given, out)
            case "response.completed" | "response.incomplete" | "response.failed" | "response.done":
                self._end(mapping(value.get("response")), kind, out)
            case "response.cancelled":
                self._stop(self._reported("the reply was cancelled at the provider"))
            case "keepalive" | "ping":
                self.seen -= 1
                self.pings += 1
            case _:
                if kind == "error" or value.get("error"):
                    self._stop(self._reported(value))

    def _take_document(self, value: dict[str, Any], out: list[BuilderEvent]) -> bool:
        if not isinstance(value.get("output"), list):
            return False
        self._end(value, "response.completed", out)
        return True

    # ---- items --------------------------------------------------------------------------------------

    def _item(self, value: Mapping[str, Any], kind: str, begins: bool = False) -> _Item:
        """The item that an event speaks of, begun if this is the first of it."""
        at = integer(value.get("output_index"))
        key = (at if at is not None else string(value.get("item_id")), kind)
        item = self._at.get(key)
        if item is None or (begins and item.ended):
            item = self._at[key] = _Item(kind)
            item.id = string(value.get("item_id"))
            self._items.append(item)
        return item

    def _begin(self, value: Mapping[str, Any], given: dict[str, Any], out: list[BuilderEvent]) -> None:
        item = self._item(value, string(given.get("type")), begins=True)
        item.id = string(given.get("id")) or item.id
        if item.kind == "function_call" and not item.blocks:
            self._open_call(item, given, out)

    def _open_call(self, item: _Item, given: Mapping[str, Any], out: list[BuilderEvent]) -> int:
        item.call_id = string(given.get("call_id"))
        index, event = self.builder.open_tool_call(item.call_id, string(given.get("name")))
        item.blocks[0] = index
        out.append(event)
        return index

    def _block(self, item: _Item, part: int, out: list[BuilderEvent]) -> int:
        """The open block of a part of an item."""
        index = item.blocks.get(part)
        if index is None:
            if item.kind == "function_call":
                return self._open_call(item, {}, out)
            if item.kind == "message":
                index, event = self.builder.open_text()
            else:
                index, event = self.builder.open_thinking()
            item.blocks[part] = index
            out.append(event)
        return index

    def _add(self, item: _Item, part: int, piece: Any, out: list[BuilderEvent]) -> None:
        if isinstance(piece, str) and piece and not item.ended:
            index = self._block(item, part, out)
            out.append(self.builder.delta(index, piece))

    def _text(self, value: Mapping[str, Any], kind: str, out: list[BuilderEvent]) -> None:
        part = integer(value.get("content_index")) or 0
        item = self._item(value, "message")
        new = part not in item.blocks
        self._add(item, part, value.get("delta"), out)
        if new and part in item.blocks:
            self._sign_text(item, part, kind == "response.refusal.delta")

    def _sign_text(self, item: _Item, part: int, refusal: bool, phase: Any = None) -> None:
        kept: dict[str, Any] = {}
        if item.id:
            kept["id"] = item.id
        if isinstance(phase, str):
            kept["phase"] = phase
        if refusal:
            kept["refusal"] = True
        if kept:
            self.builder.update(item.blocks[part], text_signature=_json.encode(kept).decode())

    def _arguments(self, value: Mapping[str, Any], out: list[BuilderEvent]) -> None:
        self._add(self._item(value, "function_call"), 0, value.get("delta"), out)

    def _think(self, value: Mapping[str, Any], out: list[BuilderEvent]) -> None:
        """Parts of a summary are paragraphs of one block."""
        item = self._item(value, "reasoning")
        part = integer(value.get("summary_index", value.get("content_index"))) or 0
        if part != item.latest and 0 in item.blocks and self.builder.text(item.blocks[0]):
            self._add(item, 0, "\n\n", out)
        item.latest = part
        self._add(item, 0, value.get("delta"), out)

    def _end_item(self, item: _Item, given: dict[str, Any], out: list[BuilderEvent]) -> None:
        """An item is whole: what did not come in pieces comes now."""
        if item.ended:
            return
        item.id = string(given.get("id")) or item.id
        if item.kind == "message":
            self._end_message(item, given, out)
        elif item.kind == "function_call":
            self._end_call(item, given, out)
        elif item.kind == "reasoning":
            self._end_reasoning(item, given, out)
        elif _is_kept(item.kind) and given:
            signature = _json.encode(given).decode()
            out.append(self.builder.close(self._block(item, 0, out), thinking_signature=signature))
        item.ended = True

    def _end_message(self, item: _Item, given: dict[str, Any], out: list[BuilderEvent]) -> None:
        content = given.get("content")
        for part, piece in enumerate(content if isinstance(content, list) else ()):
            refusal = mapping(piece).get("type") == "refusal"
            self._complete(item, part, mapping(piece).get("refusal" if refusal else "text"), out)
            if part in item.blocks:
                self._sign_text(item, part, refusal, given.get("phase"))
        out += [self.builder.close(index) for index in item.blocks.values()]

    def _end_call(self, item: _Item, given: dict[str, Any], out: list[BuilderEvent]) -> None:
        index = item.blocks[0] if item.blocks else self._open_call(item, given, out)
        whole = given.get("arguments")
        self._complete(item, 0, whole, out)
        fields: dict[str, Any] = {}
        if not item.call_id and string(given.get("call_id")):
            fields["id"] = self.builder.unique_id(given["call_id"])
        if not self.builder.block(index)["name"] and string(given.get("name")):
            fields["name"] = given["name"]
        if item.id:
            fields["tool_call_signature"] = _json.encode({"id": item.id}).decode()
        out.append(self._close_call(index, whole if isinstance(whole, dict) else None, **fields))

    def _end_reasoning(self, item: _Item, given: dict[str, Any], out: list[BuilderEvent]) -> None:
        pieces = given.get("summary") or given.get("content")
        if 0 not in item.blocks and isinstance(pieces, list):
            self._add(item, 0, "\n\n".join(string(mapping(piece).get("text")) for piece in pieces), out)
        kept = {"type": "reasoning", "id": item.id, "summary": given.get("summary") or []}
        for key in ("encrypted_content", "content"):
            if given.get(key):
                # The API takes reasoning in one form only, and the encrypted one is its own.
                kept[key] = given[key]
                break
        fields = {"thinking_signature": _json.encode(kept).decode()} if given else {}
        out.append(self.builder.close(self._block(item, 0, out), **fields))

    def _complete(self, item: _Item, part: int, whole: Any, out: list[BuilderEvent]) -> None:
        """Add what is missing of a text that is known in full now."""
        had = self.builder.text(item.blocks[part]) if part in item.blocks else ""
        if isinstance(whole, str) and whole.startswith(had):
            self._add(item, part, whole[len(had) :], out)

    # ---- the end ------------------------------------------------------------------------------------

    def _end(self, response: dict[str, Any], kind: str, out: list[BuilderEvent]) -> None:
        self._usage = mapping(response.get("usage"))
        status = string(response.get("status")) or kind.removeprefix("response.")
        if kind == "response.failed" or status in ("failed", "cancelled"):
            self._stop(self._reported(response.get("error") or f"the reply ended as {status}"))
            return
        output = response.get("output")
        known: dict[str, list[_Item]] = {}
        for item in self._items:
            known.setdefault(item.kind, []).append(item)
        for at, given in enumerate(output if isinstance(output, list) else ()):
            # The list is all there is if a server streams nothing, and repeats what was streamed else.
            kind = string(mapping(given).get("type"))
            same = known.get(kind)
            item = same.pop(0) if same else self._item({"output_index": -1 - at}, kind)
            self._end_item(item, mapping(given), out)
        self.finish_reason = status
        if kind == "response.incomplete" or status == "incomplete":
            details = mapping(response.get("incomplete_details"))
            self.finish_reason = string(details.get("reason")) or "incomplete"
        self._finish(out)

    def _finish(self, out: list[BuilderEvent]) -> None:
        for item in self._items:
            if item.blocks:
                self._end_item(item, {}, out)
        reason = self.finish_reason
        if reason == "content_filter":
            words = f"{self._name}: the rest of the reply was withheld (content_filter)"
            self._stop(ContentFilterError(words, provider=self._provider))
        else:
            whole = reason in (None, "completed")
            self._done("stop" if whole else "length", out)

    def _spent(self) -> dict[str, Any] | None:
        return normal_usage(self._usage) if self._usage else None


def _is_kept(kind: str) -> bool:
    """Whether an item without words for us goes back to the API as it came."""
    return kind.endswith("_call") or kind in ("compaction", "mcp_list_tools")


def normal_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Usage in our words."""
    given, made = integer(usage.get("input_tokens")) or 0, integer(usage.get("output_tokens")) or 0
    read, spent = mapping(usage.get("input_tokens_details")), mapping(usage.get("output_tokens_details"))
    cost = usage.get("cost")
    return {
        "input": given,
        "output": made,
        "cache_read": integer(read.get("cached_tokens")) or 0,
        "cache_write": integer(read.get("cache_write_tokens")) or 0,
        "reasoning": integer(spent.get("reasoning_tokens")) or 0,
        "total": given + made,
        "cost": dollars(cost),
    }


# ---- the stream -----------------------------------------------------------------------------------


async def stream_openai_responses(
    model: Any, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from the Responses API.

    `session_id` is sent as `prompt_cache_key`. Thinking budgets are not: the API takes an effort.

    Args:
        model: An `OpenAIResponsesModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: if the reply did not begin.
    """
    given: SimpleStreamOptions = options or {}
    base_url = check_model(model, 'OpenAIResponsesModel(id="gpt-5")')
    headers, secrets = _headers(model, given.get("api_key"))
    return await open_stream(
        _url(base_url),
        request_body(model, context, given),
        model=model,
        options=given,
        headers=headers,
        secrets=secrets,
        decoder=partial(ResponsesDecoder, model),
    )


def _headers(model: Any, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """The headers of a request, and what of them is secret."""
    variable = getattr(model, "api_key_env", OpenAIResponsesModel.api_key_env)
    header = dialect_of(server_of(model.base_url, getattr(model, "provider", ""))).key_header
    if header:
        return request_headers(model, api_key, variable=variable, header=header, prefix="")
    return request_headers(model, api_key, variable=variable)


def _url(base_url: str) -> str:
    """The endpoint under a base URL that may name it, or chat/completions, as variables of OpenAI's may."""
    return endpoint(endpoint(base_url, "", named="/chat/completions"), "/responses")
