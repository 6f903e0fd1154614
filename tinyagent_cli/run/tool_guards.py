"""The hooks of plugins and the approvals of the user, as the two tool callbacks of an agent.

They also truncate results to the configured limits, and record who approved a call in `details["approval"]`
of its result, and so in every record of the run. A refusal is the text of its result.

A plugin's hook may be sync or async, may raise and may hang. It has a time limit, a sync hook runs in its own
thread, and every failure refuses the call (or withholds its result).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyagent._cancel import run_in_thread
from tinyagent.agent_types import AgentToolResult, JsonObject, ToolCallDecision, ToolCallInfo
from tinyagent_cli.terminal.signals import StopRun

from .approvals import Approvals
from .tools import cap

if TYPE_CHECKING:
    from tinyagent_cli.plugins.loading import Hook

__all__ = ["ToolGuards"]

_ENDS = (asyncio.CancelledError, KeyboardInterrupt, StopRun)
"""Exceptions that end the run, not only the hook."""


class ToolGuards:
    """Decide about each call: by deny rules, then every plugin's hook, then the user.

    The user is asked last, about the final arguments.

    Args:
        log: Called with every decision about a call that needs one.
        max_output: The limit of a tool's result in characters, by the tool's name; None for no limit.

    Attributes:
        refused: The ids of the refused calls.
        approvals: The rules and the terminal.
        read_only: Whether every tool that can change something is refused, whatever was approved.
    """

    def __init__(
        self,
        approvals: Approvals,
        before: Sequence[Hook],
        after: Sequence[Hook],
        *,
        timeout: float,
        log: Callable[[str], None] = lambda text: None,
        max_output: Callable[[str], int | None] = lambda name: None,
    ) -> None:
        self.refused: set[str] = set()
        self.read_only = False
        self._approved: dict[str, str] = {}
        self._log = log
        self._max_output = max_output
        self.approvals: Approvals = approvals
        self._before = before
        self._after = after
        self._timeout = timeout

    async def before_tool_call(self, call: ToolCallInfo) -> ToolCallDecision | None:
        """For `AgentOptions.before_tool_call`."""
        decision = await self._decide(call)
        if decision is not None and decision.block is not None:
            self.refused.add(call.tool_call_id)
            self._log(f"{call.tool.name}: {decision.block}")
        return decision

    async def _decide(self, call: ToolCallInfo) -> ToolCallDecision | None:
        reason = self.approvals.denied(call)
        if reason is None and self.read_only and not call.tool.read_only:
            reason = f"Refused: {call.tool.name!r} can change something, and only reading is allowed now."
        changed: JsonObject | None = None
        for hook in self._before if reason is None else ():
            try:
                decision = await self._ask(hook, call=call)
                if decision is not None and not isinstance(decision, ToolCallDecision):
                    raise TypeError(f"it returned {type(decision).__name__}, not a ToolCallDecision or None")
                if decision is not None and decision.arguments is not None:
                    _check_json(decision.arguments)
            except _ENDS:
                raise
            except BaseException as error:  # noqa: BLE001 - it fails closed, sys.exit() included
                reason = f"Refused: the policy {hook.plugin} failed: {_error_text(error, self._timeout)}."
                break
            if decision is None:
                continue
            if decision.block is not None:
                reason = decision.block or f"Refused by the policy {hook.plugin}."
                break
            if decision.arguments is not None:
                changed = decision.arguments
                call = replace(call, arguments=changed)
        if reason is None:
            verdict = await self.approvals.ask(call)
            reason = verdict.refusal
            changed = changed if verdict.arguments is None else verdict.arguments
            if verdict.by:
                self._approved[call.tool_call_id] = verdict.by
                self._log(f"{call.tool.name}: allowed by {verdict.by}")
        if reason is not None:
            return ToolCallDecision(block=reason)
        return None if changed is None else ToolCallDecision(arguments=changed)

    async def after_tool_call(
        self, call: ToolCallInfo, result: AgentToolResult, is_error: bool
    ) -> ToolCallDecision | None:
        """For `AgentOptions.after_tool_call`. Changes are made in `result` itself."""
        decision = await self._after_hooks(call, result, is_error) if self._after else None
        if decision is None or decision.block is None:
            limit = self._max_output(call.tool.name)
            if limit is not None:
                result.content = cap(result.content, limit)
        by = self._approved.pop(call.tool_call_id, None)
        if by is not None:
            result.details.setdefault("approval", by)
        return decision

    async def _after_hooks(
        self, call: ToolCallInfo, result: AgentToolResult, is_error: bool
    ) -> ToolCallDecision | None:
        terminate = False
        for hook in self._after:
            try:
                decision = await self._ask(hook, call=call, result=result, is_error=is_error)
            except _ENDS:
                raise
            except BaseException as error:  # noqa: BLE001 - it fails closed
                reason = _error_text(error, self._timeout)
                return ToolCallDecision(
                    block=f"The result was withheld: {hook.plugin} failed: {reason}.", is_error=True
                )
            if isinstance(decision, AgentToolResult):
                result.content, result.details = decision.content, decision.details
                result.terminate = decision.terminate
            elif isinstance(decision, ToolCallDecision):
                if decision.block is not None:
                    return ToolCallDecision(block=decision.block or f"Withheld by {hook.plugin}.")
                if decision.content is not None:
                    result.content = decision.content
                if decision.details is not None:
                    result.details = decision.details
                is_error = is_error if decision.is_error is None else decision.is_error
                terminate = terminate or decision.terminate
        return ToolCallDecision(is_error=is_error, terminate=terminate)

    async def _ask(self, hook: Hook, **arguments: object) -> object:
        async with asyncio.timeout(self._timeout):
            if inspect.iscoroutinefunction(hook.function):
                answer = hook.call(**arguments)
            else:
                answer = await run_in_thread(functools.partial(_call_hook, hook, arguments), "tinyagent hook")
            return await answer if inspect.isawaitable(answer) else answer


def _check_json(arguments: JsonObject) -> None:
    """Refuse arguments that cannot be shown in a question or stored in a record.

    Raises:
        TypeError: They are not JSON.
    """
    try:
        json.dumps(arguments, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the arguments that it returned are not JSON: {error}") from None


def _call_hook(hook: Hook, arguments: Mapping[str, object]) -> object:
    """Call a sync hook. An exception that would end the run becomes an ordinary failure of the hook."""
    try:
        return hook.call(**arguments)
    except _ENDS as error:
        raise RuntimeError(repr(error)) from error


def _error_text(error: BaseException, limit: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"it took more than {limit:g} s"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
