"""The models that speak HTTP: one base class for their common fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypedDict, TypeVar

from tinyagent._net.transport import TransportChoice
from tinyagent.agent_types import JsonDict, Model, ModelIdentity, SimpleStreamOptions
from tinyagent.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

__all__ = ["ConnectionOptions", "HttpModel", "as_model", "check_model", "connection_options"]


@dataclass
class HttpModel(Model):
    """A model at a server. The classes of the protocols have other defaults, and fields of their own.

    Attributes:
        base_url: The address of the API, with or without the path of the protocol. It may have a query.
        name: The name to display.
        headers: Sent with each request. A header with a key replaces the API key.
        context_window: Tokens of the context window.
        max_tokens: The most output tokens of the model.
        reasoning: Whether the model reasons; None to decide by its id.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        extra_body: Merged into the body of each request, last. The value None removes a field.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
        transport: The HTTP engine: `direct`, `httpx`, or `auto` to decide by the proxy.
        http_client: A client of your own for the requests. It is never closed.
    """

    base_url: str = ""
    name: str = ""
    headers: dict[str, str] | None = field(default=None, repr=False)
    context_window: int = 128_000
    max_tokens: int = 4096
    reasoning: bool | None = None
    api_key_env: str | None = None
    extra_body: JsonDict = field(default_factory=dict)
    ca_file: str | None = None
    allow_http: bool = False
    transport: TransportChoice = field(default="auto", kw_only=True)
    http_client: httpx.AsyncClient | httpx.AsyncBaseTransport | None = field(
        default=None, repr=False, compare=False, kw_only=True
    )


AnyModel = TypeVar("AnyModel", bound=HttpModel)


def as_model(model: ModelIdentity, kind: type[AnyModel]) -> AnyModel:
    """Return a model as an instance of `kind`.

    A provider accepts models of any class, for example of a plugin. Its fields are used.
    The others have the defaults of `kind`; only an identity and a server are never made up.
    """
    if isinstance(model, kind):
        return model
    values: dict[str, object] = {"provider": "", "id": "", "api": "", "base_url": ""}
    for known in fields(kind):
        found = getattr(model, known.name, None)
        if found is not None or (known.default is None and hasattr(model, known.name)):
            values[known.name] = found
    made = kind()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def check_model(model: HttpModel, example: str) -> str:
    """Return the base URL of a model.

    Raises:
        ConfigurationError: The model has no base URL, a blank one, or no id. The hint shows `example`.
    """
    if not str(model.base_url).strip():
        fault = "a blank base_url" if model.base_url else "no base_url"
        raise ConfigurationError(f"the model {model.id!r} has {fault}", hint=f"Use {example}.")
    if not model.id:
        raise ConfigurationError("the model has no id")
    return model.base_url


class ConnectionOptions(TypedDict):
    """The arguments of `HttpRequest` that a model decides."""

    provider: str
    ca_file: str | None
    allow_http: bool
    transport: TransportChoice
    http_client: object


def connection_options(
    model: HttpModel, options: SimpleStreamOptions | Mapping[str, object]
) -> ConnectionOptions:
    """Return the connection options of a model. The client of a call takes precedence over the model's."""
    client = options.get("http_client")
    return {
        "provider": model.provider,
        "ca_file": model.ca_file,
        "allow_http": model.allow_http,
        "transport": model.transport,
        "http_client": model.http_client if client is None else client,
    }
