"""Find the installed plugins by their metadata, without importing them.

`importlib.metadata.entry_points()` parses the metadata of every distribution, which takes longer than the
rest of the start. This scan reads `entry_points.txt` only, and the metadata of the few distributions that
have a group of tinyagent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from tinyagent_cli.config.environment import allowed_plugins
from tinyagent_cli.version import DISTRIBUTION, version

__all__ = [
    "BUILT_IN",
    "CONFIGURED",
    "EXECUTORS",
    "GROUPS",
    "Plugin",
    "find",
    "installed",
    "normalised",
    "scan",
    "used_distributions",
]

GROUPS = ("tools", "providers", "commands", "executors", "inputs", "hooks")
"""The groups of entry points, without `tinyagent.`."""

EXECUTORS = ("local", "processes")
"""The executors of tinyagent itself; others are plugins."""

BUILT_IN, CONFIGURED = "built in", "config.toml"
"""Values of `Plugin.distribution` for the providers of tinyagent itself and of the configuration."""

_MARK = b"[tinyagent."


class Plugin(NamedTuple):
    """A plugin that was found: an entry point of a distribution.

    Attributes:
        group: One of `GROUPS`.
        name: The name that users type.
        value: `module` or `module:attribute`.
        distribution: The name of the distribution, or `BUILT_IN` or `CONFIGURED`.
        version: The version of the distribution.
        needs: Which versions of tinyagent-core it requires, such as `>=0.1`; empty if any.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str
    needs: str = ""

    def __str__(self) -> str:
        return f"{self.name!r} ({self.origin})"

    @property
    def module(self) -> str:
        """The module of the entry point."""
        return self.value.partition(":")[0].strip()

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def is_part_of_tinyagent(self) -> bool:
        """Whether the code is tinyagent's own: a provider that is built in or configured."""
        return self.distribution in (BUILT_IN, CONFIGURED)


def find(group: str | None = None) -> list[Plugin]:
    """Return the plugins of a group, or of all groups, that TINYAGENT_PLUGINS allows; sorted."""
    allowed = allowed_plugins()
    return [
        entry
        for entry in scan(tuple(sys.path))
        if (group is None or entry.group == group)
        and (allowed is None or entry.name in allowed or normalised(entry.distribution) in allowed)
    ]


def used_distributions() -> dict[str, str]:
    """Return the versions of tinyagent and of the distributions with imported plugins, by their names."""
    used = {plugin.distribution: plugin.version for plugin in find() if plugin.module in sys.modules}
    return {DISTRIBUTION: version(), **used}


def installed() -> list[Plugin]:
    """Return all plugins on disk, including those that TINYAGENT_PLUGINS excludes."""
    scan.cache_clear()
    return list(scan(tuple(sys.path)))


@lru_cache(maxsize=4)
def scan(paths: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Return all plugins of the distributions on `paths`, sorted.

    As in Python, the first distribution of a name on the path hides later ones. The working directory is
    skipped, because its files are not installed.
    """
    seen: set[str] = set()
    found: list[Plugin] = []
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


def _entry_points(directory: str) -> Iterator[Plugin]:
    try:
        with open(f"{directory}/entry_points.txt", "rb") as file:  # noqa: PTH123
            data = file.read()
    except OSError:
        return
    if _MARK not in data:
        return
    distribution, version, needs = _metadata(directory)
    for group, name, value in _parse(data.decode("utf-8", "replace").splitlines()):
        yield Plugin(group, name, value, distribution, version, needs)


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


def _metadata(directory: str) -> tuple[str, str, str]:
    """Return the name and version of a distribution, and which versions of tinyagent-core it requires.

    Without metadata, the name and version are those of its directory.
    """
    stem = directory.rpartition("/")[2].rpartition(".")[0]
    name, _, version = stem.partition("-")
    needs = ""
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with open(f"{directory}/{file_name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith("Name:"):
                        name = line[5:].strip()
                    elif line.startswith("Version:"):
                        version = line[8:].strip()
                    elif line.startswith("Requires-Dist:") and "extra ==" not in line:
                        needs = _versions_of_core(line[14:]) or needs
                    elif not line.strip():
                        break
            break
        except OSError:
            continue
    return name, version, needs


def _versions_of_core(requirement: str) -> str:
    """Return the versions in a requirement of tinyagent-core; empty if it is one of another distribution."""
    wanted = requirement.partition(";")[0].strip()
    end = next(
        (at for at, letter in enumerate(wanted) if not (letter.isalnum() or letter in "-_.")), len(wanted)
    )
    if normalised(wanted[:end]) != DISTRIBUTION:
        return ""
    return wanted[end:].rpartition("]")[2].strip(" ()").replace(" ", "")


def normalised(name: str) -> str:
    """Return the name of a distribution in its normalised spelling."""
    return name.lower().replace("_", "-").replace(".", "-")
