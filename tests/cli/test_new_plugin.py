"""`plugins new` creates working projects of every kind."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tinyagent_cli.plugins import scaffold as plugin_templates
from tinyagent_cli.plugins.scaffold import KINDS

from .conftest import ROOT, Cli

USES = {
    "tool": (["tools", "call", "a-tool", "text=one two"], "2\n", 0),
    "provider": (["run", "-m", "a-provider/any", "hello"], "You wrote: hello\n", 0),
    "command": (["a-command", "Ada"], "Hello, Ada!\n", 0),
    "hook": (["tools", "call", "./opener.py", "path=app/.env"], "", 1),
}
OPENER = """
from tinyagent import tool

@tool
def opener(path: str) -> str:
    "Open it."
    return "opened"
"""


def installed(cli: Cli, project: Path) -> None:
    """Put a project on the path, with the metadata of its wheel."""
    project_table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = project / "src" / f"{project_table['name'].replace('-', '_')}-{project_table['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project_table['name']}\nVersion: {project_table['version']}\n")
    [(group, entries)] = project_table["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    cli.path.append(str(project / "src"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_does_what_it_says(cli: Cli, kind: str) -> None:
    """The tool answers, the provider replies, the command runs, and the policy refuses."""
    done = cli("plugins", "new", f"a-{kind}", "--kind", kind)
    project = cli.work / f"tinyagent-a-{kind}"
    written = {str(path.relative_to(cli.work)) for path in project.rglob("*") if path.is_file()}
    assert (0, written) == (done.code, set(done.out.split()))
    installed(cli, project)
    cli.file("opener.py", OPENER)
    command, output, code = USES[kind]
    assert (code, output) == cli(*command)[:2]
    assert "  ok\n" in cli("plugins", "list", "--check", TINYAGENT_PLUGINS=f"a-{kind}").out


def test_the_tests_pass(tmp_path: Path) -> None:
    """The tests of every kind pass with tinyagent and pytest alone."""
    for kind in KINDS:
        plugin_templates.write(tmp_path / kind, f"a-{kind}", kind)
    sources = " ".join(str(tmp_path / kind / "src") for kind in KINDS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio",
         "-o", f"pythonpath={sources}", "-W", "error", *KINDS],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "11 passed" in done.stdout


def test_the_project_passes_the_linters(tmp_path: Path) -> None:
    """Each project is formatted, sorted, documented and strictly typed."""
    for kind in KINDS:
        plugin_templates.write(tmp_path / kind, f"a-{kind}", kind)
    config = tmp_path / "ruff.toml"
    config.write_text(
        'line-length = 110\nsrc = ["*/src"]\n[lint]\nselect = ["E", "F", "W", "I", "B", "UP", "SIM", "D1"]\n'
    )
    sources = [str(path) for path in tmp_path.glob("*/src")]
    for command in (
        ["ruff", "check", "--no-cache", "--config", config, tmp_path],
        ["ruff", "format", "--no-cache", "--check", "--config", config, tmp_path],
        [
            "mypy",
            "--strict",
            "--config-file",
            "",
            "--cache-dir",
            ROOT / ".mypy_cache" / "of-templates",
            *sources,
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert 0 == done.returncode, done.stdout + done.stderr
