"""The context window of a model, for the compaction of long conversations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tinyagent._stream.model import HttpModel
from tinyagent.agent_types import ModelIdentity
from tinyagent_cli.config import catalogue
from tinyagent_cli.config.files import ProviderTable

__all__ = ["find_context_window"]

MIN_TOKENS = 1_000
"""A shorter conversation fits every model."""

MIN_TOKENS_OF_PRICED_MODEL = 20_000
"""A shorter conversation fits every model with a list price, whose table takes 0.3 s to load."""


def find_context_window(
    model: ModelIdentity, tokens: int, providers: Mapping[str, ProviderTable]
) -> int | None:
    """Return the context window of a model in tokens; None if it is not known or not needed.

    It is that of the configuration, or else of the provider's stored list, or of the list of prices.

    Args:
        model: The model.
        tokens: The size of the conversation.
        providers: The providers in the configuration.
    """
    table = providers.get(model.provider)
    if table is not None and table.context_window is not None:
        return table.context_window
    if tokens < MIN_TOKENS:
        return None
    if not isinstance(model, HttpModel):  # else it is only a default
        own = getattr(model, "context_window", None)
        return own if isinstance(own, int) else None
    listed = _listed_window(model.provider, model.id)
    if listed is not None:
        return listed
    if tokens < MIN_TOKENS_OF_PRICED_MODEL:
        return None
    from tinyagent._prices import known_window

    return known_window(model)


@cache
def _listed_window(provider: str, model_id: str) -> int | None:
    listing = catalogue.read(provider)
    models = [] if listing is None else listing.models
    return next((info.context_window for info in models if info.id == model_id), None)
