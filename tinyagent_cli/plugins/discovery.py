"""Which plugins are installed, read from their metadata alone.

The standard library's `importlib.metadata.entry_points()` parses what every distribution says of itself
and takes longer than all the rest of our start. This scan opens `entry_points.txt` only, and looks closer at
the few that mention us.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from tinyagent_cli.config.environment import allowed_plugins

__all__ = ["GROUPS", "EntryPoint", "find", "installed", "normalised", "scan"]

GROUPS = ("tools", "providers", "commands", "hooks")
"""What follows `tinyagent.` in the groups that we read."""

_MARK = b"[tinyagent."


class EntryPoint(NamedTuple):
    """One name that a distribution offers: `value` is `module` or `module:attribute`."""

    group: str
    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution} {self.version})".replace(" )", ")")


def find(group: str | None = None) -> list[EntryPoint]:
    """The entry points of a group, or all, that TINYAGENT_PLUGINS lets through; sorted."""
    allowed = allowed_plugins()
    return [
        entry
        for entry in scan(tuple(sys.path))
        if (group is None or entry.group == group)
        and (allowed is None or entry.name in allowed or normalised(entry.distribution) in allowed)
    ]


def installed() -> list[EntryPoint]:
    """All entry points as they are on disk now, whatever TINYAGENT_PLUGINS says."""
    scan.cache_clear()
    return list(scan(tuple(sys.path)))


@lru_cache(maxsize=4)
def scan(paths: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Every entry point in our groups of the distributions on `paths`, sorted.

    As in Python's own rule, the first distribution of a name on the path hides later ones. The working
    directory is left out: what lies there was not installed by anybody.
    """
    seen: set[str] = set()
    found: list[EntryPoint] = []
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib is slower to import than this is to run
    except FileNotFoundError:
        here = ""
    for path in dict.fromkeys(paths):
        if path in ("", here):
            continue
        try:
            names = os.listdir(path)  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            if not name.endswith((".dist-info", ".egg-info")):
                continue
            key = normalised(name.rpartition(".")[0].partition("-")[0])
            if key not in seen:
                seen.add(key)
                found += _entry_points(f"{path}/{name}")
    return tuple(sorted(found))


def _entry_points(directory: str) -> Iterator[EntryPoint]:
    try:
        with open(f"{directory}/entry_points.txt", "rb") as file:  # noqa: PTH123
            data = file.read()
    except OSError:
        return
    if _MARK not in data:
        return
    distribution, version = _name_and_version(directory)
    for group, name, value in _parse(data.decode("utf-8", "replace").splitlines()):
        yield EntryPoint(group, name, value, distribution, version)


def _parse(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    group = ""
    for raw in lines:
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
            head, _, tail = section.partition(".")
            group = tail if head == "tinyagent" and tail in GROUPS else ""
        elif group and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield group, name.strip(), value.partition("[")[0].strip()


def _name_and_version(directory: str) -> tuple[str, str]:
    """From the metadata, or else from the directory's name."""
    stem = directory.rpartition("/")[2].rpartition(".")[0]
    name, _, version = stem.partition("-")
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with open(f"{directory}/{file_name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith("Name:"):
                        name = line[5:].strip()
                    elif line.startswith("Version:"):
                        version = line[8:].strip()
                    elif not line.strip():
                        break
            break
        except OSError:
            continue
    return name, version


def normalised(name: str) -> str:
    """A distribution's name in the one spelling that all its spellings mean."""
    return name.lower().replace("_", "-").replace(".", "-")
