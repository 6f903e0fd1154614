"""Tools for files, confined to one folder: `read`, `write`, `edit`, `list`, `glob`, `grep`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tinyagent import AgentTool, AgentToolResult, hookimpl, tool

from ._change import edit_file, write_file
from ._list import list_folder
from ._read import read_file
from ._root import Root
from ._search_tools import glob_tool, grep_tool

__all__ = ["file_tools", "tinyagent_register_tools"]

_Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
_Limit = Annotated[int, Meta(ge=1, le=10_000)]


def file_tools(folder: str | Path | None = None) -> list[AgentTool]:
    """Return the six tools, confined to `folder`; to the current working directory if None.

    A later change of the working directory has no effect on them.
    """
    root = Root(folder)

    @tool(read_only=True, label="Read a file")
    def read(
        path: str, offset: _Count = 1, limit: _Limit = 2_000, line_numbers: bool = False
    ) -> AgentToolResult:
        """Read a text file, or view an image (PNG, JPEG, GIF, WebP).

        Long files are shown in parts; a note at the end shows how to continue.

        Args:
            path: Relative to the working directory.
            offset: The first line to show, starting at 1.
            limit: How many lines to show.
            line_numbers: Start each line with its number and a tab.
        """
        return read_file(root, path, offset, limit, line_numbers)

    @tool(label="Write a file")
    def write(path: str, content: str) -> AgentToolResult:
        """Create a file, or replace its complete content. Missing folders are created.

        To change a part of a file, use `edit`.

        Args:
            path: Relative to the working directory.
            content: The complete text of the file.
        """
        return write_file(root, path, content)

    @tool(label="Edit a file")
    def edit(path: str, old_text: str, new_text: str, replace_all: bool = False) -> AgentToolResult:
        """Replace a text in a file, and show the change as a diff.

        `old_text` must match exactly, including white space, and occur only once, so include enough of the
        surrounding lines. Line ends and encoding do not change.

        Args:
            path: Relative to the working directory.
            old_text: The text to replace, as in the file, without line numbers.
            new_text: The new text.
            replace_all: Replace every occurrence.
        """
        return edit_file(root, path, old_text, new_text, replace_all)

    @tool(name="list", read_only=True, label="List a folder")
    def list_(path: str = ".", hidden: bool = False) -> AgentToolResult:
        """List a folder: names in order, folders with a slash at the end, links with their target.

        Args:
            path: Relative to the working directory.
            hidden: Show names that begin with a dot, too.
        """
        return list_folder(root, path, hidden)

    return [read, write, edit, list_, glob_tool(root), grep_tool(root)]


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register the six tools, confined to the current working directory."""
    for file_tool in file_tools():
        register(file_tool)
