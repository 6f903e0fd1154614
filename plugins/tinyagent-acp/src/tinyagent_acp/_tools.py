"""How a tool call looks in an editor: its kind, its title, the files it is about, and its changes as a diff.

The tools are those of our plugins, by name. Any other tool is shown with its arguments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from acp import image_block, text_block, tool_content, tool_diff_content
from acp.schema import (
    ContentToolCallContent,
    FileEditToolCallContent,
    TerminalToolCallContent,
    ToolCallLocation,
    ToolKind,
)

from tinyagent.agent_types import JsonDict

from ._rpc import Block

__all__ = ["Content", "Shown", "show_call", "show_result"]

Content: TypeAlias = list[ContentToolCallContent | FileEditToolCallContent | TerminalToolCallContent]

_KINDS: dict[str, ToolKind] = {
    "read": "read",
    "write": "edit",
    "edit": "edit",
    "list": "search",
    "glob": "search",
    "grep": "search",
    "bash": "execute",
    "fetch": "fetch",
}
_MAX_TITLE = 200
_MAX_DIFF_BYTES = 1 << 20
"""The limit of a file whose whole text is in a diff."""


class Shown(NamedTuple):
    """A tool call as an editor shows it."""

    title: str
    kind: ToolKind
    locations: list[ToolCallLocation]
    content: Content


def show_call(name: str, args: JsonDict, folder: str) -> Shown:
    """Return how a call is shown. It reads the file that the call would change.

    Args:
        name: The name of the tool.
        args: The arguments, which need not be valid.
        folder: The folder of the session.
    """
    kind = _KINDS.get(name, "other")
    path = args.get("path")
    place = path if isinstance(path, str) and path and kind in ("read", "edit", "search") else None
    locations: list[ToolCallLocation] = []
    content: Content = []
    if place is not None:
        full = os.path.join(folder, place)  # noqa: PTH118 - the text of the model, as it is
        line = args.get("offset")
        diff, changed = _diff(name, args, full)
        if diff is not None:
            content.append(diff)
        shown_line = changed if changed is not None else line if isinstance(line, int) and line > 0 else None
        locations.append(ToolCallLocation(path=full, line=shown_line))
    return Shown(_title(name, args, place), kind, locations, content)


def show_result(name: str, blocks: Sequence[Block]) -> Content:
    """Return the content of a result, or of a part of it. The output of a command is a code block."""
    shown: Content = []
    for block in blocks:
        if block.type == "text" and block.text:
            text = _code_block(block.text) if _KINDS.get(name) == "execute" else block.text
            shown.append(tool_content(text_block(text)))
        elif block.type == "image" and block.url.startswith("data:"):
            head, _, data = block.url.partition(",")
            kind = block.mime_type or head.removeprefix("data:").partition(";")[0]
            shown.append(tool_content(image_block(data, kind)))
    return shown


def _title(name: str, args: JsonDict, place: str | None) -> str:
    command = args.get("command")
    if name == "bash" and isinstance(command, str) and command.strip():
        return _short(f"`{command.strip()}`" if "\n" not in command.strip() else command.strip())
    if place is not None and name in ("read", "write", "edit", "list"):
        return _short(f"{name.capitalize()} {place}")
    if not args:
        return name
    values = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in args.items())
    return _short(f"{name}: {values}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TITLE else f"{line[: _MAX_TITLE - 1]}…"


def _code_block(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _diff(name: str, args: JsonDict, path: str) -> tuple[FileEditToolCallContent | None, int | None]:
    """Return the change of a file, and the line where it begins. The whole file is shown if it is known."""
    if name == "write" and isinstance(new := args.get("content"), str):
        return tool_diff_content(path, new, _text_of(path)), None
    old, new = args.get("old_text"), args.get("new_text")
    if name != "edit" or not isinstance(old, str) or not isinstance(new, str) or not old:
        return None, None
    text = _text_of(path)
    if text is None or (place := text.find(old)) < 0:
        return tool_diff_content(path, new, old), None
    count = -1 if args.get("replace_all") is True else 1
    return tool_diff_content(path, text.replace(old, new, count), text), text.count("\n", 0, place) + 1


def _text_of(path: str) -> str | None:
    """Return the text of a file; None if it does not exist, is large or has other data."""
    try:
        file = Path(path)
        if not file.is_file() or file.stat().st_size > _MAX_DIFF_BYTES:
            return None
        return file.read_bytes().decode()
    except (OSError, ValueError):
        return None
