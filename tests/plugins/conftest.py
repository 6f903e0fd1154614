"""Environments in which a plugin is installed as a user installs it: by pip, from a wheel, into a venv.

The dependencies of `tinyagent` (and nothing else) are linked in from the environment of the tests, with
their metadata, so that pip resolves everything without an index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tinyagent_cli.plugins import scaffold

from ._wheels import repack, write_wheel

ROOT = Path(__file__).resolve().parent.parent.parent
SETUP_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of each environment more time, because it builds the environment."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SETUP_SECONDS))
            item.add_marker(pytest.mark.slow)


def clean_environment(**more: str) -> dict[str, str]:
    """Return a minimal environment for a program."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # "0" is pip's way of saying that nothing is compiled: each environment uses few of its modules.
    return {**kept, "PIP_NO_COMPILE": "0", **more}


def run_clean(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a minimal environment."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


_BUILD = """
import os, sys
from hatchling.build import build_wheel

for source in sys.argv[2:]:
    os.chdir(source)
    build_wheel(sys.argv[1])
"""


def _build_wheels(folder: Path, *sources: Path) -> None:
    """Build wheels in one process. pip, which takes five times as long, builds one in test_guide.py."""
    done = run_clean(sys.executable, "-c", _BUILD, folder, *sources, cwd=folder)
    assert 0 == done.returncode, done.stdout + done.stderr


def with_dependencies(names: Iterable[str]) -> set[str]:
    """Return these distributions and all their dependencies."""
    found: set[str] = set()
    pending = [canonicalize_name(name) for name in names]
    while pending:
        if (name := pending.pop()) not in found:
            found.add(name)
            wanted = [Requirement(line) for line in metadata.requires(name) or []]
            pending += [
                canonicalize_name(entry.name)
                for entry in wanted
                if entry.marker is None or entry.marker.evaluate({"extra": ""})
            ]
    return found


@dataclass(frozen=True)
class Environment:
    """A virtual environment with `tinyagent`."""

    folder: Path
    home: Path
    wheels: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    def install(self, *wanted: str | Path) -> None:
        """Install with the wheels of the tests. The dependencies are linked, which uv does not see."""
        uv = Path(sys.executable).with_name("uv")  # takes a tenth of the time of pip
        options = (
            "--quiet",
            "--offline",
            "--no-config",
            "--no-index",
            "--no-deps",
            f"--find-links={self.wheels}",
        )
        done = run_clean(uv, "pip", "install", "--python", self.python, *options, *wanted, cwd=self.home)
        assert 0 == done.returncode, done.stderr

    def link(self, names: Iterable[str]) -> None:
        """Link installed distributions and their dependencies into the environment."""
        [site] = self.folder.glob("lib/python*/site-packages")
        for name in with_dependencies(names):
            distribution = metadata.distribution(name)
            tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
            for top in tops:
                if not (site / top).exists():
                    (site / top).symlink_to(Path(str(distribution.locate_file(top))))

    def variables(self) -> dict[str, str]:
        """Return the variables of a shell in the environment, without a key."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**clean_environment(), "PATH": path}

    def run(
        self, *command: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the environment, with an empty TINYAGENT_HOME and no key."""
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd or self.home,
            env=clean_environment(TINYAGENT_HOME=str(self.home / "tinyagent"), **environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def tinyagent(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the installed `tinyagent`."""
        return self.run("tinyagent", *arguments, **environment)


def _shared(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """Return a folder that the first worker of the session fills, and all others use."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            fill(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of tinyagent, of one of its own plugins, and of an example of another author's plugin."""
    sources = [ROOT, ROOT / "plugins" / "tinyagent-tools-calc", ROOT / "examples" / "tinyagent-dice"]

    def build(folder: Path) -> None:
        _build_wheels(folder, *sources)

    return _shared(tmp_path_factory, "wheels", build)


@pytest.fixture(scope="session")
def index(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that serves as an index: our wheels, a plugin from the template, and all dependencies."""
    return _shared(tmp_path_factory, "index", lambda folder: _fill_index(folder, wheels, tmp_path_factory))


def _fill_index(folder: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for wheel in wheels.glob("*.whl"):
        shutil.copy(wheel, folder)
    project = tmp_path_factory.mktemp("weather") / "tinyagent-weather"
    scaffold.write(project, scaffold.Project("weather", "tool"))
    _build_wheels(folder, project)
    for name in with_dependencies(["tinyagent-core"]) - {"tinyagent-core"}:
        repack(folder, name)


@pytest.fixture(scope="session")
def new_environment(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Make an environment and install wheels of the tests, or paths, with pip."""

    def make(*wanted: str | Path) -> Environment:
        base = tmp_path_factory.mktemp("environment")
        made = Environment(folder=base / "venv", home=base / "home", wheels=wheels)
        made.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.folder], check=True)
        runtime = [Requirement(line) for line in metadata.requires("tinyagent-core") or []]
        made.link(entry.name for entry in runtime if entry.marker is None)
        made.install("tinyagent-core", *wanted)
        return made

    return make


@pytest.fixture(scope="session")
def build_plugin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build the wheel of a one-module plugin from its source text."""

    def build(
        name: str,
        source: str,
        *,
        group: str = "tinyagent.tools",
        version: str = "0.3.1",
        needs: str = "tinyagent-core>=0.1",
        entry: str | None = None,
    ) -> Path:
        module = f"tinyagent_{name}"
        return write_wheel(
            tmp_path_factory.mktemp(name), f"tinyagent-{name}", version,
            headers=f"Requires-Dist: {needs}\n",
            files={"entry_points.txt": f"[{group}]\n{entry or name} = {module}\n", f"{module}.py": source},
        )  # fmt: skip

    return build


_OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_BUILD_ISOLATION": "false",  # pip's way of saying that there is none
    "PIP_NO_INDEX": "1",
}


@dataclass(frozen=True)
class Workshop(Environment):
    """An environment for authors of plugins, with pip, pytest and hatchling, and without an index."""

    def variables(self) -> dict[str, str]:
        """Return the variables of a shell in the environment."""
        return {**super().variables(), **_OFFLINE}

    def run(
        self, *command: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the environment."""
        return super().run(*command, cwd=cwd, **{**_OFFLINE, **environment})


@pytest.fixture(scope="session")
def new_workshop(new_environment: Callable[..., Environment]) -> Callable[..., Workshop]:
    """Make a workshop."""

    def make(*wanted: str | Path) -> Workshop:
        made = new_environment(*wanted)
        made.link(["pip", "pytest", "hatchling", "editables"])
        return Workshop(made.folder, made.home, made.wheels)

    return make


@pytest.fixture(scope="session")
def workshop(new_workshop: Callable[..., Workshop]) -> Workshop:
    """A workshop for all tests that do not change it."""
    return new_workshop()
