"""The tool `calc`: exact arithmetic for models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tinyagent import AgentTool, AgentToolResult, AgentToolUpdateCallback, ToolError, hookimpl
from tinyagent.agent_types import JsonObject

from ._arithmetic import CONSTANTS, FUNCTIONS, CalcError, calculate

__all__ = ["calc", "tinyagent_register_tools"]


async def _execute(
    tool_call_id: str,
    args: JsonObject,
    signal: asyncio.Event | None,
    on_update: AgentToolUpdateCallback,
) -> AgentToolResult:
    try:
        answer = calculate(str(args["expression"]))
    except CalcError as error:
        raise ToolError(str(error)) from None
    return AgentToolResult(content=[{"type": "text", "text": answer}])


calc = AgentTool(
    name="calc",
    label="Calculator",
    description=(
        "Evaluate an arithmetic expression exactly. Operators: + - * / // % ** and parentheses. "
        f"Functions: {', '.join(sorted(FUNCTIONS))}. Constants: {', '.join(sorted(CONSTANTS))}. "
        "Angles are in radians; a comma only separates arguments."
    ),
    parameters={
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "For example (3 + 4) * 6 or sqrt(2) / 2"},
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
    execute=_execute,
    read_only=True,
)


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register `calc`."""
    register(calc)
