"""The metrics of requests: durations and tokens, as histograms with the boundaries of the conventions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.util.types import AttributeValue

from tinyagent.agent_types import Usage

from . import _semconv as names

__all__ = ["RequestMetrics", "request_metrics"]

_SECONDS = [0.01 * 2**power for power in range(14)]
_TOKENS = [4**power for power in range(14)]

_METRIC_ATTRIBUTES = (
    *(names.OPERATION_NAME, names.PROVIDER_NAME, names.REQUEST_MODEL, names.RESPONSE_MODEL),
    *(names.SERVER_ADDRESS, names.SERVER_PORT),
)
"""The attributes of a request that have few values."""


class RequestMetrics:
    """The instruments of a meter provider."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter("tinyagent", "", provider, names.SCHEMA_URL)
        self._duration = meter.create_histogram(
            names.OPERATION_DURATION,
            "s",
            "The duration of requests to models.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            "{token}",
            "The tokens of requests to models.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def record(
        self, attributes: Mapping[str, AttributeValue], seconds: float, usage: Usage | None, error: str | None
    ) -> None:
        """Record a request.

        Args:
            attributes: The attributes of its span.
            seconds: Its duration.
            usage: Its tokens, if they are known.
            error: Its `error.type`; None if it has succeeded.
        """
        chosen = {name: attributes[name] for name in _METRIC_ATTRIBUTES if name in attributes}
        self._duration.record(seconds, chosen if error is None else {**chosen, names.ERROR_TYPE: error})
        if usage is not None:
            for kind, tokens in (("input", usage.get("input")), ("output", usage.get("output"))):
                if tokens is not None:
                    self._tokens.record(tokens, {**chosen, names.TOKEN_TYPE: kind})


@lru_cache(maxsize=8)
def request_metrics(provider: MeterProvider | None) -> RequestMetrics:
    """Return the instruments of a provider; of the global one if None. All agents share them."""
    return RequestMetrics(provider)
