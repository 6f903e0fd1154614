"""Files of Git inside the working directory.

Git's files can contain commands that Git runs, so the tools do not write these files:

- Names: `.git`, and the files of a working tree that configure Git (`.gitattributes`, `.gitmodules`,
  `.gitconfig`), in every spelling that a file system treats as equal.
- Repositories with other names. Git treats a folder as one if it has `HEAD` and either `objects` and `refs`
  or a `commondir` file that leads to them (`is_git_directory` in Git's setup.c), and it finds bare
  repositories while it walks up from the current directory. So the write that would complete such a folder
  is refused, whatever the order of the writes.
- Files that the configuration of a repository around them names: hooks, included files, attributes.
"""

# Paths are compared as text here.
# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120
from __future__ import annotations

import os
import re
from collections.abc import Iterator

__all__ = ["completes_repository", "configured_paths", "is_git", "is_repository", "is_repository_path"]

# Code points that HFS+ ignores in names.
_IGNORED_BY_HFS = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
)
_NAMES = {".git", ".gitattributes", ".gitmodules", ".gitconfig"}
# Their short names on NTFS (see `is_ntfs_dotgit` and similar functions in Git's path.c).
_SHORT_NAMES = re.compile(r"(git|gitatt|gi7d29|gitmod|gi7eba|gitcon)~\d+")
_CONFIGURING = frozenset({"head", "config", "config.worktree", "commondir", "hooks", "info"})
_PARTS = _CONFIGURING | {"objects", "refs"}
_MAX_CONFIG = 1 << 20
_MAX_CONFIGS = 100


def is_git(name: str) -> bool:
    """Return whether a file system could treat this name as that of a Git configuration file."""
    plain = _plain(name)
    return plain in _NAMES or _SHORT_NAMES.fullmatch(plain) is not None


def _plain(name: str) -> str:
    """Normalise a name for the most lenient file system: NTFS drops trailing dots, spaces, `:stream`."""
    return name.translate(_IGNORED_BY_HFS).casefold().split(":")[0].rstrip(". ")


def is_repository(folder: int | str) -> bool:
    """Return whether Git treats a folder (a descriptor or a path) as a repository.

    `objects` and `refs` may be of any type, so a link to a folder that is created later counts, too.
    """
    return _has(folder, "HEAD") and (
        _has(folder, "commondir") or (_has(folder, "objects") and _has(folder, "refs"))
    )


def is_repository_path(path: str) -> bool:
    """Return whether an absolute path is inside a Git folder, by name or by content."""
    if any(map(is_git, path.split(os.sep))):  # noqa: PTH206
        return True
    above = path
    while above != (above := os.path.dirname(above)):
        if is_repository(above):
            return True
    return False


def completes_repository(folder: int, name: str) -> bool:
    """Return whether a new entry makes a folder a repository, or the shared part of one.

    The shared part has `objects`, `refs` and configuration; a `HEAD` that points to it through `commondir`
    may be anywhere.
    """
    added = _plain(name)
    if added not in _PARTS:
        return False
    with os.scandir(folder) as entries:
        found = {plain for entry in entries if (plain := _plain(entry.name)) in _PARTS} | {added}
    return {"head", "commondir"} <= found or ({"objects", "refs"} <= found and bool(found & _CONFIGURING))


def _has(folder: int | str, name: str) -> bool:
    try:
        if isinstance(folder, int):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        else:
            os.lstat(os.path.join(folder, name))
    except OSError:
        return False
    return True


# ---- paths in Git's configuration -------------------------------------------------------------------


def configured_paths(folder: str) -> list[str]:
    """Return the absolute paths of hooks, included files and attributes in Git's configuration.

    Reads the configuration of the machine, of the user, and of every repository around a folder, and follows
    each included file once. Unreadable files are skipped.
    """
    home = os.path.expanduser("~")  # noqa: PTH111
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    found = [os.path.join(settings, "git")]
    general = ["/etc/gitconfig", os.path.join(home, ".gitconfig"), os.path.join(settings, "git", "config")]
    if named := os.environ.get("GIT_CONFIG_GLOBAL"):
        found.append(os.path.abspath(named))
        general.append(os.path.abspath(named))
    for tree, data in _repositories(folder):
        own = [] if data is None else [os.path.join(data, "config"), os.path.join(data, "config.worktree")]
        found += _named_by([*general, *own], tree)
    return found


def _named_by(configs: list[str], tree: str) -> list[str]:
    """Return the paths in these configuration files; relative paths start at the working tree."""
    found: list[str] = []
    seen: set[str] = set()
    while configs and len(seen) < _MAX_CONFIGS:
        config = configs.pop()
        if config in seen:
            continue
        seen.add(config)
        for section, key, value in _settings(config):
            value = os.path.expanduser(value)  # noqa: PTH111
            if section == "core" and key in ("hookspath", "attributesfile"):
                found.append(os.path.abspath(os.path.join(tree, value)))
            elif section in ("include", "includeif") and key == "path":
                included = os.path.abspath(os.path.join(os.path.dirname(config), value))
                found.append(included)
                configs.append(included)
    return found


def _repositories(folder: str) -> Iterator[tuple[str, str | None]]:
    """Return the working trees around a folder, each with the shared folder of its repository.

    Outside a repository, return the folder itself, because it could become one.
    """
    tree, none = folder, True
    while True:
        data = os.path.join(tree, ".git")
        if os.path.isdir(data):
            none = False
            yield tree, data
        elif os.path.isfile(data):
            text = _read(data)
            if text.startswith("gitdir:"):
                none = False
                data = os.path.join(tree, text.removeprefix("gitdir:").strip())
                common = _read(os.path.join(data, "commondir")).strip()
                yield tree, os.path.join(data, common) if common else data
        if tree == (tree := os.path.dirname(tree)):
            break
    if none:
        yield folder, None


def _settings(path: str) -> list[tuple[str, str, str]]:
    """Return section, key and value of each setting in a Git configuration file."""
    section, found = "", []
    for line in _read(path).replace("\\\n", "").splitlines():
        header = re.match(r"\s*\[\s*([\w.-]+)[^\]]*\](.*)", line)
        if header is not None:
            section, line = header[1].casefold(), header[2]
        setting = re.match(r"\s*([\w-]+)\s*=\s*(.*)", line)
        if setting is not None:
            value = re.sub(r"\s[#;].*", "", setting[2]).strip().replace('"', "")
            found.append((section, setting[1].casefold(), value))
    return found


def _read(path: str) -> str:
    try:
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:  # noqa: PTH123
            return os.fsdecode(file.read(_MAX_CONFIG)).replace("\r\n", "\n")
    except OSError:
        return ""
