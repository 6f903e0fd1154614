"""README.md of each plugin: how to install it, and commands whose output is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROOT, Cli
from .documents import blocks, run_block

PAGES = sorted((ROOT / "plugins").glob("*/README.md"))
SHOWN = [page for page in PAGES if any(block.language == "console" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_first_command_installs_the_plugin(page: Path) -> None:
    """The page begins with the name of the plugin, and its first commands with its installation."""
    name = page.parent.name
    assert f"# {name}" == page.read_text(encoding="utf-8").splitlines()[0]
    first = next(block for block in blocks(page) if block.language == "sh").text.splitlines()[0]
    assert first.split("#")[0].strip() in (f"tinyagent plugins install {name}", f"pip install {name}")


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.parent.name)
def test_the_output_is_the_one_that_the_page_shows(cli: Cli, page: Path) -> None:
    """The commands with their output need no model, and print what the page shows."""
    assert sum(run_block(cli, block) for block in blocks(page) if block.language == "console")
