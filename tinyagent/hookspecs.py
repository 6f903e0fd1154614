"""The hooks of plugins, and the marker for their implementations.

A plugin is any distribution with an entry point in one of the groups `tinyagent.tools`,
`tinyagent.providers`, `tinyagent.commands`, `tinyagent.executors`, `tinyagent.inputs` (loaded when its
name is requested) or `tinyagent.hooks` (loaded for every run):

    [project.entry-points."tinyagent.tools"]
    weather = "tinyagent_weather"

and a module (or instance, or class) with functions marked by `hookimpl`:

    from tinyagent import hookimpl, tool

    @tool
    def weather(city: str) -> str:
        "Return the weather in a city."
        return f"It is sunny in {city}."

    @hookimpl
    def tinyagent_register_tools(register):
        register(weather)

Hooks register things at start or guard tool calls; they do not carry events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from ._executors.interface import ExecutorFactory
    from .agent_types import (
        AgentEvent,
        AgentTool,
        AgentToolResult,
        PromptTemplate,
        Provider,
        ToolCallDecision,
        ToolCallInfo,
    )

__all__ = ["NAME", "hookimpl", "hookspec"]

NAME = "tinyagent"
"""The pluggy project name, and the first part of every entry-point group."""

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker(NAME)
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker(NAME)
"""Marks a plugin's function as the implementation of the hook of the same name."""


@hookspec
def tinyagent_register_tools(register: Callable[[AgentTool], None], requested: Sequence[str] | None) -> None:
    """Call `register(tool)` for each tool. Called when the plugin's name is requested.

    `requested` has the names of single tools if only these are requested; None means all. A plugin whose
    tools are slow to find may then register fewer.
    """


@hookspec
def tinyagent_tools_changed() -> bool | Awaitable[bool]:
    """Return whether the tools that were registered have changed; may be async.

    Called before each request to the model. If so, `tinyagent_register_tools` is called again, and the
    model is offered what it registers then.
    """
    return False


@hookspec
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Call `register(provider)` for each provider. Called when its name is the provider of `-m`."""


@hookspec
def tinyagent_register_commands(group: click.Group) -> None:
    """Add sub-commands to `group`; called when the entry point's name is the sub-command."""


@hookspec
def tinyagent_register_executors(register: Callable[[str, ExecutorFactory], None]) -> None:
    """Call `register(name, factory)`; called when the entry point's name is the `--executor` of a batch.

    The factory gets the options of the executor and returns it; see `tinyagent.executors`.
    """


@hookspec
def tinyagent_register_templates(register: Callable[[PromptTemplate], None], requested: str | None) -> None:
    """Call `register(template)` for each prompt template.

    `requested` is the name of the template that is looked for; None means all. A plugin whose templates are
    slow to find may then register fewer.
    """


@hookspec
def tinyagent_read_input(argument: str) -> Sequence[bytes]:
    """Return the texts and images that `-f NAME:ARGUMENT` means, where NAME is that of the entry point."""
    return []


@hookspec
def tinyagent_register_sinks(
    register: Callable[[str, Callable[[], Callable[[AgentEvent], None]]], None],
) -> None:
    """Call `register(name, factory)`; each run calls the factory once and the sink for every event.

    A sink may have an `attach(agent, session_id)` method, which is called before the first event, with a
    function that returns the id of the session that saves the run, or None. A sink may have a `close()`
    method, which is called when the run is over. A sink that raises is reported once and then removed; the
    run continues.
    """


@hookspec
def tinyagent_before_tool_call(
    call: ToolCallInfo,
) -> ToolCallDecision | None | Awaitable[ToolCallDecision | None]:
    """Allow, refuse or change a tool call, after its arguments were validated; may be async.

    Return `ToolCallDecision(block="reason")` to refuse, `ToolCallDecision(arguments=...)` to change the
    arguments, None to allow it. A hook that raises or takes too long refuses the call.
    """


@hookspec
def tinyagent_after_tool_call(
    call: ToolCallInfo, result: AgentToolResult, is_error: bool
) -> AgentToolResult | ToolCallDecision | None | Awaitable[AgentToolResult | ToolCallDecision | None]:
    """Check or replace the result of a tool call; may be async.

    Return an `AgentToolResult` to replace the result, a `ToolCallDecision` with `is_error` or
    `terminate` to change those, None to keep it. A hook that raises makes the result an error.
    """
