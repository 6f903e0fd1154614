"""A policy as paths: what is readable, writable, protected and hidden, without links and checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from .places import (
    home_folders,
    is_git_folder,
    is_inside,
    loaded_files,
    repositories,
    secret_paths,
    startup_files,
    startup_folders,
)

__all__ = ["SYSTEM_FOLDERS", "Layout", "make_layout"]

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/sys")
"""What a program needs to run; readable in any case."""


@dataclass(frozen=True)
class Layout:
    """The paths of a policy. All are absolute, exist, and have no links.

    Attributes:
        readable: The folders that can be read; None for all.
        writable: The folders that can be changed.
        protected: What cannot be changed, although it is in a writable folder.
        hidden: What cannot be read.
        visible: What can be read, although it is in a hidden folder or in `/tmp`.
        network: Whether the network can be used.
        refused: Writable folders that stay read-only, each with the reason.
    """

    readable: Sequence[str] | None
    writable: Sequence[str]
    protected: Sequence[str]
    hidden: Sequence[str]
    visible: Sequence[str]
    network: bool
    refused: Sequence[tuple[str, str]]

    def split_folders(self) -> list[str]:
        """Return the writable folders, and those in them, that contain something protected or hidden."""
        found = set()
        for path in (*self.protected, *self.hidden):
            parents = [str(parent) for parent in PurePath(path).parents]
            for folder in self.writable:
                found |= {parent for parent in parents if is_inside(parent, folder)}
        return sorted(found)


def make_layout(
    *,
    readable: Iterable[str] | None,
    writable: Iterable[str],
    protected: Iterable[str],
    hidden: Iterable[str],
    visible: Iterable[str],
    network: bool,
) -> Layout:
    """Resolve the paths. Paths that do not exist are left out."""
    secret = sorted({*secret_paths(), *_real(hidden)})
    accepted, refused = [], []
    for folder in dict.fromkeys(_real(writable)):
        reason = _refusal(folder, secret)
        if reason is None:
            accepted.append(folder)
        else:
            refused.append((folder, reason))
    guarded = [*_real(protected), *startup_files(), *_own_code()]
    for folder in accepted:
        guarded += _known_repositories(folder)
    return Layout(
        readable=None if readable is None else sorted({*_real(SYSTEM_FOLDERS), *_real(readable)}),
        writable=sorted(accepted),
        protected=sorted({path for path in guarded if any(is_inside(path, folder) for folder in accepted)}),
        hidden=secret,
        visible=[*_real(visible), *(path for path in _own_code() if is_inside(path, "/tmp"))],
        network=network,
        refused=refused,
    )


def _real(paths: Iterable[str]) -> list[str]:
    found = (os.path.realpath(os.path.expanduser(path)) for path in paths)  # noqa: PTH111
    return [path for path in found if os.path.exists(path)]  # noqa: PTH110


def _refusal(folder: str, secret: Sequence[str]) -> str | None:
    """Return why a folder must not be writable; None if it may."""
    if any(is_inside(folder, path) for path in secret):
        return "it has keys or data of tinyagent"
    if folder == "/" or any(is_inside(home, folder) for home in home_folders()):
        return "it contains your home folder"
    if folder in startup_folders() or any(is_inside(folder, path) for path in startup_files()):
        return "programs in it run by themselves"
    if is_git_folder(folder):
        return "it is the data of a Git repository"
    return None


def _known_repositories(folder: str) -> list[str]:
    """Return the data of the repositories in a folder, also of those that only an earlier search has found.

    So no program can hide one by files that it creates.
    """
    known = _found.setdefault(folder, {})
    for path in repositories(folder):
        known |= dict.fromkeys((path, os.path.realpath(path)))
    return [path for path in known if os.path.lexists(path)]


_found: dict[str, dict[str, None]] = {}
"""For each folder: the data of the repositories that have been found in it."""


def _own_code() -> list[str]:
    """Return the running Python and the files that it has run, whose code would run outside the sandbox."""
    return _real({sys.prefix, os.path.dirname(sys.executable), *loaded_files})  # noqa: PTH120
