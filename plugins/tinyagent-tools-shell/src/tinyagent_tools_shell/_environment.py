"""The environment of a command: that of `tinyagent.child_environment`, and variables for builds."""

from __future__ import annotations

from collections.abc import Mapping

from tinyagent.child_environment import child_environment

__all__ = ["MARK", "command_environment"]

MARK = "TINYAGENT_COMMAND"
"""The variable that identifies the processes of a command, so that detached processes can be found."""

_FOR_COMMANDS = frozenset(
    (
        *("PWD", "PYTHONPATH", "NODE_PATH", "CI", "SOURCE_DATE_EPOCH"),
        *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "MAKEFLAGS", "GOFLAGS"),
    )
)

_SET = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}
"""A command has no terminal, so no program may wait for input from one."""


def command_environment(environment: Mapping[str, str], more: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the environment of a command; `more` has names of additional variables."""
    passed = child_environment(environment, _FOR_COMMANDS | more)
    if MARK in environment:
        passed[MARK] = environment[MARK]
    return passed | _SET
