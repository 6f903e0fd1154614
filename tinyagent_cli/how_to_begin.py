"""What a terminal shows for `tinyagent` alone."""

from __future__ import annotations

from tinyagent.errors import NotConfiguredError, TinyAgentError

from .config.model_choice import choose
from .config.settings import load_settings
from .terminal.tables import table_lines
from .terminal.wrapping import columns

__all__ = ["how_to_begin"]


def how_to_begin() -> str:
    """Return the commands to begin with, in the width of the terminal."""
    choosing = "" if _has_model() else "; the first start helps you to choose one"
    commands = [
        ("  tinyagent chat", f"talk with a model{choosing}"),
        ("  tinyagent chat -m demo", "try it without a key: a script answers"),
        ('  tinyagent run "What is …?"', "one prompt, one answer, also in a pipe"),
        ("  tinyagent --help", "all commands"),
    ]
    heading = ["tinyagent is an agent for the terminal. To begin:", ""]
    return "\n".join(heading + table_lines(commands, columns() - 1))


def _has_model() -> bool:
    """Return whether a chat starts without a question about the model."""
    try:
        found = load_settings()
        if found.keys.store != "keyring":  # it may show a dialog
            choose(None, found)
    except NotConfiguredError:
        return False
    except TinyAgentError:
        pass  # the chat reports it
    return True
