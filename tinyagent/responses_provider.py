"""OpenAI's Responses API. Reasoning is sent back with each request, and nothing is stored at OpenAI.

    model = OpenAIResponsesModel(id="gpt-5")
    response = await stream_openai_responses(model, context, {"api_key": key})

`request_body` builds a request from a history, `ResponsesDecoder` decodes a reply to events, and
`stream_openai_responses` connects the two over HTTP.

A reply is a list of items. The next request must contain them unchanged, because the API checks their
relations by their ids. Therefore a message stores them: a reasoning item, with its encrypted reasoning, is
the `thinking_signature` of its block, as JSON. The id of a message item is in the `text_signature` of its
blocks. The id of a function call is in its `tool_call_signature`; the id of the block is the `call_id`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial

from ._json import as_dict, as_list
from ._stream.history import UsedIds
from ._stream.model import HttpModel, as_model, check_model
from ._stream.model_families import ModelFamily, family_of, note, settings_for
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import EncodedArray, endpoint, openai_headers
from ._stream.request_cache import RequestCache
from ._stream.response_schema import instructed, is_refused, json_schema_format, refuses_schema
from ._stream.responses_decoder import ResponsesDecoder
from ._stream.responses_request import convert_messages
from ._stream.servers import SERVERS, server_of
from ._tool_schemas import tool_definitions
from .agent_types import (
    Context,
    ModelIdentity,
    SimpleStreamOptions,
)
from .errors import ProviderError

__all__ = [
    "OpenAIResponsesModel",
    "ResponsesDecoder",
    "request_body",
    "stream_openai_responses",
    "wants_responses",
]

LONGEST_CACHE_KEY = 64


@dataclass
class OpenAIResponsesModel(HttpModel):
    """A model of the Responses API, at OpenAI or a compatible server.

    Attributes:
        base_url: With or without `/responses`. It may have a query.
        name: The name to display.
        headers: Sent with each request.
        context_window: Tokens of the context window.
        max_tokens: The most output tokens of the model. The limit of a call is `options["max_tokens"]`.
        reasoning: Whether the model reasons; None to decide by its id. A request to a reasoning model asks
            for its encrypted reasoning and has no temperature.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field. `tools` are
            added to those of the agent.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        reasoning_summary: The kind of reasoning summary to request if there is a thinking level.
    """

    provider: str = "openai"
    id: str = "gpt-5"
    api: str = "openai-responses"
    base_url: str = SERVERS["openai"].base_url
    context_window: int = 400_000
    max_tokens: int = 128_000
    api_key_env: str | None = SERVERS["openai"].api_key_env
    reasoning_summary: str | None = "auto"


# ---- the request ----------------------------------------------------------------------------------


def request_body(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request."""
    model = as_model(model, OpenAIResponsesModel)
    items = convert_messages(model, context.tools, _is_stored(model), context.messages, {})
    return _request(model, context, options, items)


_requests: RequestCache[UsedIds] = RequestCache()


def _encoded_request(
    model: OpenAIResponsesModel, context: Context, options: SimpleStreamOptions
) -> dict[str, object]:
    """Do the same as `request_body`, with the items already encoded."""
    tools = tuple(tool.name for tool in context.tools or ())
    stored = _is_stored(model)
    items, _ = _requests.encode(
        context.messages,
        (model.api, model.provider, model.id, tools, stored),
        partial(convert_messages, model, context.tools, stored),
        {},
    )
    return _request(model, context, options, EncodedArray(*items))


def _is_stored(model: OpenAIResponsesModel) -> bool:
    return bool(model.extra_body.get("store"))


