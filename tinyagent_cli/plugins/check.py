"""Whether installed plugins can be used: each is loaded in a process of its own.

A plugin that ends its process, hangs or writes to standard output is then a finding like any other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .discovery import EntryPoint
from .failures import remedy

__all__ = ["Loaded", "check", "check_all"]

LOAD_SECONDS = 20.0


class Loaded(NamedTuple):
    """What came of loading a plugin.

    Attributes:
        status: `ok`, `not set up` or `broken`.
        code: What a command that asks for it exits with.
        message: Why it cannot be used; None if it can.
        hint: What to do about it.
    """

    status: str
    code: int = 0
    message: str | None = None
    hint: str | None = None


def check_all(entries: Sequence[EntryPoint]) -> Iterator[tuple[EntryPoint, Loaded]]:
    """Check plugins, two at a time, in their order."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from zip(entries, pool.map(check, entries), strict=True)


def check(entry: EntryPoint, seconds: float = LOAD_SECONDS) -> Loaded:
    """Load one plugin by `tinyagent_cli.plugins.probe`, for this long at most. No secret is quoted."""
    return _without_secrets(_check(entry, seconds))


def _check(entry: EntryPoint, seconds: float) -> Loaded:
    command = [sys.executable, "-P", "-m", "tinyagent_cli.plugins.probe", *entry]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        if _answer(expired.stdout or b"") is None:
            what = f"takes more than {seconds:g} s to load"
        else:
            what = f"keeps its process from ending for more than {seconds:g} s"
        return _broken(f"The plugin {entry} {what}.", _SLOW)
    answer = _answer(done.stdout)
    if answer is not None:
        return answer
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    why = f": {last}" if last else "."
    ended = f"The plugin {entry} ends its process while it is loaded (exit code {done.returncode}){why}"
    return _broken(ended, remedy(entry))


_SLOW = (
    "It may wait for a server or a network that does not answer: check its configuration. "
    "If it always hangs, report it to its author."
)


def _answer(output: bytes) -> Loaded | None:
    try:
        return Loaded(**json.loads(output))
    except (ValueError, TypeError):
        return None


def _broken(message: str, hint: str | None) -> Loaded:
    return Loaded("broken", 3, message, hint)


def _without_secrets(loaded: Loaded) -> Loaded:
    from tinyagent._net.errors import redact

    message, hint = (None if text is None else redact(text) for text in (loaded.message, loaded.hint))
    return loaded._replace(message=message, hint=hint)
