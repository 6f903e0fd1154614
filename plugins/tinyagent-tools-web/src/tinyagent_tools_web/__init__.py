"""The tool `fetch`: a web page as readable text, from the public internet only."""

from __future__ import annotations

from collections.abc import Callable

from tinyagent import AgentTool, hookimpl

from ._tool import make_fetch

__all__ = ["fetch", "make_fetch", "tinyagent_register_tools"]

fetch = make_fetch()


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Give tinyagent the one tool of this plugin."""
    register(fetch)
