"""docs/publish-a-plugin.md with a real index, and with pip, pipx and uv as installers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.conftest import require_peer
from tinyagent_cli.plugins import scaffold

from ._wheels import repack
from .conftest import ROOT, run_clean, with_dependencies
from .test_guide import GUIDE, blocks, commands, same

PAGE = ROOT / "docs" / "publish-a-plugin.md"
PROGRAMS = ROOT / ".venv-peers-publishing" / "bin"
PORT = "8080"
"""The port of the page."""


@pytest.fixture
def index_server(index: Path, tmp_path: Path) -> Iterator[str]:
    """The port of a package index with tinyagent-core and its dependencies, without a password."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for wheel in index.glob("*.whl"):
        shutil.copy(wheel, packages)
    for name in with_dependencies(["hatchling"]):  # for builds, which are isolated
        repack(packages, name)
    script = Path(__file__).with_name("pypi_server.py")
    process = subprocess.Popen(
        [require_peer(PROGRAMS / "python"), script, packages],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


class Author:
    """An author with a home, the installers of the tests, and no `tinyagent`."""

    def __init__(self, home: Path) -> None:
        programs = home / "bin"
        programs.mkdir(parents=True)
        for name in ("uv", "pipx", "python3"):
            # A link to the Python of a virtual environment would not be in it.
            program = sys.executable if name == "python3" else Path(sys.executable).with_name(name)
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to("python3")
        self.folder = home
        self.environment = {
            "PATH": f"{programs}{os.pathsep}/usr/bin:/bin",
            "HOME": str(home),
            "PIPX_HOME": str(home / "pipx"),
            "PIPX_BIN_DIR": str(programs),
            "PIPX_MAN_DIR": str(home / "man"),
            "PIPX_DEFAULT_PYTHON": sys.executable,
            "UV_CACHE_DIR": str(home / "uv-cache"),
            "UV_TOOL_DIR": str(home / "tools"),
            "UV_TOOL_BIN_DIR": str(programs),
            "UV_PYTHON": sys.executable,
            "UV_PYTHON_DOWNLOADS": "never",
            "TINYAGENT_HOME": str(home / "tinyagent"),
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of the page. `cd` and `export` hold for the lines that follow."""
        done = run_clean("/bin/sh", "-c", command, cwd=self.folder, **self.environment)
        assert 0 == done.returncode, f"{command}\n{done.stdout}{done.stderr}"
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
        elif command.startswith("export "):
            for assignment in shlex.split(command)[1:]:
                name, _, value = assignment.partition("=")
                value = value.replace("~", self.environment["HOME"])
                self.environment[name] = value.replace(f"${name}", self.environment.get(name, ""))
        return done


@pytest.mark.parametrize("installer", ["pip", "pipx", "uv"])
def test_a_plugin_is_published_and_used(index_server: str, tmp_path: Path, installer: str) -> None:
    """Publish the plugin of the tutorial, and install, use, upgrade and uninstall it with each installer."""
    author = Author(tmp_path / "home")
    guide = GUIDE.read_text("utf-8")
    for info, text in blocks(guide):
        if named := re.search(r"file=(tinyagent-dates/\S+)", info):
            path = author.folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    author.folder /= "tinyagent-dates"
    ran = []
    author.environment |= dict.fromkeys(
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), f"http://127.0.0.1:{index_server}/simple/"
    )
    author.run(next(command for command, _ in commands(guide) if " pip wheel " in command))
    for info, text in blocks(PAGE.read_text("utf-8")):
        if info.startswith("console") and info.partition(" with=")[2] in ("", installer):
            for command, expected in commands(text):
                if not command.endswith(" &"):  # the server, which is running
                    done = author.run(command.replace(PORT, index_server))
                    assert same(expected, done.stdout), f"{command} printed {done.stdout!r}"
                    ran.append(command)
    assert any("uv publish" in command for command in ran)
    assert len([command for command in ran if command.startswith("tinyagent ")]) >= 5


def test_twine_uploads_what_the_workflow_builds(index_server: str, tmp_path: Path) -> None:
    """The distributions of a new project pass the strict check of the workflow, and an index accepts both."""
    project, dist = tmp_path / "project", tmp_path / "dist"
    scaffold.write(project, scaffold.Project("rain", "tool"))
    run(sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", dist, project)
    twine = require_peer(PROGRAMS / "twine")
    run(twine, "check", "--strict", *dist.iterdir())
    upload = ("upload", "--disable-progress-bar", "--username", "me", "--password", "any")
    run(twine, *upload, "--repository-url", f"http://127.0.0.1:{index_server}/", *dist.iterdir())
    names = {path.name for path in (tmp_path / "packages").glob("tinyagent_rain*")}
    assert {"tinyagent_rain-0.1.0-py3-none-any.whl", "tinyagent_rain-0.1.0.tar.gz"} == names


def run(*command: str | Path) -> None:
    """Run a program that must succeed."""
    done = run_clean(*command, cwd=Path.cwd())
    assert 0 == done.returncode, done.stdout + done.stderr
