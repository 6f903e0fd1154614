"""How the servers of providers speak: a message in our words in, the bytes of a reply out.

For tests of providers (`_provider_contract`), which know what a model is to say and not how it is framed.
`Wire` is the base; a protocol of your own is four methods:

    class AcmeWire(Wire):
        def say(self, content): return [sse({"word": piece}) for block in content for piece in pieces(block)]
        def end(self, stop_reason, usage): return [sse({"bye": stop_reason})]
        def error(self, message): return [sse({"oops": message})]

`begin` is empty unless there is something to say first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .server import DONE, FakeReply, Hangup, Hold, Reset, Step, Wait, chat_chunk, sse

__all__ = ["AnthropicWire", "ChatWire", "ProxyWire", "ResponsesWire", "Script", "Wire", "pieces"]

Block: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Script:
    """What a model says in one call, and how its reply ends.

    Attributes:
        content: Blocks, as they are to stand in the message. A tool call with `partial_json` sends that text
            as its arguments, whatever it is.
        stop_reason: Of the message.
        usage: In our words; `input` includes what was cached.
        ending: `whole`; `cut` without its end, the connection closed as if all were said; `hangup` with the
            connection closed in the middle of an event; `reset` by TCP; `stall` with silence, the connection
            open; `error` as an event that says `error`.
        error: The provider's words for it.
        gates: After the first bytes that say this, the server waits to be released.
        bytewise: Every byte is sent for itself.
    """

    content: Sequence[Block] = ()
    stop_reason: Literal["stop", "length", "tool_use"] = "stop"
    usage: Mapping[str, int] | None = None
    ending: Literal["whole", "cut", "hangup", "reset", "stall", "error"] = "whole"
    error: str = ""
    gates: Sequence[str] = ()
    bytewise: bool = False


def pieces(block: Block) -> list[str]:
    """A block's text as a model streams it: word by word, arguments in short pieces."""
    if block["type"] == "tool_call":
        text = block.get("partial_json")
        if text is None:
            text = json.dumps(block["arguments"])
        return [text[at : at + 7] for at in range(0, len(text), 7)]
    return re.findall(r"\s*\S+|\s+$", block[block["type"]])


class Wire:
    """A protocol, spoken by the server's side; every item of a list is a network chunk.

    Attributes:
        signs: Whether thinking comes with a signature that has to go back.
    """

    signs = True

    def begin(self) -> list[bytes]:
        """What comes before the first block."""
        return []

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """These blocks, delta by delta."""
        raise NotImplementedError

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """What makes the reply complete."""
        raise NotImplementedError

    def error(self, message: str) -> list[bytes]:
        """An error in the middle of the stream."""
        raise NotImplementedError

    def refuse(self, status: int, message: str, **headers: str) -> FakeReply:
        """An HTTP error; header names with `_` for `-`."""
        return FakeReply.error(status, message, **headers)

    def reply(self, script: Script) -> FakeReply:
        """What the server sends for a script."""
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
        details: Reasoning as OpenRouter has it, with signatures; else as `reasoning_content`.
    """

    def __init__(self, *, details: bool = False) -> None:
        self.signs = details

    def begin(self) -> list[bytes]:
        """The role."""
        return [sse(chat_chunk({"role": "assistant", "content": ""}))]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """These blocks, delta by delta."""
        deltas: list[Mapping[str, Any]] = []
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

    def _think(self, block: Block) -> list[Mapping[str, Any]]:
        if not self.signs:
            return [{"reasoning_content": piece} for piece in pieces(block)]
        kind = {"type": "reasoning.text", "index": 0}
        details: list[dict[str, Any]] = [{**kind, "text": piece} for piece in pieces(block)]
        if "thinking_signature" in block:
            details.append({**kind, "signature": block["thinking_signature"]})
        return [{"reasoning": item.get("text", ""), "reasoning_details": [item]} for item in details]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """The finish reason, the usage, the end marker."""
        finish = {"tool_use": "tool_calls"}.get(stop_reason, stop_reason)
        frames = [sse(chat_chunk({}, finish))]
        if usage is not None:
            said = {
                "prompt_tokens": usage.get("input", 0),
                "completion_tokens": usage.get("output", 0),
                "prompt_tokens_details": {"cached_tokens": usage.get("cache_read", 0)},
            }
            frames.append(sse({**chat_chunk(), "choices": [], "usage": said}))
        return [*frames, DONE]

    def error(self, message: str) -> list[bytes]:
        """A chunk that is an error."""
        return [sse({"error": {"message": message, "code": 400}})]


class AnthropicWire(Wire):
    """Anthropic's Messages API."""

    def begin(self) -> list[bytes]:
        """The message, still empty."""
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": []}
        usage = {"input_tokens": 0, "output_tokens": 0}
        return [_event({"type": "message_start", "message": {**message, "usage": usage}})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """These blocks, delta by delta."""
        frames = []
        for at, block in enumerate(content):
            match block["type"]:
                case "text":
                    start: dict[str, Any] = {"type": "text", "text": ""}
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
        """The stop reason with the usage, and the end."""
        reason = {"stop": "end_turn", "length": "max_tokens"}.get(stop_reason, stop_reason)
        counts = usage or {}
        read = counts.get("cache_read", 0)
        said = {
            "input_tokens": counts.get("input", 0) - read,
            "output_tokens": counts.get("output", 0),
            "cache_read_input_tokens": read,
        }
        delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": said}
        return [_event(delta), _event({"type": "message_stop"})]

    def error(self, message: str) -> list[bytes]:
        """An `error` event."""
        return [_event(self._error("invalid_request_error", message))]

    def refuse(self, status: int, message: str, **headers: str) -> FakeReply:
        """An HTTP error in Anthropic's form."""
        return FakeReply.json(self._error("api_error", message), status, **headers)

    def _error(self, kind: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}}


