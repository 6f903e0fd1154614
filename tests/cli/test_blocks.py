"""The ends of Markdown blocks are found in a stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tinyagent_cli.terminal.blocks import BlockSplitter

CASES: dict[str, list[str]] = {
    "paragraphs": ["one\nmore\n\n", "two\n"],
    "headings": ["# one\n", "## two\n", "text\n"],
    "setext headings": ["one\n===\n", "two\nlines\n---\n", "text\n"],
    "an underline without text is a rule": ["---\n", "text\n"],
    "fences": ["```py\n# no heading\n\n- no item\n```\n", "text\n"],
    "a fence in a longer fence": ["````\n```\n\n```\n````\n", "text\n"],
    "tildes": ["~~~\n```\n~~~\n", "text\n"],
    "a fence ends a paragraph": ["text\n", "```\na\n```\n"],
    "inline backticks are no fence": ["```a``` b\nc\n\n", "d\n"],
    "a fence until the end": ["text\n\n", "```\na\n\nb\n"],
    "items": ["- one\n", "- two\n", "- three\n"],
    "an item with paragraphs and code": [
        "- one\n\n  two\n\n  ```\n  a\n\n  - b\n  ```\n\n",
        "- three\n\n",
        "text\n",
    ],
    "an empty item": ["-\n", "text\n"],
    "text after code in an item": ["- a\n  ```\n  ```\n", "text\n"],
    "a tag alone": ["</b>\n# a\n\n", "text\n</b>\n\n", "text\n"],
    "nested items": ["- one\n  - two\n    - three\n", "- four\n"],
    "lazy lines": ["- one\nlazy\n", "- two\n\n", "text\n"],
    "ordered items": ["1. one\n", "2. two\n", "10. ten\n    more\n\n", "text\n"],
    "a heading after a list": ["- one\n", "# two\n"],
    "a rule after a list": ["- one\n", "---\n"],
    "a table": ["| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n", "text\n"],
    "quotes": ["> one\n>\n> two\nlazy\n\n", "text\n"],
    "indented code": ["text\n\n", "    a\n\n    b\n\n", "text\n"],
    "html": ["<div>\n*a*\n</div>\n\n", "text\n"],
    "html with blank lines": ["<!-- a\n\nb -->\n", "text\n"],
    "a script": ["<script>\n\na\n</script>\n", "text\n"],
    "blank lines first": ["\n\n# one\n", "\n\ntext\n"],
    "nothing": [],
}


def split(*pieces: str) -> list[str]:
    """Return the sources of the blocks of a text that arrives in these pieces."""
    splitter = BlockSplitter()
    found = [block for piece in pieces for block in splitter.feed(piece)]
    return [block.text for block in (*found, *splitter.end())]


@pytest.mark.parametrize("name", CASES)
def test_blocks(name: str) -> None:
    """A text is split into its blocks, whether it arrives at once or character by character."""
    text = "".join(CASES[name])
    assert CASES[name] == split(text)
    assert CASES[name] == split(*text)


@pytest.mark.parametrize(
    ("begin", "next_line", "complete"),
    [
        ("text\n", "\n", 1),
        ("# a\n", "", 1),
        ("```\na\n", "```\n", 1),
        ("- a\n", "- b\n", 1),
        ("| a |\n|-|\n", "\n", 1),
    ],
)
def test_a_block_is_complete_as_early_as_possible(begin: str, next_line: str, complete: int) -> None:
    """A paragraph with its blank line, a heading at once, a fence with its end, an item with the next one."""
    splitter = BlockSplitter()
    early = splitter.feed(begin)
    assert complete == len(early) + len(splitter.feed(next_line))
    assert bool(early) == (not next_line)


def test_items_are_numbered_from_the_first_one() -> None:
    """Models often write `1.` for every item."""
    splitter = BlockSplitter()
    blocks = [*splitter.feed("3. a\n3. b\n\ntext\n\n1. c\n- d\n"), *splitter.end()]
    found = [(block.kind, block.number, block.continues) for block in blocks]
    assert [("item", 3, False), ("item", 4, True), ("paragraph", None, False), ("item", 1, False)] == found[
        :4
    ]
    assert ("item", None, False) == found[4]


LINES = [
    *(
        "",
        "  ",
        "text",
        "more *text*",
        "# heading",
        "===",
        "---",
        "***",
        "- a",
        "- ",
        "  - b",
        "  c",
        "    d",
    ),
    *("1. e", "1) f", "   g", "* h", "+ i", "> j", ">", "> - k", "```", "```py", "~~~", "````", "  ```"),
    *("| l | m |", "|---|---|", "<div>", "</div>", "<!-- n", "-->", "<pre>", "</pre>", "\to", "     p", "-"),
]
DOCUMENT = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)


@given(st.one_of(DOCUMENT, st.text(alphabet="-*`~#>| \n\ta1.<=", max_size=60)), st.data())
def test_any_cut_gives_the_same_blocks(text: str, data: st.DataObject) -> None:
    """No character is lost, and it makes no difference where a delta ends."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = split(text)
    assert text == "".join(whole)
    assert whole == split(*pieces)


def _content(text: str) -> list[tuple[str, str]]:
    """Return what a parser finds, without the lists around items, which the splitter takes apart."""
    parser = MarkdownIt("commonmark").enable("table")
    lists = ("bullet_list_open", "bullet_list_close", "ordered_list_open", "ordered_list_close")
    return [(token.type, token.content) for token in parser.parse(text) if token.type not in lists]


@given(DOCUMENT)
def test_the_blocks_mean_what_the_text_means(text: str) -> None:
    """Parsing the blocks one by one finds the same as parsing the whole text."""
    assert _content(text) == [found for block in split(text) for found in _content(block)]


def test_a_megabyte_without_a_line_break_is_kept_once() -> None:
    """Ten thousand deltas of one line are joined when the line ends."""
    pieces = ["x" * 100] * 10_000
    assert ["x" * 1_000_000 + "\n"] == split(*pieces, "\n")
