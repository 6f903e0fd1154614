"""The call of a tool in the child process of `_process`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from .agent_types import AgentToolResult, JsonDict, ToolExecute

__all__ = ["call_tool"]


@runtime_checkable
class _ToolOfFunction(Protocol):
    execute_here: ToolExecute


def call_tool(
    made: object, tool_call_id: str, arguments: JsonDict, report: Callable[[AgentToolResult], None]
) -> AgentToolResult:
    """Call a tool as the agent loop would call it without a sandbox.

    Args:
        made: What the module has under the name of the tool's function.
        tool_call_id: The id of the call.
        arguments: Its arguments.
        report: Called with each update, by one thread at a time.

    Raises:
        TypeError: It is not the tool.
    """
    if not isinstance(made, _ToolOfFunction):
        raise TypeError("A tool with a sandbox has the name of its function. Use @tool above the function.")
    lock = threading.Lock()

    def update(result: AgentToolResult) -> None:
        with lock:
            report(result)

    async def call() -> AgentToolResult:
        # The process is killed on an abort, so the signal is never set.
        return await made.execute_here(tool_call_id, arguments, asyncio.Event(), update)

    return asyncio.run(call())
