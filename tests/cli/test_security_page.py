"""docs/security-explained.md: its promises have tests."""

from __future__ import annotations

import re

from .conftest import ROOT


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
