"""The files and folders that a sandbox treats specially: keys, start-up files, repositories, sockets."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = [
    "KEYS",
    "home_folder",
    "is_inside",
    "repositories",
    "secret_paths",
    "sockets",
    "startup_files",
    "startup_folders",
]

KEYS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".oci", ".password-store", ".vault-token"),
    *(".netrc", ".git-credentials", ".config/git/credentials", ".config/gh", ".config/glab-cli"),
    *(".config/hub", ".npmrc", ".yarnrc.yml", ".pypirc", ".gem/credentials", ".terraform.d"),
    *(".cargo/credentials", ".cargo/credentials.toml", ".m2/settings.xml", ".gradle/gradle.properties"),
    *(".config/gcloud", ".config/doctl", ".config/rclone", ".config/op", ".config/sops", ".boto", ".s3cfg"),
    *(".databrickscfg", ".pgpass", ".my.cnf", ".local/share/keyrings", ".local/share/kwalletd"),
    *(".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware"),
    *(".config/microsoft-edge", ".config/io.datasette.llm", ".config/openai"),
    *(".codex", ".claude", ".claude.json", ".gemini"),
    *(".bash_history", ".zsh_history", ".python_history", ".local/share/fish", ".psql_history"),
)
"""Files and folders in the home folder that have keys, passwords, or what was typed."""

_STARTUP_FILES = (
    *(".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".inputrc"),
    *(".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".config/fish", ".config/nushell"),
    *(".xprofile", ".xinitrc", ".xsession", ".xsessionrc", ".config/autostart", ".config/systemd"),
    *(".config/environment.d", ".gitconfig", ".config/git", ".vimrc", ".vim", ".config/nvim", ".emacs.d"),
    *(".emacs", ".tmux.conf", ".config/tmux", ".screenrc", ".gdbinit", ".pythonrc", ".config/direnv"),
    *(".local/bin", "bin", ".local/share/applications", ".config/pip", ".cargo/config.toml", ".cargo/bin"),
)
"""Files and folders in the home folder whose content runs by itself, or as part of a common program."""

_STARTUP_FOLDERS = (".", ".config", ".local", ".local/bin", ".local/share", "bin", ".cargo")

SOCKET_AGE_S = 10.0
"""Seconds."""

_LISTENING, _DATAGRAM = "00010000", "0002"

SEARCH_DEPTH = 3
"""How many folders deep repositories are searched below a writable folder."""

SEARCHED_ENTRIES = 5_000
"""After so many entries the search for repositories ends."""


def home_folder() -> str | None:
    """Return the user's home folder, without links; None if the user has no home."""
    try:
        home = os.path.realpath(Path.home())
    except RuntimeError:
        return None
    return None if home == "/" else home


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or inside it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def secret_paths() -> list[str]:
    """Return the existing paths of `KEYS`, our own folders, and a few files of the system."""
    home = home_folder()
    found = [] if home is None else [f"{home}/{name}" for name in KEYS]
    places = {"XDG_CONFIG_HOME": ".config", "XDG_STATE_HOME": ".local/state", "XDG_CACHE_HOME": ".cache"}
    for variable, usual in places.items():
        if given := os.environ.get(variable):
            found.append(f"{given}/tinyagent")
        if home is not None:
            found.append(f"{home}/{usual}/tinyagent")
    if own := os.environ.get("TINYAGENT_HOME"):
        found.append(str(Path(own).expanduser()))
    found += [f"/etc/{name}" for name in ("shadow", "gshadow", "sudoers", "ssh")]
    found += ["/var/lib/docker", "/var/lib/containerd"]
    return _existing(found)


def startup_files() -> list[str]:
    """Return the existing files and folders of `_STARTUP_FILES`, which are often links into a repository."""
    home = home_folder()
    return [] if home is None else _existing(f"{home}/{name}" for name in _STARTUP_FILES)


def startup_folders() -> list[str]:
    """Return the folders in which a new file could run by itself, such as the home folder."""
    home = home_folder()
    return [] if home is None else _existing(f"{home}/{name}" for name in _STARTUP_FOLDERS)


def _existing(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))  # noqa: PTH110


def repositories(folder: str) -> list[str]:
    """Return the `.git` files and folders in a folder, at most `SEARCH_DEPTH` folders deep."""
    found: list[str] = []
    left = SEARCHED_ENTRIES
    level = [folder]
    for _ in range(SEARCH_DEPTH + 1):
        below: list[str] = []
        for place in level:
            for entry in _entries(place):
                left -= 1
                if left < 0:
                    return found
                if entry.name == ".git":
                    found.append(entry.path)
                elif entry.name != "node_modules" and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
        level = below
    return found


def is_git_folder(folder: str) -> bool:
    """Return whether a folder is itself the data of a repository: `.git`, a folder in it, or a bare one."""
    parts = Path(folder).parts
    if ".git" in parts:
        return True
    return all(os.path.exists(f"{folder}/{name}") for name in ("HEAD", "objects", "refs"))  # noqa: PTH110


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return  # removed, or not readable


def sockets() -> list[str]:
    """Return the Unix sockets with a path to which this user can connect, as a read-only mount permits.

    Newer ones than `SOCKET_AGE_S` are left out, because many of them do not exist long enough to be hidden.
    """
    if sys.platform != "linux":
        return []
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []
    # Num RefCount Protocol Flags Type St Inode Path
    rows = [fields for line in lines if len(fields := line.split(maxsplit=7)) == 8]
    paths = {row[7] for row in rows if row[3] == _LISTENING or row[4] == _DATAGRAM}
    return _existing(path for path in paths if path.startswith("/") and _is_usable(path))


def _is_usable(path: str) -> bool:
    try:
        age = time.time() - os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return False
    return age >= SOCKET_AGE_S and os.access(path, os.W_OK)
