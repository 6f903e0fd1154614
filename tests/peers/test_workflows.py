"""What authors of plugins publish with: the workflows that `plugins new` writes are valid."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

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


def test_what_the_workflows_do(workflows: Path) -> None:
    """All Pythons are tested before a release, only its last job may publish, and actions are pinned."""
    files = [workflows / "test.yml", workflows / "release.yml"]
    done = subprocess.run(
        [require_peer(PROGRAMS / "python"), "-c", AS_JSON, *files], capture_output=True, text=True, check=True
    )
    tests, release = (file["jobs"] for file in json.loads(done.stdout))
    assert ["3.11", "3.12", "3.13", "3.14"] == tests["test"]["strategy"]["matrix"]["python-version"]
    assert "./.github/workflows/test.yml" == release["test"]["uses"]
    assert ["test", "build"] == release["publish"]["needs"]
    assert {"publish": {"id-token": "write"}} == {
        name: job["permissions"] for name, job in release.items() if "permissions" in job
    }
    used = [step["uses"] for job in (*tests.values(), *release.values()) for step in job.get("steps", ())
            if "uses" in step]  # fmt: skip
    assert [] == [action for action in used if not re.search(r"@(v\d+|release/v1)$", action)]


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
