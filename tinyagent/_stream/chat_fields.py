"""Fields of a chat/completions reply that the server requires in the next request.

`ChatDecoder` stores them in the signatures of the blocks, and `chat_request` sends them back where they were:

    thinking_signature    {"field": …, "reasoning_details": […], "message": {…}}, or only the field's name
    text_signature        {"reasoning_details": […], "message": {…}}, if there is no reasoning
    tool_call_signature   {"call": {…}, "function": {…}}; for a reply of calls only, also the above
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinyagent._json import as_dict, as_list, as_str
from tinyagent.agent_types import AssistantBlock

from .chat_types import REASONING_FIELDS
from .signatures import stored_fields

__all__ = ["IN_CONTENT", "SignedFields", "detail_text", "merge", "send_back"]

IN_CONTENT = "content.thinking"
"""The name of the field of reasoning that was a part of the content (Mistral)."""

_TEXTS = ("text", "summary", "thinking")
"""Fields of an item whose text may arrive in pieces."""
_IN_PIECES = ("reasoning.text", "reasoning.summary", "thinking")
"""Types of items that arrive in pieces: OpenRouter's `reasoning_details`, LiteLLM's `thinking_blocks`."""


def send_back(content: Sequence[AssistantBlock], entry: dict[str, object]) -> None:
    """Add reasoning and unknown fields to a message, where the signatures say that the server sent them."""
    by_field: dict[str, list[str]] = {}
    details: list[object] = []
    for block in content:
        fields: Mapping[str, object] = block
        signed = fields.get(f"{block['type']}_signature")
        stored = stored_fields(signed)
        for name, value in as_dict(stored.get("message")).items():
            entry.setdefault(name, value)
        if block["type"] != "thinking":
            continue
        details += as_list(stored.get("reasoning_details"))
        name = as_str(stored.get("field") if stored else signed)
        if name in REASONING_FIELDS or name == IN_CONTENT:
            by_field.setdefault(name, []).append(block["thinking"])
    if details:
        entry["reasoning_details"] = details
    for name, pieces in by_field.items():
        text = "".join(pieces)
        if name != IN_CONTENT:
            entry[name] = text
        elif text:
            parts: list[object] = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
            if entry["content"]:
                parts.append({"type": "text", "text": entry["content"]})
            entry["content"] = parts


# ---- collecting them --------------------------------------------------------------------------------------


class SignedFields:
    """Collects the fields of a message while it is streamed."""

    __slots__ = ("_fields", "_lists", "details")

    def __init__(self) -> None:
        self.details: list[object] = []
        """The items of `reasoning_details`."""
        self._fields: dict[str, object] = {}
        """Unknown fields."""
        self._lists: dict[str, list[object]] = {}
        """Unknown fields that are lists."""

    def add_details(self, details: Iterable[object]) -> None:
        """Add items of `reasoning_details`."""
        _collect(details, self.details)

    def add(self, fields: Mapping[str, object]) -> None:
        """Add unknown fields. Lists may arrive in pieces."""
        for name, value in fields.items():
            if isinstance(value, list):
                _collect(value, self._lists.setdefault(name, []))
            else:
                merge(self._fields, {name: value})

    @property
    def has_unknown(self) -> bool:
        """Whether the message has unknown fields."""
        return bool(self._fields or self._lists)

    def record(self) -> dict[str, object]:
        """Return all fields as a signature stores them; empty if there are none."""
        record: dict[str, object] = {}
        if self.details:
            record["reasoning_details"] = _whole(self.details)
        fields = {**self._fields, **{name: _whole(items) for name, items in self._lists.items()}}
        if fields:
            record["message"] = fields
        return record


def merge(target: dict[str, object], fields: Mapping[str, object]) -> None:
    """Add fields: objects are merged, and other values replace earlier ones."""
    for key, value in fields.items():
        known = target.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            merge(known, value)
        elif value:
            target[key] = value


def detail_text(detail: object) -> str:
    """Return the readable text of an item of `reasoning_details`."""
    if not isinstance(detail, dict):
        return ""
    return as_str(detail.get("text") or detail.get("summary"))


def _collect(items: Iterable[object], collected: list[object]) -> None:
    """Add items. Pieces of the same text become one item."""
    for item in items:
        last = collected[-1] if collected else None
        if isinstance(last, dict) and isinstance(item, dict) and _continues(last, item):
            for key, value in item.items():
                if key in _TEXTS:
                    last.setdefault(key, []).append(value)
                elif value is not None:
                    last[key] = value
        elif isinstance(item, dict):
            # Pieces are joined at the end, so that long reasoning takes linear time.
            collected.append({key: [value] if key in _TEXTS else value for key, value in item.items()})
        else:
            collected.append(item)


def _continues(last: Mapping[str, object], item: Mapping[str, object]) -> bool:
    return (
        item.get("type") == last.get("type")
        and item.get("type") in _IN_PIECES
        and item.get("index") == last.get("index")
        and item.get("id") in (None, last.get("id"))
        and not last.get("signature")
    )


def _whole(collected: list[object]) -> list[object]:
    """Join the pieces of the texts of collected items."""
    return [
        {key: _joined(value) if key in _TEXTS else value for key, value in item.items()}
        if isinstance(item, dict)
        else item
        for item in collected
    ]


def _joined(pieces: list[object]) -> object:
    strings = [piece for piece in pieces if isinstance(piece, str)]
    return "".join(strings) if strings else pieces[0]
