"""Convert answers of a server to tool results. `_inbound` has repaired them."""

from __future__ import annotations

from collections.abc import Iterable

from mcp_types import BlobResourceContents, CallToolResult, GetPromptResult, TextResourceContents

from tinyagent import AgentToolResult
from tinyagent.agent_types import ImageContent, TextContent

__all__ = ["as_result", "prompt_text", "resource_parts", "text_of"]


def as_result(answer: CallToolResult) -> AgentToolResult:
    """Convert the result of `tools/call`."""
    content: list[TextContent | ImageContent] = []
    for block in answer.content:
        if block.type == "text":
            content.append({"type": "text", "text": block.text})
        elif block.type == "image":
            content.append(_image(block.data, block.mime_type))
    structured = answer.structured_content
    return AgentToolResult(
        content=content, details={} if structured is None else {"structured_content": structured}
    )


def resource_parts(
    contents: Iterable[TextResourceContents | BlobResourceContents],
) -> list[TextContent | ImageContent]:
    """Convert the content of `resources/read`."""
    parts: list[TextContent | ImageContent] = []
    for content in contents:
        if isinstance(content, TextResourceContents):
            parts.append({"type": "text", "text": content.text})
        else:
            parts.append(_image(content.blob, content.mime_type or ""))
    return parts


def prompt_text(answer: GetPromptResult) -> str:
    """Return the messages of `prompts/get` as one text."""
    texts = [
        (message.role, message.content.text)
        for message in answer.messages
        if message.content.type == "text" and message.content.text.strip()
    ]
    if all(role == "user" for role, _ in texts):
        return "\n\n".join(text for _, text in texts)
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in texts)


def text_of(result: AgentToolResult) -> str:
    """Return the texts of a result, for an error message."""
    return "\n".join(part["text"] for part in result.content if part["type"] == "text")


def _image(data: str, mime_type: str) -> ImageContent:
    return {"type": "image", "url": f"data:{mime_type};base64,{data}", "mime_type": mime_type}
