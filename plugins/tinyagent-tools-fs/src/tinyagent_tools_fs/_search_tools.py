"""The tools `glob` and `grep`: run a search in a process, and show what it has found."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta

from tinyagent import AgentTool, AgentToolResult, tool
from tinyagent.agent_types import JsonObject

from ._ask import Answer, ask
from ._glob import compile_glob
from ._names import check_text
from ._read import MAX_FILE_BYTES, MAX_TEXT
from ._requests import SEARCH_TIMEOUT_S, GlobRequest, GrepRequest
from ._ripgrep import Installation, find_ripgrep, identify
from ._root import Root

__all__ = ["glob_tool", "grep_tool"]

_Limit = Annotated[int, Meta(ge=1, le=10_000)]
_Context = Annotated[int, Meta(ge=0, le=20)]
_Pattern = Annotated[str, Meta(min_length=1, max_length=1_000)]


def glob_tool(root: Root) -> AgentTool:
    """Return the tool `glob`."""

    @tool(read_only=True, label="Find files by name")
    async def glob(
        pattern: _Pattern,
        path: str = ".",
        hidden: bool = False,
        ignored: bool = False,
        limit: _Limit = 1_000,
        *,
        signal: asyncio.Event | None = None,
    ) -> AgentToolResult:
        """Find files and folders by a pattern such as `*.py` or `src/**/test_*.{js,ts}`.

        A pattern without a slash matches names in any folder.

        Args:
            pattern: The pattern, relative to `path`.
            path: The folder to look in.
            hidden: Include names that begin with a dot.
            ignored: Include paths that .gitignore excludes.
            limit: The maximum number of paths to show.
        """
        compile_glob(pattern)
        start = root.locate(path)
        with root.folder(start):
            pass  # a missing folder is reported without starting a process
        return _paths(await ask(root, start, GlobRequest(pattern, hidden, ignored, limit), signal), limit)

    return glob


def grep_tool(root: Root) -> AgentTool:
    """Return the tool `grep`."""
    recent: dict[Installation | None, bool] = {}  # whether an installation of ripgrep is recent enough

    @tool(read_only=True, label="Search in files")
    async def grep(
        pattern: _Pattern,
        path: str = ".",
        glob: _Pattern | None = None,
        literal: bool = False,
        ignore_case: bool = False,
        context: _Context = 0,
        hidden: bool = False,
        ignored: bool = False,
        limit: _Limit = 200,
        *,
        signal: asyncio.Event | None = None,
    ) -> AgentToolResult:
        """Search the lines of text files of up to 10 MiB for a regular expression (Python's syntax).

        Matches are shown as `path:line:text`, lines of context as `path-line-text`.

        Args:
            pattern: The regular expression; matched within a line.
            path: The folder or file to search.
            glob: Search only files whose path below `path` matches, such as `*.py`.
            literal: Search for the pattern as plain text.
            ignore_case: Ignore the difference between upper and lower case.
            context: Lines to show before and after each match.
            hidden: Also search files and folders whose name begins with a dot.
            ignored: Also search files that .gitignore excludes.
            limit: The maximum number of matches to show.
        """
        start = root.locate(path)
        check_text(pattern)  # the process compiles it, because compiling can take seconds
        if glob is not None:
            compile_glob(glob)
        program = find_ripgrep(root)
        installation = None if program is None else identify(program)
        if recent.get(installation) is False:
            program = None
        request = GrepRequest(
            *(pattern, glob, literal, ignore_case, context, hidden, ignored, limit, program),
            rg_checked=recent.get(installation, False),
        )
        answer = await ask(root, start, request, signal)
        if (checked := answer.get("ripgrep")) is not None:
            recent[installation] = bool(checked)
        return _matches(answer, limit)

    return grep


def _paths(answer: Answer, limit: int) -> AgentToolResult:
    paths = [str(item["path"]) for item in answer.items if "path" in item]
    lines, notes = _fit(paths)
    if answer.get("more"):
        notes.append(f"stopped at {limit:,} paths; use a narrower pattern")
    notes += _skipped_notes(answer)
    details: JsonObject = {"paths": [*paths[: len(lines)]], "truncated": bool(notes)}
    return _result(lines, notes, "[no path matches]", details)


def _matches(answer: Answer, limit: int) -> AgentToolResult:
    lines: list[str] = []
    for item in answer.items:
        if "line" in item:
            mark = ":" if item["match"] else "-"
            lines.append(f"{item['path']}{mark}{item['line']}{mark}{item['text']}")
        elif "gap" in item and lines and lines[-1] != "--":
            lines.append("--")
    if lines and lines[-1] == "--":
        lines.pop()
    found = [item for item in answer.items if item.get("match")]
    lines, notes = _fit(lines)
    if answer.get("more"):
        notes.append(f"stopped at {limit:,} matches; use a narrower pattern, path or glob")
    if answer.get("full"):
        notes.append("stopped: too many matches for one call; use a narrower pattern, path or glob")
    notes += _skipped_notes(answer)
    details: JsonObject = {
        "matches": len(found),
        "files": len({item["path"] for item in found}),
        "engine": answer.get("engine") or "python",
        "truncated": bool(notes),
    }
    return _result(lines, notes, "[no line matches]", details)


def _skipped_notes(answer: Answer) -> list[str]:
    """Return notes on skipped files and folders."""
    notes = []
    if not answer.complete:
        notes.append(f"stopped after {SEARCH_TIMEOUT_S:g} s; use a simpler pattern or a narrower path")
    if count := answer.get("unreadable"):
        notes.append(f"files or folders that could not be read: {count:,}")
    if count := answer.get("deep"):
        notes.append(f"folders nested too deeply, skipped: {count:,}; search below them")
    if count := answer.get("large"):
        notes.append(f"files over {MAX_FILE_BYTES // (1 << 20)} MiB, not searched: {count:,}")
    return notes


def _fit(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that fit, and a note if some do not."""
    room = MAX_TEXT
    for number, line in enumerate(lines):
        room -= len(line) + 1
        if room < 0:
            return lines[:number], [f"{len(lines) - number:,} more lines do not fit; use a narrower pattern"]
    return lines, []


def _result(lines: list[str], notes: list[str], nothing: str, details: JsonObject) -> AgentToolResult:
    text = "\n".join(lines) or nothing
    if notes:
        text += f"\n[{'; '.join(notes)}]"
    return AgentToolResult([{"type": "text", "text": text}], details)
