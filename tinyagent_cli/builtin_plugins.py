"""What comes with tinyagent, registered through the same hooks as everybody else's plugins.

Nothing here imports a provider's module; that happens when its first request is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyagent.agent_types import Model, ModelInfo, Provider, StreamResponse
from tinyagent.errors import ConfigurationError
from tinyagent.hookspecs import hookimpl

if TYPE_CHECKING:
    from .config_files import ProviderTable

__all__ = [
    "ENDPOINTS",
    "NAMES",
    "BuiltinProviders",
    "ConfiguredProvider",
    "Endpoint",
    "key_variable",
    "replay",
]


class Endpoint(NamedTuple):
    """A server that speaks chat/completions: where, the variable of its key, a model to begin with."""

    base_url: str
    api_key_env: str | None
    default_model: str | None = None


ENDPOINTS = {
    "openrouter": Endpoint(
        "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "anthropic/claude-3.5-sonnet"
    ),
    "openai": Endpoint("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-4.1-mini"),
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
            register(Provider(name, _unset, _replay_model))
        elif name == "openrouter":
            register(_openrouter())
        else:
            register(_compatible(name, ENDPOINTS[name]))


class ConfiguredProvider:
    """The plugin that offers what the user wrote into `[providers.NAME]`."""

    def __init__(self, name: str, table: ProviderTable) -> None:
        self._name = name
        self._table = table

    @hookimpl
    def tinyagent_register_providers(self, register: Callable[[Provider], None]) -> None:
        name, table = self._name, self._table
        builtin = ENDPOINTS.get(name)
        base_url = table.base_url or (builtin.base_url if builtin else None)
        if base_url is None:
            raise ConfigurationError(f"[providers.{name}] has no base_url.")
        if table.api != "openai-completions":
            raise ConfigurationError(
                f"[providers.{name}] api = {table.api!r} is not supported; "
                'this version speaks "openai-completions".'
            )
        key = table.api_key_env or (builtin.api_key_env if builtin and not table.base_url else None)
        register(
            _compatible(
                name,
                Endpoint(base_url, key),
                headers=dict(table.headers) or None,
                options=table.options,
                allow_http=table.allow_http,
            )
        )


def key_variable(name: str, table: ProviderTable | None) -> str | None:
    """The variable that holds a provider's key, known without loading anything."""
    if table is not None and (table.api_key_env or table.base_url):
        return table.api_key_env
    return ENDPOINTS[name].api_key_env if name in ENDPOINTS else None


# ---- compatible endpoints ---------------------------------------------------------------------------


def _compatible(name: str, endpoint: Endpoint, **settings: Any) -> Provider:
    options = settings.pop("options", {})

    def make_model(model_id: str, given: Mapping[str, Any]) -> Model:
        from tinyagent.openai_wire import OpenAICompatModel

        return OpenAICompatModel(
            provider=name,
            id=_id(name, model_id),
            base_url=endpoint.base_url,
            api_key_env=endpoint.api_key_env,
            extra_body={**options, **given},
            **settings,
        )

    return Provider(
        name, _stream_completions, make_model, endpoint.api_key_env, _lister(name, endpoint, settings)
    )


async def _stream_completions(model: Any, context: Any, options: Any) -> StreamResponse:
    from tinyagent.openai_wire import stream_openai_completions

    return await stream_openai_completions(model, context, options)


def _openrouter() -> Provider:
    name, endpoint = "openrouter", ENDPOINTS["openrouter"]

    def make_model(model_id: str, given: Mapping[str, Any]) -> Model:
        from tinyagent.openrouter_provider import OpenRouterModel

        return OpenRouterModel(id=_id(name, model_id), extra_body=dict(given))

    return Provider(name, _stream_openrouter, make_model, endpoint.api_key_env, _lister(name, endpoint, {}))


async def _stream_openrouter(model: Any, context: Any, options: Any) -> StreamResponse:
    from tinyagent.openrouter_provider import stream_openrouter

    return await stream_openrouter(model, context, options)


def _lister(
    name: str, endpoint: Endpoint, settings: Mapping[str, Any]
) -> Callable[[], Awaitable[list[ModelInfo]]]:
    async def list_models() -> list[ModelInfo]:
        from tinyagent.openai_wire import OpenAICompatModel, list_openai_models

        from . import configuration

        model = OpenAICompatModel(
            provider=name, base_url=endpoint.base_url, api_key_env=endpoint.api_key_env, **settings
        )
        key = configuration.load().api_key(name, endpoint.api_key_env)
        return await list_openai_models(model, {"api_key": key})

    return list_models


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
    return Model(provider="proxy", id=_id("proxy", model_id), api="proxy")


async def _unset(model: Any, context: Any, options: Any) -> StreamResponse:
    raise ConfigurationError("A replay needs its file: -m replay:FILE")


def _replay_model(model_id: str, options: Mapping[str, Any]) -> Model:
    raise ConfigurationError("A replay needs its file: -m replay:FILE")


def replay(path: str) -> Provider:
    """The provider that answers with the run recorded in `path`."""
    from tinyagent.replay_provider import replay_provider

    return replay_provider(path)
