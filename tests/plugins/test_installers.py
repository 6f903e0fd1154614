"""pip, pipx and uv install tinyagent and plugins from an index; the hint fits the failure.

The index is a folder with our wheels, a plugin made by `plugins new`, and their dependencies, packed again
from the environment of the tests. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.documents import blocks

from ._wheels import write_wheel
from .conftest import ROOT, Workshop, run_clean

UV = Path(sys.executable).with_name("uv")
PIPX = Path(sys.executable).with_name("pipx")
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
CALL = ("tools", "call", "weather", "text=how is the weather")
MULTIPLY = ("tools", "call", "calc", "expression=6 * 7")


@dataclass(frozen=True)
class User:
    """A user with a home, an installer and the index; their `tinyagent` is in `programs`."""

    home: Path
    index: Path

    @property
    def programs(self) -> Path:
        return self.home / "bin"

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program as this user."""
        environment = {
            "PATH": f"{self.programs}{os.pathsep}{UV.parent}{os.pathsep}/usr/bin:/bin",
            "HOME": str(self.home),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            "PIPX_HOME": str(self.home / "pipx"),
            "PIPX_BIN_DIR": str(self.programs),
            "PIPX_MAN_DIR": str(self.home / "man"),
            "PIPX_DEFAULT_PYTHON": sys.executable,
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": str(self.index),
            "UV_CACHE_DIR": str(self.index / "uv-cache"),
            "UV_TOOL_DIR": str(self.home / "tools"),
            "UV_TOOL_BIN_DIR": str(self.programs),
            "UV_PYTHON": sys.executable,
            "UV_PYTHON_DOWNLOADS": "never",
            "TINYAGENT_HOME": str(self.home / "tinyagent"),
        }
        return run_clean(*command, cwd=self.home, **{**environment, **more})

    def ok(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program that must succeed."""
        done = self.run(*command, **more)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done


@pytest.fixture
def user(index: Path, tmp_path: Path) -> User:
    """A new user."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    return User(home, index)


def test_plain_pip_installs_a_plugin_with_all_that_it_needs(user: User) -> None:
    """`pip install tinyagent-weather` installs tinyagent-core, too, and both work."""
    python = user.home / "venv" / "bin" / "python"
    user.ok(sys.executable, "-m", "venv", "--without-pip", user.home / "venv")
    user.ok(sys.executable, "-m", "pip", "--python", python, "install", "-q", "tinyagent-weather")
    tinyagent = python.with_name("tinyagent")
    assert "4\n" == user.ok(tinyagent, *CALL).stdout
    assert user.ok(tinyagent, "--version").stdout.startswith("tinyagent ")
    eager = ("install", "-q", "--upgrade", "--upgrade-strategy", "eager", "tinyagent-weather")
    user.ok(sys.executable, "-m", "pip", "--python", python, *eager)
    assert "4\n" == user.ok(tinyagent, *CALL).stdout


def test_the_first_step_of_the_tutorial(user: User) -> None:
    """Its commands make an environment with tinyagent and the calculator."""
    first = blocks(TUTORIAL)[0]
    # The pip of the tests in place of that of the environment, whose installation is slow.
    pip = user.programs / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python "$VIRTUAL_ENV/bin/python" "$@"\n')
    pip.chmod(0o755)
    commands = first.text.replace("-m venv", "-m venv --without-pip")
    user.ok("/bin/sh", "-ec", f"{commands}\ntinyagent --version")
    tinyagent = user.home / "receipts" / ".venv" / "bin" / "tinyagent"
    assert "42\n" == user.ok(tinyagent, *MULTIPLY).stdout


def test_uv_pip_installs_a_plugin(user: User) -> None:
    """In an environment of `uv venv`, `plugins install` and `uninstall` use uv."""
    user.ok(UV, "venv", "-q", user.home / "venv")
    python = user.home / "venv" / "bin" / "python"
    user.ok(UV, "pip", "install", "-q", "--python", python, "tinyagent-core")
    tinyagent = python.with_name("tinyagent")
    done = user.ok(tinyagent, "plugins", "install", "tinyagent-weather")
    assert "weather  tinyagent.tools  tinyagent-weather 0.1.0\n" == done.stdout
    assert f"Running: {UV} pip install --python {python} tinyagent-core==" in done.stderr
    assert "4\n" == user.ok(tinyagent, *CALL).stdout
    user.ok(tinyagent, "plugins", "uninstall", "weather")
    assert 3 == user.run(tinyagent, *CALL).returncode


def test_uv_tool_installs_tinyagent_with_a_plugin(user: User) -> None:
    """After the command of the README for uv, the hint for another plugin keeps the first."""
    [command] = re.findall(r"`(uv tool install [^`]+)`", README.read_text(encoding="utf-8"))
    user.ok(*command.split())
    tinyagent = user.programs / "tinyagent"
    assert "42\n" == user.ok(tinyagent, *MULTIPLY).stdout
    done = user.ok(tinyagent, "plugins", "install", "tinyagent-weather")
    lasting = done.stderr.partition("To make it last: ")[2].strip()
    assert "uv tool install --with tinyagent-tools-calc --with tinyagent-weather tinyagent-core" == lasting
    user.ok(*lasting.split())
    assert "42\n" == user.ok(tinyagent, *MULTIPLY).stdout
    assert "4\n" == user.ok(tinyagent, *CALL).stdout


def test_pipx_installs_tinyagent_and_injects_plugins(user: User) -> None:
    """After the commands of the README for pipx, `plugins install` and `uninstall` use pipx."""
    # pipx keeps pip in an environment of its own, and looks for a newer one once a month.
    [commands] = [block for block in blocks(README) if block.text.startswith("pipx install")]
    user.ok("/bin/sh", "-ec", commands.text)
    tinyagent = user.programs / "tinyagent"
    assert "42\n" == user.ok(tinyagent, *MULTIPLY).stdout
    done = user.ok(tinyagent, "plugins", "install", "tinyagent-weather", PIPX_HOME="/nowhere")
    assert "weather  tinyagent.tools  tinyagent-weather 0.1.0\n" == done.stdout
    assert "To make it last" not in done.stderr
    listed = user.ok(PIPX, "list", "--include-injected").stdout
    assert (True, True) == ("tinyagent-weather" in listed, "tinyagent-tools-calc" in listed)
    user.ok(tinyagent, "plugins", "uninstall", "weather", PIPX_HOME="/nowhere")
    listed = user.ok(PIPX, "list", "--include-injected").stdout
    assert (False, True) == ("tinyagent-weather" in listed, "tinyagent-tools-calc" in listed)


# ---- what goes wrong --------------------------------------------------------------------------------------


@pytest.fixture
def managed(workshop: Workshop) -> Iterator[Workshop]:
    """An environment that looks like a Python of the operating system (PEP 668)."""
    [site] = workshop.folder.glob("lib/python*/site-packages")
    marker = site.parent / "EXTERNALLY-MANAGED"
    marker.write_text("[externally-managed]\nError=Use apt install python3-xyz instead.\n")
    pretend = site / "sitecustomize.py"
    pretend.write_text("import sys\nsys.base_prefix = sys.prefix\n")
    yield workshop
    marker.unlink()
    pretend.unlink()


def test_in_a_python_of_the_operating_system(managed: Workshop) -> None:
    """The hint has the commands for three kinds of environments."""
    done = managed.tinyagent("plugins", "install", "sunny")
    assert ("", 1) == (done.stdout, done.returncode)
    error, *hint = done.stderr[done.stderr.index("Error: pip failed") :].splitlines()
    assert "pip failed on sunny: this Python is managed by the operating system (PEP 668)." in error
    assert ["pipx", "uv", "python3"] == [line.split()[0] for line in hint[1:]]
    assert all("tinyagent-core" in line and "sunny" in line for line in hint[1:])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of uninstallable wheels, a folder without a project, and a project that cannot be built."""
    folder = tmp_path_factory.mktemp("shelf")
    write_wheel(folder, "newer", headers="Requires-Python: >=3.99\n")
    write_wheel(folder, "lonely", headers="Requires-Dist: nowhere-to-be-found>=1\n")
    write_wheel(folder, "foreign", tag="cp39-cp39-win_amd64")
    write_wheel(folder, "picky", headers="Requires-Dist: tinyagent-core>=5\n")
    write_wheel(folder, "tinyagent-core", "9.0")
    write_wheel(folder, "left", headers="Requires-Dist: middle<2\n")
    write_wheel(folder, "right", headers="Requires-Dist: middle>=2\n")
    for version in ("1.0", "2.0"):
        write_wheel(folder, "middle", version)
    (folder / "no-index.toml").write_text("no-index = true\n")
    (folder / "empty").mkdir()
    (folder / "unbuildable").mkdir()
    (folder / "unbuildable" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "no_such_backend"\n'
        '[project]\nname = "x"\nversion = "1"\n'
    )
    return folder


FAILURES = [
    ("no-such-thing", "no distribution no-such-thing was found", "Check the spelling"),
    ("lonely", "no distribution nowhere-to-be-found", "Check the spelling"),
    ("newer", "does not support this Python (3.", "Install tinyagent with a Python"),
    ("picky", "it needs tinyagent-core", "Upgrade tinyagent first"),
    ("left right", "conflicts with other requirements", "name both sides"),
    ("./empty", "not a Python project or wheel", "pyproject.toml"),
    ("./gone", "no such file or folder", "Check the path"),
    ("./unbuildable", "its build failed", "Ask its author for a wheel"),
    ("./foreign-1.0-cp39-cp39-win_amd64.whl", "for another platform", "build it from its source"),
]


@pytest.mark.parametrize(("what", "reason", "hint"), FAILURES, ids=[row[0] for row in FAILURES])
@pytest.mark.parametrize("program", ["pip", "uv"])
def test_the_hint_fits_the_cause(
    workshop: Workshop, shelf: Path, index: Path, program: str, what: str, reason: str, hint: str
) -> None:
    """A failure gives exit code 1, its cause, and a hint."""
    done = _install(workshop, shelf, index, program, *what.split())
    assert ("", 1) == (done.stdout, done.returncode)
    assert f"Error: {program} failed on {', '.join(what.split())}: " in done.stderr
    told = done.stderr[done.stderr.index(f"Error: {program} failed") :]
    assert (True, True) == (reason in told, hint in told), done.stderr


@pytest.mark.parametrize("program", ["pip", "uv"])
def test_an_index_that_cannot_be_reached(workshop: Workshop, shelf: Path, index: Path, program: str) -> None:
    """A network failure is not reported as an unknown name."""
    dead = "http://127.0.0.1:9/simple"
    here = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": dead, "PIP_RETRIES": "1", "UV_HTTP_RETRIES": "0"}
    done = _install(
        workshop, shelf, index, program, "sunny", UV_CONFIG_FILE=os.devnull, UV_INDEX_URL=dead, **here
    )
    assert f"{program} failed on sunny: the package index cannot be reached." in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_environment_that_is_not_writable(workshop: Workshop, shelf: Path, index: Path) -> None:
    """The hint is to use a separate environment."""
    write_wheel(shelf, "tiny")
    [site] = workshop.folder.glob("lib/python*/site-packages")
    site.chmod(0o555)
    try:
        done = _install(workshop, shelf, index, "pip", "tiny")
    finally:
        site.chmod(0o755)
    assert "pip failed on tiny: the environment is not writable." in done.stderr


def _install(
    workshop: Workshop, shelf: Path, index: Path, program: str, *what: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `plugins install` in the folder of the shelf, with pip or uv."""
    config = workshop.folder / "pyvenv.cfg"
    before = config.read_text()
    if program == "uv":
        config.write_text(f"{before}uv = 0.9.0\n")
    try:
        return workshop.run(
            "tinyagent", "plugins", "install", *what,
            cwd=shelf, PATH=f"{UV.parent}{os.pathsep}/usr/bin:/bin", PIP_FIND_LINKS=str(shelf),
            UV_FIND_LINKS=f"{shelf},{index}", UV_CACHE_DIR=str(shelf / "uv-cache"),
            **{"UV_CONFIG_FILE": str(shelf / "no-index.toml"), "UV_PYTHON_DOWNLOADS": "never", **more},
        )  # fmt: skip
    finally:
        config.write_text(before)
