"""The tests of tinyagent-ray, in the environment that has Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, require_peer

TESTS = ROOT / "plugins" / "tinyagent-ray" / "tests"


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.timeout(600)
def test_the_executor_on_a_real_cluster(tmp_path: Path) -> None:
    """All tests of the plugin pass with a cluster of two nodes on loopback."""
    python = require_peer(ROOT / ".venv-peers-ray" / "bin" / "python")
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'ray'}"),
            # Ray leaves sockets and processes to the exit; Python warns of them.
            *(
                "-o",
                "addopts=--import-mode=importlib --strict-markers",
                "-o",
                "filterwarnings=default",
                TESTS,
            ),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert 0 == done.returncode, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout
