"""A tool plugin in one file, without packaging: tinyagent run -t ./examples/mytools.py "..." """

from collections.abc import Callable

from tinyagent import AgentTool, hookimpl, tool


@tool(read_only=True)
def reverse(text: str) -> str:
    """Reverse a text."""
    return text[::-1]


@tool(read_only=True)
def letter_count(text: str, letter: str) -> int:
    """Count how often a letter occurs in a text, ignoring case.

    Args:
        text: The text to search.
        letter: A single letter.
    """
    return text.lower().count(letter.lower())


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the tools for `-t ./examples/mytools.py`."""
    register(reverse)
    register(letter_count)
