"""`write` and `edit`: files are replaced atomically and keep their encoding and line ends.

Everything here takes time proportional to the size of the file, which is limited: the texts are untrusted,
and a thread cannot be interrupted.
"""

from __future__ import annotations

import difflib
import os
import re
from bisect import bisect_right
from dataclasses import dataclass

from tinyagent import AgentToolResult, ToolError
from tinyagent.agent_types import JsonObject

from ._diff import unified_diff
from ._read import MAX_FILE_BYTES
from ._replace import replace_file, status_before
from ._root import Root, read_up_to
from ._text import SAMPLE, Encoding, detect

__all__ = ["edit_file", "write_file"]

MAX_PLACES = 100_000
"""Places that one edit replaces."""

_NORMALIZED = 200_000  # lines that are searched for a text that differs in white space
_FILTERED = 4_000  # lines that are filtered to find a similar one
_COMPARED = 50  # filtered lines that are compared character by character
_START = 100  # characters of a line that are compared; the time can be quadratic

_UTF_8 = Encoding()


# ---- write ----------------------------------------------------------------------------------------


def write_file(root: Root, path: str, content: str) -> AgentToolResult:
    """Create or replace a file, and create missing folders."""
    parts = root.locate(path, write=True)
    shown = root.show(parts)
    with root.changing:
        before = status_before(root, parts)
        if before is not None and root.seen.is_last(parts, before) is False:
            raise ToolError(
                f"{root.name(parts)} has changed since you read it, so nothing was written. "
                "Read it again, so that the other change is not lost."
            )
        encoding, crlf, notes, head = _UTF_8, False, [], b""
        if before is not None:
            with root.file(parts, write=True) as descriptor:
                before = os.fstat(descriptor)
                head = read_up_to(descriptor, SAMPLE)
                if len(head) == SAMPLE and before.st_size <= MAX_FILE_BYTES:
                    head += read_up_to(descriptor, MAX_FILE_BYTES)
            encoding = (detect(head, whole=len(head) == before.st_size) if head else None) or _UTF_8
            crlf = _is_crlf(head, encoding)
        if crlf and "\r" not in content:
            content = content.replace("\n", "\r\n")
            notes.append("line ends: CRLF, as before")
        try:
            data = encoding.encode(content)
        except UnicodeEncodeError as error:
            if encoding.codec == "utf-8":
                raise _not_text(error) from None
            notes.append(f"now in UTF-8: {encoding.label.split(' ')[0]} has no {content[error.start]!r}")
            encoding = _UTF_8
            data = _utf8(content)
        if encoding != _UTF_8:
            notes.append(f"encoding: {encoding.label}, as before")
        whole = before is not None and len(head) == before.st_size
        replace_file(root, parts, data, before, head if whole else None)
    lines = content.count("\n") + (not content.endswith("\n") and content != "")
    verb = "Created" if before is None else "Replaced"
    text = f"{verb} {shown}: {lines:,} line(s), {len(data):,} bytes." + (
        f" [{'; '.join(notes)}]" if notes else ""
    )
    details = {"path": shown, "created": before is None, "bytes": len(data), "encoding": encoding.label}
    return AgentToolResult([{"type": "text", "text": text}], details)


def _is_crlf(head: bytes, encoding: Encoding) -> bool:
    text = head[len(encoding.mark) :].decode(encoding.codec, "ignore")
    return "\r\n" in text and text.count("\r\n") == text.count("\n")


