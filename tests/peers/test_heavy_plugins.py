"""The tests of plugins that bring too much for .venv, each in its own environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, require_peer


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["ray", "llm"])
def test_a_heavy_plugin(name: str, tmp_path: Path) -> None:
    """All tests of the plugin pass with the real program."""
    python = require_peer(ROOT / f".venv-peers-{name}" / "bin" / "python")
    command = [
        *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}"),
        # Ray and llm leave files to the exit; Python warns of them.
        *("-o", "addopts=--import-mode=importlib --strict-markers", "-o", "filterwarnings=default"),
        ROOT / "plugins" / f"tinyagent-{name}" / "tests",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert 0 == done.returncode, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout
