"""The chunks of a chat/completions reply, as types that decode fast and lose nothing.

Nearly every chunk fits the structs and is decoded in one step. One that does not (odd types, surrogates,
fields of a delta or tool call that are not known here) raises, and `chunk_of` reads it field by field.
Fields that are rare or not known are kept as `extra`: a server may want them back with the next request, as
Gemini and Copilot do. A chunk without such fields costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from . import _json
from ._wire import integer

__all__ = ["REASONING_FIELDS", "Chunk", "Delta", "Function", "ToolCall", "chunk_of", "decode"]

REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")

_EXTRA = "<extra>"
"""The wire name of `extra`, which no server sends."""


class Function(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The function of a tool call; both fields may come in pieces."""

    name: str | None = None
    arguments: Any = None
    extra: dict[str, Any] | None = msgspec.field(default=None, name=_EXTRA)


class ToolCall(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    type: str | None = None
    extra: dict[str, Any] | None = msgspec.field(default=None, name=_EXTRA)


class Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A piece of the message, or in a reply that is no stream the whole of it."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    extra: dict[str, Any] | None = msgspec.field(default=None, name=_EXTRA)
    # Of no use for the next request, but sent in many chunks: declared, they do not slow these down.
    role: Any = None
    channel: Any = None


class Choice(msgspec.Struct, gc=False):
    """One of the alternatives; only the first is used."""

    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    error: Any = None


class Chunk(msgspec.Struct, gc=False):
    """One event of the stream, or the document of a reply that is no stream."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


decode = msgspec.json.Decoder(Chunk).decode


# ---- the slow way -------------------------------------------------------------------------------------


def chunk_of(value: Mapping[str, Any]) -> Chunk:
    """The chunk in a JSON object, whatever the types of its fields; surrogates stay in `content`."""
    choices = value.get("choices")
    return Chunk(
        choices=[_choice_of(item) for item in choices if isinstance(item, dict)]
        if isinstance(choices, list)
        else None,
        usage=value.get("usage"),
        error=_json.without_surrogates(value.get("error")),
        x_groq=value.get("x_groq"),
    )


def _choice_of(value: Mapping[str, Any]) -> Choice:
    return Choice(
        index=integer(value.get("index")),
        delta=_delta_of(value.get("delta")),
        message=_delta_of(value.get("message")),
        finish_reason=_text(value.get("finish_reason")),
        error=_json.without_surrogates(value.get("error")),
    )


def _delta_of(value: Any) -> Delta | None:
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
        extra=_extra(value, _DELTA_FIELDS | _OF_NO_USE),
    )


def _call_of(value: Mapping[str, Any]) -> ToolCall:
    return ToolCall(
        index=integer(value.get("index")),
        id=_text(value.get("id")),
        function=_function_of(value.get("function")),
        extra=_extra(value, _CALL_FIELDS),
    )


def _function_of(value: Any) -> Function | None:
    if not isinstance(value, dict):
        return None
    return Function(
        name=_text(value.get("name")),
        arguments=_json.without_surrogates(value.get("arguments")),
        extra=_extra(value, _FUNCTION_FIELDS),
    )


def _fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(kind.__struct_encode_fields__)


_OF_NO_USE = frozenset(
    {
        *("name", "usage", "logprobs", "token_id", "token_ids", "prompt_token_ids", "obfuscation"),
        *("executed_tools", "provider_metadata", "graph_data", "llm_data", "image_data", "translation_data"),
        "web_search_data",
    }
)
"""Seen in recorded deltas: about this reply, and not taken in a request."""

_DELTA_FIELDS, _CALL_FIELDS, _FUNCTION_FIELDS = _fields(Delta), _fields(ToolCall), _fields(Function)


def _extra(value: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any] | None:
    """The fields that are not known here and say something; a number or a flag is nothing to send back."""
    found = {
        key: _json.without_surrogates(item)
        for key, item in value.items()
        if key not in known and isinstance(item, str | dict | list) and item
    }
    return found or None


def _text(value: Any) -> str | None:
    return _json.without_surrogates(value) if isinstance(value, str) else None


def _list(value: Any) -> list[Any] | None:
    return _json.without_surrogates(value) if isinstance(value, list) else None