def _request(
    model: OpenAIResponsesModel, context: Context, options: SimpleStreamOptions, items: object
) -> dict[str, object]:
    extra = dict(model.extra_body)
    body: dict[str, object] = {"model": model.id, "stream": True, "store": False, "input": items}
    schema = options.get("response_schema")
    if schema is not None and is_refused(model, context, schema):
        context = instructed(context, schema)
    elif schema is not None:
        body["text"] = {
            "format": {"type": "json_schema", **json_schema_format(schema)},
            **as_dict(extra.pop("text", None)),
        }
    if context.system_prompt:
        body["instructions"] = context.system_prompt
    tools: list[dict[str, object]] = [
        {"type": "function", **tool, "strict": False} for tool in tool_definitions(context.tools)
    ]
    tools += extra.pop("tools", None) or ()
    if tools:
        body["tools"] = tools
    if options.get("max_tokens"):
        body["max_output_tokens"] = options["max_tokens"]
    _set_reasoning(body, model, options)
    searches = any(str(tool.get("type")).startswith("web_search") for tool in tools)
    if searches and server_of(model.base_url, model.provider) == "openai":
        body["include"] = [*as_list(body.get("include")), "web_search_call.action.sources"]
    session = options.get("session_id")
    if session:
        body["prompt_cache_key"] = (
            session if len(session) <= LONGEST_CACHE_KEY else hashlib.sha256(session.encode()).hexdigest()
        )
    body |= extra
    return {key: value for key, value in body.items() if value is not None}


_ASSUMED = ModelFamily(efforts=("low", "medium", "high"), temperature=False)
"""The family of a model that reasons according to its configuration only."""


def _set_reasoning(
    body: dict[str, object], model: OpenAIResponsesModel, options: SimpleStreamOptions
) -> None:
    """Set effort and temperature, which depend on each other and on the model."""
    settings = settings_for(model, options, reasons=model.reasoning, assumed=_ASSUMED)
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.family.reasons or settings.level:
        body["include"] = ["reasoning.encrypted_content"]
    if settings.effort is not None:
        summary = {"summary": model.reasoning_summary} if model.reasoning_summary else {}
        body["reasoning"] = {"effort": settings.effort, **summary}


# ---- the stream -----------------------------------------------------------------------------------


async def stream_openai_responses(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from the Responses API.

    `session_id` is sent as `prompt_cache_key`. Thinking budgets are not sent: the API has only efforts.

    Args:
        model: An `OpenAIResponsesModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, OpenAIResponsesModel)
    base_url = check_model(model, 'OpenAIResponsesModel(id="gpt-5")')
    headers, secrets = openai_headers(model, options.get("api_key"), model.api_key_env)
    url = endpoint(base_url, "/responses")
    open_reply = partial(
        open_stream,
        url,
        model=model,
        options=options,
        headers=headers,
        secrets=secrets,
        decoder=partial(ResponsesDecoder, model),
    )
    while True:  # Each refusal is remembered, so there are at most three requests.
        body = _encoded_request(model, context, options)
        reasoning = as_dict(body.get("reasoning"))
        if url in _refuse_summaries:
            reasoning.pop("summary", None)
        try:
            return await open_reply(body)
        except ProviderError as error:
            if reasoning.get("summary") and error.status == 400 and _NAMES_SUMMARY.search(str(error)):
                _refuse_summaries.add(url)
                note(
                    options,
                    f"{model.provider}: this key gets no reasoning summaries, so they are not requested.",
                )
            elif not refuses_schema(error, body, model, context, options):
                if error.status in (404, 405) and server_of(base_url) != "openai":
                    error.hint = (
                        "Without a Responses API, choose the server's protocol: -O api=openai-completions"
                    )
                raise


_NAMES_SUMMARY = re.compile(r"(?i)reasoning[ ._]summar")
"""OpenAI sends summaries only to verified organizations, and refuses the whole request of others."""
_refuse_summaries: set[str] = set()
"""URLs that have refused summaries, in this process."""


def wants_responses(model_id: str) -> bool:
    """Whether OpenAI serves a model by the Responses API.

    chat/completions refuses the tools of models that reason, or does not have these models at all.

    Args:
        model_id: The id at OpenAI; it may be dated, fine-tuned or of a future model.
    """
    return family_of(model_id).responses
