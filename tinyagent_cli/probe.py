"""Loads one plugin, in a process of its own: `python -m tinyagent_cli.probe GROUP NAME VALUE DIST VERSION`.

Prints why it cannot be used, or nothing; whatever the plugin does to its process harms nobody else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .entry_points import EntryPoint
from .output import take_stdin, take_stdout
from .plugin_manager import PluginManager

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Load it, and say what is wrong."""
    entry = EntryPoint(*arguments)
    take_stdin()
    stdout = take_stdout()
    error = PluginManager(prefer={entry.name: entry.distribution}).check(entry)
    if error is not None:
        stdout.print(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
