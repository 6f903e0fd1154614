"""A recorded conversation as Markdown, and the texts of its prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tinyagent import _json, extract_text
from tinyagent._stream.compaction import is_summary, summary_text
from tinyagent._stream.message_checks import is_assistant, is_tool_result
from tinyagent.agent_types import AgentMessage

__all__ = ["is_prompt", "last_messages", "markdown", "prompt_text"]


def prompt_text(message: AgentMessage) -> str:
    """Return the text of a prompt, with the number of its images."""
    images = sum(1 for block in message["content"] if block["type"] == "image")
    shown = [extract_text(message), f"[{images} image{'s' if images > 1 else ''}]" if images else ""]
    return "\n".join(part for part in shown if part)


def is_prompt(message: AgentMessage) -> bool:
    """Return whether the user wrote the message, and not a compaction."""
    return message["role"] == "user" and not is_summary(message)


def last_messages(messages: Sequence[AgentMessage], count: int) -> Sequence[AgentMessage]:
    """Return the last prompts, with the messages after each of them."""
    places = [place for place, message in enumerate(messages) if is_prompt(message)]
    return messages[places[-count] :] if len(places) > count else messages


def markdown(messages: Iterable[AgentMessage]) -> Iterator[str]:
    """Yield a conversation as Markdown, one message at a time."""
    for message in messages:
        if is_summary(message):
            yield f"## Summary of the earlier messages\n\n{summary_text(message)}\n\n"
        elif message["role"] == "user":
            yield f"## User\n\n{prompt_text(message)}\n\n"
        elif is_assistant(message):
            text = extract_text(message)
            yield f"## Assistant\n\n{text}\n\n" if text else ""
            for block in message["content"]:
                if block["type"] == "tool_call":
                    arguments = _json.encode_lossy(block["arguments"]).decode("utf-8", "replace")
                    yield f"### Tool call: {block['name']}\n\n{_fenced(arguments, 'json')}\n\n"
        elif is_tool_result(message):
            state = " (failed)" if message["is_error"] else ""
            yield f"### Result of {message['tool_name']}{state}\n\n{_fenced(extract_text(message))}\n\n"


def _fenced(text: str, language: str = "") -> str:
    """Return a block of code whose fence is longer than any run of backquotes in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
