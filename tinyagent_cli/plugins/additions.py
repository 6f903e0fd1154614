"""What a plugin adds and may do: as its source declares it, or as it registers it when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .declarations import declared_hooks, tools_in_source
from .discovery import Plugin

if TYPE_CHECKING:
    from .loading import LoadedPlugin

__all__ = ["Addition", "declared_additions", "in_one_line", "loaded_additions", "what_it_may", "when_loaded"]

HOOKS = {
    "tinyagent_before_tool_call": "sees every tool call, and may refuse or change it",
    "tinyagent_after_tool_call": "sees every result of a tool, and may change or withhold it",
    "tinyagent_register_sinks": "gets all events, and may get the agent",
}
"""The hooks of every run, with what they may do."""


class Addition(NamedTuple):
    """One thing that a plugin adds.

    Attributes:
        kind: `tool`, `provider`, `command`, `executor`, `input` or `hook`.
        name: Its name.
        read_only: Of a tool: whether it says that it changes nothing, so that it runs without asking; None if
            that is not known before it is loaded.
        description: What it does, in a line; empty if that is not known.
    """

    kind: str
    name: str
    read_only: bool | None = None
    description: str = ""


def declared_additions(plugin: Plugin) -> list[Addition]:
    """Return what the metadata and the source of a plugin declare. Nothing is imported."""
    match plugin.group:
        case "tools":
            return [Addition("tool", *tool) for tool in tools_in_source(plugin)]
        case "hooks":
            return [Addition("hook", name) for name in declared_hooks(plugin) if name in HOOKS]
        case _:
            return [Addition(plugin.group.removesuffix("s"), plugin.name)]


def loaded_additions(loaded: LoadedPlugin, plugin: Plugin) -> Iterator[Addition]:
    """Yield what a plugin registers.

    Raises:
        TinyAgentError: The plugin cannot be used.
    """
    from .registrations import command_of, executor_of, provider_of, require_guard, require_inputs, tools_of

    match plugin.group:
        case "tools":
            for tool in tools_of(loaded).values():
                yield Addition("tool", tool.name, tool.read_only, _first_line(tool.description))
        case "providers":
            key = provider_of(loaded, plugin.name).api_key_env
            yield Addition("provider", plugin.name, None, f"needs the key {key}" if key else "needs no key")
        case "commands":
            command = command_of(loaded, plugin.name)
            yield Addition("command", plugin.name, None, command.get_short_help_str(200))
        case "executors":
            executor_of(loaded, plugin.name)
            yield Addition("executor", plugin.name)
        case "inputs":
            require_inputs(loaded)
            yield Addition("input", plugin.name)
        case _:
            require_guard(loaded)
            for name in HOOKS:
                if name in loaded.hooks:
                    yield Addition("hook", name)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


def what_it_may(addition: Addition) -> str:
    """Return how a user gets to an addition, or what it may do."""
    match addition.kind:
        case "tool":
            return {True: "read-only", False: "asks before each call", None: ""}[addition.read_only]
        case "provider":
            return f"models of -m {addition.name}/…"
        case "command":
            return f"tinyagent {addition.name}"
        case "executor":
            return f"tinyagent batch --executor {addition.name}"
        case "input":
            return f"prompts of -p, and -f {addition.name}:…"
        case _:
            return HOOKS[addition.name]


def in_one_line(plugin: Plugin, additions: Sequence[Addition]) -> str:
    """Return the additions of a plugin for a table."""
    if plugin.group != "tools":
        where = "in every run: " if plugin.group == "hooks" else ""
        return where + ("; ".join(map(what_it_may, additions)) or "hooks that are known when it is loaded")
    parts = []
    for read_only, label in ((True, "read-only: "), (False, "asks: "), (None, "")):
        names = [addition.name for addition in additions if addition.read_only is read_only]
        if names:
            parts.append(label + ", ".join(names))
    return "; ".join(parts) or "tools that it names when it is loaded"


def when_loaded(plugin: Plugin) -> str:
    """Return what loads a plugin."""
    return {
        "tools": f"-t {plugin.name}",
        "providers": f"-m {plugin.name}/…",
        "commands": f"tinyagent {plugin.name}",
        "executors": f"tinyagent batch --executor {plugin.name}",
        "inputs": f"-p SOURCE/NAME, -f {plugin.name}:… and tinyagent templates",
    }.get(plugin.group, "every run, and every `tools call`")
