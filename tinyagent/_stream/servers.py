"""The table of known servers: base URLs, API keys and protocol dialects.

The library and the command line share this table. The `Dialect` of a chat/completions server describes what
it accepts beyond the common subset. A server that is not in the table gets the common subset. The sources are
the API references of the servers; a value from elsewhere has a comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = [
    "OPENROUTER_URL",
    "SERVERS",
    "Dialect",
    "KnownServer",
    "Server",
    "dialect_of",
    "is_local_server",
    "known_servers",
    "server_of",
]

_FIVE = ("minimal", "low", "medium", "high", "xhigh")


class Dialect(NamedTuple):
    """The fields and values that a chat/completions server accepts.

    Attributes:
        max_tokens: The field that limits the reply.
        thinking: The field for the thinking level; "" without one.
        efforts: The values of this field, for models that `model_families` does not know.
        strict_efforts: Whether the server refuses a level that the model does not support.
        session: The field for the session's id, for caching; "" without one.
        null_content: Whether the content of an assistant message with tool calls and without text is null, as
            OpenAI documents it. For other servers "" is safer, because their chat templates join strings.
        reasoning: The `reasoning_content` for an assistant message without reasoning, such as one of another
            model; None to leave the field out.
        cache_control: Whether the request and content blocks may have `cache_control`.
        images: Whether assistant messages may contain images.
        key_header: The header of the API key, if it is not `Authorization: Bearer`.
        schemas: The type of `response_format` for an answer with a schema: `json_schema`, or `json_object`
            for any JSON, with the schema in the system prompt; "" without one.
    """

    max_tokens: str = "max_tokens"
    thinking: str = "reasoning_effort"
    efforts: tuple[str, ...] = ("low", "medium", "high")
    strict_efforts: bool = False
    session: str = ""
    null_content: bool = False
    reasoning: str | None = None
    cache_control: bool = False
    images: bool = False
    key_header: str = ""
    schemas: str = "json_schema"


class Server(NamedTuple):
    """A server.

    Attributes:
        base_url: Without the path of a protocol; empty if each account has its own.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        default_model: The model to use if the key is set and no model was chosen.
        api: The protocol.
        url_env: The environment variable that overrides the base URL, as in the vendor's own clients.
        dialect: The dialect of its chat/completions endpoint.
        hosts: Further hosts of the same server. One with a leading dot covers its subdomains.
        prices: The id of the server in genai-prices; empty if its prices are not known.
        reports_cost: Whether each reply reports its cost.
    """

    base_url: str
    api_key_env: str | None = None
    default_model: str | None = None
    api: str = "openai-completions"
    url_env: str | None = None
    dialect: Dialect = Dialect()
    hosts: tuple[str, ...] = ()
    prices: str = ""
    reports_cost: bool = False


class KnownServer(NamedTuple):
    """What a plugin needs to know of a server.

    Attributes:
        base_url: The base URL, without the path of a protocol.
        api_key_env: The environment variable with the API key; None if the server needs no key.
        api: The protocol, for example `openai-completions`.
    """

    base_url: str
    api_key_env: str | None
    api: str


def known_servers() -> Mapping[str, KnownServer]:
    """Return the servers that have the same base URL for every account, by name."""
    return MappingProxyType(
        {
            name: KnownServer(server.base_url, server.api_key_env, server.api)
            for name, server in SERVERS.items()
            if server.base_url
        }
    )


SERVERS: dict[str, Server] = {
    "openrouter": Server(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "anthropic/claude-3.5-sonnet",
        "openrouter",
        dialect=Dialect(
            thinking="reasoning",
            efforts=_FIVE,
            session="session_id",
            null_content=True,
            cache_control=True,
            images=True,
        ),
        prices="openrouter",
        reports_cost=True,
    ),
    "openai": Server(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "gpt-4.1-mini",
        url_env="OPENAI_BASE_URL",
        dialect=Dialect(
            max_tokens="max_completion_tokens",
            efforts=_FIVE,
            strict_efforts=True,
            session="prompt_cache_key",
            null_content=True,
        ),
        prices="openai",
    ),
    "anthropic": Server(
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        "claude-sonnet-4-5",
        "anthropic-messages",
        url_env="ANTHROPIC_BASE_URL",
        prices="anthropic",
    ),
    "gemini": Server(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        "gemini-2.5-flash",
        dialect=Dialect(efforts=("minimal", "low", "medium", "high"), null_content=True),
        prices="google",
    ),
    "groq": Server(
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "llama-3.3-70b-versatile",
        dialect=Dialect(strict_efforts=True, null_content=True),
        prices="groq",
    ),
    "together": Server(
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        dialect=Dialect(null_content=True),
        hosts=("api.together.ai",),
        prices="together",
    ),
    "deepseek": Server(
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        "deepseek-chat",
        # In thinking mode it refuses a history without reasoning_content, and accepts an empty one.
        dialect=Dialect(thinking="thinking", null_content=True, reasoning="", schemas="json_object"),
        prices="deepseek",
    ),
    "mistral": Server(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "mistral-small-latest",
        dialect=Dialect(thinking="", null_content=True),
        prices="mistral",
    ),
    "xai": Server(
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        "grok-3-mini",
        dialect=Dialect(efforts=("low", "high"), strict_efforts=True, null_content=True),
        prices="x-ai",
    ),
    "cerebras": Server(
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        "llama3.1-8b",
        dialect=Dialect(null_content=True),
        prices="cerebras",
    ),
    "moonshot": Server(
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        "kimi-k2.5",
        # As DeepSeek, but Kimi treats an empty reasoning_content as missing.
        dialect=Dialect(thinking="thinking", reasoning=".", schemas="json_object"),
        hosts=("api.moonshot.cn", "api.kimi.com"),
        prices="moonshotai",
    ),
    "zai": Server(
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        "glm-4.6",
        dialect=Dialect(thinking="thinking", schemas="json_object"),
        hosts=("open.bigmodel.cn",),
        prices="zai",
    ),
    "minimax": Server(
        "https://api.minimax.io/v1",
        "MINIMAX_API_KEY",
        "MiniMax-M2",
        dialect=Dialect(thinking="", schemas=""),
        hosts=("api.minimaxi.com",),
        prices="minimax",
    ),
    "fireworks": Server(
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        "accounts/fireworks/models/gpt-oss-120b",
        dialect=Dialect(null_content=True),
        prices="fireworks",
    ),
    "azure": Server(
        "",
        "AZURE_OPENAI_API_KEY",
        url_env="AZURE_OPENAI_ENDPOINT",
        dialect=Dialect(
            max_tokens="max_completion_tokens",
            efforts=_FIVE,
            strict_efforts=True,
            null_content=True,
            key_header="api-key",
        ),
        hosts=(".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"),
        prices="azure",
    ),
    "ollama": Server("http://127.0.0.1:11434/v1", url_env="OLLAMA_HOST"),
    "lmstudio": Server("http://127.0.0.1:1234/v1"),
    "llamacpp": Server("http://127.0.0.1:8080/v1"),
    "vllm": Server("http://127.0.0.1:8000/v1"),
}
"""If no model was chosen, the first server with a key is used, in this order."""

OPENROUTER_URL: str = f"{SERVERS['openrouter'].base_url}/chat/completions"

_COMMON = Dialect()
_NAME_OF_HOST = {
    host: name
    for name, server in SERVERS.items()
    if server.api_key_env
    for host in (urlsplit(server.base_url).hostname, *server.hosts)
    if host
}
_DOMAINS = tuple(host for host in _NAME_OF_HOST if host.startswith("."))


def server_of(base_url: str | None, provider: str = "") -> str:
    """Return the server's name: by the host of `base_url` or, if that is unknown, the provider's name."""
    try:
        host = urlsplit(base_url or "").hostname or ""
    except ValueError:
        host = ""
    name = _NAME_OF_HOST.get(host)
    if name is None:
        name = next((_NAME_OF_HOST[domain] for domain in _DOMAINS if host.endswith(domain)), None)
    return name or provider.lower()


def is_local_server(name: str) -> bool:
    """Whether a server runs on the user's machine, such as Ollama. It takes no key and costs nothing."""
    server = SERVERS.get(name)
    return server is not None and server.api_key_env is None


def dialect_of(name: str) -> Dialect:
    """Return the dialect of a server by its name; the common subset for an unknown server."""
    server = SERVERS.get(name)
    return server.dialect if server is not None else _COMMON