def _utf8(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def _not_text(error: UnicodeEncodeError) -> ToolError:
    return ToolError(
        f"The character {error.object[error.start]!r} is an unpaired surrogate and cannot be written."
    )


# ---- edit -----------------------------------------------------------------------------------------


def edit_file(root: Root, path: str, old: str, new: str, replace_all: bool) -> AgentToolResult:
    """Replace an exact text in a file, once or everywhere."""
    if not old:
        raise ToolError("old_text is empty. Give the text to replace, or use `write` for a complete file.")
    parts = root.locate(path, write=True)
    shown = root.show(parts)
    with root.changing:
        with root.file(parts, write=True) as descriptor:
            status = os.fstat(descriptor)
            if status.st_size > MAX_FILE_BYTES:
                raise ToolError(
                    f"{root.name(parts)} has {status.st_size:,} bytes; files of at most {MAX_FILE_BYTES:,} "
                    "can be edited. Use a program such as sed."
                )
            data = read_up_to(descriptor, MAX_FILE_BYTES + 1)
        encoding = detect(data, whole=True)
        if encoding is None:
            raise ToolError(f"{root.name(parts)} is a binary file, so it cannot be edited as text.")
        text = _Text(encoding.decode(data))
        old, new = _unix(old), _unix(new)
        if old == new:
            raise ToolError("old_text and new_text are the same, so there is nothing to change.")
        places = text.find(old)
        if not places:
            raise ToolError(_not_found(root.name(parts), text.plain, old))
        if not replace_all and (len(places) > 1 or text.plain.find(old, places[0] + 1) >= 0):
            raise ToolError(_not_unique(root.name(parts), text, places))
        size = len(text.original) + len(places) * (len(new) - len(old))
        if size > max(MAX_FILE_BYTES, len(text.original)):
            raise ToolError(
                f"{root.name(parts)} would grow to {size:,} characters, so nothing was changed; "
                f"files of at most {MAX_FILE_BYTES:,} can be edited."
            )
        after = text.replace(places, len(old), new)
        try:
            written = encoding.encode(after)
        except UnicodeEncodeError as error:
            if encoding.codec == "utf-8":
                raise _not_text(error) from None
            raise ToolError(
                f"{root.name(parts)} is in {encoding.label}, which has no {after[error.start]!r}; "
                "nothing was written. Use other characters, or `write` the whole file, which makes it UTF-8."
            ) from None
        replace_file(root, parts, written, status, data)
    diff = unified_diff(shown, text.plain, _unix(after))
    count = f"{len(places)} places" if len(places) > 1 else "1 place"
    details: JsonObject = {
        "path": shown,
        "replacements": len(places),
        "first_line": text.line(places[0]),
        "encoding": encoding.label,
        "diff": diff,
    }
    return AgentToolResult([{"type": "text", "text": f"Edited {shown} in {count}:\n{diff}"}], details)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


@dataclass
class _Text:
    """A text that treats CRLF and LF as equal until it is written."""

    original: str

    def __post_init__(self) -> None:
        self.plain = _unix(self.original)
        # Offsets in `plain` at which a CR was removed, to convert offsets to the original text.
        self._lost = [
            match.start() - number for number, match in enumerate(re.finditer("\r\n", self.original))
        ]

    def find(self, old: str) -> list[int]:
        """Return the offsets of `old` in `plain`, without overlapping ones.

        Raises:
            ToolError: There are more than `MAX_PLACES` occurrences.
        """
        places: list[int] = []
        place = self.plain.find(old)
        while place >= 0:
            if len(places) == MAX_PLACES:
                raise ToolError(
                    f"old_text occurs more than {MAX_PLACES:,} times in the file, so nothing was changed. "
                    "Use a program such as sed."
                )
            places.append(place)
            place = self.plain.find(old, place + len(old))
        return places

    def line(self, index: int) -> int:
        """Return the line number of an offset in `plain`."""
        return self.plain.count("\n", 0, index) + 1

    def replace(self, places: list[int], length: int, new: str) -> str:
        """Return the original with these places replaced, and everything else unchanged."""
        pieces, end = [], 0
        crlf = len(self._lost) * 2 > self.plain.count("\n")
        for place in places:
            start, stop = self._original(place), self._original(place + length)
            region = self.original[start:stop]
            like_crlf = "\r\n" in region if "\n" in region else crlf
            pieces += [self.original[end:start], new.replace("\n", "\r\n") if like_crlf else new]
            end = stop
        return "".join([*pieces, self.original[end:]])

    def _original(self, index: int) -> int:
        # The CR belongs to its line end: an index at the end of the line stays before it.
        return index + bisect_right(self._lost, index - 1)


def _not_unique(name: str, text: _Text, places: list[int]) -> str:
    lines = ", ".join(str(text.line(place)) for place in places[:10])
    more = ", …" if len(places) > 10 else ""
    count = f"{len(places)} times" if len(places) > 1 else "more than once, overlapping itself,"
    return (
        f"old_text occurs {count} in {name} (at lines {lines}{more}), so nothing was changed. "
        "Include more of the surrounding text, or set replace_all."
    )


# ---- similar texts ----------------------------------------------------------------------------------

_LIKE = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00a0": " ", "…": "..."}
)


def _not_found(name: str, text: str, old: str) -> str:
    problem = f"old_text was not found in {name}, so nothing was changed. It must match exactly."
    lines, wanted = text.split("\n"), old.strip("\n").split("\n")
    start = _differs_in_space(lines, wanted)
    if start is not None:
        kind = "Only white space, quotes or dashes differ from"
    else:
        start = _similar(lines, wanted)
        kind = "The most similar text is"
    if start is None:
        return f"{problem} The file has nothing similar: read it again."
    stop = min(start + len(wanted), len(lines))
    there = "\n".join(lines[start:stop])[:1_500]
    return f"{problem} {kind} lines {start + 1}-{stop}:\n{there}"


def _differs_in_space(lines: list[str], wanted: list[str]) -> int | None:
    """Return the first line where `wanted` matches, ignoring white space and kinds of quotes and dashes."""
    plain = ["".join(line.translate(_LIKE).split()) for line in lines[:_NORMALIZED]]
    sought = ["".join(line.translate(_LIKE).split()) for line in wanted]
    if not any(sought):
        return None
    text = "\n".join(["", *plain, ""])
    place = text.find("\n".join(["", *sought, ""]))
    if place < 0 and len(sought) == 1:  # a part of a line
        place = text.find(sought[0])
        place = text.rfind("\n", 0, place) if place >= 0 else place
    return None if place < 0 else text.count("\n", 0, place)


def _similar(lines: list[str], wanted: list[str]) -> int | None:
    """Return where the lines are most similar to `wanted`, by its longest line."""
    key = max(range(len(wanted)), key=lambda number: len(wanted[number].strip()))
    sought = wanted[key].strip()[:_START]
    if not sought:
        return None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(sought)
    best, where, left = 0.6, None, _COMPARED
    for number, line in enumerate(lines[:_FILTERED]):
        matcher.set_seq1(line.strip()[:_START])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
            left -= 1
            if matcher.ratio() > best:
                best, where = matcher.ratio(), number
            if not left:
                break
    return None if where is None else max(where - key, 0)
