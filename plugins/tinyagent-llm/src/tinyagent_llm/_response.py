"""The response of a model of `llm`: prepare it, and convert what a complete one has."""

from __future__ import annotations

import asyncio
import json
from typing import TypeVar

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.agent_types import AssistantBlock, Context, JsonDict, SimpleStreamOptions, Usage
from tinyagent.errors import (
    AuthenticationError,
    NotConfiguredError,
    ProviderError,
    RateLimitError,
    TinyAgentError,
)

from ._history import Turn
from ._models import AnyModel, LlmModel

__all__ = ["add_signatures", "error_of", "finish_reason", "prepare_response", "signature_of", "usage_of"]

T = TypeVar("T")

_REASONS = ("finish_reason", "stop_reason", "done_reason", "finishReason")
"""The keys under which plugins keep why a reply has ended."""


def prepare_response(
    model: LlmModel, found: AnyModel, turn: Turn, context: Context, options: SimpleStreamOptions
) -> llm.Response | llm.AsyncResponse:
    """Prepare the response, which asks the model when it is read.

    Raises:
        TinyAgentError: The model does not take the request.
    """
    tools = [
        llm.Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters))
        for tool in context.tools or ()
    ]
    if tools and not found.supports_tools:
        _note(options, f"{found.model_id} takes no tools, so none are offered to it.")
        tools = []
    if any(image.resolve_type() not in found.attachment_types for image in turn.attachments):
        raise ProviderError(
            f"llm/{model.id} takes no images of this type.",
            provider="llm",
            retryable=False,
            hint="Its types: " + (", ".join(sorted(found.attachment_types)) or "none"),
        )
    own: JsonDict = dict(model.options)
    for name in ("temperature", "max_tokens"):
        value = options.get(name)
        if value is not None and name in found.Options.model_fields:
            own.setdefault(name, value)
        elif value is not None:
            _note(options, f"{found.model_id} has no option {name}, so it is not sent.")
    schema = options.get("response_schema")
    try:
        response: llm.Response | llm.AsyncResponse = turn.conversation.prompt(
            turn.prompt,
            attachments=turn.attachments or None,
            system=turn.system,
            schema=schema if schema and found.supports_schema else None,
            tools=tools or None,
            tool_results=turn.tool_results or None,
            stream=found.can_stream,
            options=own,
        )
    except Exception as error:
        raise error_of(error, model) from error
    return response


def _note(options: SimpleStreamOptions, text: str) -> None:
    on_note = options.get("on_note")
    if on_note is not None:
        on_note(text)


def add_signatures(content: list[AssistantBlock], parts: list[JsonDict]) -> None:
    """Add what a provider requires back to the blocks that it belongs to."""
    texts = [block for block in content if block["type"] == "text"]
    for text, part in _pairs(texts, parts, "text"):
        if signature := signature_of(part):
            text["text_signature"] = signature
    thoughts = [block for block in content if block["type"] == "thinking"]
    for thought, part in _pairs(thoughts, parts, "reasoning"):
        if signature := signature_of(part):
            thought["thinking_signature"] = signature


def _pairs(blocks: list[T], parts: list[JsonDict], kind: str) -> list[tuple[T, JsonDict]]:
    """Return the part of each block; empty if they do not correspond."""
    of_kind = [part for part in parts if part["type"] == kind and part.get("text")]
    return list(zip(blocks, of_kind, strict=True)) if len(blocks) == len(of_kind) else []


def signature_of(part: JsonDict) -> str | None:
    """Return the data of a part that its provider requires back."""
    metadata = part.get("provider_metadata")
    return json.dumps(metadata) if metadata else None


def usage_of(usage: llm.Usage) -> Usage | None:
    """Return the tokens of a reply; None if the plugin does not report them."""
    if usage.input is None and usage.output is None:
        return None
    sent, received = usage.input or 0, usage.output or 0
    found: Usage = {"input": sent, "output": received, "total": sent + received}
    details = usage.details or {}
    reasoning = (details.get("completion_tokens_details") or details).get("reasoning_tokens")
    cached = (details.get("prompt_tokens_details") or details).get("cached_tokens")
    if isinstance(reasoning, int):
        found["reasoning"] = reasoning
    if isinstance(cached, int):
        found["cache_read"] = cached
    return found


def finish_reason(response_json: JsonDict | None) -> str | None:
    """Return why the reply has ended, if the plugin keeps it. `llm` has no field for it."""
    places: list[object] = [response_json]
    for key in ("choices", "candidates"):
        several = response_json.get(key) if isinstance(response_json, dict) else None
        if isinstance(several, list):
            places += several[:1]
    for place in places:
        if isinstance(place, dict):
            found = next((place[key] for key in _REASONS if isinstance(place.get(key), str)), None)
            if found is not None:
                return str(found)
    return None


def error_of(error: BaseException, model: LlmModel) -> BaseException:
    """Return an error of `llm` or of one of its plugins as one of ours."""
    if isinstance(error, (TinyAgentError, asyncio.CancelledError)):
        return error
    if isinstance(error, llm.NeedsKeyException):
        return NotConfiguredError(
            f"llm/{model.id} needs a key: {error}", hint="Store it: llm keys set NAME, as for llm itself."
        )
    status = getattr(error, "status_code", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    text = f"llm/{model.id}: {error}" if str(error) else f"llm/{model.id} failed: {type(error).__name__}"
    if not isinstance(status, int):
        return ProviderError(text, provider="llm", retryable=False)
    if status in (401, 403):
        return AuthenticationError(text, status=status)
    if status == 429:
        return RateLimitError(text, status=status, provider="llm", retryable=True)
    return ProviderError(text, status=status, provider="llm", retryable=status >= 500)
