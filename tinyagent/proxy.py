"""A provider that uses a proxy: the API key stays on a server, and the agent has a token for this server.

    agent = Agent(AgentOptions(stream_fn=stream_proxy))

`stream_proxy` is a `StreamFn`. URL and token are from the first of these that has them: the options of the
call, the attributes `proxy_url` and `auth_token` of the model, and the environment (`TINYAGENT_PROXY_URL`,
`TINYAGENT_PROXY_TOKEN`). The protocol is in `proxy_event_handlers`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from ._cancel import Aborted
from ._net.request import HttpRequest
from ._net.url_guard import check_headers, check_key
from ._stream.builder import BuilderEvent
from ._stream.model import HttpModel, as_model, connection_options
from ._stream.reply import ReplyStream
from ._stream.request import encode_body
from ._stream.trace import parse_partial_object
from ._tool_schemas import tool_definitions
from .agent_types import Context, JsonDict, ModelIdentity, SimpleStreamOptions, ThinkingLevel
from .errors import ConfigurationError, MissingKeyError
from .proxy_event_handlers import ProxyDecoder

__all__ = [
    "ProxyStreamOptions",
    "ProxyStreamResponse",
    "create_proxy_stream",
    "parse_streaming_json",
    "stream_proxy",
]

URL_VARIABLE = "TINYAGENT_PROXY_URL"
TOKEN_VARIABLE = "TINYAGENT_PROXY_TOKEN"


@dataclass
class ProxyStreamOptions:
    """The options of a call through a proxy; see `stream_proxy` for the defaults.

    Attributes:
        auth_token: The token for the proxy.
        proxy_url: The base URL of the proxy; `/api/stream` is added.
        temperature: The model's temperature.
        max_tokens: The most output tokens.
        reasoning: A `ThinkingLevel`.
        signal: Setting it ends the call at once.
        timeout: As in `SimpleStreamOptions`.
    """

    auth_token: str = field(default="", repr=False)
    proxy_url: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    reasoning: ThinkingLevel | str | None = None
    signal: asyncio.Event | None = None
    timeout: float | Mapping[str, float] | None = None


class _RequestOptions(SimpleStreamOptions, total=False):
    """The options of any provider, and those that only a proxy has."""

    auth_token: str | None
    proxy_url: str | None
    reasoning: ThinkingLevel | str | None


@dataclass
class _ProxyModel(HttpModel):
    """A model behind a proxy. The proxy is another server than that of the model."""

    proxy_url: str | None = None
    auth_token: str | None = field(default=None, repr=False)


class ProxyStreamResponse(ReplyStream):
    """An active reply: iterate it for the events, await `result()` for the message.

    Awaiting it, or the first read, sends the request.
    """

    def __init__(self, request: HttpRequest, model: ModelIdentity) -> None:
        super().__init__(request, None, partial(ProxyDecoder, model))
        self._opened = False

    def __await__(self) -> Generator[object, None, ProxyStreamResponse]:
        return self._open().__await__()

    async def _open(self) -> ProxyStreamResponse:
        if not self._opened:
            self._opened = True
            try:
                self._response = await self._request.open()
            except Aborted:
                pass  # without a response, the events are those of an aborted one
        return self

    async def _run(self) -> AsyncGenerator[BuilderEvent, None]:
        try:
            await self._open()
            async with aclosing(super()._run()) as events:
                async for event in events:
                    yield event
        finally:
            self._left.set()


async def stream_proxy(
    model: ModelIdentity, context: Context, options: ProxyStreamOptions | SimpleStreamOptions | None = None
) -> ProxyStreamResponse:
    """Stream a reply through a proxy.

    The token is `auth_token` or `api_key` of the options, else the model's `auth_token`, else
    `TINYAGENT_PROXY_TOKEN`; the URL is `proxy_url` of the options or the model, else `TINYAGENT_PROXY_URL`.

    Raises:
        ConfigurationError: There is no URL, or it is not valid.
        MissingKeyError: There is no token.
        TinyAgentError: The request failed before the reply started.
    """
    if isinstance(options, ProxyStreamOptions):
        return await ProxyStreamResponse(_request(model, context, _options_of(options)), model)
    # The options of other providers may have the fields of a proxy, too.
    return await ProxyStreamResponse(_request(model, context, cast(_RequestOptions, options or {})), model)


def create_proxy_stream(
    model: ModelIdentity,
    context: Context,
    auth_token: str,
    proxy_url: str,
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
    reasoning: ThinkingLevel | str | None = None,
    signal: asyncio.Event | None = None,
) -> ProxyStreamResponse:
    """Return the reply of a proxy. The request is sent when the reply is awaited or first read."""
    options = ProxyStreamOptions(
        auth_token=auth_token,
        proxy_url=proxy_url,
        temperature=temperature,
        max_tokens=max_tokens,
        reasoning=reasoning,
        signal=signal,
    )
    return ProxyStreamResponse(_request(model, context, _options_of(options)), model)


def parse_streaming_json(text: str) -> JsonDict | None:
    """Parse a prefix of a JSON object as far as possible; None if it does not start like an object.

    >>> parse_streaming_json('{"city": "Par')
    {'city': 'Par'}
    """
    return parse_partial_object(text)


def _options_of(options: ProxyStreamOptions) -> _RequestOptions:
    return {
        "auth_token": options.auth_token,
        "proxy_url": options.proxy_url,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "reasoning": options.reasoning,
        "signal": options.signal,
        "timeout": options.timeout,
    }


def _request(identity: ModelIdentity, context: Context, options: _RequestOptions) -> HttpRequest:
    model = as_model(identity, _ProxyModel)
    name = model.provider or "proxy"
    url = options.get("proxy_url") or model.proxy_url or os.environ.get(URL_VARIABLE)
    if not url or not str(url).strip():
        fault = "a blank" if url else "no"
        raise ConfigurationError(
            f"{fault} proxy URL for the model {model.id!r}",
            hint=f"Set {URL_VARIABLE}, the model's proxy_url, or options['proxy_url'].",
        )
    token = (
        options.get("auth_token")
        or options.get("api_key")
        or model.auth_token
        or os.environ.get(TOKEN_VARIABLE)
    )
    if not token:
        raise MissingKeyError(
            f"no token for the proxy: set {TOKEN_VARIABLE}, or pass options['auth_token']",
            hint=f"export {TOKEN_VARIABLE}=…",
        )
    token = check_key(token, "proxy")
    own = {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "authorization": f"Bearer {token}",
    }
    given = check_headers(model.headers, name)
    headers = own | {header: value for header, value in given.items() if header.lower() not in own}
    return HttpRequest(
        f"{url.rstrip('/')}/api/stream",
        headers=headers,
        body=encode_body(_body(model, context, options)),
        timeout=options.get("timeout"),
        signal=options.get("signal"),
        max_retries=options.get("max_retries"),
        on_retry=options.get("on_retry"),
        secrets=[token],
        **connection_options(replace(model, provider=name), options),
    )


def _body(model: HttpModel, context: Context, options: _RequestOptions) -> dict[str, object]:
    level = options.get("reasoning") or options.get("thinking_level") or model.thinking_level
    level = str(level or ThinkingLevel.OFF)
    chosen = {
        "temperature": options.get("temperature"),
        "maxTokens": options.get("max_tokens"),
        "reasoning": None if level == ThinkingLevel.OFF else level,
        # Not in the original protocol: our own server reads these fields, others ignore them.
        "sessionId": options.get("session_id"),
        "thinkingBudgets": options.get("thinking_budgets") or None,
        "responseSchema": options.get("response_schema"),
    }
    return {
        "model": {
            "provider": model.provider,
            "id": model.id,
            "api": model.api,
            "thinking_level": level,
        },
        "context": {
            "system_prompt": context.system_prompt,
            "messages": context.messages,
            "tools": tool_definitions(context.tools),
        },
        "options": {key: value for key, value in chosen.items() if value is not None},
    }
