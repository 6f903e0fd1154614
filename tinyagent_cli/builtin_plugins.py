"""What comes with tinyagent, registered through the same hooks as everybody else's plugins.

Nothing here imports a provider's module; that happens when its first request is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyagent.agent_types import Model, ModelInfo, Provider, StreamResponse
from tinyagent.errors import ConfigurationError
from tinyagent.hookspecs import hookimpl

from .failures import InputError

if TYPE_CHECKING:
    from .config_files import ProviderTable

__all__ = [
    "APIS",
    "ENDPOINTS",
    "NAMES",
    "BuiltinProviders",
    "ConfiguredProvider",
    "Endpoint",
    "key_variable",
    "replay",
]


class Api(NamedTuple):
    """A wire protocol: the module that speaks it, its model class, how to stream and how to list models."""

    module: str
    model: str
    stream: str
    models: str = ""


APIS = {
    "openai-completions": Api(
        "tinyagent.openai_wire", "OpenAICompatModel", "stream_openai_completions", "list_openai_models"
    ),
    "openai-responses": Api(
        "tinyagent.responses_provider", "OpenAIResponsesModel", "stream_openai_responses"
    ),
    "anthropic-messages": Api(
        "tinyagent.anthropic_provider", "AnthropicModel", "stream_anthropic", "list_anthropic_models"
    ),
    "openrouter": Api("tinyagent.openrouter_provider", "OpenRouterModel", "stream_openrouter"),
}


class Endpoint(NamedTuple):
    """A server: where, the variable of its key, a model to begin with, its protocol."""

    base_url: str
    api_key_env: str | None
    default_model: str | None = None
    api: str = "openai-completions"


ENDPOINTS = {
    "openrouter": Endpoint(
        "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "anthropic/claude-3.5-sonnet", "openrouter"
    ),
    "openai": Endpoint("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-4.1-mini"),
    "anthropic": Endpoint(
        "https://api.anthropic.com", "ANTHROPIC_API_KEY", "claude-sonnet-4-5", "anthropic-messages"
    ),
    "groq": Endpoint("https://api.groq.com/openai/v1", "GROQ_API_KEY", "llama-3.3-70b-versatile"),
    "together": Endpoint(
        "https://api.together.xyz/v1", "TOGETHER_API_KEY", "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    ),
    "deepseek": Endpoint("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek-chat"),
    "mistral": Endpoint("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-small-latest"),
    "xai": Endpoint("https://api.x.ai/v1", "XAI_API_KEY", "grok-3-mini"),
    "cerebras": Endpoint("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "llama3.1-8b"),
    "ollama": Endpoint("http://127.0.0.1:11434/v1", None),
    "lmstudio": Endpoint("http://127.0.0.1:1234/v1", None),
    "llamacpp": Endpoint("http://127.0.0.1:8080/v1", None),
    "vllm": Endpoint("http://127.0.0.1:8000/v1", None),
}
"""In the order in which the first one with a key is taken when no model was chosen."""

NAMES = (*ENDPOINTS, "proxy", "replay", "demo")
"""Every provider that is built in."""


class BuiltinProviders:
    """The plugin that offers one of `NAMES`."""

    def __init__(self, name: str) -> None:
        self._name = name

    @hookimpl
    def tinyagent_register_providers(self, register: Callable[[Provider], None]) -> None:
        name = self._name
        if name == "demo":
            from tinyagent.demo_provider import demo_provider

            register(demo_provider())
        elif name == "proxy":
            register(Provider(name, _stream_proxy, _proxy_model))
        elif name == "replay":
            register(Provider(name, _stream_proxy, _no_replay_file))
        else:
            register(_provider(name, ENDPOINTS[name]))


class ConfiguredProvider:
    """The plugin that offers what the user wrote into `[providers.NAME]`."""

    def __init__(self, name: str, table: ProviderTable) -> None:
        self._name = name
        self._table = table

    @hookimpl
    def tinyagent_register_providers(self, register: Callable[[Provider], None]) -> None:
        name, table = self._name, self._table
        builtin = ENDPOINTS.get(name, Endpoint("", None))
        base_url = table.base_url or builtin.base_url
        if not base_url:
            raise ConfigurationError(f"[providers.{name}] has no base_url.")
        # A server of one's own behind a built-in name has nothing to do with the built-in one's key.
        variable = table.api_key_env or (None if table.base_url else builtin.api_key_env)
        register(
            _provider(
                name,
                Endpoint(base_url, variable, None, table.api or builtin.api),
                headers=dict(table.headers) or None,
                allow_http=table.allow_http,
                ca_file=table.ca_file,
                extra_body=table.options,
            )
        )


def key_variable(name: str, table: ProviderTable | None) -> str | None:
    """The variable that holds a provider's key, known without loading anything."""
    if table is not None and (table.api_key_env or table.base_url):
        return table.api_key_env
    if name == "proxy":
        return "TINYAGENT_PROXY_TOKEN"
    return ENDPOINTS[name].api_key_env if name in ENDPOINTS else None


