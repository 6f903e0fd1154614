"""The built-in providers, registered through the same hooks as plugins.

A provider's module is imported only when its first request is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinyagent._stream.servers import SERVERS, server_of
from tinyagent.agent_types import (
    Context,
    JsonObject,
    JsonValue,
    Model,
    ModelInfo,
    Provider,
    SimpleStreamOptions,
    StreamResponse,
)
from tinyagent.errors import ConfigurationError, MissingKeyError
from tinyagent.hookspecs import hookimpl
from tinyagent_cli.config.endpoints import Endpoint, azure_url, endpoint_of, key_variable_of, take_base_url
from tinyagent_cli.config.environment import variable
from tinyagent_cli.exit_codes import InputError

from .discovery import BUILT_IN, CONFIGURED, Plugin, find

if TYPE_CHECKING:
    from tinyagent_cli.config.files import ProviderTable
    from tinyagent_cli.config.keys import Key

__all__ = [
    "APIS",
    "NAMES",
    "BuiltinProviders",
    "ConfiguredProvider",
    "key_state",
    "key_variable",
    "provider_plugins",
    "replay",
]


class Api(NamedTuple):
    """A wire protocol: its module, model class, stream function and function that lists models."""

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


NAMES = (*SERVERS, "proxy", "replay", "demo")
"""All built-in providers."""


class BuiltinProviders:
    """The plugin of one of `NAMES`."""

    def __init__(self, name: str) -> None:
        self._name = name

    @hookimpl
    def tinyagent_register_providers(self, register: Callable[[Provider], None]) -> None:
        name = self._name
        if name == "demo":
            from tinyagent.demo_provider import demo_provider

            register(demo_provider())
        elif name == "proxy":
            register(Provider(name, _stream_proxy, _proxy_model, list_models=_list_proxy_models))
        elif name == "replay":
            register(Provider(name, _stream_proxy, _no_replay_file))
        else:
            register(_provider(name, endpoint_of(name)))


class ConfiguredProvider:
    """The plugin for a provider in the configuration, `[providers.NAME]`."""

    def __init__(self, name: str, table: ProviderTable) -> None:
        self._name = name
        self._table = table

    @hookimpl
    def tinyagent_register_providers(self, register: Callable[[Provider], None]) -> None:
        name, table = self._name, self._table
        endpoint = endpoint_of(name, table)
        if not endpoint.base_url and name not in SERVERS:
            raise ConfigurationError(f"[providers.{name}] has no base_url.")
        register(
            _provider(
                name,
                endpoint,
                headers=dict(table.headers) or None,
                allow_http=table.allow_http or endpoint.is_open,
                ca_file=table.ca_file,
                extra_body=table.options,
            )
        )


def provider_plugins(configured: Collection[str]) -> list[Plugin]:
    """Return all providers as plugins, built-in, configured and installed, without importing them.

    A configured provider replaces the built-in one of the same name.
    """
    return [
        *(Plugin("providers", name, "", BUILT_IN, "") for name in NAMES if name not in configured),
        *(Plugin("providers", name, "", CONFIGURED, "") for name in configured),
        *find("providers"),
    ]


def key_variable(name: str, table: ProviderTable | None) -> str | None:
    """Return the environment variable of a provider's key, without loading the provider."""
    if name == "proxy":
        return "TINYAGENT_PROXY_TOKEN"
    return key_variable_of(name, table)


def key_state(key: Key | None, variable: str | None) -> str:
    """Describe the key of a provider in a list, without showing it."""
    if key is not None and key.source != variable:
        return f"stored in {key.source}"
    if variable is None:
        return "no key needed"
    return f"{variable} is {'not set' if key is None else 'set'}"


# ---- servers ----------------------------------------------------------------------------------------


