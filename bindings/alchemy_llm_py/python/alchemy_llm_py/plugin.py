"""The provider `alchemy` of tinyagent: `-m alchemy/UPSTREAM/MODEL`.

It is used only if it is named. The README says when it is worth using, and what its limits are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from tinyagent import ConfigurationError, Provider, hookimpl
from tinyagent.agent_types import JsonDict, JsonValue, Model
from tinyagent.alchemy_provider import OpenAICompatModel, stream_alchemy_openai_completions
from tinyagent.anthropic_provider import AnthropicModel
from tinyagent.openai_wire import known_servers


@dataclass(frozen=True)
class Upstream:
    """A server that the crate supports: its URL, the variable of its key, and its protocol."""

    base_url: str
    api_key_env: str
    api: str = "openai-completions"


_CRATE = ("anthropic", "cerebras", "groq", "mistral", "openai", "openrouter", "xai")
"""Servers of tinyagent's own table that the crate can call."""
_OTHERS = {
    "featherless": Upstream("https://api.featherless.ai/v1", "FEATHERLESS_API_KEY"),
    "kimi": Upstream("https://api.kimi.com/coding", "KIMI_API_KEY", "anthropic-messages"),
    "minimax": Upstream("https://api.minimax.io/v1", "MINIMAX_API_KEY", "minimax-completions"),
    "minimax-cn": Upstream("https://api.minimax.chat/v1", "MINIMAX_CN_API_KEY", "minimax-completions"),
    "zai": Upstream("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "zai-completions"),
}
"""Servers that only the crate knows, or that it calls by protocols of its own."""


def upstreams() -> dict[str, Upstream]:
    """Return the servers that the crate can call, by name."""
    known = known_servers()
    own = {name: Upstream(known[name].base_url, known[name].api_key_env or "", _api(name)) for name in _CRATE}
    return dict(sorted({**own, **_OTHERS}.items()))


def _api(name: str) -> str:
    return "anthropic-messages" if name == "anthropic" else "openai-completions"


def make_model(model_id: str, options: Mapping[str, JsonValue]) -> Model:
    """Make the model of `UPSTREAM/MODEL`, or of any server if the options have a `base_url`.

    Raises:
        ConfigurationError: The upstream or an option is unknown. The message lists the known ones.
    """
    name, slash, rest = model_id.partition("/")
    known_upstreams = upstreams()
    upstream = known_upstreams.get(name)
    if upstream is not None and slash and rest:
        known = {"provider": name, **vars(upstream), **options}
        return _made(rest, known)
    if options.get("base_url") and model_id:
        return _made(model_id, {"provider": "alchemy", **options})
    raise ConfigurationError(
        f"provider 'alchemy' does not know the upstream of {model_id!r}",
        hint=f"Use -m alchemy/UPSTREAM/MODEL with one of {', '.join(known_upstreams)}; "
        "or add -O base_url=https://….",
    )


def _made(model_id: str, known: JsonDict) -> Model:
    kind = AnthropicModel if known.get("api") == "anthropic-messages" else OpenAICompatModel
    names = {field.name for field in fields(kind)} - {"id", "thinking_level"}
    unknown = sorted(set(known) - names)
    if unknown:
        known_names = f"Known: {', '.join(sorted(names))}."
        raise ConfigurationError(f"provider 'alchemy' has no option {unknown[0]!r} here", hint=known_names)
    return kind(id=model_id, **known)


@hookimpl
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Register the provider `alchemy`."""
    register(Provider(name="alchemy", stream_fn=stream_alchemy_openai_completions, make_model=make_model))
