"""The workflows of a public CI: those that `plugins new` writes for authors of plugins, and our own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tinyagent_cli.plugins.scaffold import Project, write

from .conftest import ROOT, require_peer

pytestmark = [pytest.mark.peers, pytest.mark.slow]

PROGRAMS = ROOT / ".venv-peers-publishing" / "bin"
AS_JSON = """
import json, sys
from ruamel.yaml import YAML

print(json.dumps([YAML(typ="safe").load(open(name)) for name in sys.argv[1:]]))
"""


@pytest.fixture
def workflows(tmp_path: Path) -> Path:
    """The folder with the workflows of a new project."""
    write(tmp_path / "project", Project("rain", "tool"))
    return tmp_path / "project" / ".github" / "workflows"


def test_the_workflows_follow_their_schema(workflows: Path) -> None:
    """GitHub's workflow schema accepts them."""
    checker = require_peer(PROGRAMS / "check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.github-workflows", *workflows.iterdir()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def _jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the jobs of `test.yml` and of `release.yml`."""
    files = [folder / "test.yml", folder / "release.yml"]
    done = subprocess.run(
        [require_peer(PROGRAMS / "python"), "-c", AS_JSON, *files], capture_output=True, text=True, check=True
    )
    return [file["jobs"] for file in json.loads(done.stdout)]


def _check_rights(tests: dict[str, Any], release: dict[str, Any]) -> None:
    """Only `publish` has a right to write, actions are pinned, and no job keeps a token."""
    assert {"publish": {"id-token": "write"}} == {
        name: job["permissions"] for name, job in release.items() if "permissions" in job
    }
    steps = [step for job in (*tests.values(), *release.values()) for step in job.get("steps", ())]
    used = [step for step in steps if "uses" in step]
    assert [] == [step for step in used if not re.search(r"@(v\d+|release/v1)$", step["uses"])]
    checkouts = [step for step in used if step["uses"].startswith("actions/checkout")]
    assert {False} == {step["with"]["persist-credentials"] for step in checkouts}


def test_our_workflows_follow_their_schema() -> None:
    """GitHub's workflow schema accepts our own workflows, which say that they have not been run."""
    files = sorted((ROOT / ".github/workflows").iterdir())
    assert ["release.yml", "test.yml"] == [file.name for file in files]
    assert all(file.read_text("utf-8").startswith("# Not run yet: ") for file in files)
    checker = require_peer(PROGRAMS / "check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.github-workflows", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def test_what_our_workflows_do() -> None:
    """Every Python is tested, everything is built before it is published, and no job keeps a token."""
    tests, release = _jobs(ROOT / ".github/workflows")
    assert ".ci/run" in [step.get("run") for step in tests["all"]["steps"]]
    assert ["make docs", "git diff --exit-code"] == [
        step["run"] for step in tests["docs"]["steps"] if "run" in step
    ]
    matrix = tests["fast"]["strategy"]["matrix"]
    assert ["3.11", "3.12", "3.13", "3.14"] == matrix["python-version"]
    assert ["ubuntu-latest", "macos-latest"] == matrix["os"]
    assert {*release} - {"publish"} == {*release["publish"]["needs"]}
    _check_rights(tests, release)


def test_what_the_workflows_do(workflows: Path) -> None:
    """All Pythons are tested before a release, only its last job may publish, and no job keeps a token."""
    tests, release = _jobs(workflows)
    assert ["3.11", "3.12", "3.13", "3.14"] == tests["test"]["strategy"]["matrix"]["python-version"]
    assert "./.github/workflows/test.yml" == release["test"]["uses"]
    assert ["test", "build"] == release["publish"]["needs"]
    _check_rights(tests, release)


def test_the_tag_is_compared_with_the_version(workflows: Path) -> None:
    """The step of the release fails for a tag of another version."""
    require_peer(PROGRAMS / "python")
    [script] = re.findall(r"run: \|\n((?: {10}.*\n)+)", (workflows / "release.yml").read_text("utf-8"))
    for tag, code in (("v0.1.0", 0), ("v0.2.0", 1), ("0.1.0", 1)):
        environment = {"GITHUB_REF_NAME": tag, "PATH": f"{PROGRAMS}{os.pathsep}/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=workflows.parents[1], env=environment, check=False
        )
        assert code == done.returncode, tag


# ---- other files of this repository ------------------------------------------------

GITHUB = ROOT / ".github"


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-issue-forms", [GITHUB / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "idea.yml")]),
        ("github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("dependabot", [GITHUB / "dependabot.yml"]),
    ],
)
def test_our_files_follow_the_schemas_of_github(schema: str, files: list[Path]) -> None:
    """GitHub's schemas accept our issue forms and settings."""
    checker = require_peer(PROGRAMS / "check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", f"vendor.{schema}", *files], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def test_our_workflows_are_safe() -> None:
    """zizmor finds no injection, no stored credential and no permission that is too wide."""
    done = subprocess.run(
        [require_peer(PROGRAMS / "zizmor"), "--offline", "--quiet", "--min-severity", "medium", GITHUB],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def test_our_scripts_have_no_mistakes() -> None:
    """shellcheck accepts the scripts of the repository and the examples."""
    scripts = [*ROOT.glob("examples/*.sh"), ROOT / ".ci" / "run", *ROOT.glob("scripts/*")]
    shell = [path for path in sorted(scripts) if re.match(r"#!\S*(/| )(ba)?sh\n", _first_line(path))]
    assert len(shell) > 5
    done = subprocess.run(
        [require_peer(PROGRAMS / "shellcheck"), *shell], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def _first_line(path: Path) -> str:
    if path.is_dir():
        return ""
    with path.open(encoding="utf-8") as file:
        return file.readline()
