"""The mechanism of `test_documents.py` finds what is wrong in a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .documents import ROOT, Block, anchors, blocks, links, python_programs
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGE = """
```sh
cd folder 2> /dev/null || mkdir folder && cd folder
export NAME=Ada
```

<!-- It is there already:
```text file=notes.txt
a note
```
-->

- In a list:

  ```console
  $ cat notes.txt; echo "$NAME is in ${PWD##*/}"
  a note
  Ada is in ...
  ```

```python
x = 1
```

```python continues
print(x + 1)
```

    $ indented

```sh
without an end
"""


def page(folder: Path, text: str) -> list[Block]:
    """Return the blocks of a page with this text."""
    path = folder / "page.md"
    path.write_text(text, "utf-8")
    return [block._replace(page=ROOT / "page.md") for block in blocks(path)]


def test_blocks_of_a_page(tmp_path: Path) -> None:
    """Blocks in lists and comments are found, with their lines; what is not a proper block has a mark."""
    found = page(tmp_path, PAGE)
    assert [
        ("sh", {}, 2),
        ("text", {"file": "notes.txt"}, 8),
        ("console", {}, 15),
        ("python", {}, 21),
        ("python", {"continues": ""}, 25),
        ("", {}, 29),
        ("sh", {"without-end": ""}, 31),
    ] == [(block.language, block.words, block.line) for block in found]
    assert [(25, "x = 1\nprint(x + 1)\n")] == [(last.line, text) for last, text in python_programs(found)]


def test_a_page_is_followed(new_reader: Callable[[Sequence[Block]], Reader], tmp_path: Path) -> None:
    """The working directory and variables remain, and files of a comment are there."""
    found = page(tmp_path, PAGE)[:5]
    new_reader(found).follow(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```console\n$ echo one\ntwo\n```\n", "page.md:1: echo one prints 'one"),
        ("```sh\nfalse | cat\n```\n", "page.md:1: .*exits with 1"),
        ("```console exit=3\n$ true\n```\n", "page.md:1: true exits with 0"),
        ("```console\n$ tinyagent run -m demo -t nothing x\n```\n", "exits with 3: .*Unknown tool"),
        ("```python\nraise SystemExit(4)\n```\n", "page.md:1: "),
        ("```toml as=config.toml\n[run]\nmodell = 'x'\n```\n", "page.md:1 is no config.toml: .*modell"),
        ("```toml as=mcp.toml\n[mcp.servers.x]\ncomand = 'x'\n```\n", "page.md:1 is no mcp.toml: .*comand"),
        ("```toml as=audit.toml\nlogg = 'x'\n```\n", "page.md:1 is no audit.toml: .*logg"),
        ("```toml as=proxy.toml\n[servr]\n```\n", "page.md:1 is no proxy.toml: .*servr"),
        ("```toml as=pyproject.toml\n[project]\nversion = 1\n```\n", "page.md:1 is no pyproject.toml: "),
        ('```json as=events\n{"type":"turn_start","seq":"x"}\n```\n', "page.md:1 is no events: "),
        ('```json as=rpc\n{"type":"promt","message":"x"}\n```\n', "page.md:1 is no rpc: "),
        ('```json as=batch\n{"id":"a","prompt":7}\n```\n', "page.md:1 is no batch: "),
        ('```json as=mcp.json\n{"mcpServers":{"x":{}}}\n```\n', "page.md:1 is no mcp.json: "),
        ("```toml file=templates/x.toml\npromt = 'x'\n```\n", "page.md:1 is no template.toml: .*promt"),
    ],
)
def test_a_wrong_block_is_found(
    new_reader: Callable[[Sequence[Block]], Reader], tmp_path: Path, text: str, message: str
) -> None:
    """The error names the place and the fault."""
    found = page(tmp_path, text)
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        new_reader(found).follow(found)


def test_the_internet_is_a_fake(new_reader: Callable[[Sequence[Block]], Reader]) -> None:
    """Each built-in provider replies, a page of any other address is missing, and nothing is installed."""
    reader = new_reader([])
    for model in ("openai/gpt-5", "openai/gpt-4.1", "anthropic/claude-sonnet-4-5", "groq/llama"):
        key = f"{model.partition('/')[0].upper()}_API_KEY=sk-test-x"
        done = reader.run(f"{key} tinyagent run -m {model} Hi | head -n 1")
        assert (0, "Hello from the model.\n") == (done.code, done.out), done.err
    done = reader.run("python -c 'import httpx; print(httpx.get(\"https://pypi.org/\").status_code)'")
    assert "404\n" == done.out, done.err
    assert "No matching distribution" in reader.run("pip install no-such-plugin").err


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    """An anchor has lower case, no punctuation, and a number if the same one exists."""
    path = tmp_path / "page.md"
    path.write_text("# What `-o` is: a *file*\n## One\n## One\n[a](x.md#y) ![b](c.svg)\n<a href='d'>e</a>\n")
    assert {"what--o-is-a-file", "one", "one-1"} == anchors(path)
    assert ["x.md#y", "c.svg", "d"] == list(links(path))
