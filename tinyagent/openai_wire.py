"""The provider for servers with chat/completions.

`chat_request` builds a request, `ChatDecoder` decodes the reply without I/O, and `stream_openai_completions`
connects the two over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ._json import as_dict, as_int, as_list
from ._stream.chat_decoder import ChatDecoder
from ._stream.chat_request import chat_request, encoded_request, refuses_stream_options
from ._stream.model import HttpModel, as_model, check_model
from ._stream.reply import ReplyStream, open_stream
from ._stream.request import endpoint as endpoint_of
from ._stream.request import listed_models, openai_headers
from ._stream.servers import OPENROUTER_URL, SERVERS, KnownServer, known_servers, server_of
from .agent_types import Context, ModelIdentity, ModelInfo, SimpleStreamOptions
from .errors import ProviderError

__all__ = [
    "ChatDecoder",
    "KnownServer",
    "OpenAICompatModel",
    "chat_request",
    "endpoint",
    "known_servers",
    "list_openai_models",
    "stream_openai_completions",
]


@dataclass
class OpenAICompatModel(HttpModel):
    """A model of any chat/completions server.

    Attributes:
        base_url: With or without `/chat/completions`. It may have a query.
        name: The name to display.
        headers: Sent with each request. `Authorization` here replaces the API key.
        context_window: Tokens of the context window.
        max_tokens: The most output tokens of the model. The limit of a call is `options["max_tokens"]`.
        reasoning: Whether the model reasons, if its id is unknown. A thinking level is then sent.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        transport: The HTTP engine: `direct`, `httpx`, or `auto` to decide by the proxy.
        http_client: A client of your own for the requests. It is never closed.
    """

    provider: str = "openai-compatible"
    api: str = "openai-completions"
    base_url: str = OPENROUTER_URL
    reasoning: bool | None = False


def endpoint(base_url: str, path: str = "/chat/completions") -> str:
    """Return the URL of `path` under a base URL, which may end with `/chat/completions`."""
    return endpoint_of(base_url, path)


# ---- the stream ------------------------------------------------------------------------------------------


async def stream_openai_completions(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from any chat/completions server.

    Args:
        model: An `OpenAICompatModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, HttpModel)
    base_url = check_model(model, 'OpenAICompatModel(id=…, base_url="http://127.0.0.1:8080/v1")')
    headers, secrets = chat_headers(model, options.get("api_key"))
    open_reply = partial(
        open_stream,
        endpoint(base_url),
        model=model,
        options=options,
        headers=headers,
        secrets=secrets,
        decoder=partial(ChatDecoder, model),
    )
    while True:  # Each refusal is remembered, so there are at most three requests.
        body = encoded_request(model, context, options)
        try:
            return await open_reply(body)
        except ProviderError as error:
            from ._stream.response_schema import refuses_schema

            refused = refuses_stream_options(error, body, model, options)
            if not (refused or refuses_schema(error, body, model, context, options)):
                raise


def chat_headers(model: HttpModel, api_key: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, including the API key, and the secrets in them."""
    known = SERVERS.get(server_of(model.base_url))
    return openai_headers(
        model, api_key, model.api_key_env or (known.api_key_env if known is not None else None)
    )


async def list_openai_models(
    model: ModelIdentity, options: SimpleStreamOptions | None = None
) -> list[ModelInfo]:
    """Return the models of `GET {base}/models`, for `Provider.list_models`. `model.id` may be empty."""
    options = options or {}
    model = as_model(model, HttpModel)
    headers, secrets = chat_headers(model, options.get("api_key"))
    url = endpoint(model.base_url, "/models")
    items = await listed_models(url, model=model, options=options, headers=headers, secrets=secrets)
    return [
        ModelInfo(
            id=str(item["id"]),
            name=str(item.get("name") or ""),
            context_window=next(filter(None, (as_int(item.get(name)) for name in _WINDOWS)), None),
            max_tokens=as_int(item.get("max_completion_tokens")),
            input_price=_per_million(as_dict(item.get("pricing")).get("prompt")),
            output_price=_per_million(as_dict(item.get("pricing")).get("completion")),
            abilities=_abilities(item),
        )
        for item in items
        if item.get("id")
    ]


_WINDOWS = ("context_length", "context_window", "max_context_length", "max_model_len", "contextWindow")
"""The field of the context window; the last two are those of vLLM and of our proxy."""


def _abilities(item: Mapping[str, object]) -> tuple[str, ...]:
    """Return the abilities of a model, as OpenRouter and Mistral report them."""
    accepted = as_list(item.get("supported_parameters"))
    inputs = as_list(as_dict(item.get("architecture")).get("input_modalities"))
    capabilities = as_dict(item.get("capabilities"))
    reported = {
        "tools": "tools" in accepted or capabilities.get("function_calling") is True,
        "images": "image" in inputs or capabilities.get("vision") is True,
        "files": "file" in inputs,
        "audio": "audio" in inputs or capabilities.get("audio") is True,
        "reasoning": "reasoning" in accepted or capabilities.get("reasoning") is True,
        "json_schema": "structured_outputs" in accepted,
    }
    return tuple(name for name, has in reported.items() if has)


def _per_million(price: object) -> float | None:
    """Convert OpenRouter's price, in US dollars per token, to US dollars per million tokens."""
    try:
        dollars_each = float(str(price))
    except ValueError:
        return None
    return dollars_each * 1e6 if 0 <= dollars_each < float("inf") else None
