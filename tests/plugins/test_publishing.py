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

from tests.cli.documents import blocks
from tests.cli.reader import Reader
from tests.peers.conftest import require_peer
from tinyagent_cli.plugins import scaffold

from ._wheels import repack
from .conftest import ROOT, clean_environment, run_clean, with_dependencies
from .test_guide import GUIDE

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


def author(folder: Path) -> Reader:
    """Return an author with a home, the installers of the tests, and no `tinyagent`."""
    made = Reader(folder, {})
    home, programs = made.home, made.home / "bin"
    programs.mkdir()
    for name in ("uv", "pipx", "python3"):
        # A link to the Python of a virtual environment would not be in it.
        program = sys.executable if name == "python3" else Path(sys.executable).with_name(name)
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to("python3")
    made.environment |= clean_environment(
        PATH=f"{programs}{os.pathsep}/usr/bin:/bin",
        HOME=str(home),
        PIPX_HOME=str(home / "pipx"),
        PIPX_BIN_DIR=str(programs),
        PIPX_MAN_DIR=str(home / "man"),
        PIPX_DEFAULT_PYTHON=sys.executable,
        UV_CACHE_DIR=str(home / "uv-cache"),
        UV_TOOL_DIR=str(home / "tools"),
        UV_TOOL_BIN_DIR=str(programs),
        UV_PYTHON=sys.executable,
        UV_PYTHON_DOWNLOADS="never",
        PIP_CONFIG_FILE=os.devnull,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    return made


@pytest.mark.parametrize("installer", ["pip", "pipx", "uv"])
def test_a_plugin_is_published_and_used(index_server: str, tmp_path: Path, installer: str) -> None:
    """Publish the plugin of the tutorial, and install, use, upgrade and uninstall it with each installer."""
    reader = author(tmp_path / "author")
    for block in blocks(GUIDE):
        if block.file.startswith("tinyagent-dates/"):
            reader.do(block)
    reader.environment["PWD"] += "/tinyagent-dates"
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        reader.environment[name] = f"http://127.0.0.1:{index_server}/simple/"
    [wheel] = re.findall(r"^\$ (.* pip wheel .*)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert 0 == reader.run(wheel).code
    section = [block for block in blocks(PAGE) if block.language == "console"]
    for block in section:
        if block.words.get("with", installer) == installer:
            # The server, which is running.
            text = re.sub(r"^\$ pypi-server .*&\n", "", block.text, flags=re.MULTILINE)
            reader.do(block._replace(text=text.replace(PORT, index_server)))
    ran = "".join(block.text for block in section)
    assert ("uv publish" in ran, ran.count("$ tinyagent ") >= 5) == (True, True)


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
