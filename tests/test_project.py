"""Rules for the files of the project."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import tinyagent
from tinyagent_cli.plugins.own_plugins import own_plugins

ROOT = Path(__file__).resolve().parent.parent
PINS = [
    "constraints.txt",
    *("tests/browser-constraints.txt", "tests/peers/constraints.txt", "tests/peers/llamacpp-constraints.txt"),
    *("tests/peers/generators/constraints.txt", "tests/peers/publishing-constraints.txt"),
    *(f"plugins/tinyagent-{name}/tests/constraints.txt" for name in ("llm", "mcp", "ray")),
    *("docs/site/constraints.txt", "scripts/release-constraints.txt"),
]


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_everything_of_ours_depends_on_our_distribution() -> None:
    """Plugins, the example and the binding depend on `tinyagent-core`, not on `tinyagent`."""
    wrong = {}
    for path in [ROOT / "pyproject.toml", *ROOT.glob("[bep]*/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        names = {_canonical(re.split(r"[^\w.-]", entry)[0]) for entry in project["dependencies"]}
        if "tinyagent" in {*names, project["name"]} or "tinyagent-core" not in {*names, project["name"]}:
            wrong[path.parent.name] = names
    assert {} == wrong


@pytest.mark.parametrize("name", PINS)
def test_constraints_hold_names_and_versions_only(name: str) -> None:
    """Constraint files have no index URLs and no paths."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [] == [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.!+]+", line)]


def test_pinned_versions_fit_the_oldest_python() -> None:
    """Each pinned version that is installed here can also be installed with the Python of Debian 12."""
    lines = [line for name in PINS for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    pinned = {_canonical(line) for line in lines}
    installed = [*ROOT.glob(".venv*/lib/python*/site-packages/*.dist-info/METADATA")]
    wrong = []
    for path in installed:
        name, _, version = path.parent.name.removesuffix(".dist-info").partition("-")
        found = re.search(r"(?m)^Requires-Python: (.+)", path.read_text(encoding="utf-8", errors="replace"))
        is_pinned = f"{_canonical(name)}=={_canonical(version)}" in pinned
        if is_pinned and found and "3.11.2" not in SpecifierSet(found[1]):
            wrong.append(f"{path.parent.name} needs Python {found[1]}")
    assert [] == wrong
    assert installed


def test_every_dependency_is_pinned() -> None:
    """All packages of .venv are in constraints.txt, so that all tests use the same versions."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {
        _canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert set() == {_canonical(re.split(r"[^\w.-]", entry)[0]) for entry in wanted} - pinned


def test_any_and_cast_become_fewer() -> None:
    """No module uses `Any` or `cast` more often than before (`scripts/count-any --write`)."""
    script = runpy.run_path(str(ROOT / "scripts" / "count-any"))
    stored = json.loads((ROOT / "tests" / "typing" / "any_counts.json").read_text(encoding="utf-8"))
    assert stored == script["counts"](), "run scripts/count-any --write, which refuses counts that rise"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_versions_agree() -> None:
    """tinyagent and its own plugins have the same version."""
    versions = {
        path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
        for path in ROOT.glob("plugins/*/pyproject.toml")
    }
    assert dict.fromkeys(versions, tinyagent.__version__) == versions


def test_plugins_can_be_found() -> None:
    """`plugins search` names each plugin, with its description, and each has the keyword of plugins."""
    projects = [
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for path in (*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("bindings/*/pyproject.toml"))
    ]
    listed = {project["name"]: project["description"] for project in projects}
    assert listed == own_plugins(), "copy the descriptions into tinyagent_cli/plugins/own_plugins.txt"
    assert [] == [each["name"] for each in projects if "tinyagent-plugin" not in each.get("keywords", ())]


def test_no_machine_path_is_committed() -> None:
    """No file of the repository has the path of a checkout or a home."""
    places = [str(ROOT), str(ROOT.parent), str(Path(sys.base_prefix))]
    wrong = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in _tracked()
        for place in places
        if len(Path(place).parts) > 2 and place.encode() + b"/" in path.read_bytes()
    ]
    assert [] == wrong


def test_the_targets_of_make_that_are_named_exist() -> None:
    """A message or document names no target that the Makefile does not have."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    texts = [path for path in _tracked() if path.suffix in {".py", ".md", ".toml", ".yml", ".sh"}]
    named = {
        (str(path.relative_to(ROOT)), target)
        for path in texts
        for target in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8"))
    }
    assert 10 < len(named)
    assert [] == [where for where in sorted(named) if where[1] not in targets]


def test_the_description_on_pypi_has_no_relative_links() -> None:
    """The metadata has the README; links into the repository are text as long as it has no address."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata", "readme"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    text = done.stdout
    assert text.startswith("# tinyagent\n")
    assert "the tutorial, and plugins/ has ours" in " ".join(text.split())
    assert [] == re.findall(r"\]\((?!https?:|#)[^)]*\)", text)


def test_the_description_on_pypi_links_to_the_repository() -> None:
    """With an address, pictures and links are absolute, at the version's tag; others stay."""
    describe = runpy.run_path(str(ROOT / "hatch_build.py"))["description"]
    text = "![Shot](docs/a.svg) [page](docs/a.md#b) [other](https://example.org) [here](#c)"
    site = "https://git.example.org/tinyagent"
    expected = (
        f"![Shot]({site}/raw/v1.0/docs/a.svg) [page]({site}/blob/v1.0/docs/a.md#b)"
        " [other](https://example.org) [here](#c)"
    )
    assert expected == describe(text, f"{site}/", "1.0")
    assert " page [other](https://example.org) [here](#c)" == describe(text, "", "1.0")


def _names(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module or a class defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_the_ways_through_the_code_exist() -> None:
    """Every file, class and function that ARCHITECTURE.md names in "Four ways through the code" exists."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    names = re.findall(r"`([^`]+)`", text.partition("## Four ways through the code")[2].partition("\n## ")[0])
    files = {name: [path for path in _tracked() if path.match(f"tinyagent*/{name}") or path == ROOT / name]
             for name in names if name.endswith(".py")}  # fmt: skip
    assert [] == [name for name, found in files.items() if not found]
    defined = set[str]()
    for path in {path for found in files.values() for path in found}:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            defined |= set(_names(node))
            if isinstance(node, ast.ClassDef):
                defined |= {f"{node.name}.{name}" for member in node.body for name in _names(member)}

    code = [name for name in names if not name.endswith(".py")]
    assert len(code) > 30
    assert [] == [name for name in code if name not in defined]
