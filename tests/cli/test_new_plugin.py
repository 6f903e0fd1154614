"""`plugins new` creates working projects of every kind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tinyagent_cli.commands.new_plugin import command as new_command
from tinyagent_cli.plugins.discovery import GROUPS
from tinyagent_cli.plugins.scaffold import KINDS, LICENSES, Project, write

from .conftest import ROOT, Cli

USES = {
    "tool": (["tools", "call", "a-tool", "text=one two"], "2\n", 0),
    "provider": (["run", "-m", "a-provider/any", "hello"], "You wrote: hello\n", 0),
    "command": (["a-command", "Ada"], "Hello, Ada!\n", 0),
    "input": (["run", "-q", "-m", "demo", "-p", "a-input/explain", "-P", "topic=tea"], None, 0),
    "hook": (["tools", "call", "./opener.py", "path=app/.env"], "", 1),
    "executor": (
        [
            "batch",
            "--lines",
            "prompts.txt",
            "-o",
            "answers.jsonl",
            "-q",
            "-m",
            "demo",
            "--executor",
            "a-executor",
            "--executor-option",
            "pause=0.01",
        ],
        None,
        0,
    ),
    "sink": (["run", "-q", "-m", "demo", "-t", "./opener.py", "opener path='x'"], None, 0),
}
OPENER = """
from tinyagent import tool

@tool(read_only=True)
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
    """A tool answers, a provider replies, a command runs, a hook refuses, and a sink writes a line."""
    done = cli("plugins", "new", f"a-{kind}", "--kind", kind)
    project = cli.work / f"tinyagent-a-{kind}"
    written = {str(path.relative_to(cli.work)) for path in project.rglob("*") if path.is_file()}
    assert (0, written) == (done.code, set(done.out.split()))
    assert [] == [path for path in written if "@" in (cli.work / path).read_text().replace("@v", "")
                  and re.search(r"@[A-Z]+@", (cli.work / path).read_text())]  # fmt: skip
    installed(cli, project)
    cli.file("opener.py", OPENER)
    cli.file("prompts.txt", "Hello\nHow are you?\n")
    command, output, code = USES[kind]
    used = cli(*command, TINYAGENT_A_SINK_FILE="runs.jsonl")
    assert code == used.code, used.err
    assert output in (used.out, None)
    assert "  ok\n" in cli("plugins", "list", "--check", TINYAGENT_PLUGINS=f"a-{kind}").out
    if kind == "executor":
        assert 2 == len((cli.work / "answers.jsonl").read_text().splitlines())
    if kind == "sink":
        assert 1 == json.loads((cli.work / "runs.jsonl").read_text())["tool_calls"]


def test_every_group_and_every_choice_is_there() -> None:
    """There is a kind for each group of entry points, and the command offers all kinds and licenses."""
    assert set(GROUPS) == {kind.group for kind in KINDS.values()}
    choices = {option.name: option.type for option in new_command.params}
    for name, expected in (("kind", KINDS), ("license_name", LICENSES)):
        offered = choices[name]
        assert isinstance(offered, click.Choice)
        assert list(expected) == list(offered.choices)
    assert [] == [kind for kind in KINDS if f"  {kind} " not in (new_command.help or "")]


@pytest.mark.parametrize("name", LICENSES)
def test_the_license_is_the_chosen_one(cli: Cli, name: str) -> None:
    """The metadata names the license, and its text the holder; `none` writes neither."""
    author = 'Zoë "Z" \\ Ω'
    done = cli("plugins", "new", "rain", "--license", name, "--author", f" {author} ")
    assert 0 == done.code
    project = cli.work / "tinyagent-rain"
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert [{"name": author}] == table["authors"]
    if name == "none":
        assert (None, False) == (table.get("license"), (project / "LICENSE").exists())
        return
    assert (name, ["LICENSE"]) == (table["license"], table["license-files"])
    text = (project / "LICENSE").read_text("utf-8")
    assert (author in text) == (name != "Apache-2.0")  # its text has no place for a name
    assert f"License: {name}." in (project / "README.md").read_text("utf-8")


def test_the_author_is_that_of_git(cli: Cli) -> None:
    """The default is the user.name of git; without one it is the authors of the plugin."""
    config = cli.file("gitconfig", "[user]\nname = Ada Lovelace\n")
    for name, place in (("Ada Lovelace", str(config)), ("the authors of tinyagent-rain", "/dev/null")):
        folder = f"by-{name.split()[0]}"
        done = cli(
            "plugins", "new", "rain", "--folder", folder, GIT_CONFIG_GLOBAL=place, GIT_CONFIG_SYSTEM=place
        )
        assert 0 == done.code
        assert f"{name}\n" in (cli.work / folder / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("author", ["", " ", "a\nb", "\x1b[31m", "x" * 201])
def test_an_author_is_a_name(cli: Cli, author: str) -> None:
    """Anything else is a usage error, and nothing is written."""
    done = cli("plugins", "new", "rain", "--author", author)
    assert (2, "", False) == (done.code, done.out, (cli.work / "tinyagent-rain").exists())
    assert "cannot be the author" in done.err


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of each kind, in the folders `short` and `long`, for the lengths of their names."""
    folder = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        write(folder / "short" / kind, Project(f"a-{kind}", kind))
        write(folder / "long" / kind, Project(f"a-{kind}-with-a-name-of-40-characters-in-all"[:40], kind))
    return folder


def test_the_tests_pass(projects: Path) -> None:
    """The tests of every kind pass with tinyagent and pytest alone."""
    sources = " ".join(str(projects / "short" / kind / "src") for kind in KINDS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio",
         "-o", f"pythonpath={sources}", "-W", "error", *KINDS],
        capture_output=True, text=True, check=False, cwd=projects / "short",
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 37  # the contracts may get more tests
    assert "failed" not in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_passes_the_linters(projects: Path, kind: str) -> None:
    """The linters that the README names accept the project, with a name of any length."""
    [line] = re.findall(
        r"^ruff check .*$", (projects / "short" / kind / "README.md").read_text(), re.MULTILINE
    )
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(projects),
        "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "of-templates"),
        "RUFF_NO_CACHE": "true",
    }
    for length, command in (("short", line), ("long", line.partition(" && mypy")[0])):
        done = subprocess.run(
            command, shell=True, env=environment, cwd=projects / length / kind,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert 0 == done.returncode, done.stdout + done.stderr
