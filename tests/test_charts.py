"""The charts of docs/performance.md."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "draw-charts"))


def test_the_charts_show_the_tables() -> None:
    """The stored charts are those of the present tables, and the document shows each of them."""
    charts: dict[Path, str] = SCRIPT["charts"]()
    outdated = [path.name for path, text in charts.items() if path.read_text(encoding="utf-8") != text]
    assert outdated == [], "run scripts/draw-charts --write"
    document = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert {path.name for path in charts} == set(re.findall(r"\]\(images/([\w-]+\.svg)\)", document))


def test_bars_are_as_long_as_their_values() -> None:
    """A bar of half the value has half the length, names are escaped, and ours have their own class."""
    root = ElementTree.fromstring(SCRIPT["draw"]("A & B: ms", {"<other>": 1000.0, "tinyagent run": 500.0}))
    space = "{http://www.w3.org/2000/svg}"
    groups = root.findall(f"{space}g")
    lengths = [int(rect.get("width") or 0) for rect in root.iter(f"{space}rect")]
    assert lengths[0] == 2 * lengths[1] > 0
    assert [None, "ours"] == [group.get("class") for group in groups]
    assert ["<other>", "1,000"] == [text.text for text in groups[0].iter(f"{space}text")]
