"""Walk through folders in order, without links and without paths that `.gitignore` excludes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tinyagent import ToolError

from ._root import Parts, Root, read_up_to
from ._versions import identity

__all__ = ["Entry", "Ignore", "Skipped", "walk"]

_MAX_IGNORE_FILE = 1 << 20
_MAX_DEPTH = 200

_Rule = tuple[bool, re.Pattern[str]]


@dataclass(frozen=True)
class Entry:
    """An entry of a folder. Links are not followed, so a link is neither a folder nor a file."""

    parts: Parts
    is_folder: bool
    is_file: bool


@dataclass
class Skipped:
    """Counts of skipped files and folders."""

    unreadable: int = 0
    deep: int = 0
    large: int = 0

    def items(self) -> Iterator[dict[str, str | int | bool]]:
        """Return the counts that are not zero, as items of a search."""
        for name in ("unreadable", "deep", "large"):
            if count := getattr(self, name):
                yield {name: count}


@dataclass
class Ignore:
    """The rules of all `.gitignore` files from the root down to a path.

    A deeper file takes precedence over a higher one, and a later line over an earlier one. Everything in an
    ignored folder is ignored, whatever other rules apply to it.
    """

    root: Root
    _own: dict[Parts, list[_Rule]] = field(default_factory=dict)
    _chains: dict[Parts, list[tuple[int, list[_Rule]]]] = field(default_factory=dict)

    def hides(self, parts: Parts, *, is_folder: bool) -> bool:
        """Return whether a path itself is ignored; its folders are not checked again."""
        for depth, rules in self._chain(parts[:-1]):
            path = "/".join(parts[depth:]) + ("/" if is_folder else "")
            for include, expression in rules:
                match = expression.match(path)
                # A match of a parent folder is ignored here, because it was checked with that folder.
                if match is not None and (match.end() == len(path) or not match.groupdict().get("ps_d")):
                    return include
        return False

    def hides_any(self, parts: Parts) -> bool:
        """Return whether a file or one of its folders is ignored."""
        last = len(parts)
        return any(self.hides(parts[:depth], is_folder=depth < last) for depth in range(1, last + 1))

    def has_none(self, folder: Parts) -> None:
        """Record that a folder has no `.gitignore`."""
        self._own.setdefault(folder, [])

    def _chain(self, folder: Parts) -> list[tuple[int, list[_Rule]]]:
        """Return the rules that apply in a folder, the deepest first, each with its depth."""
        found = self._chains.get(folder)
        if found is None:
            if folder not in self._own:
                self._own[folder] = self._read(folder)
            own = [(len(folder), rules)] if (rules := self._own[folder]) else []
            found = self._chains[folder] = own + (self._chain(folder[:-1]) if folder else [])
        return found

    def _read(self, folder: Parts) -> list[_Rule]:
        """Return the rules of a folder, the last one first."""
        try:
            with self.root.folder(folder) as descriptor:
                if not _exists(".gitignore", descriptor):
                    return []
                opened = self.root.open_in(descriptor, (*folder, ".gitignore"))
                try:
                    text = read_up_to(opened, _MAX_IGNORE_FILE).decode("utf-8", "replace")
                finally:
                    os.close(opened)
        except ToolError:
            return []  # it is a folder, or was removed
        rules = [_rule(line) for line in text.removeprefix("\ufeff").splitlines()]
        return [rule for rule in reversed(rules) if rule is not None]


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _rule(line: str) -> _Rule | None:
    """Return whether to ignore, and the pattern; None for a comment or an invalid pattern."""
    from pathspec import GitIgnoreSpec  # late, because most folders have no `.gitignore`

    try:
        [pattern] = GitIgnoreSpec.from_lines([line]).patterns
    except ValueError:
        return None
    if pattern.include is None or pattern.regex is None:
        return None
    return pattern.include, pattern.regex


def walk(
    root: Root, start: Parts, *, hidden: bool, ignore: Ignore | None, skipped: Skipped | None = None
) -> Iterator[Entry]:
    """Return everything below a folder, sorted by name, each folder before its content.

    Private data of Git and tinyagent is skipped. Folders that cannot be opened or are nested too deeply are
    counted in `skipped`.
    """
    skipped = skipped or Skipped()
    pending = [_entries(root, start, hidden, ignore, skipped)]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            continue
        yield entry
        if entry.is_folder and len(pending) < _MAX_DEPTH:
            pending.append(_entries(root, entry.parts, hidden, ignore, skipped))
        elif entry.is_folder:
            skipped.deep += 1


def _entries(
    root: Root, folder: Parts, hidden: bool, ignore: Ignore | None, skipped: Skipped
) -> Iterator[Entry]:
    secret = root.folders()
    found = []
    has_rules = False
    try:
        with root.folder(folder) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:
                has_rules = has_rules or entry.name == ".gitignore"
                if entry.name == ".git" or (entry.name.startswith(".") and not hidden):
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and secret and _is_one_of(entry, secret):
                    continue
                is_file = entry.is_file(follow_symlinks=False)
                found.append(Entry((*folder, entry.name), is_folder, is_file))
    except (OSError, ToolError):
        skipped.unreadable += 1  # no permission, or removed meanwhile
        return
    if ignore is not None and not has_rules:
        ignore.has_none(folder)
    for item in sorted(found, key=lambda entry: entry.parts[-1]):
        if ignore is None or not ignore.hides(item.parts, is_folder=item.is_folder):
            yield item


def _is_one_of(entry: os.DirEntry[str], folders: set[tuple[int, int]]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return True
    return identity(status) in folders
