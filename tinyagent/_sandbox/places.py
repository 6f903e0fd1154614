"""The files and folders that a sandbox treats specially: keys, start-up files, repositories, sockets."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = [
    "KEYS",
    "account_home",
    "home_folders",
    "is_git_folder",
    "is_inside",
    "loaded_files",
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
"""Seconds for which a socket must have existed to be hidden."""

_LISTENING, _DATAGRAM = "00010000", "0002"

SEARCH_DEPTH = 3
"""How many folders deep repositories are searched below a writable folder."""

SEARCHED_ENTRIES = 5_000
"""After so many entries the search for repositories looks into no further folders."""

_LONGEST_REFERENCE = 4096
"""Bytes that are read of a file that refers to the data of a repository."""

loaded_files: set[str] = set()
"""Python files that this process has run by their path, such as those of `-t ./file.py`."""


def home_folders() -> list[str]:
    """Return the user's home folders, without links: that of `HOME`, and that of the account.

    They differ in containers and tests. Some programs, such as ssh, use the latter.
    """
    found = [os.path.expanduser("~"), account_home()]  # noqa: PTH111 - returns what it cannot expand
    homes = dict.fromkeys(os.path.realpath(path) for path in found if os.path.isabs(path))  # noqa: PTH117
    return [home for home in homes if home != "/"]


def account_home() -> str:
    """Return the home folder of the user's account; an empty text if there is no account."""
    if sys.platform == "win32":
        return ""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or inside it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def secret_paths() -> list[str]:
    """Return the existing paths of `KEYS`, our own folders, and a few files of the system."""
    homes = home_folders()
    found = [f"{home}/{name}" for home in homes for name in KEYS]
    places = {"XDG_CONFIG_HOME": ".config", "XDG_STATE_HOME": ".local/state", "XDG_CACHE_HOME": ".cache"}
    for variable, usual in places.items():
        if given := os.environ.get(variable):
            found.append(f"{given}/tinyagent")
        found += [f"{home}/{usual}/tinyagent" for home in homes]
    if own := os.environ.get("TINYAGENT_HOME"):
        found.append(str(Path(own).expanduser()))
    found += [f"/etc/{name}" for name in ("shadow", "gshadow", "sudoers", "ssh")]
    found += ["/var/lib/docker", "/var/lib/containerd"]
    return _existing(found)


def startup_files() -> list[str]:
    """Return the existing files and folders of `_STARTUP_FILES`, which are often links into a repository."""
    return _existing(f"{home}/{name}" for home in home_folders() for name in _STARTUP_FILES)


def startup_folders() -> list[str]:
    """Return the folders in which a new file could run by itself, such as the home folder."""
    return _existing(f"{home}/{name}" for home in home_folders() for name in _STARTUP_FOLDERS)


def _existing(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))  # noqa: PTH110


def repositories(folder: str) -> list[str]:
    """Return the data of Git repositories in a folder, at most `SEARCH_DEPTH` folders deep.

    These are `.git` files and folders, the folders that such files refer to, and bare repositories.
    """
    found: dict[str, None] = {}
    left = SEARCHED_ENTRIES
    level = [folder]
    for _ in range(SEARCH_DEPTH + 1):
        below: list[str] = []
        for place in level:
            # By name, so that a program cannot hide a repository behind many new files.
            if is_git_folder(place):
                found[place] = None
                continue
            found |= dict.fromkeys(_git_data(place))
            for entry in _entries(place) if left > 0 else ():
                left -= 1
                if left < 0:
                    break
                if entry.name not in (".git", "node_modules") and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
        level = below
    return list(found)


def _git_data(folder: str) -> list[str]:
    """Return the `.git` of a folder, and the folders that it refers to if it is a file.

    `git init --separate-git-dir`, worktrees and submodules create such files. The data of a worktree refers
    to that of its repository.
    """
    own = f"{folder}/.git"
    if not os.path.lexists(own):
        return []
    found = [own]
    if (data := _reference(own, "gitdir:")) is not None:
        shared = _reference(f"{data}/commondir", "")
        found += [path for path in (data, shared) if path is not None]
    return found


def _reference(file: str, prefix: str) -> str | None:
    """Return the Git folder that a file names; None if it names none."""
    try:
        # A program may have put a pipe there, on which opening would wait.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            text = os.fsdecode(os.read(descriptor, _LONGEST_REFERENCE))
        finally:
            os.close(descriptor)
        if not text.startswith(prefix):
            return None
        named = text.removeprefix(prefix).strip()
        path = os.path.realpath(os.path.join(os.path.dirname(file), named))  # noqa: PTH118, PTH120
        return path if os.path.exists(f"{path}/HEAD") else None  # noqa: PTH110
    except (OSError, ValueError):
        return None


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
