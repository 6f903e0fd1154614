"""Check installed plugins, each in a separate process.

There a plugin may exit, hang or write to standard output, which becomes a finding like any other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from .additions import Addition
from .discovery import Plugin
from .failures import remedy

__all__ = ["CheckResult", "check", "check_all"]

LOAD_SECONDS = 20.0


class CheckResult(NamedTuple):
    """The result of loading a plugin for a check.

    Attributes:
        status: `ok`, `not set up` or `broken`.
        code: The exit code of a command that requests the plugin.
        message: Why it cannot be used; None if it can.
        hint: How to solve the problem.
        additions: What it adds, if it can be used.
    """

    status: str
    code: int = 0
    message: str | None = None
    hint: str | None = None
    additions: tuple[Addition, ...] = ()


def check_all(plugins: Sequence[Plugin]) -> Iterator[tuple[Plugin, CheckResult]]:
    """Check plugins, two at a time, in their order."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from zip(plugins, pool.map(check, plugins), strict=True)


def check(plugin: Plugin, seconds: float = LOAD_SECONDS) -> CheckResult:
    """Load one plugin with `tinyagent_cli.plugins.probe`, within a time limit. Secrets are removed."""
    return _without_secrets(_check(plugin, seconds))


def _check(plugin: Plugin, seconds: float) -> CheckResult:
    command = [sys.executable, "-P", "-m", "tinyagent_cli.plugins.probe", *plugin]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        if _answer(expired.stdout or b"") is None:
            what = f"takes more than {seconds:g} s to load"
        else:
            what = f"prevents its process from ending for more than {seconds:g} s"
        return _broken(f"The plugin {plugin} {what}.", _SLOW)
    answer = _answer(done.stdout)
    if answer is not None:
        return answer
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    why = f": {last}" if last else "."
    ended = f"The plugin {plugin} ends its process while it is loaded (exit code {done.returncode}){why}"
    return _broken(ended, remedy(plugin))


_SLOW = (
    "It may wait for a server or a network that does not answer: check its configuration. "
    "If it always hangs, report it to its author."
)


def _answer(output: bytes) -> CheckResult | None:
    try:
        return msgspec.json.decode(output, type=CheckResult)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _broken(message: str, hint: str | None) -> CheckResult:
    return CheckResult("broken", 3, message, hint)


def _without_secrets(result: CheckResult) -> CheckResult:
    from tinyagent._net.errors import redact

    message, hint = (None if text is None else redact(text) for text in (result.message, result.hint))
    return result._replace(message=message, hint=hint)
