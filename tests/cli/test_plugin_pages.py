"""README.md of each plugin begins with its name and its installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROOT
from .documents import blocks

PAGES = sorted((ROOT / "plugins").glob("*/README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_first_command_installs_the_plugin(page: Path) -> None:
    """The page begins with the name of the plugin, and its first commands with its installation."""
    name = page.parent.name
    assert f"# {name}" == page.read_text(encoding="utf-8").splitlines()[0]
    first = next(block for block in blocks(page) if block.language == "sh").text.splitlines()[0]
    assert first.split("#")[0].strip() in (f"tinyagent plugins install {name}", f"pip install {name}")