class ResponsesWire(Wire):
    """OpenAI's Responses API."""

    def begin(self) -> list[bytes]:
        """The response, still empty."""
        response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
        return [_event({"type": "response.created", "response": response})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """These blocks as items, delta by delta."""
        return [
            _event({**event, "output_index": at})
            for at, block in enumerate(content)
            for event in getattr(self, f"_{block['type']}")(block, at)
        ]

    def _text(self, block: Block, at: int) -> list[dict[str, Any]]:
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

    def _thinking(self, block: Block, at: int) -> list[dict[str, Any]]:
        item: dict[str, Any] = {"type": "reasoning", "id": f"rs_{at}", "summary": []}
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

    def _tool_call(self, block: Block, at: int) -> list[dict[str, Any]]:
        item = {"type": "function_call", "id": f"fc_{at}", "call_id": block["id"], "name": block["name"]}
        return [
            {"type": "response.output_item.added", "item": {**item, "arguments": ""}},
            *(
                {"type": "response.function_call_arguments.delta", "item_id": item["id"], "delta": piece}
                for piece in pieces(block)
            ),
            {"type": "response.output_item.done", "item": {**item, "arguments": "".join(pieces(block))}},
        ]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """The response, complete or incomplete."""
        status = "incomplete" if stop_reason == "length" else "completed"
        response: dict[str, Any] = {"id": "resp_1", "status": status}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if usage is not None:
            response["usage"] = {
                "input_tokens": usage.get("input", 0),
                "output_tokens": usage.get("output", 0),
                "input_tokens_details": {"cached_tokens": usage.get("cache_read", 0)},
            }
        return [_event({"type": f"response.{status}", "response": response})]

    def error(self, message: str) -> list[bytes]:
        """An `error` event."""
        return [_event({"type": "error", "code": "invalid_prompt", "message": message, "param": None})]


class ProxyWire(Wire):
    """tinyagent's own proxy protocol."""

    def begin(self) -> list[bytes]:
        """The start."""
        return [sse({"type": "start"})]

    def say(self, content: Sequence[Block]) -> list[bytes]:
        """These blocks, delta by delta."""
        frames = []
        for at, block in enumerate(content):
            kind = block["type"].replace("tool_call", "toolcall")
            named = {"id": block["id"], "toolName": block["name"]} if kind == "toolcall" else {}
            signature = block.get("thinking_signature")
            signed = {"contentSignature": signature} if signature else {}
            frames += [
                {"type": f"{kind}_start", "contentIndex": at, **named},
                *({"type": f"{kind}_delta", "contentIndex": at, "delta": piece} for piece in pieces(block)),
                {"type": f"{kind}_end", "contentIndex": at, **signed},
            ]
        return [sse(frame) for frame in frames]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """The end, with the usage; cached tokens are counted beside the others."""
        said: dict[str, Any] = {
            "type": "done",
            "reason": {"tool_use": "toolUse"}.get(stop_reason, stop_reason),
        }
        if usage is not None:
            read = usage.get("cache_read", 0)
            said["usage"] = {
                "input": usage.get("input", 0) - read,
                "output": usage.get("output", 0),
                "cacheRead": read,
                "cacheWrite": 0,
                "totalTokens": usage.get("input", 0) + usage.get("output", 0),
            }
        return [sse(said)]

    def error(self, message: str) -> list[bytes]:
        """An `error` event."""
        return [sse({"type": "error", "reason": "error", "errorMessage": message})]


def _event(value: Mapping[str, Any]) -> bytes:
    return sse(value, event=value["type"])
