"""An upstream that LiteLLM's proxy loads: it calls `calc` once, then answers with the tool's result.

The proxy turns what is yielded here into its own chat/completions stream, so the bytes that tinyagent
reads are LiteLLM's, not ours.
"""

from collections.abc import AsyncIterator
from typing import Any

from litellm import CustomLLM
from litellm.types.utils import GenericStreamingChunk

ARGUMENTS = ['{"expre', 'ssion": ', '"6 * 7"', "}"]


class Scripted(CustomLLM):
    """First turn: text and a tool call in pieces. Second turn: a sentence with the tool's result."""

    async def astreaming(
        self, model: str, messages: list[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> AsyncIterator[GenericStreamingChunk]:
        """Yield the reply to the conversation so far."""
        if messages[-1]["role"] == "tool":
            for word in ("The tool", " says ", _text(messages[-1]["content"]), "."):
                yield _chunk(text=word)
            yield _chunk(finish_reason="stop")
            return
        yield _chunk(text="Let me calculate.")
        for number, piece in enumerate(ARGUMENTS):
            first = number == 0
            yield _chunk(
                tool_use={
                    "id": "call_litellm_1" if first else None,
                    "type": "function",
                    "function": {"name": "calc" if first else None, "arguments": piece},
                    "index": 0,
                }
            )
        yield _chunk(finish_reason="tool_calls")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _chunk(*, text: str = "", tool_use: Any = None, finish_reason: str = "") -> GenericStreamingChunk:
    return {
        "text": text,
        "tool_use": tool_use,
        "is_finished": bool(finish_reason),
        "finish_reason": finish_reason,
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12} if finish_reason else None,
        "index": 0,
    }


scripted = Scripted()
