"""The tools that `tinyagent mcp serve` offers.

This is a separate module, so that invalid names are reported without importing the SDK, which is slow.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonDict

__all__ = ["TINYAGENT", "Offered", "offer"]

TINYAGENT = [sys.executable, "-P", "-m", "tinyagent_cli"]


class Offered(msgspec.Struct, kw_only=True):
    """An offered tool.

    Attributes:
        source: The value of `-t` that selects only this tool.
        allowed: Whether `--allow` names it.
    """

    name: str
    description: str = ""
    parameters: JsonDict
    read_only: bool = False
    source: str = ""
    allowed: bool = False


def offer(names: Sequence[str], allow: Sequence[str]) -> tuple[list[Offered], list[str]]:
    """Return the tools with these names, and the names of the tools that are not allowed.

    Raises:
        ConfigurationError: A name is unknown, its plugin is broken, or two tools have the same name.
    """
    tools: dict[str, Offered] = {}
    left_out: list[str] = []
    for name in dict.fromkeys(names):
        found = _shown(name)
        for tool in found:
            separator = ":" if name.endswith(".py") else "."
            tool.source = name if len(found) == 1 else f"{name}{separator}{tool.name}"
            tool.allowed = any(fnmatchcase(tool.name, pattern) for pattern in allow)
            if not (tool.read_only or tool.allowed):
                left_out.append(tool.name)
            elif tools.setdefault(tool.name, tool) is not tool:
                raise ConfigurationError(f"Two tools are named {tool.name!r}; offer one of them.")
    return list(tools.values()), left_out


def _shown(name: str) -> list[Offered]:
    done = subprocess.run(
        [*TINYAGENT, "tools", "show", "--json", "--", name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigurationError(done.stderr.strip().removeprefix("Error: ") or f"{name} cannot be loaded.")
    return msgspec.json.decode(done.stdout, type=list[Offered])
