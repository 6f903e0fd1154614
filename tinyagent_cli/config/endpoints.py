"""The address of a provider: from the table of servers, an environment variable or `-O base_url=…`.

A project file cannot set it, so a key is never sent to a server that a project has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from tinyagent._stream.servers import SERVERS, Server
from tinyagent.agent_types import JsonObject, JsonValue
from tinyagent.errors import ConfigurationError

from .environment import variable

if TYPE_CHECKING:
    from .files import ProviderTable

__all__ = [
    "AZURE_API_VERSION",
    "Endpoint",
    "azure_url",
    "endpoint_note",
    "endpoint_of",
    "ollama_url",
    "take_base_url",
]

AZURE_API_VERSION = "2024-10-21"
"""The latest generally available version. `OPENAI_API_VERSION` and `-O api_version=…` override it."""
OLLAMA_PORT = 11434


class Endpoint(NamedTuple):
    """The address, key and protocol of a provider.

    Attributes:
        base_url: The address; empty if the provider has none yet.
        api_key_env: The environment variable of the key; None if the provider takes no key.
        api: The protocol.
        moved_by: The environment variable that sets `base_url`, if one does.
        api_chosen: Whether the user has chosen the protocol.
    """

    base_url: str
    api_key_env: str | None
    api: str
    moved_by: str | None = None
    api_chosen: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the user has moved a server without a key. `http://` to another machine is then allowed."""
        return self.moved_by is not None and self.api_key_env is None


def endpoint_of(name: str, table: ProviderTable | None = None) -> Endpoint:
    """Return the endpoint of a provider: from its table, or else from an environment variable.

    Args:
        name: A built-in provider, or one that has a table.
        table: `[providers.NAME]` of the user's file.

    Raises:
        ConfigurationError: The environment variable is not an address, or `base_url` is empty.
    """
    server = SERVERS.get(name, Server(""))
    api = (table.api if table is not None else None) or server.api
    base_url, moved_by = (table.base_url if table is not None else None), None
    if base_url is not None and not base_url.strip():
        raise ConfigurationError(f"base_url under [providers.{name}] is empty.")
    if not base_url:
        text = variable(server.url_env) if server.url_env is not None else None
        if text is None:
            base_url = server.base_url
        else:
            base_url, moved_by = (ollama_url(text) if name == "ollama" else text), server.url_env
    chosen = table is not None and table.api is not None
    return Endpoint(base_url, key_variable_of(name, table), api, moved_by, chosen)


def key_variable_of(name: str, table: ProviderTable | None) -> str | None:
    """Return the environment variable of a provider's key; None if the provider takes no key."""
    server = SERVERS.get(name, Server(""))
    if table is not None and table.api_key_env:
        return table.api_key_env
    if table is not None and table.base_url and server.base_url:
        # The user's own server under a built-in name must not get the key of the built-in provider.
        return None
    return server.api_key_env


def take_base_url(name: str, options: JsonObject) -> str | None:
    """Remove `base_url` from the options of a model and return it; None if it is not set.

    Raises:
        ConfigurationError: It is not text, or blank.
    """
    if "base_url" not in options:
        return None
    base_url = options.pop("base_url")
    if not isinstance(base_url, str) or not base_url.strip():
        raise ConfigurationError(
            f"The base_url of {name!r} is not a URL.", hint="Write -O base_url=https://…"
        )
    return base_url.strip()


def endpoint_note(name: str, table: ProviderTable | None, options: Mapping[str, JsonValue]) -> str | None:
    """Return a sentence for `-v` if the address of a provider was changed; None otherwise."""
    server = SERVERS.get(name)
    base_url = options.get("base_url")
    if isinstance(base_url, str):
        return f"{name} is at {_shown(base_url)}, set by base_url."
    if server is None or server.url_env is None or variable(server.url_env) is None:
        return None
    endpoint = endpoint_of(name, table)
    if endpoint.moved_by is None:
        return f"{server.url_env} is not used, because [providers.{name}] has a base_url."
    return f"{name} is at {_shown(endpoint.base_url)}, set by {endpoint.moved_by}."


def _shown(url: str) -> str:
    """Return a URL without the parts that may contain a secret."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an invalid URL"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def ollama_url(text: str) -> str:
    """Return the base URL for a value of `OLLAMA_HOST`, as ollama's own client reads it.

    `host`, `host:port`, `:port` and `scheme://host:port/path` are allowed. The address on which a server
    listens on all networks (0.0.0.0, ::) means this machine.

    Raises:
        ConfigurationError: The value has another form.
    """
    text = text.strip("\"' ")
    if "@" in text:
        raise ConfigurationError(
            "OLLAMA_HOST contains a user name or password.",
            hint="Set a header with the credentials instead: [providers.ollama] headers.",
        )
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    if rest.count(":") > 1 and not rest.startswith("["):
        address, slash, path = rest.partition("/")
        rest = f"[{address}]{slash}{path}"  # a bare IPv6 address
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise ConfigurationError(
            "OLLAMA_HOST is not an address.", hint="Write host:port, for example 127.0.0.1:11434."
        ) from None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    port = port or ({"http": 80, "https": 443}.get(scheme, OLLAMA_PORT) if found else OLLAMA_PORT)
    address = f"[{host}]" if ":" in host else host
    return f"{scheme}://{address}:{port}{parts.path.rstrip('/').removesuffix('/v1')}/v1"


def azure_url(
    base_url: str, deployment: str, api_version: str | None = None, *, responses: bool = False
) -> str:
    """Return the URL of a deployment's chat completions (https://learn.microsoft.com/azure/ai-services/openai/reference).

    A base URL with a deployment, or with the path of the newer API (`/openai/v1`), is returned unchanged.

    Args:
        base_url: The resource's endpoint, `https://NAME.openai.azure.com`.
        deployment: The name of the deployment; empty for requests without one, such as the list of models.
        api_version: The version of the API.
        responses: Return the URL of the Responses API instead, which is part of the newer API only.

    Raises:
        ConfigurationError: There is no endpoint.
    """
    if not base_url:
        raise ConfigurationError(
            "There is no endpoint for 'azure': AZURE_OPENAI_ENDPOINT is not set.",
            hint="Set it: export AZURE_OPENAI_ENDPOINT=https://NAME.openai.azure.com",
        )
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return base_url  # the request reports the error
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/responses")
    if path.endswith("/openai/v1"):
        return base_url
    if responses:
        return urlunsplit((parts.scheme, parts.netloc, "/openai/v1", "", ""))
    if "/deployments/" not in path:
        path = path.removesuffix("/openai") + "/openai"
        if deployment:
            path = f"{path}/deployments/{quote(deployment, safe='')}"
    version = api_version or variable("OPENAI_API_VERSION") or AZURE_API_VERSION
    query = parts.query or f"api-version={quote(version, safe='')}"
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
