"""docs/plugins.md leads from an empty folder to an installed wheel."""

from __future__ import annotations

from pathlib import Path

from tests.cli.documents import blocks
from tests.cli.reader import Reader

from .conftest import ROOT, Workshop

GUIDE = ROOT / "docs" / "plugins.md"


def test_the_guide_can_be_followed(workshop: Workshop, tmp_path: Path) -> None:
    """Its commands print what the guide shows."""
    Reader(tmp_path, workshop.variables()).follow(blocks(GUIDE))
    done = workshop.run("python", "-m", "pip", "uninstall", "-q", "-y", "tinyagent-dates")
    assert 0 == done.returncode, done.stderr
