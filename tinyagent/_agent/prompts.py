"""Messages from what the caller passes: texts, messages, lists of them, and images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from tinyagent._stream.builder import now_ms
from tinyagent._stream.message_checks import checked_message
from tinyagent.agent_types import AgentMessage, ImageContent, TextContent, UserMessage
from tinyagent.errors import InvalidMessageError

__all__ = ["Input", "input_message", "input_messages"]

Input = str | Mapping[str, object] | Sequence[str | Mapping[str, object]]


def _user_message(text: str, images: Sequence[str | ImageContent] = ()) -> UserMessage:
    """Return a user message with the current time. Images are content blocks or URLs."""
    content: list[TextContent | ImageContent] = [{"type": "text", "text": text}] if text else []
    for image in images:
        content.append({"type": "image", "url": image} if isinstance(image, str) else image)
    return {"role": "user", "content": content, "timestamp": now_ms()}


def input_message(message: str | Mapping[str, object], place: str = "The message") -> AgentMessage:
    """Return a copy of a message, or the user message with this text.

    Raises:
        InvalidMessageError: The message is malformed; the error calls it `place`.
    """
    if isinstance(message, str):
        return _user_message(message)
    # The caller may change the dict later, and events never change: the message is a copy.
    return copy.deepcopy(checked_message(message, place))


def input_messages(input: Input, images: Sequence[str | ImageContent] | None) -> list[AgentMessage]:
    """Return the messages of a prompt. Images are added to the last one.

    Raises:
        InvalidMessageError: A message or an image is malformed.
        ValueError: There is no message.
    """
    if isinstance(input, str | Mapping):
        input = [input]
    elif not isinstance(input, Iterable):
        raise InvalidMessageError(
            f"A prompt must be text, a message or a list of them, not {type(input).__name__}."
        )
    messages = [input_message(one, f"Message {n} of the prompt") for n, one in enumerate(input, 1)]
    if not messages:
        raise ValueError("The prompt contains no message.")
    if isinstance(images, str | bytes | Mapping):
        raise InvalidMessageError(
            f"Images must be a list of URLs and image blocks, not of type {type(images).__name__}."
        )
    if images:
        last, added = messages[-1], _user_message("", images)["content"]
        messages[-1] = input_message({**last, "content": [*(last.get("content") or ()), *added]})
    return messages
