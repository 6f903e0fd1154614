"""OpenRouter: chat/completions under its own defaults and its own key."""

from __future__ import annotations

from dataclasses import dataclass

from ._stream.model import HttpModel
from ._stream.reply import ReplyStream
from ._stream.servers import OPENROUTER_URL, SERVERS
from .agent_types import Context, ModelIdentity, ModelInfo, SimpleStreamOptions, ThinkingLevel
from .openai_wire import list_openai_models, stream_openai_completions

__all__ = ["OpenRouterModel", "list_openrouter_models", "stream_openrouter"]


@dataclass
class OpenRouterModel(HttpModel):
    """A model of OpenRouter, or of any compatible server.

    Attributes:
        base_url: With or without `/chat/completions`.
        headers: Sent with each request.
        api_key_env: The environment variable with the key.
        extra_body: Merged into the request's body, last: `{"provider": {"sort": "price"}}`.
        ca_file: A file with the certificates of a private CA.
        allow_http: Whether http:// to other machines is allowed.
    """

    provider: str = "openrouter"
    id: str = "anthropic/claude-3.5-sonnet"
    api: str = "openrouter"
    base_url: str = OPENROUTER_URL
    api_key_env: str | None = SERVERS["openrouter"].api_key_env


async def stream_openrouter(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> ReplyStream:
    """Stream a reply from OpenRouter.

    The key is `options["api_key"]`, else `OPENROUTER_API_KEY`.

    Raises:
        MissingKeyError: There is no key.
        TinyAgentError: The request failed before the reply started.
    """
    return await stream_openai_completions(_with_defaults(model), context, options)


async def list_openrouter_models(options: SimpleStreamOptions | None = None) -> list[ModelInfo]:
    """Return the models that OpenRouter lists. The key is that of `stream_openrouter`."""
    return await list_openai_models(OpenRouterModel(), options)


def _with_defaults(model: ModelIdentity) -> ModelIdentity:
    """Return a plain `Model` as an `OpenRouterModel`, and other models unchanged."""
    if hasattr(model, "base_url"):
        return model
    level = getattr(model, "thinking_level", ThinkingLevel.OFF)
    return OpenRouterModel(
        provider=model.provider or "openrouter",
        id=model.id or OpenRouterModel.id,
        api=model.api or "openrouter",
        thinking_level=level,
    )
