"""The requests of chat/completions.

`chat_request` builds the body from a context, with the extensions of the server and of the model.
`encoded_request` does the same with messages that are already encoded, and reuses those of earlier requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from tinyagent import _json
from tinyagent._json import as_dict, as_list
from tinyagent._tool_schemas import tool_definitions
from tinyagent.agent_types import (
    AssistantBlock,
    Context,
    ImageContent,
    Message,
    ModelIdentity,
    SimpleStreamOptions,
    TextContent,
    ToolCallContent,
)
from tinyagent.errors import ProviderError

from .chat_fields import send_back
from .history import UsedIds, adapt_history, is_own
from .model import HttpModel, as_model
from .model_families import ModelFamily, note, settings_for
from .request import EncodedArray, encode_items
from .request_cache import RequestCache
from .servers import Dialect, dialect_of, server_of
from .signatures import stored_fields

__all__ = ["chat_request", "encoded_request", "refuses_stream_options"]

_CACHE_MARK = {"type": "ephemeral"}

_refuse_stream_options: set[str] = set()
"""Servers of this process that refused `stream_options`."""


def chat_request(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request, before it is encoded."""
    model = as_model(model, HttpModel)
    response_format, context = _response_format(model, context, options)
    messages = [*_system_message(context), *_messages(model, context, context.messages)]
    return _request(model, context, options, messages, response_format)


_requests: RequestCache[UsedIds] = RequestCache()


