"""List prices and context windows of models, from the table of the package genai-prices.

The table is part of the package and needs no network. Loading it takes a third of a second, so it is loaded
at the first look-up of a price, and never for a server without prices (`Server.prices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ._stream.model import HttpModel, as_model
from ._stream.servers import SERVERS, is_local_server, server_of
from .agent_types import ModelIdentity
from .errors import as_amount

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

    from .agent_types import Usage

__all__ = ["ModelFacts", "estimate_cost", "has_price", "is_local", "known_window", "model_facts"]


class ModelFacts(NamedTuple):
    """Context window and prices of a model.

    Attributes:
        context_window: Tokens of the context window; None if it is not known.
        input_price: US dollars per million input tokens that are not cached.
        output_price: US dollars per million output tokens.
    """

    context_window: int | None
    input_price: float
    output_price: float


def estimate_cost(model: ModelIdentity, usage: Usage) -> float | None:
    """Return the cost in US dollars by the provider's list price; None if the price is not known.

    Servers that take no key cost nothing.

    Args:
        model: The model that was used.
        usage: Token counts; `input` includes `cache_read` and `cache_write`.
    """
    if is_local(model):
        return 0.0
    read, written, total = _count(usage, "input"), _count(usage, "output"), _count(usage, "total")
    counts = {
        "input_tokens": read,
        "output_tokens": max(written, total - read),  # xAI counts reasoning only in the total
        "cache_read_tokens": _count(usage, "cache_read"),
        "cache_write_tokens": _count(usage, "cache_write"),
    }
    price = _price(_name(model), model.id, counts)
    return None if price is None else float(price.total_price)


def _count(usage: Usage, name: str) -> int:
    """Return a count; 0 if a custom provider reports what is no count."""
    amount = as_amount(usage.get(name))
    return 0 if amount is None else int(amount)


def is_local(model: ModelIdentity) -> bool:
    """Whether a model runs on a server of the user, which takes no key, such as Ollama."""
    return is_local_server(_name(model))


def has_price(model: ModelIdentity) -> bool:
    """Whether the cost of a model is known, from its server's replies or from a list price."""
    server = SERVERS.get(_name(model))
    return (server is not None and server.reports_cost) or estimate_cost(model, {}) is not None


def model_facts(server: str, model_id: str) -> ModelFacts | None:
    """Return context window and prices of a model; None if it is not in the table."""
    # With few tokens, because some models have another price for long prompts.
    price = _price(server, model_id, {"input_tokens": 1000, "output_tokens": 1000})
    if price is None:
        return None
    return ModelFacts(
        price.model.context_window, float(price.input_price) * 1e3, float(price.output_price) * 1e3
    )


def known_window(model: ModelIdentity) -> int | None:
    """Return the context window of a model in tokens; None if it is not in the table."""
    facts = model_facts(_name(model), model.id)
    return None if facts is None else facts.context_window


def _name(model: ModelIdentity) -> str:
    known = as_model(model, HttpModel)
    return server_of(known.base_url, known.provider)


def _price(server: str, model_id: str, counts: Mapping[str, int]) -> PriceCalculation | None:
    known = SERVERS.get(server)
    if known is None or not known.prices:
        return None
    from genai_prices import Usage, calc_price

    try:
        return calc_price(Usage(**counts), model_ref=model_id, provider_id=known.prices)
    except (LookupError, ValueError):  # an unknown model, or contradictory counts
        return None
