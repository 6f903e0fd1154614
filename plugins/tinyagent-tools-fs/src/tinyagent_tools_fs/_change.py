"""`write` and `edit`: files are replaced in one step, in the encoding and with the line ends they had."""

from __future__ import annotations

import difflib
import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from tinyagent import AgentToolResult, ToolError

from ._read import WHOLE, read_up_to
from ._root import Root
from ._text import SAMPLE, Encoding, detect

__all__ = ["MAX_DIFF", "edit_file", "write_file"]

MAX_DIFF = 20_000
"""Characters of a diff that are shown."""

_CONTEXT = 3
_COMPARED = 4_000  # lines that are compared to find a near match, or between the ends of a diff

_NOTHING = Encoding()


# ---- write ----------------------------------------------------------------------------------------


def write_file(root: Root, path: str, content: str) -> AgentToolResult:
    """Make or replace a file; folders that are missing are made."""
    parts = root.locate(path, write=True)
    shown = root.show(parts)
    with root.changing:
        before = root.status(parts)
        encoding, crlf, notes = _NOTHING, False, []
        if before is not None:
            with root.file(parts, write=True) as descriptor:
                before = os.fstat(descriptor)
                head = read_up_to(descriptor, SAMPLE)
                if len(head) == SAMPLE and before.st_size <= WHOLE:
                    head += read_up_to(descriptor, WHOLE)
            encoding = (detect(head, whole=len(head) == before.st_size) if head else None) or _NOTHING
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
            encoding = _NOTHING
            data = _utf8(content)
        if encoding != _NOTHING:
            notes.append(f"encoding: {encoding.label}, as before")
        root.replace(parts, data, before)
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
    return ToolError(f"The character {error.object[error.start]!r} is half of one and cannot be written.")


# ---- edit -----------------------------------------------------------------------------------------


def edit_file(root: Root, path: str, old: str, new: str, replace_all: bool) -> AgentToolResult:
    """Replace one exact piece of a text file, or each of them."""
    if not old:
        raise ToolError("old_text is empty. Say what is to be replaced, or use `write` for a whole file.")
    parts = root.locate(path, write=True)
    shown = root.show(parts)
    with root.changing:
        with root.file(parts, write=True) as descriptor:
            status = os.fstat(descriptor)
            if status.st_size > WHOLE:
                raise ToolError(
                    f"{shown!r} has {status.st_size:,} bytes; files of at most {WHOLE:,} can be edited. "
                    "Use a program such as sed."
                )
            data = read_up_to(descriptor, WHOLE + 1)
        encoding = detect(data, whole=True)
        if encoding is None:
            raise ToolError(f"{shown!r} is a binary file, so it cannot be edited as text.")
        text = _Text(encoding.decode(data))
        old, new = _unix(old), _unix(new)
        if old == new:
            raise ToolError("old_text and new_text are the same, so there is nothing to change.")
        places = text.find(old)
        if not places:
            raise ToolError(_not_found(shown, text.plain, old))
        if not replace_all and (len(places) > 1 or old in text.plain[places[0] + 1 :]):
            raise ToolError(_not_unique(shown, text, places))
        after = text.replace(places, len(old), new)
        try:
            written = encoding.encode(after)
        except UnicodeEncodeError as error:
            if encoding.codec == "utf-8":
                raise _not_text(error) from None
            raise ToolError(
                f"{shown!r} is in {encoding.label}, without {after[error.start]!r}; nothing was written. "
                "Use other characters, or `write` the whole file, which makes it UTF-8."
            ) from None
        root.replace(parts, written, status)
    diff = _diff(shown, text.plain, _unix(after))
    count = f"{len(places)} places" if len(places) > 1 else "1 place"
    details: dict[str, Any] = {
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
    """A text in which CRLF and LF are the same, until it is written again."""

    original: str

    def __post_init__(self) -> None:
        self.plain = _unix(self.original)
        # Where in `plain` a line end lost its CR: an index there is this many characters early.
        self._lost = [
            match.start() - number for number, match in enumerate(re.finditer("\r\n", self.original))
        ]

    def find(self, old: str) -> list[int]:
        """Where it stands, in `plain`; those that overlap an earlier one are left out."""
        return [match.start() for match in re.finditer(re.escape(old), self.plain)]

    def line(self, index: int) -> int:
        """The number of the line of an index of `plain`."""
        return self.plain.count("\n", 0, index) + 1

    def replace(self, places: list[int], length: int, new: str) -> str:
        """The original with these places replaced, all else to the byte as it was."""
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


def _not_unique(shown: str, text: _Text, places: list[int]) -> str:
    lines = ", ".join(str(text.line(place)) for place in places[:10])
    more = ", …" if len(places) > 10 else ""
    count = f"{len(places)} times" if len(places) > 1 else "more than once, overlapping itself,"
    return (
        f"old_text stands {count} in {shown!r} (at lines {lines}{more}), so nothing was changed. "
        "Give more of the text around the one that is meant, or set replace_all."
    )


# ---- what it could have meant -----------------------------------------------------------------------

_LIKE = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "\u00a0": " ", "…": "..."}
)


