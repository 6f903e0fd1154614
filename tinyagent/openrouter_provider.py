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
        ca_file: Certificates of a CA of your own.
        allow_http: Allow http:// to other machines.
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
        MissingKeyError: if there is neither; it is a `ValueError`.
        TinyAgentError: if the reply did not begin.
    """
    return await stream_openai_completions(_completed(model), context, options)


async def list_openrouter_models(options: SimpleStreamOptions | None = None) -> list[ModelInfo]:
    """The models that OpenRouter lists; it needs a key as a reply does."""
    return await list_openai_models(OpenRouterModel(), options)


def _completed(model: ModelIdentity) -> ModelIdentity:
    """A plain `Model` with the defaults of OpenRouter."""
    if hasattr(model, "base_url"):
        return model
    level = getattr(model, "thinking_level", ThinkingLevel.OFF)
    return OpenRouterModel(
        provider=model.provider or "openrouter",
        id=model.id or OpenRouterModel.id,
        api=model.api or "openrouter",
        thinking_level=level,
    )
