"""The code blocks of a Markdown page, and a way to run them.

The first line of a block says what it is: "console" has commands after "$ " with their standard output, in
which "..." stands for any text; "bash" is a script that must succeed; "file=NAME" saves the block in the
working directory.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .conftest import Cli


class Block(NamedTuple):
    """A code block.

    Attributes:
        language: The first word after the fence.
        file: The name of the file to write, or "".
        text: The lines between the fences.
    """

    language: str
    file: str
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Return each command of a "console" block with its expected output."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\S*)((?: \w+=\S+)*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert text.count("\n```") == 2 * len(found), f"{page.name} has a block that this does not understand"
    return [
        Block(language, dict(word.split("=", 1) for word in words.split()).get("file", ""), body)
        for language, words, body in found
    ]


def run_block(cli: Cli, block: Block, **environment: str) -> int:
    """Write the file of a block and run its commands. Return how many commands were run."""
    if block.file:
        cli.file(block.file, block.text)
    if block.language == "console":
        commands = list(block.commands())
    elif block.language in ("bash", "sh"):
        commands = [(block.text, "...")]
    else:
        return 0
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command, expected in commands:
        done = cli.shell(f'set -e; tinyagent() {{ $T "$@"; }}\n{command}', PATH=path, **environment)
        assert 0 == done.code, f"{command}: {done.err}"
        pattern = ".*".join(re.escape(piece) for piece in expected.split("..."))
        assert re.fullmatch(pattern, done.out, re.DOTALL), f"{command} printed {done.out!r}"
    return len(commands)