def _not_found(shown: str, text: str, old: str) -> str:
    said = f"old_text was not found in {shown!r}, so nothing was changed. It must match exactly."
    lines, wanted = text.split("\n"), old.strip("\n").split("\n")
    start = _differs_in_space(lines, wanted)
    if start is not None:
        kind = "Only white space, quotes or dashes differ from"
    else:
        start = _similar(lines, wanted)
        kind = "The most similar text is"
    if start is None:
        return f"{said} Nothing similar is there: read the file again."
    stop = min(start + len(wanted), len(lines))
    there = "\n".join(lines[start:stop])[:1_500]
    return f"{said} {kind} lines {start + 1}-{stop}:\n{there}"


def _differs_in_space(lines: list[str], wanted: list[str]) -> int | None:
    plain = ["".join(line.translate(_LIKE).split()) for line in lines]
    sought = ["".join(line.translate(_LIKE).split()) for line in wanted]
    if not any(sought):
        return None
    for start in range(len(plain) - len(sought) + 1):
        if plain[start] == sought[0] and plain[start : start + len(sought)] == sought:
            return start
    if len(sought) == 1:  # a part of a line
        return next((number for number, line in enumerate(plain) if sought[0] in line), None)
    return None


def _similar(lines: list[str], wanted: list[str]) -> int | None:
    """Where the lines are most like those that are wanted; the longest of them decides."""
    key = max(range(len(wanted)), key=lambda number: len(wanted[number].strip()))
    sought = wanted[key].strip()[:200]
    if not sought:
        return None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(sought)
    best, where = 0.6, None
    for number, line in enumerate(lines[:_COMPARED]):
        matcher.set_seq1(line.strip()[:200])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and matcher.ratio() > best:
            best, where = matcher.ratio(), number
    return None if where is None else max(where - key, 0)


# ---- what was changed -------------------------------------------------------------------------------


def _diff(shown: str, before: str, after: str) -> str:
    """A unified diff; what is the same at both ends is not compared, so that a large file costs little."""
    old, new = _lines(before), _lines(after)
    shorter = min(len(old), len(new))
    same = next((number for number in range(shorter) if old[number] != new[number]), shorter)
    tail = 0
    while tail < shorter - same and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if len(old) + len(new) - 2 * (same + tail) > 2 * _COMPARED:
        return f"[the diff is too long: lines {same + 1}-{len(old) - tail}]"
    start = max(same - _CONTEXT, 0)
    ends = max(tail - _CONTEXT, 0)
    hunks = difflib.unified_diff(
        old[start : len(old) - ends],
        new[start : len(new) - ends],
        f"a/{shown}",
        f"b/{shown}",
        "",
        "",
        _CONTEXT,
        "",
    )
    text = "\n".join(_shifted(line, start) for line in hunks)
    return (
        text if len(text) <= MAX_DIFF else f"{text[:MAX_DIFF]}\n[… {len(text) - MAX_DIFF:,} more characters]"
    )


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += "\n\\ No newline at end of file"
    return lines


def _shifted(line: str, by: int) -> str:
    """A line of a diff, its numbers moved."""
    if not line.startswith("@@ "):
        return line
    return re.sub(r"(?<=[-+])\d+", lambda match: str(int(match[0]) + by), line, count=2)
