"""Types for the chunks of a chat/completions reply.

Nearly every chunk fits the structs and is decoded in one step. If a chunk does not fit (unexpected types,
surrogates, unknown fields of a delta or tool call), decoding raises, and `chunk_of` reads it field by field.
Unknown fields are stored as `extra`, because a server may require them in the next request, as Gemini and
Copilot do. Chunks without such fields have no extra cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from tinyagent import _json
from tinyagent._json import as_int

__all__ = [
    "REASONING_FIELDS",
    "Chunk",
    "Delta",
    "Function",
    "ToolCall",
    "chunk_of",
    "decode",
    "unknown_fields",
]

REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")

_EXTRA = "<extra>"
"""The name of `extra` in JSON. No server sends it."""


class Function(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The function of a tool call. Servers may send both fields in pieces."""

    name: str | None = None
    arguments: object = None
    extra: dict[str, object] | None = msgspec.field(default=None, name=_EXTRA)


class ToolCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    type: str | None = None
    extra: dict[str, object] | None = msgspec.field(default=None, name=_EXTRA)


class Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of the message; the whole message in a reply that is not a stream."""

    content: str | list[object] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    reasoning_details: list[object] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    extra: dict[str, object] | None = msgspec.field(default=None, name=_EXTRA)
    # Not needed for the next request. They are declared because many chunks have them.
    role: object = None
    channel: object = None


class Choice(msgspec.Struct, gc=False):
    """One of the alternative replies. Only the first is used."""

    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    error: object = None


class Chunk(msgspec.Struct, gc=False):
    """One event of the stream; the whole document in a reply that is not a stream."""

    choices: list[Choice] | None = None
    usage: object = None
    error: object = None
    x_groq: object = None


decode = msgspec.json.Decoder(Chunk).decode


# ---- decoding field by field --------------------------------------------------------------------------


def chunk_of(value: Mapping[str, object]) -> Chunk:
    """Read a chunk from a JSON object with fields of any type. Surrogates remain in `content`."""
    choices = value.get("choices")
    return Chunk(
        choices=[_choice_of(item) for item in choices if isinstance(item, dict)]
        if isinstance(choices, list)
        else None,
        usage=value.get("usage"),
        error=_json.without_surrogates(value.get("error")),
        x_groq=value.get("x_groq"),
    )


def _choice_of(value: Mapping[str, object]) -> Choice:
    return Choice(
        index=as_int(value.get("index")),
        delta=_delta_of(value.get("delta")),
        message=_delta_of(value.get("message")),
        finish_reason=_text(value.get("finish_reason")),
        error=_json.without_surrogates(value.get("error")),
    )


def _delta_of(value: object) -> Delta | None:
    if not isinstance(value, dict):
        return None
    content, calls = value.get("content"), value.get("tool_calls")
    if isinstance(calls, dict):
        calls = [calls]
    return Delta(
        content=content if isinstance(content, str) else _list(content),
        reasoning_content=_text(value.get("reasoning_content")),
        reasoning=_text(value.get("reasoning")),
        reasoning_text=_text(value.get("reasoning_text")),
        reasoning_details=_list(value.get("reasoning_details")),
        refusal=_text(value.get("refusal")),
        tool_calls=[_call_of(item) for item in calls if isinstance(item, dict)]
        if isinstance(calls, list)
        else None,
        function_call=_function_of(value.get("function_call")),
        extra=unknown_fields(value),
    )


def unknown_fields(delta: Mapping[str, object]) -> dict[str, object] | None:
    """Return the unknown fields of a delta, which the server may require back; None if there are none."""
    return _extra(delta, _DELTA_FIELDS | _NOT_SENT_BACK)


def _call_of(value: Mapping[str, object]) -> ToolCall:
    return ToolCall(
        index=as_int(value.get("index")),
        id=_text(value.get("id")),
        function=_function_of(value.get("function")),
        extra=_extra(value, _CALL_FIELDS),
    )


def _function_of(value: object) -> Function | None:
    if not isinstance(value, dict):
        return None
    return Function(
        name=_text(value.get("name")),
        arguments=_json.without_surrogates(value.get("arguments")),
        extra=_extra(value, _FUNCTION_FIELDS),
    )


def _fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(kind.__struct_encode_fields__)


_NOT_SENT_BACK = frozenset(
    {
        *("name", "usage", "logprobs", "token_id", "token_ids", "prompt_token_ids", "obfuscation"),
        *("executed_tools", "provider_metadata", "graph_data", "llm_data", "image_data", "translation_data"),
        "web_search_data",
    }
)
"""Fields of recorded deltas that describe the reply. Requests do not accept them."""

_DELTA_FIELDS, _CALL_FIELDS, _FUNCTION_FIELDS = _fields(Delta), _fields(ToolCall), _fields(Function)


def _extra(value: Mapping[str, object], known: Iterable[str]) -> dict[str, object] | None:
    """Return the unknown fields with content. Numbers and flags are not sent back."""
    extra: dict[str, object] = {
        key: _json.without_surrogates(item)
        for key, item in value.items()
        if key not in known and isinstance(item, str | dict | list) and item
    }
    return extra or None


def _text(value: object) -> str | None:
    return _json.without_surrogates(value) if isinstance(value, str) else None


def _list(value: object) -> list[object] | None:
    return [_json.without_surrogates(item) for item in value] if isinstance(value, list) else None
