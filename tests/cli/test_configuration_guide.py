"""docs/configuration.md: its commands are run, and its files are read."""

from __future__ import annotations

import pytest

from .conftest import ROOT, Cli
from .documents import blocks

GUIDE = blocks(ROOT / "docs" / "configuration.md")


@pytest.mark.parametrize("block", [block.text for block in GUIDE if block.language == "sh"])
def test_the_commands_of_the_guide_work(cli: Cli, block: str) -> None:
    """Each block runs from an empty configuration."""
    done = cli.shell(f'set -e; tinyagent() {{ $T "$@"; }}\n{block}')
    assert 0 == done.code, done.err
    assert done.out + done.err


@pytest.mark.parametrize("block", [block.text for block in GUIDE if block.language == "toml"])
def test_the_files_of_the_guide_are_valid(cli: Cli, block: str) -> None:
    """Each block is a configuration file."""
    cli.config(block)
    done = cli("models", "list")
    assert 0 == done.code, done.err
