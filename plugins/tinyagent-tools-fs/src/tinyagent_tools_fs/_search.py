"""The searches of `glob` and `grep`: generators that run in a process, which can be killed at any moment.

A pattern from the model, or a line of a `.gitignore`, can make a regular expression run almost endlessly.

If ripgrep is installed, it selects the files that may match. They are still opened through `Root` and
searched here, so protected files are never shown, and lines have the same form with both engines.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Iterator

from tinyagent import ToolError

from ._glob import compile_glob
from ._names import show_path, show_text
from ._read import MAX_FILE_BYTES
from ._requests import GlobRequest, GrepRequest, Item, Place
from ._ripgrep import find_candidates, is_new_enough
from ._root import Parts, Root, SecretError, read_up_to
from ._text import SAMPLE, detect
from ._walk import Ignore, Skipped, walk

__all__ = ["glob", "grep"]

MAX_SHOWN = 400
"""Characters of a matching line that are shown, around the match."""

MAX_SENT = 5_000_000
"""Characters of lines and paths after which a search stops. A call shows fewer."""

_LOOKS_LIKE_A_MATCH = re.compile(r":\d+:")


def glob(place: Place, request: GlobRequest) -> Iterator[Item]:
    """Yield the matching paths in order, up to the limit."""
    root, start = place.open()
    matches = compile_glob(request.pattern)
    ignore = None if request.ignored else Ignore(root)
    skipped = Skipped()
    count = 0
    for entry in walk(root, start, hidden=request.hidden, ignore=ignore, skipped=skipped):
        if matches(entry.parts[len(start) :]):
            count += 1
            if count > request.limit:
                yield {"more": True}
                break
            yield {"path": _shown(entry.parts, is_folder=entry.is_folder)}
    yield from skipped.items()


def _shown(parts: Parts, *, is_folder: bool = False) -> str:
    return show_path("/".join(parts) + ("/" if is_folder else ""))


# ---- grep -----------------------------------------------------------------------------------------


def _compile(request: GrepRequest) -> re.Pattern[str]:
    """Compile the regular expression of a request.

    Raises:
        ToolError: It is not a regular expression.
    """
    pattern = re.escape(request.pattern) if request.literal else request.pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern, re.IGNORECASE if request.ignore_case else 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise ToolError(
            f"{request.pattern!r} is not a regular expression: {error}. "
            "Escape it, or set literal to search for plain text."
        ) from None


def grep(place: Place, request: GrepRequest) -> Iterator[Item]:
    """Yield the matching lines, file by file, up to the limit."""
    root, start = place.open()
    pattern = _compile(request)
    plain = request.literal or re.escape(request.pattern) == request.pattern
    needle = request.pattern if plain and not request.ignore_case else ""
    left, room = request.limit, MAX_SENT
    skipped = Skipped()
    files = _files(root, start, request, skipped)
    for item in files:
        if not isinstance(item, tuple):
            yield item
            continue
        text = _text(root, item, skipped)
        if text and needle in text:
            lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
            for found in _search(item, lines, pattern, request.context, left):
                left -= bool(found.get("match"))
                room -= len(str(found.get("text", ""))) + len(str(found.get("path", "")))
                yield found
                if room < 0:
                    break
            if left <= 0 or room < 0:
                yield {"more": True} if left <= 0 else {"full": True}
                break
    yield from skipped.items()


def _files(root: Root, start: Parts, request: GrepRequest, skipped: Skipped) -> Iterator[Parts | Item]:
    if start:
        with root.folder(start[:-1]) as above:
            try:
                status = os.stat(start[-1], dir_fd=above, follow_symlinks=False)
            except OSError as error:
                raise root.explain(error, start, above) from None
        if not stat.S_ISDIR(status.st_mode):
            root.check_regular(status, start)
            yield start  # an explicit file is searched even if it is ignored
            return
    chosen = compile_glob(request.glob) if request.glob else None
    ignore = None if request.ignored else Ignore(root)
    candidates = None
    if request.rg is not None:
        checked = request.rg_checked or is_new_enough(request.rg)
        yield {"ripgrep": checked}
        candidates = find_candidates(root, start, request, request.rg, skipped) if checked else None
    yield {"engine": "python" if candidates is None else "ripgrep"}
    if candidates is None:
        for entry in walk(root, start, hidden=request.hidden, ignore=ignore, skipped=skipped):
            if entry.is_file and (chosen is None or chosen(entry.parts[len(start) :])):
                yield entry.parts
        return
    for names in candidates:
        parts = (*start, *names)
        if (chosen is None or chosen(names)) and not (ignore is not None and ignore.hides_any(parts)):
            yield parts


def _text(root: Root, parts: Parts, skipped: Skipped) -> str | None:
    """Return the text of a file; None if it is binary, unreadable or too large."""
    try:
        with root.folder(parts[:-1]) as above:
            descriptor = root.open_in(above, parts)
    except SecretError:
        return None
    except ToolError:
        skipped.unreadable += 1  # removed, replaced by a link, or no permission
        return None
    try:
        data = read_up_to(descriptor, SAMPLE)
        if len(data) == SAMPLE:
            if detect(data, whole=False) is None:
                return None
            data += read_up_to(descriptor, MAX_FILE_BYTES - SAMPLE + 1)
            if len(data) > MAX_FILE_BYTES:
                skipped.large += 1
                return None
    except OSError:
        skipped.unreadable += 1
        return None
    finally:
        os.close(descriptor)
    encoding = detect(data, whole=True)
    return None if encoding is None else encoding.decode(data)


def _search(
    parts: Parts, lines: list[str], pattern: re.Pattern[str], context: int, left: int
) -> Iterator[Item]:
    path, count, last = show_path("/".join(parts), quote=_LOOKS_LIKE_A_MATCH), 0, -1

    def line_at(number: int, around: int, *, match: bool) -> Item:
        text = show_text(_shorten(lines[number], around))
        return {"path": path, "line": number + 1, "text": text, "match": match}

    for number, line in enumerate(lines):
        match = pattern.search(line)
        if match is None:
            continue
        start = max(number - context, last + 1)
        if context and last >= 0 and start > last + 1:
            yield {"gap": True}
        for before in range(start, number):
            yield line_at(before, 0, match=False)
        yield line_at(number, match.start(), match=True)
        last, count = number, count + 1
        following = deque(range(number + 1, min(number + 1 + context, len(lines))))
        while following and pattern.search(lines[following[0]]) is None:
            last = following.popleft()
            yield line_at(last, 0, match=False)
        if count >= left:
            break
    if count and context:
        yield {"gap": True}


def _shorten(line: str, around: int) -> str:
    if len(line) <= MAX_SHOWN:
        return line
    start = max(0, min(around - MAX_SHOWN // 4, len(line) - MAX_SHOWN))
    stop = start + MAX_SHOWN
    return f"{'…' if start else ''}{line[start:stop]}{'…' if stop < len(line) else ''}"
