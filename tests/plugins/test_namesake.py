"""The other project's distribution `tinyagent`, installed beside tinyagent-core by mistake.

Both provide the package `tinyagent`, so that the later one overwrites files of the earlier one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ._wheels import write_wheel
from .conftest import Workshop

RUN = ("run", "-m", "demo", "Hello")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of the other project, and of a plugin that wrongly depends on it."""
    folder = tmp_path_factory.mktemp("theirs")
    package = {f"tinyagent/{name}.py": "class TinyAgent: ...\n" for name in ("__init__", "agent", "code")}
    write_wheel(folder, "tinyagent", "9.9", files=package)
    entry = {"entry_points.txt": "[tinyagent.tools]\nmistaken = plugin_mistaken\n", "plugin_mistaken.py": ""}
    write_wheel(folder, "mistaken", headers="Requires-Dist: tinyagent\n", files=entry)
    return folder


@pytest.fixture
def shop(new_workshop: Callable[..., Workshop]) -> Workshop:
    """An environment with tinyagent-core, for one test."""
    return new_workshop()


def pip(shop: Workshop, theirs: Path, *arguments: str) -> None:
    """Run pip in the environment, with the wheels of both projects."""
    links = f"{theirs} {shop.wheels}"
    done = shop.run("python", "-m", "pip", *arguments, PIP_FIND_LINKS=links)
    assert 0 == done.returncode, done.stderr


def repair(shop: Workshop, stderr: str) -> subprocess.CompletedProcess[str]:
    """Run the command of the message."""
    command = stderr.partition("Repair it: ")[2].splitlines()[0]
    code = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)"
    return shop.run("python", "-S", "-c", code, command, PIP_FIND_LINKS=str(shop.wheels))


def test_theirs_over_ours(shop: Workshop, theirs: Path) -> None:
    """A failure names the cause and a command that repairs it."""
    pip(shop, theirs, "install", "-q", "tinyagent")
    for command in (("doctor",), RUN):
        done = shop.tinyagent(*command)
        printed = done.stdout + done.stderr
        assert 3 == done.returncode, printed
        assert "The distribution 'tinyagent' 9.9 is installed beside tinyagent-core." in printed
        assert "Traceback" not in printed
    assert 0 == shop.tinyagent("--version").returncode
    repaired = repair(shop, done.stderr)
    assert 0 == repaired.returncode, repaired.stdout + repaired.stderr
    done = shop.tinyagent(*RUN)
    assert (0, False) == (done.returncode, "Warning" in done.stderr)


def test_ours_over_theirs(shop: Workshop, theirs: Path) -> None:
    """Everything works; the first import warns once, and doctor reports a problem with the command."""
    pip(shop, theirs, "install", "-q", "tinyagent")
    pip(shop, theirs, "install", "-q", "--force-reinstall", "--no-deps", "tinyagent-core")
    done = shop.run("python", "-c", "import tinyagent, tinyagent.jsonl; print(tinyagent.Agent.__name__)")
    assert ("Agent\n", 1) == (done.stdout, done.stderr.count("RuntimeWarning")), done.stderr
    assert "pip uninstall tinyagent && pip install --force-reinstall --no-deps tinyagent-core" in done.stderr
    assert 0 == shop.tinyagent(*RUN).returncode
    done = shop.tinyagent("doctor", "--offline")
    assert 3 == done.returncode
    assert "!!  installation   package tinyagent: The distribution 'tinyagent' 9.9 is" in done.stdout
    assert 0 == repair(shop, done.stdout).returncode
    assert 0 == shop.tinyagent("doctor", "--offline").returncode


def test_theirs_was_uninstalled(shop: Workshop, theirs: Path) -> None:
    """The message names a file that was removed, and the command restores all of them."""
    pip(shop, theirs, "install", "-q", "tinyagent")
    pip(shop, theirs, "uninstall", "-q", "-y", "tinyagent")
    done = shop.tinyagent(*RUN)
    assert ("", 3) == (done.stdout, done.returncode)
    assert "Error: Files of tinyagent-core are missing, such as tinyagent/" in done.stderr
    assert 0 == repair(shop, done.stderr).returncode
    assert 0 == shop.tinyagent(*RUN).returncode


def test_a_plugin_that_depends_on_theirs(shop: Workshop, theirs: Path) -> None:
    """`plugins install` reports that it has installed the other project."""
    done = shop.tinyagent("plugins", "install", "mistaken", PIP_FIND_LINKS=str(theirs))
    assert ("", 3) == (done.stdout, done.returncode)
    assert "The distribution 'tinyagent' 9.9 is installed beside tinyagent-core." in done.stderr


def test_a_dependency_of_ours_is_missing(shop: Workshop) -> None:
    """A missing dependency gives no traceback, and the hint installs it."""
    [site] = shop.folder.glob("lib/python*/site-packages")
    (site / "msgspec").unlink()
    done = shop.tinyagent(*RUN)
    assert 3 == done.returncode
    assert "No module named 'msgspec'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install --force-reinstall tinyagent-core" in done.stderr
