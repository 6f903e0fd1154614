"""The tool `fetch`: a web page as readable text, from the public internet only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinyagent import AgentTool, hookimpl

if TYPE_CHECKING:
    from ._tool import fetch, make_fetch

__all__ = ["fetch", "make_fetch", "tinyagent_register_tools"]


def __getattr__(name: str) -> object:
    """Import the tool on first use: the process that converts a page needs no HTTP client."""
    if name not in ("fetch", "make_fetch"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _tool

    value: object = getattr(_tool, name)
    return value


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register `fetch`."""
    from ._tool import fetch

    register(fetch)