# ---- servers ----------------------------------------------------------------------------------------


def _provider(name: str, endpoint: Endpoint, **fields: Any) -> Provider:
    """A server as a provider; `fields` are those of its model."""
    api = APIS[endpoint.api]
    fields |= {"provider": name, "base_url": endpoint.base_url, "api_key_env": endpoint.api_key_env}

    def make_model(model_id: str, options: Mapping[str, Any]) -> Model:
        body = {**fields.get("extra_body", {}), **options}
        make = getattr(import_module(api.module), api.model)
        model: Model = make(**{**fields, "id": _id(name, model_id), "extra_body": body})
        return model

    async def stream(model: Any, context: Any, options: Any) -> StreamResponse:
        reply: StreamResponse = await getattr(import_module(api.module), api.stream)(model, context, options)
        return reply

    async def list_models() -> list[ModelInfo]:
        from . import configuration

        # The other protocols have no list of their own; their servers list models as chat/completions does.
        lister = api if api.models else APIS["openai-completions"]
        module = import_module(lister.module)
        key = configuration.load().api_key(name, endpoint.api_key_env)
        found: list[ModelInfo] = await getattr(module, lister.models)(
            getattr(module, lister.model)(**fields), {"api_key": key}
        )
        return found

    return Provider(name, stream, make_model, endpoint.api_key_env, list_models)


def _id(provider: str, model_id: str) -> str:
    if not model_id:
        raise ConfigurationError(
            f"-m {provider} names no model.",
            hint=f"Write -m {provider}/MODEL-ID; tinyagent models list {provider} shows what there is.",
        )
    return model_id


# ---- proxy and replay -------------------------------------------------------------------------------


async def _stream_proxy(model: Any, context: Any, options: Any) -> StreamResponse:
    from tinyagent.proxy import stream_proxy

    reply: StreamResponse = await stream_proxy(model, context, options)
    return reply


def _proxy_model(model_id: str, options: Mapping[str, Any]) -> Model:
    if options:
        raise ConfigurationError(f"The provider 'proxy' takes no options: {', '.join(options)}.")
    return Model(provider="proxy", id=_id("proxy", model_id), api="proxy")


def _no_replay_file(model_id: str, options: Mapping[str, Any]) -> Model:
    raise ConfigurationError("A replay needs its file: -m replay:FILE")


def replay(path: str, on_warning: Callable[[str], None]) -> Provider:
    """The provider that answers with the run recorded in `path`."""
    from tinyagent.replay_provider import replay_provider

    try:
        Path(path).expanduser().stat()  # it is not opened here: a pipe can be read once
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read {path or 'a file'} (-m replay:FILE): {why}.") from None
    return replay_provider(path, on_warning=on_warning)
