"""docs/configuration.md: its commands are run, and its files are read."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT, Cli

GUIDE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_commands_of_the_guide_work(cli: Cli, block: str) -> None:
    """Each block runs from an empty configuration."""
    done = cli.shell(f'set -e; tinyagent() {{ $T "$@"; }}\n{block}')
    assert 0 == done.code, done.err
    assert done.out + done.err


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_files_of_the_guide_are_valid(cli: Cli, block: str) -> None:
    """Each block is a configuration file."""
    cli.config(block)
    done = cli("models", "list")
    assert 0 == done.code, done.err
