"""The server's side of the protocols of providers: converts a message to the bytes of a reply.

`ProviderContract` uses it: the tests define the content of a reply, and the wire its form. `Wire` is the base
class; your own protocol needs three methods:

    class AcmeWire(Wire):
        def say(self, content): return [sse({"word": piece}) for block in content for piece in pieces(block)]
        def end(self, stop_reason, usage): return [sse({"bye": stop_reason})]
        def error(self, message): return [sse({"oops": message})]

`begin` is for protocols that send something before the first block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tinyagent.agent_types import TextContent, ThinkingContent, ToolCallContent

from .server import DONE, FakeReply, Hangup, Hold, Reset, Step, Wait, chat_chunk, sse

__all__ = ["AnthropicWire", "ChatWire", "ProxyWire", "ResponsesWire", "Script", "Wire", "pieces"]

Block: TypeAlias = TextContent | ThinkingContent | ToolCallContent
"""A block that a model can stream."""


@dataclass(frozen=True)
class Script:
    """The reply of a model, and how it ends.

    Attributes:
        content: The blocks of the message. If a tool call has `partial_json`, that text is sent as its
            arguments.
        stop_reason: The stop reason of the message.
        usage: The normalised usage; `input` includes cached tokens.
        ending: `whole`; `cut` without its end, but the body ends regularly; `hangup` if the connection closes
            in the middle of an event; `reset` by TCP; `stall` if the server sends nothing more, and the
            connection stays open; `error` with an error event.
        error: The text of the error event.
        gates: The server waits to be released after the first bytes that contain each of these texts.
        bytewise: Whether each byte is sent separately.
    """

    content: Sequence[Block] = ()
    stop_reason: Literal["stop", "length", "tool_use"] = "stop"
    usage: Mapping[str, int] | None = None
    ending: Literal["whole", "cut", "hangup", "reset", "stall", "error"] = "whole"
    error: str = ""
    gates: Sequence[str] = ()
    bytewise: bool = False


def pieces(block: Block) -> list[str]:
    """Return the text of a block in the pieces that a model streams: words, or short pieces of arguments."""
    if block["type"] == "tool_call":
        text = block.get("partial_json")
        if text is None:
            text = json.dumps(block["arguments"])
        return [text[at : at + 7] for at in range(0, len(text), 7)]
    return re.findall(r"\s*\S+|\s+$", block["text"] if block["type"] == "text" else block["thinking"])


class Wire:
    """The server's side of a protocol. Each item of a returned list is one network chunk.

    Attributes:
        signs: Whether thinking has a signature that the next request must contain.
    """

    signs = True

    def begin(self) -> list[bytes]:
        """Return the start of a reply, before the first block."""
        return []

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """Return these blocks as deltas."""
        raise NotImplementedError

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the end of a complete reply."""
        raise NotImplementedError

    def error(self, message: str) -> list[bytes]:
        """Return an error inside the stream."""
        raise NotImplementedError

    def refuse(self, status: int, message: str, **headers: str) -> FakeReply:
        """Return an HTTP error. Header names have `_` for `-`."""
        return FakeReply.error(status, message, **headers)

    def reply(self, script: Script) -> FakeReply:
        """Return the reply of the server for a script."""
        frames = [*self.begin(), *self.say(script.content)]
        last: list[Step] = []
        framing: Literal["chunked", "close"] = "chunked"
        match script.ending:
            case "whole":
                frames += self.end(script.stop_reason, script.usage)
            case "error":
                frames += self.error(script.error)
            case "hangup":
                final = self.end(script.stop_reason, script.usage)[0]
                last = [final[: len(final) // 2], Hangup()]
            case "reset":
                last = [Reset()]
            case "stall":
                last = [Hold()]
        steps: list[Step] = []
        waiting = list(script.gates)
        for frame in frames:
            steps += [frame[n : n + 1] for n in range(len(frame))] if script.bytewise else [frame]
            if waiting and waiting[0].encode() in frame:
                waiting.pop(0)
                steps.append(Wait())
        return FakeReply([*steps, *last], framing=framing)


class ChatWire(Wire):
    """chat/completions.

    Args:
        details: Whether reasoning is sent as `reasoning_details` with signatures (OpenRouter), or else as
            `reasoning_content`.
    """

    def __init__(self, *, details: bool = False) -> None:
        self.signs = details

    def begin(self) -> list[bytes]:
        """Return the role."""
        return [sse(chat_chunk({"role": "assistant", "content": ""}))]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """Return these blocks as deltas."""
        deltas: list[Mapping[str, object]] = []
        calls = 0
        for block in content:
            if block["type"] == "text":
                deltas += [{"content": piece} for piece in pieces(block)]
            elif block["type"] == "thinking":
                deltas += self._think(block)
            else:
                function = {"name": block["name"], "arguments": ""}
                call = {"index": calls, "id": block["id"], "type": "function", "function": function}
                deltas.append({"tool_calls": [call]})
                deltas += [
                    {"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}
                    for piece in pieces(block)
                ]
                calls += 1
        return [sse(chat_chunk(delta)) for delta in deltas]

    def _think(self, block: ThinkingContent) -> list[Mapping[str, object]]:
        if not self.signs:
            return [{"reasoning_content": piece} for piece in pieces(block)]
        kind = {"type": "reasoning.text", "index": 0}
        details: list[dict[str, object]] = [{**kind, "text": piece} for piece in pieces(block)]
        if "thinking_signature" in block:
            details.append({**kind, "signature": block["thinking_signature"]})
        return [{"reasoning": item.get("text", ""), "reasoning_details": [item]} for item in details]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the finish reason, the usage and the end marker."""
        finish = {"tool_use": "tool_calls"}.get(stop_reason, stop_reason)
        frames = [sse(chat_chunk({}, finish))]
        if usage is not None:
            counts = {
                "prompt_tokens": usage.get("input", 0),
                "completion_tokens": usage.get("output", 0),
                "prompt_tokens_details": {"cached_tokens": usage.get("cache_read", 0)},
            }
            frames.append(sse({**chat_chunk(), "choices": [], "usage": counts}))
        return [*frames, DONE]

    def error(self, message: str) -> list[bytes]:
        """Return a chunk with an error."""
        return [sse({"error": {"message": message, "code": 400}})]


class AnthropicWire(Wire):
    """Anthropic's Messages API."""

    def begin(self) -> list[bytes]:
        """Return the empty message."""
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": []}
        usage = {"input_tokens": 0, "output_tokens": 0}
        return [_event({"type": "message_start", "message": {**message, "usage": usage}})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """Return these blocks as deltas."""
        frames = []
        for at, block in enumerate(content):
            match block["type"]:
                case "text":
                    start: dict[str, object] = {"type": "text", "text": ""}
                    deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block)]
                case "thinking":
                    start = {"type": "thinking", "thinking": "", "signature": ""}
                    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block)]
                    signature = block.get("thinking_signature")
                    if signature:
                        deltas.append({"type": "signature_delta", "signature": signature})
                case _:
                    start = {"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}
                    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(block)]
            frames += [
                {"type": "content_block_start", "index": at, "content_block": start},
                *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
                {"type": "content_block_stop", "index": at},
            ]
        return [_event(frame) for frame in frames]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the stop reason with the usage, and the end."""
        reason = {"stop": "end_turn", "length": "max_tokens"}.get(stop_reason, stop_reason)
        given = usage or {}
        read = given.get("cache_read", 0)
        counts = {
            "input_tokens": given.get("input", 0) - read,
            "output_tokens": given.get("output", 0),
            "cache_read_input_tokens": read,
        }
        delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": counts}
        return [_event(delta), _event({"type": "message_stop"})]

    def error(self, message: str) -> list[bytes]:
        """Return an `error` event."""
        return [_event(self._error("invalid_request_error", message))]

    def refuse(self, status: int, message: str, **headers: str) -> FakeReply:
        """Return an HTTP error in the form of Anthropic."""
        return FakeReply.json(self._error("api_error", message), status, **headers)

    def _error(self, kind: str, message: str) -> dict[str, object]:
        return {"type": "error", "error": {"type": kind, "message": message}}


class ResponsesWire(Wire):
    """OpenAI's Responses API."""

    def begin(self) -> list[bytes]:
        """Return the empty response."""
        response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
        return [_event({"type": "response.created", "response": response})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """Return these blocks as items with deltas."""
        return [
            sse({**event, "output_index": at}, event=str(event["type"]))
            for at, block in enumerate(content)
            for event in self._item(block, at)
        ]

    def _item(self, block: Block, at: int) -> list[dict[str, object]]:
        match block["type"]:
            case "text":
                return self._text(block, at)
            case "thinking":
                return self._thinking(block, at)
            case "tool_call":
                return self._tool_call(block, at)

    def _text(self, block: TextContent, at: int) -> list[dict[str, object]]:
        item = {"type": "message", "id": f"msg_{at}", "role": "assistant"}
        whole = {"type": "output_text", "text": block["text"], "annotations": []}
        place = {"item_id": item["id"], "content_index": 0}
        return [
            {"type": "response.output_item.added", "item": {**item, "content": []}},
            *(
                {"type": "response.output_text.delta", **place, "delta": piece}
                for piece in pieces(block)
            ),
            {"type": "response.output_item.done", "item": {**item, "content": [whole]}},
        ]  # fmt: skip

    def _thinking(self, block: ThinkingContent, at: int) -> list[dict[str, object]]:
        item: dict[str, object] = {"type": "reasoning", "id": f"rs_{at}", "summary": []}
        whole = {**item, "summary": [{"type": "summary_text", "text": block["thinking"]}]}
        if "thinking_signature" in block:
            whole["encrypted_content"] = block["thinking_signature"]
        place = {"item_id": item["id"], "summary_index": 0}
        return [
            {"type": "response.output_item.added", "item": item},
            *(
                {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
                for piece in pieces(block)
            ),
            {"type": "response.output_item.done", "item": whole},
        ]

    def _tool_call(self, block: ToolCallContent, at: int) -> list[dict[str, object]]:
        item: dict[str, object] = {
            "type": "function_call",
            "id": f"fc_{at}",
            "call_id": block["id"],
            "name": block["name"],
        }
        return [
            {"type": "response.output_item.added", "item": {**item, "arguments": ""}},
            *(
                {"type": "response.function_call_arguments.delta", "item_id": item["id"], "delta": piece}
                for piece in pieces(block)
            ),
            {"type": "response.output_item.done", "item": {**item, "arguments": "".join(pieces(block))}},
        ]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the complete or incomplete response."""
        status = "incomplete" if stop_reason == "length" else "completed"
        response: dict[str, object] = {"id": "resp_1", "status": status}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if usage is not None:
            response["usage"] = {
                "input_tokens": usage.get("input", 0),
                "output_tokens": usage.get("output", 0),
                "total_tokens": usage.get("input", 0) + usage.get("output", 0),
                "input_tokens_details": {"cached_tokens": usage.get("cache_read", 0)},
            }
        return [_event({"type": f"response.{status}", "response": response})]

    def error(self, message: str) -> list[bytes]:
        """Return an `error` event."""
        return [_event({"type": "error", "code": "invalid_prompt", "message": message, "param": None})]


class ProxyWire(Wire):
    """tinyagent's own proxy protocol."""

    def begin(self) -> list[bytes]:
        """Return the `start` event."""
        return [sse({"type": "start"})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """Return these blocks as deltas."""
        frames = []
        for at, block in enumerate(content):
            kind, named, signed = str(block["type"]), {}, {}
            if block["type"] == "tool_call":
                kind, named = "toolcall", {"id": block["id"], "toolName": block["name"]}
            elif block["type"] == "thinking" and (signature := block.get("thinking_signature")):
                signed = {"contentSignature": signature}
            frames += [
                {"type": f"{kind}_start", "contentIndex": at, **named},
                *({"type": f"{kind}_delta", "contentIndex": at, "delta": piece} for piece in pieces(block)),
                {"type": f"{kind}_end", "contentIndex": at, **signed},
            ]
        return [sse(frame) for frame in frames]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the end with the usage. In this protocol `input` does not include cached tokens."""
        done: dict[str, object] = {
            "type": "done",
            "reason": {"tool_use": "toolUse"}.get(stop_reason, stop_reason),
        }
        if usage is not None:
            read = usage.get("cache_read", 0)
            done["usage"] = {
                "input": usage.get("input", 0) - read,
                "output": usage.get("output", 0),
                "cacheRead": read,
                "cacheWrite": 0,
                "totalTokens": usage.get("input", 0) + usage.get("output", 0),
            }
        return [sse(done)]

    def error(self, message: str) -> list[bytes]:
        """Return an `error` event."""
        return [sse({"type": "error", "reason": "error", "errorMessage": message})]


def _event(value: Mapping[str, object]) -> bytes:
    return sse(value, event=str(value["type"]))
