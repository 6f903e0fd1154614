"""Unified diffs of texts of any size, in limited time."""

from __future__ import annotations

import difflib

__all__ = ["unified_diff"]

MAX_DIFF = 20_000
"""Characters of a diff that are shown."""

_CONTEXT = 3
_MAX_LINES = 8_000  # lines of a diff, old and new ones
_DIFF_PAIRS = 250_000  # pairs of lines that may be compared


def unified_diff(shown: str, before: str, after: str) -> str:
    """Return a unified diff. Equal lines at both ends are not compared, so a large file costs little."""
    old, new = _lines(before), _lines(after)
    shorter = min(len(old), len(new))
    same = next((number for number in range(shorter) if old[number] != new[number]), shorter)
    tail = 0
    while tail < shorter - same and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if len(old) + len(new) - 2 * (same + tail) > _MAX_LINES:
        return f"[the diff is too long: lines {same + 1}-{len(old) - tail}]"
    lines = [f"--- a/{shown}", f"+++ b/{shown}"]
    hunk: list[_Change] = []
    for change in _changes(old, new, same, tail):
        if hunk and change[0] - hunk[-1][1] > 2 * _CONTEXT:
            lines += _hunk(old, new, hunk)
            hunk = []
        hunk.append(change)
    lines += _hunk(old, new, hunk)
    text = "\n".join(lines)
    return (
        text if len(text) <= MAX_DIFF else f"{text[:MAX_DIFF]}\n[… {len(text) - MAX_DIFF:,} more characters]"
    )


_Change = tuple[int, int, int, int]
"""Start and end of the old lines, and start and end of the new lines that replace them."""


def _changes(old: list[str], new: list[str], same: int, tail: int) -> list[_Change]:
    """Return the changes between the equal lines at both ends."""
    old_to, new_to = len(old) - tail, len(new) - tail
    if old_to == new_to:  # an edit within lines changes them one by one
        return [(at, at + 1, at, at + 1) for at in range(same, old_to) if old[at] != new[at]]
    if (old_to - same) * (new_to - same) > _DIFF_PAIRS:
        return [(same, old_to, same, new_to)]
    matcher = difflib.SequenceMatcher(None, old[same:old_to], new[same:new_to])
    return [
        (a + same, b + same, c + same, d + same)
        for kind, a, b, c, d in matcher.get_opcodes()
        if kind != "equal"
    ]


def _hunk(old: list[str], new: list[str], changes: list[_Change]) -> list[str]:
    """Return neighbouring changes as one hunk, with context lines."""
    first, last = changes[0], changes[-1]
    start, stop = max(first[0] - _CONTEXT, 0), min(last[1] + _CONTEXT, len(old))
    new_start, new_stop = first[2] - (first[0] - start), last[3] + (stop - last[1])
    lines = [f"@@ -{_range(start, stop)} +{_range(new_start, new_stop)} @@"]
    at = start
    removed: list[str] = []
    added: list[str] = []
    for old_from, old_to, new_from, new_to in changes:
        if old_from > at:
            lines += removed + added + [f" {line}" for line in old[at:old_from]]
            removed, added = [], []
        removed += [f"-{line}" for line in old[old_from:old_to]]
        added += [f"+{line}" for line in new[new_from:new_to]]
        at = old_to
    return lines + removed + added + [f" {line}" for line in old[at:stop]]


def _range(start: int, stop: int) -> str:
    """Return the range in a hunk's header: first line and count; an empty range has the line before it."""
    if stop - start == 1:
        return str(start + 1)
    return f"{start + (stop > start)},{stop - start}"


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += "\n\\ No newline at end of file"
    return lines