def encoded_request(model: HttpModel, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request, with its messages already encoded."""
    response_format, context = _response_format(model, context, options)
    tools = tuple(tool.name for tool in context.tools or ())
    history, _ = _requests.encode(
        context.messages,
        (model.api, model.provider, model.id, model.base_url, tools),
        partial(_messages, model, context),
        {},
    )
    system = encode_items(_system_message(context))
    return _request(model, context, options, EncodedArray(system, *history), response_format)


def _response_format(
    model: HttpModel, context: Context, options: SimpleStreamOptions
) -> tuple[dict[str, object] | None, Context]:
    """Return the `response_format` of a request, and the context with the instructions that it needs."""
    schema = options.get("response_schema")
    if schema is None:
        return None, context
    from .response_schema import instructed, is_refused, json_schema_format  # plain requests do not need it

    kind = "" if is_refused(model, context, schema) else _dialect(model).schemas
    if kind == "json_schema":
        return {"type": kind, "json_schema": json_schema_format(schema)}, context
    return ({"type": kind} if kind else None), instructed(context, schema)


def _request(
    model: HttpModel,
    context: Context,
    options: SimpleStreamOptions,
    messages: Sequence[object] | EncodedArray,
    response_format: dict[str, object] | None,
) -> dict[str, object]:
    dialect = _dialect(model)
    body: dict[str, object] = {"model": model.id, "messages": messages, "stream": True}
    if _origin(model) not in _refuse_stream_options:
        body["stream_options"] = {"include_usage": True}
    if dialect.cache_control and "claude" in model.id.lower() and not _is_marked(context):
        # Claude caches only on request. This marks the last block that can be cached
        # (https://openrouter.ai/docs/guides/best-practices/prompt-caching).
        body["cache_control"] = _CACHE_MARK
    if context.tools:
        body["tools"] = [{"type": "function", "function": tool} for tool in tool_definitions(context.tools)]
    if response_format is not None:
        body["response_format"] = response_format
    _set_reasoning(body, model, dialect, options)
    if dialect.session and options.get("session_id"):
        body[dialect.session] = options["session_id"]
    body.update(model.extra_body)
    return {key: value for key, value in body.items() if value is not None}


def _dialect(model: HttpModel) -> Dialect:
    return dialect_of(_name(model))


def _name(model: HttpModel) -> str:
    return server_of(model.base_url, model.provider)


def _origin(model: HttpModel) -> str:
    """Return scheme, host and port of the server."""
    try:
        parts = urlsplit(model.base_url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"


def _is_marked(context: Context) -> bool:
    """Whether the user has marked blocks for caching. No other marks are then added."""
    return any(
        "cache_control" in block
        for message in context.messages
        if isinstance(message.get("content"), list)
        for block in message["content"]
    )


def _set_reasoning(
    body: dict[str, object], model: HttpModel, dialect: Dialect, options: SimpleStreamOptions
) -> None:
    """Set thinking level, temperature and output limit in the form that model and server accept."""
    settings = settings_for(
        model,
        options,
        reasons=model.reasoning or None,
        assumed=ModelFamily(efforts=dialect.efforts),
        efforts=lambda family: _efforts(family, dialect),
    )
    family, level = settings.family, settings.level
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if options.get("max_tokens") is not None:
        own = family.max_completion_tokens and dialect.thinking == "reasoning_effort"
        body["max_completion_tokens" if own else dialect.max_tokens] = options["max_tokens"]
    if dialect.strict_efforts and family.chat_tools_at_rest and "tools" in body:
        if level:
            note(
                options,
                f"{model.id} accepts tools in chat/completions only without reasoning: the thinking level "
                f"{level!r} was left out. With api = openai-responses it accepts both.",
            )
        if level or not family.off_by_default:
            body["reasoning_effort"] = "none"
    elif not level:
        return
    elif dialect.thinking == "reasoning":
        budget = (options.get("thinking_budgets") or {}).get(level)
        body["reasoning"] = {"max_tokens": budget} if budget else {"effort": settings.effort}
    elif dialect.thinking == "thinking":
        body["thinking"] = {"type": "enabled"}
        if settings.effort is not None:
            body["reasoning_effort"] = settings.effort
    elif dialect.thinking and settings.effort is not None:
        body["reasoning_effort"] = settings.effort
    else:
        note(options, f"The server has no thinking levels for {model.id}: the level {level!r} was left out.")


def _efforts(family: ModelFamily, dialect: Dialect) -> tuple[str, ...]:
    """Return the efforts that can be requested: the model's own or, if they are unknown, the server's."""
    if dialect.thinking == "thinking":
        return family.efforts if family.reasons else ()
    if dialect.thinking == "reasoning" or family.reasons is None:
        return dialect.efforts if dialect.thinking else ()  # OpenRouter maps them for each model
    return family.efforts or (() if dialect.strict_efforts else dialect.efforts)


_IDS = r"[^\s|]{1,40}"
"""Ids of tool calls that a server accepts, including those of other servers (`functions.add:0`)."""
_WITHOUT_SIGNATURE = r"gemini-[12]\b"
_NO_SIGNATURE = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""The value for calls of other models where Gemini 3 and later require their own signature
(https://ai.google.dev/gemini-api/docs/thought-signatures)."""
_MISTRAL_ID = r"[A-Za-z0-9]{9}"


def _system_message(context: Context) -> list[dict[str, object]]:
    return [{"role": "system", "content": context.system_prompt}] if context.system_prompt else []


def _messages(
    model: HttpModel, context: Context, messages: Sequence[Message], used: UsedIds | None = None
) -> list[dict[str, object]]:
    """Convert messages to the provider's format. See `adapt_history` for `used`."""
    sent: list[dict[str, object]] = []
    name, dialect = _name(model), _dialect(model)
    fit = _short_id if name == "mistral" else str
    needs_signature = name == "gemini" and not re.search(_WITHOUT_SIGNATURE, model.id)
    images: list[dict[str, object]] = []

    def attach() -> None:
        """Add the images of tool results, in a user message after the last result."""
        if images:
            note = {"type": "text", "text": "Attached image(s) from the tool results:"}
            sent.append({"role": "user", "content": [note, *images]})
            images.clear()

    for message in adapt_history(
        messages, model, ids=_IDS, tools=context.tools, images=dialect.images, used=used
    ):
        if message["role"] == "tool_result":
            pictures = [_image(block) for block in message["content"] if block["type"] == "image"]
            images += pictures
            text = _content([block for block in message["content"] if block["type"] == "text"], dialect)
            text = text or ("(see the attached image)" if pictures else "(no output)")
            sent.append({"role": "tool", "tool_call_id": fit(message["tool_call_id"]), "content": text})
            continue
        attach()
        if message["role"] == "assistant":
            entry = _assistant(message["content"], dialect, fit)
            if entry is None:
                continue
            if dialect.reasoning is not None:
                entry.setdefault("reasoning_content", dialect.reasoning)
            if needs_signature and entry.get("tool_calls") and not is_own(message, model):
                as_dict(as_list(entry["tool_calls"])[0]).setdefault("extra_content", _NO_SIGNATURE)
            sent.append(entry)
        else:
            sent.append({"role": "user", "content": _content(message["content"], dialect)})
    attach()
    return sent


def _short_id(call_id: str) -> str:
    """Return an id of nine letters and digits; Mistral accepts no other ids."""
    if re.fullmatch(_MISTRAL_ID, call_id):
        return call_id
    import hashlib  # only for Mistral

    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _content(
    content: Sequence[TextContent | ImageContent], dialect: Dialect, *, separator: str = "\n"
) -> str | list[dict[str, object]]:
    """Convert text and images to parts or, if possible, to plain text, which every server accepts."""
    marked = dialect.cache_control and any("cache_control" in block for block in content)
    texts = [block["text"] for block in content if block["type"] == "text"]
    if not marked and len(texts) == len(content):
        return separator.join(texts)
    return [_part(block, marked) for block in content]


def _part(block: TextContent | ImageContent, marked: bool) -> dict[str, object]:
    part: dict[str, object] = (
        {"type": "text", "text": block["text"]} if block["type"] == "text" else _image(block)
    )
    fields: Mapping[str, object] = block  # It may have fields that its type does not declare.
    if marked and "cache_control" in fields:
        part["cache_control"] = fields["cache_control"]
    return part


def _image(block: ImageContent) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": block["url"]}}


def _assistant(
    content: Sequence[AssistantBlock], dialect: Dialect, fit: Callable[[str], str]
) -> dict[str, object] | None:
    """Convert an assistant message to the provider's format; None if it has no content to send."""
    texts = [block for block in content if block["type"] == "text"]
    images = [block for block in content if block["type"] == "image"]
    calls = [_sent_call(block, fit) for block in content if block["type"] == "tool_call"]
    entry: dict[str, object] = {
        "role": "assistant",
        "content": _content(texts, dialect, separator="") or None,
    }
    if calls:
        entry["tool_calls"] = calls
    if images:
        entry["images"] = [_image(block) for block in images]
    send_back(content, entry)
    if entry["content"] is None:
        if len(entry) == 2:
            return None
        if not (calls and dialect.null_content):
            entry["content"] = ""
    return entry


def _sent_call(block: ToolCallContent, fit: Callable[[str], str]) -> dict[str, object]:
    extra = stored_fields(block.get("tool_call_signature"))
    arguments = _json.encode(block["arguments"]).decode()
    function = {"name": block["name"] or "unknown", "arguments": arguments}
    call = {"id": fit(block["id"]), "type": "function", "function": as_dict(extra.get("function")) | function}
    return as_dict(extra.get("call")) | call


_NAMES_STREAM_OPTIONS = r"(?i)stream[ _]?options|include[ _]?usage"


def refuses_stream_options(
    error: ProviderError, body: Mapping[str, object], model: HttpModel, options: SimpleStreamOptions
) -> bool:
    """Whether a request failed because the server does not accept `stream_options`.

    If so, later requests of this process to the same server omit it, and `on_note` is called.
    """
    if error.status not in (400, 422) or "stream_options" not in body:
        return False
    asked_by_user = "stream_options" in model.extra_body
    if asked_by_user or not re.search(_NAMES_STREAM_OPTIONS, str(error)):
        return False
    _refuse_stream_options.add(_origin(model))
    note(options, f"{model.provider}: the server refuses stream_options, so it is omitted.")
    return True
