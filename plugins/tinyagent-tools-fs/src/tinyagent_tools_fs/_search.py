"""`glob` and `grep` themselves. They run in a process of their own (see `_worker`), which can be killed.

With ripgrep at hand it says which files may match; they are opened and searched here all the same. So
nothing is shown that was not read through `Root`, and a line looks the same whoever found the file.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinyagent import ToolError

from ._glob import compile_glob
from ._read import WHOLE, read_up_to
from ._root import Parts, Root, printable
from ._text import SAMPLE, detect
from ._walk import Ignore, walk

__all__ = ["MAX_SHOWN", "GlobRequest", "GrepRequest", "compile_pattern", "glob", "grep"]

MAX_SHOWN = 400
"""Characters of a matching line that are shown, those around the match."""

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class GlobRequest:
    """What `glob` is asked."""

    pattern: str
    start: Parts
    hidden: bool
    ignored: bool
    limit: int


@dataclass(frozen=True)
class GrepRequest:
    """What `grep` is asked; `start` may be a file."""

    pattern: str
    start: Parts
    glob: str | None
    literal: bool
    ignore_case: bool
    context: int
    hidden: bool
    ignored: bool
    limit: int
    rg: str | None


def glob(root: Root, request: GlobRequest, say: Say) -> None:
    """Say the paths that match, in order, until there are more than the limit."""
    matches = compile_glob(request.pattern)
    ignore = None if request.ignored else Ignore(root)
    count = 0
    for entry in walk(root, request.start, hidden=request.hidden, ignore=ignore):
        if matches(entry.parts[len(request.start) :]):
            count += 1
            if count > request.limit:
                say({"more": True})
                return
            say({"path": Root.show(entry.parts) + ("/" if entry.is_folder else "")})


# ---- grep -----------------------------------------------------------------------------------------


def compile_pattern(request: GrepRequest) -> re.Pattern[str]:
    """The regular expression of a request; `ToolError` says what is wrong with it."""
    pattern = re.escape(request.pattern) if request.literal else request.pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern, re.IGNORECASE if request.ignore_case else 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise ToolError(
            f"{request.pattern!r} is not a regular expression: {error}. "
            "Escape it, or set literal to look for the text as it is."
        ) from None


def grep(root: Root, request: GrepRequest, say: Say) -> None:
    """Say the lines that match, file by file, until there are as many as the limit."""
    pattern = compile_pattern(request)
    plain = request.literal or re.escape(request.pattern) == request.pattern
    needle = request.pattern if plain and not request.ignore_case else ""
    left = request.limit
    for parts in _files(root, request, say):
        text = _text(root, parts)
        if text and needle in text:
            lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
            left -= _search(parts, lines, pattern, request.context, left, say)
            if left <= 0:
                say({"more": True})
                return


def _files(root: Root, request: GrepRequest, say: Say) -> Iterator[Parts]:
    start = request.start
    if start:
        with root.folder(start[:-1]) as above:
            try:
                status = os.stat(start[-1], dir_fd=above, follow_symlinks=False)
            except OSError as error:
                raise root.explain(error, start, above) from None
        if not stat.S_ISDIR(status.st_mode):
            root.check_regular(status, start)
            yield start  # somebody who names a file wants it, ignored or not
            return
    chosen = compile_glob(request.glob) if request.glob else None
    ignore = None if request.ignored else Ignore(root)
    candidates = _candidates(root, request) if request.rg else None
    say({"engine": "python" if candidates is None else "ripgrep"})
    if candidates is None:
        for entry in walk(root, start, hidden=request.hidden, ignore=ignore):
            if entry.is_file and (chosen is None or chosen(entry.parts[len(start) :])):
                yield entry.parts
        return
    for names in candidates:
        parts = (*start, *names)
        if (chosen is None or chosen(names)) and not (ignore is not None and ignore.hides_any(parts)):
            yield parts


def _candidates(root: Root, request: GrepRequest) -> list[Parts] | None:
    """What ripgrep says may match, relative to the start; None if it cannot say.

    A `--glob` of ours would make it forget `.gitignore`, and rules from above the start would be those of
    other folders too; both are applied here afterwards.
    """
    assert request.rg is not None
    options = [
        "--no-config",
        "--no-follow",
        "--files-with-matches",
        "--null",
        "--no-messages",
        "--color=never",
    ]
    options += ["--no-require-git", "--no-ignore-parent", "--no-ignore-global", "--no-ignore-exclude"]
    options += ["--no-ignore-dot", "--max-filesize", str(WHOLE), "--crlf"]
    options += ["--no-ignore"] if request.ignored else []
    options += ["--hidden"] if request.hidden else []
    options += ["--ignore-case"] if request.ignore_case else []
    options += ["--fixed-strings"] if request.literal else []
    if not request.pattern.isascii():
        return None  # it would look for UTF-8 in files of other encodings
    with root.folder(request.start) as folder:
        os.fchdir(folder)  # this process is there for this one search
    done = subprocess.run(
        [request.rg, *options, "--regexp", request.pattern, "--", "."],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode not in (0, 1):
        return None  # an expression that it does not know, such as one that looks behind
    found = [
        tuple(part for part in os.fsdecode(name).split("/") if part != ".")
        for name in done.stdout.split(b"\0")
        if name
    ]
    return sorted(names for names in found if ".git" not in names)


def _text(root: Root, parts: Parts) -> str | None:
    """A text file; None if it is not one, or too large."""
    try:
        with root.folder(parts[:-1]) as above:
            descriptor = root.open_in(above, parts, parts[-1])
    except ToolError:
        return None  # gone, swapped, or no permission
    try:
        data = read_up_to(descriptor, SAMPLE)
        if len(data) == SAMPLE:
            if os.fstat(descriptor).st_size > WHOLE or detect(data, whole=False) is None:
                return None
            data += read_up_to(descriptor, WHOLE)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    encoding = detect(data, whole=True)
    return None if encoding is None else encoding.decode(data)


def _search(
    parts: Parts, lines: list[str], pattern: re.Pattern[str], context: int, left: int, say: Say
) -> int:
    path, count, last = printable("/".join(parts)), 0, -1
    for number, line in enumerate(lines):
        match = pattern.search(line)
        if match is None:
            continue
        start = max(number - context, last + 1)
        if context and last >= 0 and start > last + 1:
            say({"gap": True})
        for before in range(start, number):
            say({"path": path, "line": before + 1, "text": _shorten(lines[before], 0), "match": False})
        say({"path": path, "line": number + 1, "text": _shorten(line, match.start()), "match": True})
        last, count = number, count + 1
        following = deque(range(number + 1, min(number + 1 + context, len(lines))))
        while following and pattern.search(lines[following[0]]) is None:
            last = following.popleft()
            say({"path": path, "line": last + 1, "text": _shorten(lines[last], 0), "match": False})
        if count >= left:
            break
    if count and context:
        say({"gap": True})
    return count


def _shorten(line: str, around: int) -> str:
    if len(line) <= MAX_SHOWN:
        return line
    start = max(0, min(around - MAX_SHOWN // 4, len(line) - MAX_SHOWN))
    stop = start + MAX_SHOWN
    return f"{'…' if start else ''}{line[start:stop]}{'…' if stop < len(line) else ''}"
