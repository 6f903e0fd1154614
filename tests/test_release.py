"""The script that sets the version of a release."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

import tinyagent

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n- This.\n\n## [0.1.0] - 2025-01-01\n"


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    """Return the functions of the script."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "set-version")))


def test_every_version_is_changed(script: SimpleNamespace) -> None:
    """tinyagent, each plugin, and the Rust binding with its lock file get the version; plugins need it."""
    texts = {str(path.relative_to(ROOT)): text for path, text in script.changes("77.1.0", CHANGELOG).items()}
    plugins = {str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/pyproject.toml")}
    binding = {f"bindings/alchemy_llm_py/{name}" for name in ("pyproject.toml", "Cargo.toml", "Cargo.lock")}
    assert {"tinyagent/_version.py", "CHANGELOG.md", "docs/sandbox.md", *plugins, *binding} == texts.keys()
    assert dict.fromkeys(texts, 1) == {name: text.count("77.1.0") for name, text in texts.items()}
    needing = {name for name, text in texts.items() if '"tinyagent-core>=77.1"' in text}
    assert {*plugins, "bindings/alchemy_llm_py/pyproject.toml"} == needing


@pytest.mark.parametrize("version", ["0.0.1", tinyagent.__version__, f"{tinyagent.__version__}rc1"])
def test_an_older_version_is_refused(script: SimpleNamespace, version: str) -> None:
    """The version can only become newer."""
    with pytest.raises(ValueError, match="is not newer than"):
        script.changes(version, CHANGELOG)


def test_the_changelog_gets_a_section(script: SimpleNamespace) -> None:
    """What was unreleased gets the version and its date, and an empty section stays for the next changes."""
    after = CHANGELOG.replace("- This.", "## [0.2.0] - 2026-12-01\n\n- This.")
    assert after == script.dated(CHANGELOG, "0.2.0", "2026-12-01")


WITHOUT_CHANGES = [
    ("\n## [0.1.0] - 2025-01-01\n", "has no section"),
    ("\n## [Unreleased]\n\n## [0.1.0] - 2025-01-01\n\n- That.\n", "nothing to release"),
    ("\n## [Unreleased]\n\n- This.\n\n## [0.2.0] - 2025-01-01\n", "a section for 0.2.0 already"),
]


@pytest.mark.parametrize(("changelog", "problem"), WITHOUT_CHANGES)
def test_a_changelog_without_changes_is_refused(
    script: SimpleNamespace, changelog: str, problem: str
) -> None:
    """A version needs an entry, and gets only one section."""
    with pytest.raises(ValueError, match=problem):
        script.dated(changelog, "0.2.0", "2026-12-01")
