"""OpenTelemetry traces of tinyagent's runs, by the semantic conventions for generative AI.

The command line needs no code: once installed, the plugin reads the standard `OTEL_*` variables. In Python:

    from tinyagent_otel import instrument

    instrument(agent, name="support")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from tinyagent import Agent

__all__ = ["instrument"]


def instrument(
    agent: Agent,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    name: str | None = None,
    conversation_id: str | None = None,
    capture_content: bool | None = None,
) -> Callable[[], None]:
    """Make spans of all following runs of an agent, and metrics of its requests.

    A run is a child of the span that is current when it starts.

    Args:
        agent: The agent.
        tracer_provider: Makes the spans; the global one if None.
        meter_provider: Makes the metrics; the global one if None.
        name: The name of the agent (`gen_ai.agent.name`).
        conversation_id: The id of the conversation (`gen_ai.conversation.id`); the agent's `session_id` if
            None.
        capture_content: Whether spans get messages, arguments, results and the system prompt. If None, the
            variable `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` decides.

    Returns:
        A function that ends the instrumentation.
    """
    from ._content import captures_content
    from ._tracer import AgentTracer

    tracer = AgentTracer(
        agent,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        name=name,
        conversation_id=None if conversation_id is None else lambda: conversation_id,
        capture_content=captures_content() if capture_content is None else capture_content,
    )
    unsubscribe = agent.subscribe(tracer)

    def remove() -> None:
        unsubscribe()
        tracer.close()

    return remove
