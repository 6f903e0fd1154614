"""Ask the model of a run for a tool. The request is no part of the conversation, and is limited by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyagent.agent_types import Completion, CompletionRequest

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["ModelQuestions", "request_text"]


class ModelQuestions:
    """Asks the model, and counts the tokens and the cost of all requests."""

    def __init__(self) -> None:
        self._tokens = 0
        self._cost = 0.0

    def reached_limit(self, plan: Plan) -> str | None:
        """Return which limit the requests so far have reached; None if none."""
        if plan.max_total_tokens is not None and self._tokens >= plan.max_total_tokens:
            return f"the limit of {plan.max_total_tokens:,} tokens is reached"
        if plan.max_cost is not None and self._cost >= plan.max_cost:
            return f"the budget of ${plan.max_cost:g} is reached"
        return None

    async def ask(self, plan: Plan, request: CompletionRequest) -> Completion:
        """Ask the model. The reply has the reason if it failed."""
        from tinyagent import Agent, AgentOptions
        from tinyagent._answer import answer_error, extract_text
        from tinyagent.errors import OutputTruncatedError

        *before, last = request.messages
        limit = request.max_tokens if plan.max_tokens is None else min(request.max_tokens, plan.max_tokens)
        agent = Agent(
            AgentOptions(
                initial_state={
                    "system_prompt": request.system_prompt,
                    "model": plan.model,
                    "messages": [*before],
                },
                stream_fn=plan.provider.stream_fn,
                get_api_key=lambda _: plan.api_key,
                temperature=request.temperature,
                max_tokens=limit,
                max_turns=1,
            )
        )
        await agent.prompt(last)
        messages = agent.state["messages"]
        usage = messages[-1].get("usage") if messages[-1]["role"] == "assistant" else None
        if usage is not None:
            self._tokens += (usage.get("input") or 0) + (usage.get("output") or 0)
            self._cost += usage.get("cost") or 0.0
        error = answer_error(messages, None)
        if error is not None and not isinstance(error, OutputTruncatedError):
            return Completion(text=None, model=plan.model.id, reason=str(error))
        return Completion(text=extract_text(messages[-1]), model=plan.model.id, is_complete=error is None)


def request_text(request: CompletionRequest) -> str:
    """Return all texts of a request, each with its role, for the user to read."""
    parts = [f"System prompt:\n{request.system_prompt}"] if request.system_prompt else []
    for message in request.messages:
        texts = [
            part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in message["content"]
        ]
        parts.append(f"{message['role'].capitalize()}:\n" + "\n".join(texts))
    return "\n".join(parts)
