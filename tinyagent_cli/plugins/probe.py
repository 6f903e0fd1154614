"""Load one plugin in a separate process; run as `python -m tinyagent_cli.plugins.probe`.

Arguments: GROUP NAME VALUE DISTRIBUTION VERSION.

Prints the fields of `CheckResult` as a JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tinyagent.errors import MissingKeyError, NotConfiguredError
from tinyagent_cli.terminal.output import take_stdin, take_stdout

from .discovery import Plugin
from .failures import status
from .registry import PluginLoader

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Load the plugin, and print the result."""
    plugin = Plugin(*arguments)
    take_stdin()
    stdout = take_stdout()  # a plugin may print while it is loaded
    error = PluginLoader().check(plugin)
    found = {
        "status": status(error),
        "code": 0 if error is None or isinstance(error, NotConfiguredError | MissingKeyError) else 3,
        "message": None if error is None else str(error),
        "hint": None if error is None else error.hint,
    }
    stdout.print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
