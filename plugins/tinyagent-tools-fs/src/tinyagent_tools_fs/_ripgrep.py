"""ripgrep, if it is installed: it selects the files that may match, which is faster in large trees."""

# Paths are compared as text here.
# ruff: noqa: PTH116, PTH117, PTH118
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess

from ._read import MAX_FILE_BYTES
from ._requests import SEARCH_TIMEOUT_S, GrepRequest
from ._root import Parts, Root
from ._walk import Skipped

__all__ = ["Installation", "find_candidates", "find_ripgrep", "identify", "is_new_enough"]

OLDEST_RIPGREP = (15, 0)
"""Older versions skip files by mistake: by rules of the folders above the start, by a BOM in a `.gitignore`,
by patterns that end in a dot (fixed in 15.0). They also miss lines (fixed in 14.1.1). See its CHANGELOG."""

Installation = tuple[int, int, int, int]
"""A program in a version: device, inode, size and time of its file."""


def find_ripgrep(root: Root) -> str | None:
    """Return the path of ripgrep, unless it is in the working directory, where a model could have put it."""
    found = shutil.which("rg")
    if found is None or not os.path.isabs(found):
        return None
    return None if os.path.realpath(found).startswith(os.path.join(root.path, "")) else found


def identify(program: str) -> Installation | None:
    """Return what changes when another version of a program is installed; None if it is not there."""
    try:
        status = os.stat(program)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run ripgrep. The timer survives `exec`, so ripgrep ends even if this process is killed."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.setitimer(signal.ITIMER_REAL, SEARCH_TIMEOUT_S),
    )


def is_new_enough(program: str) -> bool:
    """Return whether a program is ripgrep in a version that is used. It is started."""
    try:
        version = re.match(rb"ripgrep (\d+)\.(\d+)", _run([program, "--no-config", "--version"]).stdout)
    except OSError:
        return False  # not a program
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST_RIPGREP


def find_candidates(
    root: Root, start: Parts, request: GrepRequest, program: str, skipped: Skipped
) -> list[Parts] | None:
    """Return the files that may match according to ripgrep, relative to the start; None if it fails.

    The glob, and the rules of folders above the start, are applied by the caller: `--glob` would override
    `.gitignore`, and ripgrep would also read rules from above the root.
    """
    options = ["--no-config", "--no-follow", "--files-with-matches", "--null", "--color=never"]
    options += ["--no-require-git", "--no-ignore-parent", "--no-ignore-global", "--no-ignore-exclude"]
    options += ["--no-ignore-dot", "--max-filesize", str(MAX_FILE_BYTES), "--crlf"]
    options += ["--no-ignore"] if request.ignored else []
    options += ["--hidden"] if request.hidden else []
    options += ["--ignore-case"] if request.ignore_case else []
    options += ["--fixed-strings"] if request.literal else []
    if not request.pattern.isascii():
        return None  # ripgrep would search for UTF-8 in files with other encodings
    with root.folder(start) as folder:
        os.fchdir(folder)  # safe, because this process runs only one search
    done = _run([program, *options, "--regexp", request.pattern, "--", "."])
    denied = done.stderr.count(b"(os error 13)")
    # Status 2 means an unsupported expression, but also an unreadable file.
    if done.returncode not in (0, 1) and not (done.returncode == 2 and denied):
        return None
    skipped.unreadable += denied
    found = [
        tuple(part for part in os.fsdecode(name).split("/") if part != ".")
        for name in done.stdout.split(b"\0")
        if name
    ]
    return sorted(names for names in found if ".git" not in names)
