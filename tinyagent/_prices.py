"""What models cost and how much they take in, where their provider does not say: the table of genai-prices.

The table comes with that package and is read without network. Loading it takes a third of a second, so it is
loaded when a price is asked for, and never for a server that has none (`Server.prices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ._servers import SERVERS, server_of

__all__ = ["ModelFacts", "estimate_cost", "has_price", "model_facts"]


class ModelFacts(NamedTuple):
    """What is known of a model.

    Attributes:
        context_window: Tokens that it takes in; None if that is not known.
        input_price: US dollars for a million tokens that are not cached.
        output_price: US dollars for a million tokens.
    """

    context_window: int | None
    input_price: float
    output_price: float


def estimate_cost(model: Any, usage: Mapping[str, Any]) -> float | None:
    """US dollars that the provider's list price makes of this usage; None if the price is not known.

    A server that takes no key costs nothing.

    Args:
        model: Anything with `provider` and `id`.
        usage: In our terms: `input` includes `cache_read` and `cache_write`.
    """
    name = _name(model)
    if name in SERVERS and SERVERS[name].api_key_env is None:
        return 0.0
    given, made, total = (usage.get(name) or 0 for name in ("input", "output", "total"))
    counts = {
        "input_tokens": given,
        "output_tokens": max(made, total - given),  # xAI counts reasoning only in the total
        "cache_read_tokens": usage.get("cache_read") or 0,
        "cache_write_tokens": usage.get("cache_write") or 0,
    }
    price = _price(name, model.id, counts)
    return None if price is None else float(price.total_price)


def has_price(model: Any) -> bool:
    """Whether it is known what a model costs: by its server's replies, or by a list price."""
    server = SERVERS.get(_name(model))
    return (server is not None and server.reports_cost) or estimate_cost(model, {}) is not None


def model_facts(server: str, model_id: str) -> ModelFacts | None:
    """What is known of a model of this server; None if nothing is."""
    # Few tokens, since there are models with another price for long prompts.
    price = _price(server, model_id, {"input_tokens": 1000, "output_tokens": 1000})
    if price is None:
        return None
    return ModelFacts(
        price.model.context_window, float(price.input_price) * 1e3, float(price.output_price) * 1e3
    )


def _name(model: Any) -> str:
    return server_of(getattr(model, "base_url", ""), str(getattr(model, "provider", "")))


def _price(server: str, model_id: str, counts: Mapping[str, int]) -> Any:
    known = SERVERS.get(server)
    if known is None or not known.prices:
        return None
    from genai_prices import Usage, calc_price

    try:
        return calc_price(Usage(**counts), model_ref=model_id, provider_id=known.prices)
    except (LookupError, ValueError):  # an unknown model; counts that contradict each other
        return None
