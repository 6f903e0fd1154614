"""The tool `calc`: exact arithmetic for models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from tinyagent import AgentTool, hookimpl, tool

from ._arithmetic import CONSTANTS, FUNCTIONS, calculate

__all__ = ["calc", "tinyagent_register_tools"]


# Async, so that a call of less than a millisecond does not start a thread.
@tool(
    label="Calculator",
    description=(
        "Evaluate an arithmetic expression exactly. Operators: + - * / // % ** and parentheses. "
        f"Functions: {', '.join(sorted(FUNCTIONS))}. Constants: {', '.join(sorted(CONSTANTS))}. "
        "Angles are in radians; a comma only separates arguments."
    ),
    read_only=True,
)
async def calc(expression: Annotated[str, "For example (3 + 4) * 6 or sqrt(2) / 2"]) -> str:
    """Evaluate an arithmetic expression.

    Raises:
        CalcError: The expression cannot be evaluated; the model gets the reason.
    """
    return calculate(expression)


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register `calc`."""
    register(calc)
