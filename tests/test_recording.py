"""docs/images/terminal.svg: the recording that README.md shows."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "record-terminal"))
PICTURE = ROOT / "docs" / "images" / "terminal.svg"

pytestmark = pytest.mark.skipif(
    shutil.which("jq") is None and "CI" not in os.environ, reason="jq is not installed"
)


def test_the_recording_shows_what_the_commands_print() -> None:
    """The commands print what the picture shows, from the first to the last character."""
    assert PICTURE.read_text("utf-8") == SCRIPT["record"](), "run make docs, and look at the picture"


def test_the_recording_can_be_shown_anywhere() -> None:
    """The picture is small and has nothing that GitHub removes: no script, no link, no other file."""
    content = PICTURE.read_bytes()
    assert len(content) < 60_000
    elements = {element.tag.partition("}")[2] for element in ElementTree.fromstring(content).iter()}
    assert {"svg", "title", "style", "rect", "circle", "text"} == elements
    assert b"url(" not in content
    assert b"@import" not in content


def test_a_command_that_fails_is_not_recorded(tmp_path: Path) -> None:
    """The script ends with the command and what it printed."""
    with pytest.raises(SystemExit, match=r"(?s)exit code 3 of: echo no; exit 3\nno"):
        SCRIPT["run"]("echo no; exit 3", "", "", tmp_path)


def test_a_missing_question_is_not_recorded(tmp_path: Path) -> None:
    """The script ends if the command did not ask what it should answer."""
    with pytest.raises(SystemExit, match="exit code 0 of: echo yes"):
        SCRIPT["run"]("echo yes", "Really? ", "y\r", tmp_path)
