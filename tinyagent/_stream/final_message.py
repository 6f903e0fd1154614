"""Normalise the final message of a reply. Custom providers may send one of any form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from tinyagent.agent_types import AssistantMessage, StopReason

from .builder import finished_arguments, unique_id
from .finish_reasons import finish_error, finish_kind, has_content, shown_reason

__all__ = ["MALFORMED", "normalise_message"]

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""The exceptions of `normalise_message` for a malformed message."""


def _copied_blocks(content: object) -> list[dict[str, object]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    content = content or ()
    if not isinstance(content, Iterable):
        raise TypeError(f"the content is of type {type(content).__name__}, not a list")
    blocks: list[dict[str, object]] = []
    for block in content:
        if not isinstance(block, Mapping):
            raise TypeError(f"a block of the content is of type {type(block).__name__}, not a dict")
        blocks.append(dict(block))
    return blocks


def normalise_message(message: Mapping[str, object]) -> AssistantMessage:
    """Normalise a provider's final message. Its tool calls count even if the stop reason is `stop`."""
    blocks = _copied_blocks(message.get("content"))
    ids: dict[str, int] = {}
    for block in blocks:
        kind = block["type"]
        if kind == "tool_call":
            block["id"], block["name"] = (
                unique_id(str(block.get("id") or ""), ids),
                str(block.get("name") or ""),
            )
            text = block.pop("partial_json", None)
            block["arguments"], raw = finished_arguments(block.get("arguments", {}), text)
            if raw is not None:
                block["partial_json"] = raw
        elif kind in ("text", "thinking") and not isinstance(block[kind], str):
            raise TypeError(f"the {kind} of a block is {type(block[kind]).__name__}, not str")
    final = dict(message)
    if not isinstance(final.get("usage"), dict):
        final["usage"] = None
    reason = _stop_reason(final, blocks)
    if reason in ("stop", "tool_use"):
        reason = "tool_use" if ids else "stop"
    return cast(AssistantMessage, {**final, "role": "assistant", "content": blocks, "stop_reason": reason})


def _stop_reason(final: dict[str, object], blocks: list[dict[str, object]]) -> StopReason:
    """Return the stop reason of a provider's message. An unknown one is stored as `finish_reason`.

    If the message was withheld or broken, set the fields of its error in `final`.
    """
    reason = final.get("stop_reason")
    if reason in ("length", "error", "aborted"):
        return reason
    complete = reason in ("stop", "tool_use", None)
    if complete:
        # The finish reason of a recording or a custom provider may contradict its stop reason.
        reason = final.get("finish_reason")
    else:
        final.setdefault("finish_reason", shown_reason(str(reason)))
    shown = shown_reason(str(reason)) if reason else None
    kind = finish_kind(shown, has_content=complete or has_content(blocks))
    error = finish_error(shown, kind, name=str(final.get("provider") or "the provider"))
    if error is None:
        return "length" if kind == "length" else "stop"
    final.setdefault("error_message", str(error))
    final.setdefault("error_kind", error.kind)
    if error.hint:
        final.setdefault("error_hint", error.hint)
    return "error"
