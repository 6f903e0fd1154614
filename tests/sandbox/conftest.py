"""A world to attack: a home with keys and start-up files, a project with repositories, and an outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tinyagent import sandbox
from tinyagent._sandbox import bubblewrap, launcher, places
from tinyagent.sandbox import Policy, Sandbox

CANARY = "sk-test-CANARY-0123456789"
"""The secret that no attack may print."""

ESCAPED = "ESCAPED"
"""What an attack prints if it succeeds."""

USERS = ["ordinary", "root"] if os.geteuid() == 0 else ["ordinary"]
NOBODY = 65534
LIMIT_S = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder outside Linux."""
    if sys.platform != "linux":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="there is a sandbox only on Linux"))


@dataclass
class Ended:
    """How a script ended: its exit code, and its output with standard error."""

    code: int
    output: str


class World:
    """Folders of one user, and programs that this user runs in and outside of a sandbox.

    Attributes:
        uid: The user.
        python: A Python that the user can run.
        services: Sockets that are as old as those of services, but only while a sandbox is prepared. At other
            times, tests in other processes do not hide them, which fails if a socket is removed meanwhile.
    """

    def __init__(self, base: Path, uid: int, python: str, repositories: Path) -> None:
        self.base, self.uid, self.python = base, uid, python
        self.home, self.project, self.outside = base / "home", base / "project", base / "outside"
        self.temporary = base / "temporary"
        self._fill(repositories)
        self._made: list[Sandbox] = []
        self.services: list[Path] = []

    def _fill(self, repositories: Path) -> None:
        for folder in (self.home, self.outside, self.temporary):
            folder.mkdir()
        shutil.copytree(repositories, self.project)
        (self.project / "apart/.git").write_text(f"gitdir: {self.project}/apart-data\n")
        files = {
            "home/.ssh/id_test": CANARY,
            "home/.config/tinyagent/keys.toml": f'demo = "{CANARY}"\n',
            "home/.netrc": f"machine example.test password {CANARY}\n",
            "home/.profile": "# profile\n",
            "home/notes.txt": "notes\n",
            "outside/file": "outside\n",
            "project/dotfiles/bashrc": "# bashrc\n",
            "project/work/notes.txt": "work\n",
            "project/main.py": "print('main')\n",
            "project/sub/inner/code.py": "pass\n",
        }
        for name, text in files.items():
            path = self.base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.home / ".bashrc").symlink_to(self.project / "dotfiles/bashrc")
        self.give()

    def give(self) -> None:
        """Make the user the owner of everything."""
        if os.geteuid() == 0:
            for path in (self.base, *self.base.rglob("*")):
                os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def state(self) -> dict[str, str]:
        """Return the content of everything that no program in the project may change."""
        data = (".git", "sub/inner/.git", "layout/.bare", "apart-data", "mirror.git")
        roots = [self.home, self.outside, *(self.project / name for name in data)]
        files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
        kept = [*files, self.project / "dotfiles/bashrc"]
        return {str(path): path.read_text(errors="replace") for path in kept if path.exists()}

    def environment(self) -> dict[str, str]:
        """Return the variables of the scripts."""
        return {
            **{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"},
            **{"PYTHON": self.python, "PYTHONWARNINGS": "ignore", "OUTSIDE": str(self.outside)},
            **{"PROJECT": str(self.project)},
        }

    def run(self, mechanism: str, script: str, policy: Policy | None = None, **variables: str) -> Ended:
        """Run a script of bash in the project, as the user."""
        environment = self.environment() | variables
        made = self.sandbox(mechanism)
        policy = policy or Policy(writable=[self.project], environment=environment)
        for path in self.services:
            os.utime(path, (0, 0))
        with made.launch(["/bin/bash", "-c", script], policy, cwd=self.project) as launch:
            for path in self.services:
                os.utime(path)
            self.give()
            ended = subprocess.run(
                launch.command,
                env=launch.environment,
                pass_fds=launch.descriptors,
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
                start_new_session=True,
                check=False,
                **self.identity(),
            )
        return Ended(ended.returncode, ended.stdout.decode(errors="replace"))

    def identity(self) -> dict[str, object]:
        """Return the arguments of `subprocess` that start a program as the user."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.uid, "extra_groups": []}

    def sandbox(self, mechanism: str) -> Sandbox:
        """Return a sandbox as this user would get it."""
        if mechanism == "bubblewrap":
            made = Sandbox("bubblewrap", "", (_bwrap(), *bubblewrap.user_namespaces(self.uid)[0]))
        else:
            made = Sandbox("landlock" if mechanism == "landlock" else "none")
        self._made.append(made)  # its private folder lives as long
        return made


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        _missing("bubblewrap is not installed")
    return str(found)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must test the sandbox")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Git repositories of each kind, which is the beginning of each project."""
    project = tmp_path_factory.mktemp("repositories") / "project"
    project.mkdir()
    for options in (
        ["-b", "main", "."],
        ["-b", "main", "sub/inner"],
        ["--bare", "layout/.bare"],
        ["--bare", "mirror.git"],
        ["--separate-git-dir=apart-data", "apart"],
    ):
        subprocess.run(["git", "init", "-q", *options], cwd=project, check=True)
    (project / "layout/.git").write_text("gitdir: ./.bare\n")
    for sample in project.rglob("*.sample"):
        sample.unlink()
    return project


@pytest.fixture(scope="session")
def find_python() -> Callable[[int], str]:
    """Return a function that finds a Python that a user can run."""
    candidates = (sys.executable, *(f"{place}/python3" for place in ("/usr/local/bin", "/usr/bin")))

    @cache
    def find(uid: int) -> str:
        who = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
        for program in candidates:
            script = f"import ctypes, socket, sys; open({launcher.__file__!r}).close()"
            try:
                ended = subprocess.run([program, "-c", script], capture_output=True, check=False, **who)
            except OSError:
                continue
            if ended.returncode == 0:
                return program
        _missing("there is no Python that an ordinary user can run")
        raise AssertionError

    return find


@pytest.fixture(params=USERS)
def world(
    request: pytest.FixtureRequest,
    find_python: Callable[[int], str],
    repositories: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Return a world of an ordinary user; and one of root, if root runs the tests."""
    uid = os.geteuid() if os.geteuid() else {"ordinary": NOBODY, "root": 0}[request.param]
    # Not in /tmp, which is another folder in the sandbox.
    base = Path(tempfile.mkdtemp(prefix="tinyagent-world-", dir="/var/tmp")).resolve()
    base.chmod(0o755)
    python = find_python(uid)
    try:
        made = World(base, uid, python, repositories)
        monkeypatch.setenv("HOME", str(made.home))
        monkeypatch.setattr(places, "account_home", lambda: str(made.home))
        monkeypatch.delenv("TINYAGENT_HOME", raising=False)
        monkeypatch.setattr(sandbox.sys, "executable", python)
        monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
        # The sockets of other tests vanish at any time, and what cannot be hidden cannot be started.
        monkeypatch.setattr(
            bubblewrap,
            "sockets",
            lambda: [path for path in places.sockets() if path.startswith(f"{base}/")],
        )
        yield made
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(params=["bubblewrap", "landlock"])
def mechanism(request: pytest.FixtureRequest) -> str:
    """Return the name of a mechanism that works here."""
    name = str(request.param)
    if name == "bubblewrap":
        _bwrap()
    elif launcher.landlock_version() < 1:
        _missing("this kernel has no Landlock")
    return name
