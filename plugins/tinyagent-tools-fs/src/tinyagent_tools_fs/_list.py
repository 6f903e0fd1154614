"""The tool `list`."""

from __future__ import annotations

import heapq
import os
import re
import stat
from collections.abc import Iterator

from tinyagent import AgentToolResult
from tinyagent.agent_types import JsonObject

from ._names import show_path
from ._root import Root

__all__ = ["MAX_ENTRIES", "list_folder"]

_ARROW = re.compile(" -> ")

MAX_ENTRIES = 1_000
"""Entries that are shown."""


def list_folder(root: Root, path: str, hidden: bool) -> AgentToolResult:
    """Return the sorted names in a folder: folders end with a slash, links show their target."""
    parts = root.locate(path)
    try:
        with root.folder(parts) as descriptor:
            count, names = _first_names(descriptor, hidden)
            entries = [_entry(descriptor, name) for name in names]
    except OSError as error:
        raise root.explain(error, parts) from None
    shown = root.show(parts)
    text = "\n".join(_line(entry) for entry in entries) or f"[{shown} is empty]"
    if not hidden and not entries:
        text = f"[no names in {shown}, except hidden ones]"
    if count > MAX_ENTRIES:
        text += f"\n[{count - MAX_ENTRIES:,} more; use glob with a narrower pattern]"
    details = {"path": shown, "entries": entries, "truncated": count > MAX_ENTRIES}
    return AgentToolResult([{"type": "text", "text": text}], details)


def _first_names(folder: int, hidden: bool) -> tuple[int, list[str]]:
    """Return the number of names and the first ones in order. Memory stays limited for millions of names."""
    count = 0

    def names() -> Iterator[str]:
        nonlocal count
        with os.scandir(folder) as entries:
            for entry in entries:
                if hidden or not entry.name.startswith("."):
                    count += 1
                    yield entry.name

    first = heapq.nsmallest(MAX_ENTRIES, names())
    return count, first


def _entry(folder: int, name: str) -> JsonObject:
    entry: JsonObject = {"name": show_path(name, quote=_ARROW), "type": "other"}
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            entry["type"] = "directory"
        elif stat.S_ISREG(status.st_mode):
            entry |= {"type": "file", "bytes": status.st_size}
        elif stat.S_ISLNK(status.st_mode):
            entry |= {"type": "link", "target": show_path(os.readlink(name, dir_fd=folder))}
    except OSError:
        pass  # it was removed while the folder was read
    return entry


def _line(entry: JsonObject) -> str:
    match entry["type"]:
        case "directory":
            name = str(entry["name"])
            return f'{name[:-1]}/"' if name.startswith('"') else f"{name}/"
        case "link":
            return f"{entry['name']} -> {entry['target']}"
        case _:
            return str(entry["name"])