def _provider(
    name: str, endpoint: Endpoint, extra_body: Mapping[str, JsonValue] | None = None, **fields: object
) -> Provider:
    """Return a server as a provider; `fields` are those of its model."""
    fields = {"allow_http": endpoint.is_open, **fields, "provider": name, "api_key_env": endpoint.api_key_env}

    def make(model_id: str, options: Mapping[str, JsonValue], api_name: str | None = None) -> Model:
        body: JsonObject = {**(extra_body or {}), **options}
        moved = take_base_url(name, body)
        base_url = moved or endpoint.base_url
        chosen = _take_api(name, body)
        api_name = api_name or chosen or _api_of(name, endpoint, base_url, model_id)
        api = APIS[api_name]
        if name == "azure":
            responses = api_name == "openai-responses"
            version = body.pop("api_version", None)
            version = None if version is None else str(version)
            base_url = azure_url(base_url, model_id, version, responses=responses)
        own: dict[str, object] = {"id": model_id, "base_url": base_url, "extra_body": body}
        if moved is not None and endpoint.api_key_env is None:
            own["allow_http"] = True  # no key is sent, and the user named the server
        model: Model = getattr(import_module(api.module), api.model)(**{**fields, **own})
        return model

    def make_model(model_id: str, options: Mapping[str, JsonValue]) -> Model:
        return make(_id(name, model_id), options)

    async def stream(model: Model, context: Context, options: SimpleStreamOptions) -> StreamResponse:
        api = APIS.get(getattr(model, "api", ""), APIS[endpoint.api])
        reply: StreamResponse = await getattr(import_module(api.module), api.stream)(model, context, options)
        return reply

    async def list_models() -> list[ModelInfo]:
        from tinyagent_cli.config.settings import load_settings

        # The other protocols have no list of their own; their servers list models as chat/completions does.
        api_name = endpoint.api if APIS[endpoint.api].models else "openai-completions"
        lister = APIS[api_name]
        module = import_module(lister.module)
        key = load_settings().api_key(name, endpoint.api_key_env)
        model = make("", {}, api_name)
        found: list[ModelInfo] = await getattr(module, lister.models)(model, {"api_key": key})
        return found

    return Provider(name, stream, make_model, endpoint.api_key_env, list_models)


def _take_api(name: str, options: JsonObject) -> str | None:
    """Remove `api`, the protocol, from the options of a model and return it; None if it is not set.

    Raises:
        ConfigurationError: The protocol is unknown.
    """
    api = options.pop("api", None)
    if api is None:
        return None
    if not isinstance(api, str) or api not in APIS:
        raise ConfigurationError(
            f"There is no protocol {api!r} for {name!r}.", hint=f"api is one of {', '.join(APIS)}."
        )
    return api


def _api_of(name: str, endpoint: Endpoint, base_url: str, model_id: str) -> str:
    """Return the protocol of a model: OpenAI's later models need the Responses API.

    The user's choice takes precedence. A different server under OpenAI's name is treated the same.
    """
    if endpoint.api_chosen or endpoint.api != "openai-completions":
        return endpoint.api
    if server_of(base_url, name) != "openai":
        return endpoint.api
    from tinyagent._stream.model_families import family_of

    return "openai-responses" if family_of(model_id).responses else endpoint.api


def _id(provider: str, model_id: str) -> str:
    if not model_id:
        raise ConfigurationError(
            f"-m {provider} names no model.",
            hint=f"Write -m {provider}/MODEL-ID; tinyagent models list {provider} lists the ids.",
        )
    return model_id


# ---- proxy and replay -------------------------------------------------------------------------------


async def _stream_proxy(model: Model, context: Context, options: SimpleStreamOptions) -> StreamResponse:
    from tinyagent.proxy import stream_proxy

    reply: StreamResponse = await stream_proxy(model, context, options)
    return reply


def _proxy_model(model_id: str, options: Mapping[str, JsonValue]) -> Model:
    if options:
        raise ConfigurationError(f"The provider 'proxy' takes no options: {', '.join(options)}.")
    from tinyagent._stream.model import HttpModel

    return HttpModel(provider="proxy", id=_id("proxy", model_id), api="proxy")


async def _list_proxy_models() -> list[ModelInfo]:
    """Ask the proxy for the models that the token may use."""
    from tinyagent._stream.model import HttpModel
    from tinyagent.openai_wire import list_openai_models
    from tinyagent.proxy import TOKEN_VARIABLE, URL_VARIABLE
    from tinyagent_cli.config.settings import load_settings

    url, token = variable(URL_VARIABLE), load_settings().api_key("proxy", TOKEN_VARIABLE)
    if url is None:
        raise ConfigurationError(
            f"There is no address of the proxy: {URL_VARIABLE} is not set.",
            hint=f"Set it: export {URL_VARIABLE}=https://…",
        )
    if token is None:
        raise MissingKeyError(
            f"There is no token for the proxy: {TOKEN_VARIABLE} is not set.",
            hint=f"Set it: export {TOKEN_VARIABLE}=…",
        )
    model = HttpModel(provider="proxy", base_url=f"{url.rstrip('/')}/api", api_key_env=None)
    return await list_openai_models(model, {"api_key": token})


_NO_FILE = "A replay needs its file: -m replay:FILE"


def _no_replay_file(model_id: str, options: Mapping[str, JsonValue]) -> Model:
    raise ConfigurationError(_NO_FILE)


def replay(path: str, on_warning: Callable[[str], None]) -> Provider:
    """Return the provider that replays the run recorded in `path`."""
    from tinyagent.replay_provider import replay_provider

    if not path:
        raise ConfigurationError(_NO_FILE)
    try:
        Path(path).expanduser().stat()  # it is not opened here: a pipe can be read once
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read {path} (-m replay:FILE): {why}.") from None
    return replay_provider(path, on_warning=on_warning)
