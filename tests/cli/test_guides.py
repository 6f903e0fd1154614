"""How-to guides in docs/: each block is run in its order, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from .conftest import ROOT, Cli
from .documents import blocks, run_block


@pytest.mark.skipif(shutil.which("jq") is None and "CI" not in os.environ, reason="jq is not installed")
@pytest.mark.parametrize(("page", "commands"), [("pipelines", 15), ("schema-to-csv", 15)])
def test_the_page_can_be_followed(cli: Cli, page: str, commands: int) -> None:
    """The commands of a page print what it shows."""
    assert commands == sum(run_block(cli, block) for block in blocks(ROOT / "docs" / f"{page}.md"))


def test_the_tests_of_the_security_page_exist() -> None:
    """docs/security-explained.md names an existing test for each promise."""
    text = (ROOT / "docs" / "security-explained.md").read_text("utf-8")
    rows = [line for line in text.partition("| What holds | Test |\n|---|---|\n")[2].splitlines() if line]
    named = [re.fullmatch(r"\| .* \| `([^:`]+)::(\w+)` \|", row) for row in rows]
    assert len(named) > 20
    for row, found in zip(rows, named, strict=True):
        assert found, row
        file, test = found.groups()
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), row
