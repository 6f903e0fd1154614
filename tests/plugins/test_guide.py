"""The commands of docs/plugins.md are run, and their output is the one in the guide."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .conftest import ROOT, Workshop

GUIDE = ROOT / "docs" / "plugins.md"


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Return the code blocks, each with its info and text."""
    yield from re.findall(r"^```([^\n]+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Return each command with its expected output."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def same(expected: str, printed: str) -> bool:
    """Return whether the output matches; `...` matches anything."""
    pattern = ".*".join(re.escape(piece) for piece in expected.split("..."))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def test_the_guide_can_be_followed(workshop: Workshop) -> None:
    """The guide leads from an empty folder to an installed wheel."""
    folder = workshop.home
    ran = 0
    for info, text in blocks(GUIDE.read_text("utf-8")):
        named = re.search(r"file=(\S+)", info)
        if named:
            path = workshop.home / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for command, expected in commands(text) if info == "console" else ():
            if command.startswith("cd "):
                folder = folder / command.removeprefix("cd ")
                continue
            done = in_shell(workshop, folder, command)
            assert 0 == done.returncode, f"{command}: {done.stderr}"
            assert same(expected, done.stdout), f"{command} printed {done.stdout!r}"
            ran += 1
    assert ran > 10
    done = workshop.run("python", "-m", "pip", "uninstall", "-q", "-y", "tinyagent-dates")
    assert 0 == done.returncode, done.stderr


def in_shell(workshop: Workshop, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the guide in a shell, with the programs of the environment first."""
    path = f"{workshop.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return workshop.run("/bin/sh", "-c", command, cwd=folder, PATH=path)
