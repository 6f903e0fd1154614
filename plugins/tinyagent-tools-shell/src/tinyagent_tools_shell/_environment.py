"""The environment of a command: the usual one of `tinyagent.child_environment`, and what building needs."""

from __future__ import annotations

from collections.abc import Mapping

from tinyagent.child_environment import child_environment

__all__ = ["MARK", "clean"]

MARK = "TINYAGENT_COMMAND"
"""Names the commands that a process belongs to, so that it can be found whatever has become of it."""

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
"""A command has no terminal, so nothing may wait for input from one."""


def clean(environment: Mapping[str, str], more: frozenset[str] = frozenset()) -> dict[str, str]:
    """The environment of a command; `more` has names that are passed on beside the usual ones."""
    kept = child_environment(environment, _FOR_COMMANDS | more)
    if MARK in environment:
        kept[MARK] = environment[MARK]
    return kept | _SET
