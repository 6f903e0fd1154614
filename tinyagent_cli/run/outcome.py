"""The outcome of a run: its cost, its summary, and the error of a run without an answer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tinyagent._answer import answer_error
from tinyagent._net.errors import redact
from tinyagent.agent_types import AgentEvent, MessageUpdateEvent, ModelIdentity
from tinyagent.errors import (
    AuthenticationError,
    EmptyReplyError,
    OutputTruncatedError,
    ProviderError,
    RunLimitError,
    TinyAgentError,
)
from tinyagent_cli.config.environment import variable
from tinyagent_cli.config.files import model_label
from tinyagent_cli.exit_codes import ToolsRefusedError

if TYPE_CHECKING:
    from tinyagent.agent_types import Usage
    from tinyagent_cli.app_context import AppContext

    from .plan import Plan
    from .progress import Progress

__all__ = [
    "PriceLoader",
    "add_cost",
    "in_terms_of_options",
    "missing_answer",
    "model_name",
    "summary",
    "summary_line",
]


def add_cost(plan: Plan, progress: Progress) -> None:
    """Estimate the cost of the run if the provider does not report it."""
    usage = progress.usage
    if usage is None or usage.get("cost") is not None:
        return
    from tinyagent._prices import estimate_cost

    cost = estimate_cost(plan.model, usage)
    if cost is not None:
        progress.usage = {**usage, "cost": cost, "cost_estimated": True}


class PriceLoader:
    """A listener that loads the list prices while the model answers, because this takes 0.3 s."""

    def __init__(self, model: ModelIdentity) -> None:
        self._model = model
        self._is_started = False

    def __call__(self, event: AgentEvent) -> None:
        if not self._is_started and type(event) is MessageUpdateEvent:
            self._is_started = True
            from tinyagent._prices import has_price

            threading.Thread(target=has_price, args=(self._model,), name="prices", daemon=True).start()


def model_name(plan: Plan) -> str:
    """Return the shortest name of the model that `-m` accepts."""
    return model_label(plan.model.provider, plan.model.id)


def summary(plan: Plan, progress: Progress, app: AppContext) -> str:
    """Return one line with the model, the tokens, the cost and the seconds of a run.

    With -v it also has an unknown cost, and the turns of one turn. A narrow terminal gets more lines.
    """
    has_cost = hasattr(plan.model, "base_url")
    return summary_line(
        model_name(plan),
        progress.usage or {},
        turns=len(progress.replies),
        seconds=progress.seconds,
        has_cost=has_cost,
        app=app,
    )


def summary_line(
    model: str, usage: Usage, *, turns: int, seconds: float, has_cost: bool, app: AppContext
) -> str:
    """Return the line of `summary` from its parts; `has_cost` says whether the model costs money."""
    from tinyagent_cli.terminal.amounts import counted, dollar_text

    verbose = bool(app.verbosity)
    parts = [model]
    if usage:
        parts.append(f"{usage.get('input', 0):,} tokens in, {usage.get('output', 0):,} out")
    cost = usage.get("cost")
    if cost:
        parts.append(dollar_text(cost, estimated=usage.get("cost_estimated", False)))
    elif verbose and usage and cost is None and has_cost:
        parts.append("cost unknown")
    if verbose or turns > 1:
        parts.append(counted(turns, "turn"))
    parts.append(f"{seconds:.1f} s")
    line = redact(" · ".join(parts))
    if not app.stderr_is_terminal:
        return line
    from tinyagent_cli.terminal.wrapping import columns, wrap_parts

    return wrap_parts(line, " · ", columns())


def _source_of_key(plan: Plan) -> str:
    """Return where the refused key comes from, and how to replace it."""
    name, env_name = plan.provider.name, plan.provider.api_key_env
    if env_name is not None and variable(env_name) is not None:
        return f"It is the value of {env_name}, which takes precedence over a stored key."
    return f"To store another one: tinyagent keys set {name}"


def _similar_models(plan: Plan) -> str | None:
    """Return a hint if the provider has listed no model with this id, but similar ones."""
    from tinyagent_cli.config import catalogue
    from tinyagent_cli.plugins.model_names import similar

    name = plan.provider.name
    listing = catalogue.read(name)
    ids = [] if listing is None else [info.id for info in listing.models]
    if plan.model.id in ids:
        return None
    near = similar(f"{name}/{plan.model.id}", [f"{name}/{model_id}" for model_id in ids])
    return f"Did you mean {' or '.join(near)}?" if near else None


def missing_answer(plan: Plan, progress: Progress, *, tools_refused: bool) -> TinyAgentError | None:
    """Return why a run has no answer; None if it has one, also without text, such as an image."""
    error = answer_error(progress.messages, progress.limit) if progress.replies else None
    if error is None or (isinstance(error, EmptyReplyError) and error.content_types):
        return None
    return in_terms_of_options(error, plan, tools_refused=tools_refused)


def in_terms_of_options(error: TinyAgentError, plan: Plan, *, tools_refused: bool) -> TinyAgentError:
    """Return the error with the names of the options that the user can change.

    Args:
        error: The error of a run that ended without an answer.
        plan: The plan of the run.
        tools_refused: Whether a tool call was refused in the run.
    """
    match error:
        case RunLimitError(limit="max_turns") if plan.max_turns is not None:
            from tinyagent_cli.terminal.amounts import counted

            turns = counted(plan.max_turns, "turn")
            return RunLimitError(
                f"The run was ended after {turns} (--max-turns) without a final answer.",
                limit="max_turns",
            )
        case RunLimitError(limit="repeat"):
            return RunLimitError(
                f"The run was ended because {plan.max_repeats} times in a row (--max-repeats) the model "
                "made the same tool call, or all its tool calls failed.",
                limit="repeat",
            )
        case RunLimitError(limit="budget"):
            return RunLimitError(
                f"The run reached its budget of ${plan.max_cost:g} (--max-cost) without a final answer.",
                limit="budget",
            )
        case AuthenticationError() if plan.api_key is not None:
            error.hint = "\n".join(filter(None, (error.hint, _source_of_key(plan))))
        case ProviderError(status=404):
            error.hint = _similar_models(plan) or error.hint
        case RunLimitError(limit="max_total_tokens"):
            return RunLimitError(
                f"The run reached its limit of {plan.max_total_tokens:,} tokens (--max-total-tokens) "
                "without a final answer.",
                limit="max_total_tokens",
            )
        case OutputTruncatedError():
            error.hint = "Allow more with --max-tokens, or request a shorter answer."
        case EmptyReplyError() if tools_refused:
            return ToolsRefusedError(
                "The model gave no answer after its tool calls were refused.",
                hint="Allow a tool with --allow NAME, or all of them with -y.",
            )
    return error
