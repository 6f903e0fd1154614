"""A tool plugin in one file, without packaging: tinyagent run -t ./examples/mytools.py "..." """

from collections.abc import Callable

from tinyagent import AgentTool, hookimpl, tool


@tool(read_only=True)
def reverse(text: str) -> str:
    """Turn a text back to front."""
    return text[::-1]


@tool(read_only=True)
def letter_count(text: str, letter: str) -> int:
    """Count how often a letter occurs in a text, whatever its case.

    Args:
        text: The text to look at.
        letter: A single letter.
    """
    return text.lower().count(letter.lower())


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Called for `-t ./examples/mytools.py`."""
    register(reverse)
    register(letter_count)
