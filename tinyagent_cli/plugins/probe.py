"""Load one plugin in a separate process; run as `python -m tinyagent_cli.plugins.probe`.

Arguments: GROUP NAME VALUE DISTRIBUTION VERSION NEEDS.

Prints a `CheckResult` as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from tinyagent.errors import MissingKeyError, NotConfiguredError, TinyAgentError
from tinyagent_cli.terminal.output import take_stdin, take_stdout

from .additions import loaded_additions
from .check import CheckResult
from .discovery import Plugin
from .failures import status
from .loading import load

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Load the plugin, and print the result."""
    plugin = Plugin(*arguments)
    take_stdin()
    stdout = take_stdout()  # a plugin may print while it is loaded
    stdout.print(msgspec.json.encode(_load(plugin)).decode())


def _load(plugin: Plugin) -> CheckResult:
    try:
        return CheckResult("ok", additions=tuple(loaded_additions(load(plugin, {}), plugin)))
    except TinyAgentError as error:
        code = 0 if isinstance(error, NotConfiguredError | MissingKeyError) else 3
        return CheckResult(status(error), code, str(error), error.hint)


if __name__ == "__main__":
    main(sys.argv[1:])
