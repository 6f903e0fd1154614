"""Convert a conversation to that of `llm`.

Its present form is a list of `llm.Message`. Older plugins read the prompt of the turn and
`conversation.responses` instead, so a request has both.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import NamedTuple

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.agent_types import (
    AssistantMessage,
    Context,
    ImageContent,
    JsonDict,
    Message,
    TextContent,
    ToolResultMessage,
    UserMessage,
)
from tinyagent.errors import ToolError

from ._models import AnyModel

__all__ = ["Turn", "convert"]


class Turn(NamedTuple):
    """A request.

    Attributes:
        conversation: The messages before it.
        prompt: The text of the user; empty if only tools have answered.
        system: The system prompt.
        attachments: The images of the user.
        tool_results: The results of the tools that the last reply has called.
    """

    conversation: llm.Conversation | llm.AsyncConversation
    prompt: str
    system: str | None
    attachments: list[llm.Attachment]
    tool_results: list[llm.ToolResult]


def convert(model: AnyModel, context: Context) -> Turn:
    """Return the request of a context.

    Args:
        model: The model, whose conversations are sync or async.
        context: The input.
    """
    messages = list(context.messages)
    last = max(
        (number for number, message in enumerate(messages) if message["role"] == "assistant"), default=-1
    )
    earlier, turn = messages[: last + 1], messages[last + 1 :]
    system = context.system_prompt or None
    conversation = model.conversation()
    conversation.responses.extend(_responses(model, earlier, system))
    users = [message for message in turn if message["role"] == "user"]
    return Turn(
        conversation,
        "\n\n".join(filter(None, map(_text, users))),
        system,
        [image for message in users for image in _images(message["content"])],
        [_tool_result(message) for message in turn if message["role"] == "tool_result"],
    )


def _responses(
    model: AnyModel, messages: Sequence[Message], system: str | None
) -> list[llm.Response | llm.AsyncResponse]:
    """Return the earlier replies. The last one has all messages, from which llm makes the next request."""
    kind = llm.AsyncResponse if isinstance(model, (llm.AsyncModel, llm.AsyncKeyModel)) else llm.Response
    chain = [] if system is None else [llm.system(system)]
    turn: list[Message] = []
    found = []
    for message in messages:
        if message["role"] != "assistant":
            turn.append(message)
            continue
        chain += _turn_messages(turn)
        reply = _assistant(message, model.model_id)
        response = kind.from_dict(
            {"model": model.model_id, "prompt": {"messages": []}, "messages": [reply.to_dict()]}, model=model
        )
        users = [each for each in turn if each["role"] == "user"]
        response.prompt = llm.Prompt(
            "\n\n".join(filter(None, map(_text, users))),
            model=model,
            system=system,
            attachments=[image for each in users for image in _images(each["content"])],
            tool_results=[_tool_result(each) for each in turn if each["role"] == "tool_result"],
            messages=list(chain) if message is messages[-1] else [],
        )
        chain.append(reply)
        turn = []
        found.append(response)
    return found


def _turn_messages(turn: Sequence[Message]) -> list[llm.Message]:
    """Return what came before a reply: tool results, then the user's messages."""
    results = [message for message in turn if message["role"] == "tool_result"]
    found = []
    if results:
        parts = [_tool_result_part(message) for message in results]
        found.append(llm.Message.from_dict({"role": "tool", "parts": parts}))
    for message in turn:
        if message["role"] == "user":
            found.append(llm.user(_text(message), list(_images(message["content"]))))
    return found


def _assistant(message: AssistantMessage, model_id: str) -> llm.Message:
    """Return a reply. The data that a provider requires back goes to the same model only."""
    is_own = (message["provider"], message["model"]) == ("llm", model_id)
    parts: list[JsonDict] = []
    for block in message["content"]:
        match block["type"]:
            case "text":
                part: JsonDict = {"type": "text", "text": block["text"]}
                signature = block.get("text_signature")
            case "thinking":
                part = {"type": "reasoning", "text": block["thinking"]}
                signature = block.get("thinking_signature")
                if not is_own:
                    continue
            case "tool_call":
                part = {
                    "type": "tool_call",
                    "name": block["name"],
                    "arguments": block["arguments"],
                    "tool_call_id": block["id"],
                }
                signature = block.get("tool_call_signature")
            case _:
                continue  # no model reads the images of a reply
        if is_own and signature:
            part["provider_metadata"] = json.loads(signature)
        parts.append(part)
    return llm.Message.from_dict({"role": "assistant", "parts": parts})


def _tool_result_part(message: ToolResultMessage) -> JsonDict:
    text = _text(message)
    images = list(_images(message["content"]))
    part: JsonDict = {
        "type": "tool_result",
        "name": message["tool_name"],
        "output": text,
        "tool_call_id": message["tool_call_id"],
    }
    if images:
        part["attachments"] = [_attachment_dict(image) for image in images]
    if message["is_error"]:
        part["exception"] = f"ToolError: {text}"
    return part


def _attachment_dict(image: llm.Attachment) -> JsonDict:
    found: JsonDict = {"type": image.type} if image.type else {}
    if image.url:
        found["url"] = image.url
    if image.content:
        found["content"] = base64.b64encode(image.content).decode()
    return found


def _tool_result(message: ToolResultMessage) -> llm.ToolResult:
    return llm.ToolResult(
        name=message["tool_name"],
        output=_text(message),
        attachments=list(_images(message["content"])),
        tool_call_id=message["tool_call_id"],
        exception=ToolError(_text(message)) if message["is_error"] else None,
    )


def _text(message: UserMessage | ToolResultMessage) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n\n".join(block["text"] for block in content if block["type"] == "text")


def _images(content: str | Sequence[TextContent | ImageContent]) -> list[llm.Attachment]:
    if isinstance(content, str):
        return []
    return [_attachment(block) for block in content if block["type"] == "image"]


def _attachment(image: ImageContent) -> llm.Attachment:
    url = image["url"]
    if not url.startswith("data:"):
        return llm.Attachment(url=url, type=image.get("mime_type"))
    head, _, data = url[5:].partition(",")
    return llm.Attachment(type=head.partition(";")[0] or None, content=base64.b64decode(data))
