"""Patterns for paths: `*`, `?`, `[...]`, `{a,b}` within a name, `**` for any number of folders.

A pattern without a slash matches the name in any folder, as in `.gitignore` and in ripgrep.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from tinyagent import ToolError

from ._names import check_text

__all__ = ["compile_glob"]

_MAX_ALTERNATIVES = 64

_Names = Sequence[str]


def compile_glob(pattern: str) -> Callable[[_Names], bool]:
    """Return a function that tests whether the parts of a path match.

    Raises:
        ToolError: The pattern is invalid.
    """
    if not pattern.strip():
        raise ToolError("The pattern is empty. Write one like *.py or src/**/*.ts.")
    check_text(pattern)
    if len(pattern) > 1_000:
        raise ToolError("The pattern has more than 1,000 characters.")
    compiled = [_compile(alternative) for alternative in _alternatives(pattern)]
    if all(len(parts) == 2 and parts[0] is None for parts in compiled):
        last = [part for _, part in compiled if part is not None]
        if len(last) == len(compiled):  # a fast path for most patterns, which match only the name
            return lambda names: any(part.match(names[-1]) for part in last)
    return lambda names: any(_matches(names, parts) for parts in compiled)


def _alternatives(pattern: str) -> list[str]:
    """Expand the braces of a pattern."""
    done: list[str] = []
    pending = [pattern]
    while pending:
        if len(done) + len(pending) > _MAX_ALTERNATIVES:
            raise ToolError(f"The braces of the pattern expand to more than {_MAX_ALTERNATIVES} patterns.")
        current = pending.pop()
        braces = re.search(r"\{([^{}]*,[^{}]*)\}", current)
        if braces is None:
            done.append(current)
        else:
            pending += [
                current[: braces.start()] + choice + current[braces.end() :]
                for choice in braces[1].split(",")
            ]
    return done


_Part = re.Pattern[str] | None
"""The pattern of one name; None for `**`, which matches any number of names."""


def _compile(pattern: str) -> list[_Part]:
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if ".." in names:
        raise ToolError("A pattern cannot contain '..'. Give the folder as `path` instead.")
    if "/" not in pattern.strip("/") and not pattern.startswith("/"):
        names.insert(0, "**")
    parts: list[_Part] = []
    for name in names:
        if name != "**":
            # fnmatch makes expressions without backtracking, so matching takes linear time.
            parts.append(re.compile(fnmatch.translate(name.replace("**", "*"))))
        elif not parts or parts[-1] is not None:
            parts.append(None)
    return parts


def _matches(names: _Names, parts: list[_Part]) -> bool:
    """Match from left to right. `reached` has the parts at which the remaining names may match."""
    reached = _skip({0}, parts)
    for name in names:
        following = set()
        for at in reached:
            if at < len(parts):
                part = parts[at]
                if part is None:
                    following.add(at)
                elif part.match(name):
                    following.add(at + 1)
        reached = _skip(following, parts)
        if not reached:
            return False
    return len(parts) in reached


def _skip(reached: set[int], parts: list[_Part]) -> set[int]:
    """Skip each `**`, because it also matches no folder."""
    return reached | {at + 1 for at in reached if at < len(parts) and parts[at] is None}
