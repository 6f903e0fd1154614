"""`plugins install` and `uninstall` run the right commands and keep the version of tinyagent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ._wheels import write_wheel
from .conftest import Workshop

SOURCE = """
from tinyagent import hookimpl, tool

@tool(read_only=True)
def {name}() -> str:
    "Say it."
    return "{name}"

@hookimpl
def tinyagent_register_tools(register):
    register({name})
"""


def plugin(
    folder: Path, name: str, version: str = "1.0", needs: str = "tinyagent-core", source: str = SOURCE
) -> Path:
    """Write the wheel of a plugin with one tool."""
    module = f"plugin_{name}"
    files = {
        "entry_points.txt": f"[tinyagent.tools]\n{name} = {module}\n",
        f"{module}.py": source.format(name=name),
    }
    return write_wheel(folder, name, version, headers=f"Requires-Dist: {needs}\n", files=files)


@pytest.fixture
def index(tmp_path: Path, workshop: Workshop) -> Iterator[dict[str, str]]:
    """A folder for pip with newer and older versions of tinyagent-core."""
    for other in ("0.0.1", "9.0"):
        write_wheel(tmp_path, "tinyagent-core", other)
    yield {"PIP_FIND_LINKS": str(tmp_path)}
    [site] = workshop.folder.glob("lib/python*/site-packages")
    for name in ("sunny", "other", "plain"):  # pip would take longer than the tests
        (site / f"plugin_{name}.py").unlink(missing_ok=True)
        for info in site.glob(f"{name}-*.dist-info"):
            shutil.rmtree(info)


def version(workshop: Workshop) -> str:
    """Return the version of the installed tinyagent."""
    code = "from importlib.metadata import version; print(version('tinyagent-core'))"
    return workshop.run("python", "-c", code).stdout.strip()


def test_install_by_name_shows_the_new_plugins(
    workshop: Workshop, tmp_path: Path, index: dict[str, str]
) -> None:
    """The command and the new plugins are shown; --upgrade upgrades the plugin only."""
    plugin(tmp_path, "sunny")
    ours = version(workshop)
    done = workshop.tinyagent("plugins", "install", "sunny", **index)
    assert ("sunny  tinyagent.tools  sunny 1.0\n", 0) == (done.stdout, done.returncode), done.stderr
    assert "Running: " in done.stderr
    assert "-m pip" in done.stderr
    again = workshop.tinyagent("plugins", "install", "sunny", **index)
    assert ("", 0) == (again.stdout, again.returncode)
    assert "No new plugins" in again.stderr
    plugin(tmp_path, "sunny", "2.0")
    done = workshop.tinyagent("plugins", "install", "--upgrade", "--json", "sunny", **index)
    found = json.loads(done.stdout)
    assert ({"sunny": "2.0"}, "2.0", "1.0") == (
        found["distributions"], found["gained"][0]["version"], found["lost"][0]["version"],
    )  # fmt: skip
    assert ours == version(workshop)


@pytest.mark.parametrize("needs", ["tinyagent-core>=5", "tinyagent-core<0.1"])
def test_a_plugin_that_needs_another_tinyagent(
    workshop: Workshop, tmp_path: Path, index: dict[str, str], needs: str
) -> None:
    """A plugin that needs another version of tinyagent is refused, and the version stays."""
    plugin(tmp_path, "picky", needs=needs)
    ours = version(workshop)
    done = workshop.tinyagent("plugins", "install", "picky", **index)
    assert ("", 1) == (done.stdout, done.returncode)
    assert ours == version(workshop)


def test_other_packages_give_a_warning(workshop: Workshop, tmp_path: Path, index: dict[str, str]) -> None:
    """A distribution without our entry points gives a warning, and cannot be uninstalled here."""
    write_wheel(tmp_path, "plain")
    done = workshop.tinyagent("plugins", "install", "plain", **index)
    assert ("", 0) == (done.stdout, done.returncode)
    assert "plain is not a plugin" in done.stderr
    done = workshop.tinyagent("plugins", "uninstall", "plain")
    assert ("", 3) == (done.stdout, done.returncode)
    assert "'plain' is installed, but not a plugin of tinyagent" in done.stderr


def test_rivals_and_guards_are_pointed_out(workshop: Workshop, tmp_path: Path, index: dict[str, str]) -> None:
    """A note reports a name that is taken, and a plugin that is loaded for every run."""
    plugin(tmp_path, "sunny")
    entries = "[tinyagent.tools]\nsunny = plugin_other\n[tinyagent.hooks]\nw = plugin_other\n"
    write_wheel(tmp_path, "other", files={"entry_points.txt": entries, "plugin_other.py": ""})
    assert 0 == workshop.tinyagent("plugins", "install", "sunny", **index).returncode
    done = workshop.tinyagent("plugins", "install", "other", **index)
    assert 0 == done.returncode, done.stderr
    assert '[plugins] prefer = {sunny = "other"}' in done.stderr
    assert "is loaded for every run from now on" in done.stderr
    done = workshop.tinyagent("plugins", "uninstall", "sunny", "--dry-run")
    assert 0 == done.returncode, done.stderr  # a distribution's own name comes first


# ---- where we are installed -------------------------------------------------------------------------------


@pytest.fixture
def uv(tmp_path: Path) -> dict[str, str]:
    """A `uv` that records its arguments."""
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "uv was called: $*" >&2\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def placed(workshop: Workshop, name: str, text: str) -> Iterator[Path]:
    """Create a file in the environment for one test."""
    path = workshop.folder / name
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + text)
    yield path
    if before is None:
        path.unlink()
    else:
        path.write_text(before)


def test_in_an_environment_of_pipx_without_pipx(
    workshop: Workshop, tmp_path: Path, index: dict[str, str]
) -> None:
    """pip installs, and the note has the command that keeps the plugin across upgrades."""
    plugin(tmp_path, "sunny")
    for _ in placed(workshop, "pipx_metadata.json", "{}"):
        path = str(workshop.folder / "bin")  # without pipx
        done = workshop.tinyagent("plugins", "install", "sunny", PATH=path, **index)
    assert 0 == done.returncode, done.stderr
    assert f"To make it last: pipx inject {workshop.folder.name} sunny" in done.stderr


RECEIPT = """
[tool]
requirements = [
    { name = "tinyagent-core", specifier = ">=0.1" },
    { name = "dice", specifier = ">=1" },
    { name = "web", git = "https://127.0.0.1/web" },
]
"""


def test_in_a_uv_tool_environment(workshop: Workshop, uv: dict[str, str]) -> None:
    """uv installs, and the note has the command with all earlier requirements."""
    for _ in placed(workshop, "uv-receipt.toml", RECEIPT):
        done = workshop.tinyagent("plugins", "install", "sunny", **uv)
    assert 0 == done.returncode, done.stderr
    assert f"uv was called: pip install --python {workshop.folder}/bin/python tinyagent-core==" in done.stderr
    lasting = (
        "uv tool install --with 'dice>=1' --with git+https://127.0.0.1/web --with sunny 'tinyagent-core>=0.1'"
    )
    assert f"To make it last: {lasting}" in done.stderr


def test_in_an_environment_that_uv_made(workshop: Workshop, uv: dict[str, str]) -> None:
    """uv installs and uninstalls, or pip if there is no uv."""
    for _ in placed(workshop, "pyvenv.cfg", "uv = 0.9.0\n"):
        done = workshop.tinyagent("plugins", "install", "--dry-run", "sunny", **uv)
        assert "Running: " + uv["PATH"].split(":")[0] + "/uv pip install" in done.stderr
        done = workshop.tinyagent("plugins", "install", "--dry-run", "sunny", PATH="/usr/bin:/bin")
        assert "-m pip" in done.stderr


def test_a_broken_plugin_is_reinstalled_from_its_source(
    workshop: Workshop, tmp_path: Path, index: dict[str, str]
) -> None:
    """The hint has the wheel that the plugin was installed from, and its command works."""
    made = plugin(tmp_path, "sunny", source=f"import plugin_plain\n{SOURCE}")
    assert 0 == workshop.tinyagent("plugins", "install", made).returncode
    done = workshop.tinyagent("tools", "call", "sunny")
    assert ("", 3) == (done.stdout, done.returncode)
    assert "it needs the module 'plugin_plain', which is not installed" in done.stderr
    command = done.stderr.partition("its dependencies: tinyagent ")[2].split()
    assert ["plugins", "install", "--upgrade", str(made)] == command
    assert 0 == workshop.tinyagent(*command).returncode


def test_without_an_installer(workshop: Workshop, tmp_path: Path) -> None:
    """The hint shows how to install pip."""
    [pip] = workshop.folder.glob("lib/python*/site-packages/pip")
    hidden = pip.rename(tmp_path / "pip")
    done = workshop.tinyagent("plugins", "install", "sunny", PATH="/nowhere")
    for _ in placed(workshop, "uv-receipt.toml", RECEIPT):
        by_uv = workshop.tinyagent("plugins", "install", "sunny", PATH="/nowhere")
    hidden.rename(pip)
    assert ("", 3) == (done.stdout, done.returncode)
    assert "-m ensurepip" in done.stderr
    assert ("", 3) == (by_uv.stdout, by_uv.returncode)
    assert "put uv on the PATH" in by_uv.stderr
