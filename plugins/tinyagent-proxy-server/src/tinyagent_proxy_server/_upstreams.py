"""The providers of the server. Each uses a stream function of the library."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from typing import NamedTuple

from tinyagent import ConfigurationError, Context, Model, ModelInfo, StreamResponse, TinyAgentError
from tinyagent.agent_types import AssistantMessage, Message, SimpleStreamOptions
from tinyagent.demo_provider import demo_provider
from tinyagent.openai_wire import KnownServer, known_servers

from ._config import ProviderTable

__all__ = ["Upstream", "Upstreams"]

LIST_SECONDS = 300.0
"""Seconds until a provider's list of models is read again."""
RETRY_SECONDS = 30.0
"""Seconds until a failed list is read again."""


class _Api(NamedTuple):
    """A wire protocol: its module, model class and stream function."""

    module: str
    model: str
    stream: str


_APIS = {
    "openai-completions": _Api("tinyagent.openai_wire", "OpenAICompatModel", "stream_openai_completions"),
    "openai-responses": _Api(
        "tinyagent.responses_provider", "OpenAIResponsesModel", "stream_openai_responses"
    ),
    "anthropic-messages": _Api("tinyagent.anthropic_provider", "AnthropicModel", "stream_anthropic"),
    "openrouter": _Api("tinyagent.openrouter_provider", "OpenRouterModel", "stream_openrouter"),
}
_CHAT = "openai-completions"

DEMO = "demo"


class Upstream:
    """A provider: the names of its models, its key and its URL.

    Attributes:
        secret: Its key, which is used only for its requests.
    """

    def __init__(self, name: str, table: ProviderTable) -> None:
        base_url, variable, api = known_servers().get(name, KnownServer("", None, _CHAT))
        if name == DEMO and table.base_url is None:
            api = DEMO
        elif not (table.base_url or base_url):
            raise ConfigurationError(f"[providers.{name}] has no base_url.")
        # A private server under a well-known name must not get the key of the well-known one.
        variable = table.api_key_env or (None if table.base_url else variable)
        self.name = name
        self.api = table.api or api
        self._api_chosen = table.api is not None
        self.secret = os.environ.get(variable, "").strip() if variable else None
        if self.secret == "":
            raise ConfigurationError(
                f"There is no key for the provider {name!r}: {variable} is not set.",
                hint=f"export {variable}=…",
            )
        self._patterns = table.models
        self._options = dict(table.options)
        self._fields: dict[str, object] = {
            "base_url": table.base_url or base_url,
            "headers": dict(table.headers) or None,
            "allow_http": table.allow_http,
            "ca_file": table.ca_file,
            "api_key_env": None,
            "extra_body": self._options,
        }
        self._demo = demo_provider() if self.api == DEMO else None
        self._listed: tuple[float, list[ModelInfo]] | None = None

    def full_name(self, model_id: str) -> str:
        """Return the name that callers and the tokens' patterns use."""
        return DEMO if self._demo is not None else f"{self.name}/{model_id}"

    def model(self, model_id: str) -> Model | None:
        """Return the model with this id; None if it is not served."""
        if self._demo is not None:
            return self._demo.make_model("", self._options) if model_id in ("", DEMO) else None
        if not model_id or not any(fnmatchcase(model_id, pattern) for pattern in self._patterns):
            return None
        api = _APIS[self._api_of(model_id)]
        make = getattr(import_module(api.module), api.model)
        model: Model = make(provider=self.name, id=model_id, **self._fields)
        return model

    def _api_of(self, model_id: str) -> str:
        """Return the protocol of a model. OpenAI's newer models use the Responses API, unless configured."""
        if self.name != "openai" or self._api_chosen:
            return self.api
        from tinyagent.responses_provider import wants_responses

        return "openai-responses" if wants_responses(model_id) else self.api

    async def stream(self, model: Model, context: Context, options: SimpleStreamOptions) -> StreamResponse:
        """Send the request, and return the reply once it has started."""
        options = {**options, "api_key": self.secret}
        if self._demo is not None:
            return await self._demo.stream_fn(model, context, options)
        api = _APIS[model.api]
        reply: StreamResponse = await getattr(import_module(api.module), api.stream)(model, context, options)
        return reply

    async def models(self) -> list[ModelInfo]:
        """Return the served models: configured ids, and listed models that match a pattern."""
        if self._demo is not None:
            return [ModelInfo(DEMO, "a script, offline; not a model")]
        found = {pattern: ModelInfo(pattern) for pattern in self._patterns if not set(pattern) & set("*?[")}
        if len(found) < len(self._patterns):
            for info in await self._list_models():
                if any(fnmatchcase(info.id, pattern) for pattern in self._patterns):
                    found[info.id] = info
        return list(found.values())

    async def _list_models(self) -> list[ModelInfo]:
        """Return the provider's list of models, cached for `LIST_SECONDS`; empty if it cannot be read."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > LIST_SECONDS:
            anthropic = self.api == "anthropic-messages"
            # The Responses API lists its models as chat/completions does.
            api = _APIS[self.api if anthropic else _CHAT]
            lister = "list_anthropic_models" if anthropic else "list_openai_models"
            module = import_module(api.module)
            try:
                infos = await getattr(module, lister)(
                    getattr(module, api.model)(provider=self.name, **self._fields),
                    {"api_key": self.secret, "timeout": 10.0},
                )
            except TinyAgentError:
                infos = self._listed[1] if self._listed is not None else []
                now -= LIST_SECONDS - RETRY_SECONDS
            self._listed = (now, infos)
        return self._listed[1]


class Upstreams:
    """All providers of the server.

    Without tables these are the demo and every well-known provider whose key is in the environment.
    """

    def __init__(self, tables: Mapping[str, ProviderTable]) -> None:
        if not tables:
            plain = ProviderTable()
            with_key = [
                name for name, known in known_servers().items() if os.environ.get(known.api_key_env or "")
            ]
            tables = dict.fromkeys((DEMO, *with_key), plain)
        self._known = {name: Upstream(name, table) for name, table in tables.items()}

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._known.values())

    @property
    def secrets(self) -> list[str]:
        """Every key."""
        return [upstream.secret for upstream in self if upstream.secret]

    def find(self, provider: str, model_id: str) -> tuple[Upstream, Model] | None:
        """Find a model. A caller may send any provider, such as `proxy`, if the id has both parts."""
        names = [model_id] if provider in ("", "proxy") else [f"{provider}/{model_id}", model_id]
        for name in names:
            upstream = self._known.get(name.partition("/")[0])
            model = upstream.model(name.partition("/")[2]) if upstream is not None else None
            if upstream is not None and model is not None:
                return upstream, model
        return None

    def restore_origins(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages, with the original provider and model in the replies.

        In a caller's history their provider is the proxy. Data such as the signatures of thoughts is sent
        back only to the provider of the message.
        """
        return [
            self._restore_origin(message) if message["role"] == "assistant" else message
            for message in messages
        ]

    def _restore_origin(self, message: AssistantMessage) -> AssistantMessage:
        found = self.find(str(message.get("provider") or ""), str(message.get("model") or ""))
        if found is None:
            return message
        _, model = found
        return {**message, "api": model.api, "provider": model.provider, "model": model.id}
