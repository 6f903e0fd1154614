"""The documents of the repository, and their code blocks.

A block has a language, and may have words after it, which rendered pages do not show. A comment may have
blocks, too: they make what the reader of the page has already.

    ```python file=weather.py

| Language | What the tests do with the block |
|---|---|
| `console` | run each command after "$ ", and compare its standard output, in which "..." is any text |
| `bash`, `sh` | run it as a script, which must succeed |
| `python` | check its types and run it; with `file`, only check its types |
| `toml`, `json` | decode it by the reader of the file that it shows, which `as` or the name of `file` says |
| `text` | nothing: it is output, or a drawing |
| others | only with `file`, `skip` or `test` |

| Word | Meaning |
|---|---|
| `file=PATH` | The block is saved in this file, below the working directory or `~/`. |
| `as=KIND` | What a `toml` or `json` block is: see `formats.py`. |
| `continues` | The program goes on from the Python block before it. |
| `exit=N` | The exit code of the last command. Without it, only a command that shows "Error: …" may fail. |
| `stderr` | The output is that of standard error, too. |
| `input=TEXT` | The standard input of a script. |
| `skip=REASON` | The block is not run, for one of the `REASONS`. |
| `test=FILE` | This test runs the block, with a set-up of its own. |
| `with=NAME` | It is for one of several readers, whom a test chooses. |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted(ROOT.glob("plugins/**/README.md")),
    *sorted(ROOT.glob("examples/**/README.md")),
    *sorted(ROOT.glob("bindings/*/README.md")),
]
WORDS = {"file", "as", "continues", "exit", "input", "stderr", "skip", "test", "with"}
REASONS = {
    "make": "It runs the tests or benchmarks of this repository.",
    "install": "It builds and installs the Rust provider, as `make` does.",
    "rust": "It needs the Rust provider, which is not in .venv.",
    "heavy": "It needs Ray or llm, which are not in .venv.",
    "other-program": "It is for a program that is not on this machine, such as an editor.",
    "internet": "It reads a page of the real internet.",
    "account": "It signs in in a browser.",
    "transcript": "It was typed by hand, with a real model.",
}
"""Why a block is not run. Its commands and options are checked anyway."""

SHELL = ("console", "bash", "sh")
_MARKDOWN = MarkdownIt()


class Block(NamedTuple):
    """A code block.

    Attributes:
        language: The first word after the fence.
        text: The lines between the fences.
        words: The other words after the fence, each with the value after its "=".
        page: The document.
        line: The number of the line with the fence.
    """

    language: str
    text: str
    words: Mapping[str, str] = {}
    page: Path = ROOT
    line: int = 0

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file in which the block is saved, or ""."""
        return self.words.get("file", "")

    @property
    def runs(self) -> bool:
        """Whether the block is run with the others of its page."""
        return not {"skip", "test"} & self.words.keys()

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command of a `console` block with its expected output."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    return list(_blocks(page.read_text(encoding="utf-8"), page, 1))


def _blocks(text: str, page: Path, first: int) -> Iterator[Block]:
    """Yield the blocks of a text that begins at a line of a page."""
    lines = text.splitlines()
    for token in _MARKDOWN.parse(text):
        if token.map is None:
            continue
        start, end = token.map
        if token.type == "html_block" and token.content.startswith("<!--"):
            yield from _blocks(token.content.replace("<!--", "").replace("-->", ""), page, first + start)
        elif token.type == "code_block":
            yield Block("", token.content, {}, page, first + start)
        elif token.type == "fence":
            language, *words = token.info.split() or [""]
            found = dict(word.partition("=")[::2] for word in words)
            if lines[end - 1].strip() != token.markup:
                found["without-end"] = ""
            yield Block(language, token.content, found, page, first + start)


def python_programs(page: Iterable[Block]) -> Iterator[tuple[Block, str]]:
    """Yield the Python programs of a page, each with its last block."""
    last: Block | None = None
    text = ""
    for block in page:
        if block.language == "python":
            if "continues" in block.words:
                text += block.text
            else:
                if last:
                    yield last, text
                text = block.text
            last = block
    if last:
        yield last, text


def matches(expected: str, printed: str) -> bool:
    """Return whether an output is the expected one, in which three or more dots are any text."""
    pattern = ".*".join(re.escape(piece) for piece in re.split(r"\.{3,}", expected))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    tokens = _MARKDOWN.parse(page.read_text(encoding="utf-8"))
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found[anchor] = found.get(anchor, -1) + 1
    return {
        f"{anchor}-{number}" if number else anchor
        for anchor, last in found.items()
        for number in range(last + 1)
    }


def links(page: Path) -> Iterator[str]:
    """Yield the addresses of links and pictures of a page, without those in code."""
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        for part in token.children or ():
            address = part.attrs.get("href") or part.attrs.get("src")
            if address:
                yield unquote(str(address))
            elif part.type == "html_inline":
                yield from re.findall(r"(?:href|src)=[\"']([^\"']+)", part.content)
