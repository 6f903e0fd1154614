"""Anthropic's Messages API, with signed thinking, server tools and prompt caching.

    model = AnthropicModel(id="claude-sonnet-4-5")
    response = await stream_anthropic(model, context, {"api_key": key})

`request_body` builds a request from a history, `AnthropicDecoder` decodes a reply to events, and
`stream_anthropic` connects the two over HTTP.

A message stores the data that the API requires in the next request. The `thinking_signature` of a thinking
block is the API's signature. Blocks other than text, thinking and tool calls (`redacted_thinking`,
`fallback`, calls and results of server tools, future types) are stored as thinking blocks without text, with
the block as JSON in `thinking_signature`. Signatures are base64, so a `{` distinguishes the two. More fields
of texts and calls, such as citations, are stored as JSON in `text_signature` and `tool_call_signature`.

A server tool may take longer than one reply (`pause_turn`). The reply so far is then sent back, and the next
reply continues the same message. A `refusal` ends the message with an error of the kind `content_filter`. The
message has the content so far and, like every failed message, is not sent back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from . import _json
from ._json import as_dict, as_int, as_list, as_str
from ._stream.history import is_own
from ._stream.messages_decoder import AnthropicDecoder
from ._stream.messages_request import Conversation, assistant_blocks, convert_messages
from ._stream.model import HttpModel, as_model, check_model
from ._stream.model_families import claude_version, effort_for, family_of, note, temperature_for
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import EncodedArray, encode_body, encode_items, endpoint, listed_models, request_headers
from ._stream.request_cache import RequestCache
from ._stream.response_schema import ANTHROPIC, instructions, is_refused, refuses_schema, strict_schema
from ._stream.servers import SERVERS
from ._tool_schemas import tool_schema
from .agent_types import (
    AssistantMessage,
    Context,
    ModelIdentity,
    ModelInfo,
    SimpleStreamOptions,
)
from .errors import ProviderError

__all__ = [
    "AnthropicDecoder",
    "AnthropicModel",
    "list_anthropic_models",
    "request_body",
    "stream_anthropic",
]

API_VERSION = "2023-06-01"
BUDGETS = {"minimal": 1024, "low": 4096, "medium": 8192, "high": 16384, "xhigh": 24576}
"""Thinking tokens for each level, for models that require a number."""
MIN_BUDGET = 1024
"""The smallest budget that the API accepts."""
ANSWER_ROOM = 4096
"""Tokens that are reserved for the answer."""
_ADAPTIVE_EFFORTS = ("low", "medium", "high", "max")


@dataclass
class AnthropicModel(HttpModel):
    """A model of the Messages API, at Anthropic or a compatible server.

    Attributes:
        base_url: With or without `/v1/messages`.
        headers: Sent with each request, for example `anthropic-beta`.
        max_tokens: The most tokens of a reply if the call has no limit, because the API requires one.
        reasoning: Whether the model reasons. If not, no thinking level is sent.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field. `tools` are
            added to those of the agent.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        cache: How long prompts are cached: `5m`, `1h` (which costs more to write), or None for no caching.
        thinking: `budget` for models that accept a number of tokens, `adaptive` for those that accept an
            effort, or `auto` to decide by the version in the id of a Claude; other models get a budget.
        max_pauses: How often a paused reply is continued. Only replies with server tools are paused.
    """

    provider: str = "anthropic"
    id: str = "claude-sonnet-4-5"
    api: str = "anthropic-messages"
    base_url: str = SERVERS["anthropic"].base_url
    context_window: int = 200_000
    max_tokens: int = 16_384
    reasoning: bool | None = True
    api_key_env: str | None = SERVERS["anthropic"].api_key_env
    cache: Literal["5m", "1h"] | None = "5m"
    thinking: Literal["auto", "budget", "adaptive"] = "auto"
    max_pauses: int = 8


# ---- the request ----------------------------------------------------------------------------------


def request_body(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> dict[str, object]:
    """Return the body of a request."""
    return request_and_level(model, context, options)[0]


def request_and_level(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions, *, answer_tool: bool = True
) -> tuple[dict[str, object], str]:
    """Return the body of a request and its thinking level, which the message must store.

    Args:
        model: The requested model.
        context: The conversation.
        options: The options of the call.
        answer_tool: Whether the decoder of the reply can read an answer from a call of `ANSWER_TOOL`.
    """
    model = as_model(model, AnthropicModel)
    conversation = Conversation()
    finished = convert_messages(model, context.tools, context.messages, conversation)
    body, level = _request(model, context, options, conversation, answer_tool=answer_tool)
    if "messages" not in model.extra_body:
        body["messages"] = [*finished, *conversation.unfinished]
    return body, level


_requests: RequestCache[Conversation] = RequestCache()


def _encoded_request(
    model: AnthropicModel, context: Context, options: SimpleStreamOptions
) -> tuple[dict[str, object], str, Conversation]:
    """Do the same as `request_and_level`, with the messages already encoded."""
    tools = tuple(tool.name for tool in context.tools or ())
    finished, conversation = _requests.encode(
        context.messages,
        (model.api, model.provider, model.id, tools),
        partial(convert_messages, model, context.tools),
        Conversation(),
    )
    body, level = _request(model, context, options, conversation)
    if "messages" not in model.extra_body:
        body["messages"] = EncodedArray(*finished, encode_items(conversation.unfinished))
    return body, level, conversation


def _request(
    model: AnthropicModel,
    context: Context,
    options: SimpleStreamOptions,
    conversation: Conversation,
    *,
    answer_tool: bool = True,
) -> tuple[dict[str, object], str]:
    """Return a request without its messages, and its thinking level. Mark the conversation for caching."""
    body: dict[str, object] = {"model": model.id, "stream": True, "messages": []}
    schema = options.get("response_schema")
    enforced = None if schema is None else _enforced_schema(model, context, schema)
    if context.system_prompt.strip():
        body["system"] = [{"type": "text", "text": context.system_prompt}]
    extra = dict(model.extra_body)
    tools: list[dict[str, object]] = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool_schema(tool).parameters,
        }
        for tool in context.tools or ()
    ]
    tools += extra.pop("tools", None) or ()
    if schema is not None and enforced is None and answer_tool:
        tools.append({"name": ANSWER_TOOL, "description": _ANSWER_TOOL_DESCRIPTION, "input_schema": schema})
    if tools:
        body["tools"] = tools
    if "thinking" in extra:
        level = "off"
        body["thinking"] = extra["thinking"]
    else:
        level = thinking_level(model, conversation.first_reply_of_turn(), options)
    _set_limits(body, model, options, level)
    if "thinking" not in body:
        level = "off"
    if enforced is not None:
        output = {"format": {"type": "json_schema", "schema": enforced}}
        body["output_config"] = {
            **as_dict(body.get("output_config")),
            **output,
            **as_dict(extra.pop("output_config", None)),
        }
    elif schema is not None and _has_answer_tool(body) and not _thinks(model, body):
        body["tool_choice"] = {"type": "any"} if len(tools) > 1 else {"type": "tool", "name": ANSWER_TOOL}
    elif schema is not None:
        body["system"] = [*as_list(body.get("system")), {"type": "text", "text": instructions(schema)}]
    body |= extra
    body = {key: value for key, value in body.items() if value is not None}
    if model.cache:
        ttl = {"ttl": "1h"} if model.cache == "1h" else {}
        _set_cache_points(body, conversation, {"type": "ephemeral", **ttl})
    return body, level


ANSWER_TOOL = "give_answer"
"""A tool for an answer with a schema, for models without structured output. It is not run: the decoder takes
the arguments of its call as the text of the answer."""
_ANSWER_TOOL_DESCRIPTION = "Give the final answer. Call this tool exactly once, when you are done."


def _enforced_schema(
    model: AnthropicModel, context: Context, schema: dict[str, object]
) -> dict[str, object] | None:
    """Return the schema for `output_config.format`; None if the model does not support it.

    Claude supports it since 4.5 (https://platform.claude.com/docs/en/build-with-claude/structured-outputs).
    """
    version = claude_version(model.id)
    if version is None or version < (4, 5) or is_refused(model, context, schema):
        return None
    return strict_schema(schema, ANTHROPIC)


def _has_answer_tool(body: Mapping[str, object]) -> bool:
    return any(as_dict(tool).get("name") == ANSWER_TOOL for tool in as_list(body.get("tools")))


def _thinks(model: AnthropicModel, body: Mapping[str, object]) -> bool:
    """Whether the model thinks during the request. The API then refuses a forced call of a tool."""
    kind = as_dict(body.get("thinking")).get("type")
    return kind in ("enabled", "adaptive") or (kind is None and _version(model) >= (5, 0))


def _set_limits(
    body: dict[str, object], model: AnthropicModel, options: SimpleStreamOptions, level: str
) -> None:
    """Set `max_tokens`, thinking and temperature, which depend on each other."""
    asked = options.get("max_tokens")
    limit = asked or model.max_tokens or AnthropicModel.max_tokens
    family, version = family_of(model.id), _version(model)
    own_budget = (options.get("thinking_budgets") or {}).get(level)
    by_hand = as_int(as_dict(body.get("thinking")).get("budget_tokens"))
    if by_hand and not asked:
        limit = max(limit, by_hand + ANSWER_ROOM)
    if level == "off":
        pass
    elif version >= (4, 6) and not (own_budget and version == (4, 6)):
        body["thinking"] = {"type": "adaptive"}
        if version >= (4, 7):
            # By default, these models send no text of their thinking.
            as_dict(body["thinking"])["display"] = "summarized"
        efforts = family.efforts if "max" in family.efforts else _ADAPTIVE_EFFORTS
        body["output_config"] = {"effort": effort_for(model.id, level, efforts, options)}
    else:
        budget = max(int(own_budget or BUDGETS.get(level, MIN_BUDGET)), MIN_BUDGET)
        if asked:
            budget = min(budget, max(limit - ANSWER_ROOM, limit // 2))
        else:
            limit = max(limit, budget + ANSWER_ROOM)
        if budget >= MIN_BUDGET:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        else:
            note(options, f"A reply of {limit} tokens has no room to think: the thinking level was left out.")
    body["max_tokens"] = limit
    thinks = as_dict(body.get("thinking")).get("type") in ("enabled", "adaptive")
    if thinks:
        family = family._replace(temperature=False)  # The API refuses it for all thinking models.
    temperature = temperature_for(model.id, family, options, thinks=thinks)
    if temperature is not None:
        body["temperature"] = temperature


def _version(model: AnthropicModel) -> tuple[int, int]:
    """Return the version of a Claude model. For other models, return one with the same thinking settings."""
    mode = model.thinking
    version = claude_version(model.id) or (0, 0)
    if mode == "adaptive":
        return max(version, (4, 6))
    if mode == "budget":
        return min(version, (4, 5))
    return version


def thinking_level(
    model: AnthropicModel, first: AssistantMessage | None, options: SimpleStreamOptions
) -> str:
    """Return the thinking level of a request, which must not change during a turn.

    The API refuses thinking that is turned on or off between a call and its result. So all requests of a turn
    have the level of its first one, which the first reply stores.

    Args:
        model: The requested model.
        first: The first reply of the turn, after `adapt_history`; None if a new turn starts.
        options: The options of the call.
    """
    asked = str(options.get("thinking_level") or model.thinking_level or "off")
    if not model.reasoning or family_of(model.id).reasons is False:
        if asked != "off":
            note(options, f"{model.id} does not reason: the thinking level {asked!r} was left out.")
        return "off"
    if first is None:
        return asked
    turn_level = str(first.get("thinking_level", "")) if is_own(first, model) else ""
    if not turn_level and _version(model) >= (5, 0):
        return asked  # These models think by default, so a level changes nothing.
    if not turn_level:
        thought = any(block["type"] == "thinking" and _is_thought(block) for block in first["content"])
        turn_level = (asked if asked != "off" else "low") if thought else "off"
    if turn_level != asked:
        note(options, f"The thinking level stays {turn_level!r} until this turn's tool calls are done.")
    return turn_level


def _is_thought(block: Mapping[str, object]) -> bool:
    """Whether a thinking block is a thinking block of the API, and not a stored block of another type."""
    signature = as_str(block.get("thinking_signature"))
    stored = _json.decode_object(signature) if signature.startswith("{") else None
    return bool(signature) if stored is None else stored.get("type") == "redacted_thinking"


def _set_cache_points(body: dict[str, object], conversation: Conversation, point: dict[str, str]) -> None:
    """Mark the system prompt, the last tool, and the last block of the last two user messages for caching.

    Four marks are allowed. The last but one is at the place of the last mark of the previous request, so that
    its cache is found, however long the messages in between are. If the user has set marks, these are all.
    """
    fixed = {name: as_list(body.get(name)) for name in ("system", "tools")}
    if conversation.is_marked or any(
        "cache_control" in as_dict(block) for block in itertools.chain(*fixed.values())
    ):
        return
    for name, blocks in fixed.items():
        if blocks:
            body[name] = [*blocks[:-1], {**as_dict(blocks[-1]), "cache_control": point}]
    conversation.mark_for_caching(point)


# ---- the stream -----------------------------------------------------------------------------------


async def stream_anthropic(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from the Messages API.

    `session_id` is not sent, because the API has no sessions.

    Args:
        model: An `AnthropicModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, AnthropicModel)
    base_url = check_model(model, 'AnthropicModel(id="claude-sonnet-4-5")')
    headers, secrets = _headers(model, options.get("api_key"))
    while True:  # A refusal of the schema is remembered, so there are at most two requests.
        body, level, conversation = _encoded_request(model, context, options)
        _unbind_thinking(body, headers, model, has_thinking=conversation.has_thinking)
        try:
            return await open_stream(
                messages_url(base_url),
                body,
                model=model,
                options=options,
                headers=headers,
                secrets=secrets,
                decoder=partial(
                    AnthropicDecoder,
                    model,
                    make_continuation=partial(_continuation, body) if _uses_server_tools(body) else None,
                    max_pauses=model.max_pauses,
                    thinking_level=level,
                    answer_tool=ANSWER_TOOL if _has_answer_tool(body) else None,
                ),
            )
        except ProviderError as error:
            if not refuses_schema(error, body, model, context, options):
                raise


def _continuation(body: Mapping[str, object], reply: AssistantMessage) -> bytes:
    """Return the body of the request that continues a paused reply."""
    message = {"role": "assistant", "content": assistant_blocks(reply["content"])}
    sent = body["messages"]
    parts = sent.parts if isinstance(sent, EncodedArray) else [encode_items(as_list(sent))]
    return encode_body({**body, "messages": EncodedArray(*parts, encode_items([message]))})


_BINDING_BETA = "thinking-binding-controls-2026-08-01"


def _unbind_thinking(
    body: dict[str, object], headers: dict[str, str], model: AnthropicModel, *, has_thinking: bool
) -> None:
    """Allow the API to omit thinking from requests with another system prompt or other tools.

    Claude Fable from 5.1 on refuses a request whose thinking blocks were made under another beginning of the
    conversation, as after a change of the tools
    (https://platform.claude.com/docs/en/models/fable-5-1/migration-guide).
    """
    if "fable" not in str(model.id).lower() or _version(model) < (5, 1):
        return
    thinking = as_dict(body.get("thinking")) or {"type": "adaptive"}  # a model that always thinks
    if not has_thinking or "block_binding" in thinking:
        return
    body["thinking"] = {**thinking, "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    name = next((name for name in headers if name.lower() == "anthropic-beta"), "anthropic-beta")
    betas = [beta for beta in headers.get(name, "").split(",") if beta.strip()]
    headers[name] = ",".join([*betas, _BINDING_BETA])


async def list_anthropic_models(
    model: ModelIdentity, options: SimpleStreamOptions | None = None
) -> list[ModelInfo]:
    """Return the models of `GET /v1/models`, for `Provider.list_models`. `model.id` may be empty."""
    options = options or {}
    model = as_model(model, AnthropicModel)
    headers, secrets = _headers(model, options.get("api_key"))
    url = messages_url(model.base_url, "/models")
    url += f"{'&' if '?' in url else '?'}limit=1000"
    items = await listed_models(url, model=model, options=options, headers=headers, secrets=secrets)
    return [
        ModelInfo(
            id=as_str(item.get("id")),
            name=as_str(item.get("display_name")),
            context_window=as_int(item.get("max_input_tokens")),
            max_tokens=as_int(item.get("max_tokens")),
        )
        for item in items
        if as_str(item.get("id"))
    ]


def _headers(model: HttpModel, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, and the secrets in them."""
    variable = model.api_key_env
    headers, secrets = request_headers(model, api_key, variable=variable, header="x-api-key", prefix="")
    if not any(name.lower() == "anthropic-version" for name in headers):
        headers["anthropic-version"] = API_VERSION
    return headers, secrets


def messages_url(base_url: str, path: str = "/messages") -> str:
    """Return the endpoint under a base URL that may end before or after `/v1`, or with `/messages`."""
    has_version = re.search(r"/(?:v1|messages)/*\s*$", base_url.partition("?")[0])
    return endpoint(base_url, path if has_version else f"/v1{path}")


def _uses_server_tools(body: Mapping[str, object]) -> bool:
    """Whether the request has server tools. Only then can a reply pause and be continued."""
    own = all("input_schema" in as_dict(tool) for tool in as_list(body.get("tools")))
    return not own or bool(body.get("mcp_servers") or body.get("context_management"))
