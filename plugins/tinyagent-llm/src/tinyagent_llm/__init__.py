"""The plugins of `llm`: models (`-m llm/MODEL`), tools (`-t llm`) and fragments (`-f llm:PREFIX:…`).

`llm` and its plugins are imported when one of them is requested.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyagent import AgentTool, Provider, hookimpl

__all__ = ["tinyagent_read_input", "tinyagent_register_providers", "tinyagent_register_tools"]


@hookimpl
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Register the provider `llm`."""
    from ._models import list_models, make_model
    from ._stream import stream_llm

    register(Provider("llm", stream_llm, make_model, None, list_models))


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the tools of all plugins of `llm`."""
    from ._tools import all_tools

    for tool in all_tools():
        register(tool)


@hookimpl
def tinyagent_read_input(argument: str) -> list[bytes]:
    """Load a fragment for `-f llm:PREFIX:ARGUMENT`."""
    from ._fragments import load_fragment

    return load_fragment(argument)
